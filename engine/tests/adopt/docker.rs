//! A data root in the form in which Docker up to 20.10 leaves it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mica_archive::{Digest, Entry, Kind};
use mica_core::mount::Bind;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_engine::ChainId;
use mica_mount::Mounter;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::archives::{config, entry, tar_of};
use crate::untar::{tar_split, untar};

/// A storage driver of Docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Aufs,
    Overlay2,
}

pub(crate) const DRIVERS: [Driver; 2] = [Driver::Aufs, Driver::Overlay2];

/// An old data root, which goes with the test.
pub(crate) struct OldDocker {
    driver: Driver,
    dir: TempDir,
    made: usize,
}

/// An image in it.
pub(crate) struct OldImage {
    pub(crate) id: Digest,
    chain: Vec<ChainId>,
    /// The directories of its layers, the base first.
    pub(crate) directories: Vec<PathBuf>,
    /// What Docker keeps of them.
    pub(crate) records: Vec<PathBuf>,
}

/// A container in it.
pub(crate) struct OldContainer {
    pub(crate) id: String,
    /// The directory with its changes.
    pub(crate) changes: PathBuf,
    config: PathBuf,
}

impl OldDocker {
    pub(crate) fn new(driver: Driver) -> Self {
        Self::in_directory(driver, tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_directory(driver: Driver, dir: TempDir) -> Self {
        let docker = Self { driver, dir, made: 0 };
        for place in ["containers", "volumes", "image"] {
            fs::create_dir(docker.path().join(place)).unwrap();
        }
        let (top, below) = match driver {
            Driver::Aufs => ("aufs", &["layers", "diff", "mnt"][..]),
            Driver::Overlay2 => ("overlay2", &["l"][..]),
        };
        for place in below {
            fs::create_dir_all(docker.path().join(top).join(place)).unwrap();
        }
        fs::write(docker.path().join("volumes/metadata.db"), "").unwrap();
        docker.write(&docker.image("repositories.json"), r#"{"Repositories":{}}"#);
        docker
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn place(&self) -> &str {
        self.path().to_str().unwrap()
    }

    fn name(&self) -> &'static str {
        match self.driver {
            Driver::Aufs => "aufs",
            Driver::Overlay2 => "overlay2",
        }
    }

    fn image(&self, below: &str) -> PathBuf {
        self.path().join("image").join(self.name()).join(below)
    }

    pub(crate) fn write(&self, path: &Path, content: impl AsRef<[u8]>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// 64 hex digits, as Docker calls layers and containers; other ones in each root, for control groups are named by them.
    fn fresh(&mut self) -> String {
        self.made += 1;
        Digest::of(format!("{} {}", self.place(), self.made).as_bytes()).hex()
    }

    /// Makes an image of these tarballs, with these names.
    pub(crate) fn add(&mut self, names: &[&str], tarballs: &[Vec<u8>]) -> OldImage {
        let blob = config(tarballs);
        let id = Digest::of(&blob);
        self.write(&self.image(&format!("imagedb/content/sha256/{}", id.hex())), &blob);
        let diff_ids: Vec<Digest> = tarballs.iter().map(|tarball| Digest::of(tarball)).collect();
        let chain = ChainId::of_all(&diff_ids);
        let (mut directories, mut records, mut below) = (Vec::new(), Vec::new(), Vec::new());
        for (index, tarball) in tarballs.iter().enumerate() {
            let record = self.image(&format!("layerdb/sha256/{}", chain[index].hex()));
            let layer = match fs::read_to_string(record.join("cache-id")) {
                Ok(known) => known,
                Err(_) => {
                    let layer = self.layer(&below, tarball);
                    self.write(&record.join("cache-id"), &layer);
                    self.write(&record.join("diff"), diff_ids[index].to_string());
                    self.write(&record.join("size"), tarball.len().to_string());
                    self.write(&record.join("tar-split.json.gz"), tar_split(tarball));
                    if let Some(parent) = index.checked_sub(1) {
                        self.write(&record.join("parent"), chain[parent].to_string());
                    }
                    layer
                }
            };
            directories.push(self.directory(&layer));
            records.push(record);
            below.insert(0, layer);
        }
        for name in names {
            self.tag(name, &id);
        }
        OldImage { id, chain, directories, records }
    }

    fn layer(&mut self, below: &[String], tarball: &[u8]) -> String {
        let id = self.fresh();
        self.new_layer(&id, below);
        untar(self.driver, tarball, &self.directory(&id));
        id
    }

    /// The directory of a layer, and what says what it stands on.
    fn new_layer(&self, id: &str, below: &[String]) {
        fs::create_dir_all(self.directory(id)).unwrap();
        match self.driver {
            Driver::Aufs => {
                let lines: String = below.iter().map(|id| format!("{id}\n")).collect();
                self.write(&self.path().join("aufs/layers").join(id), lines);
                fs::create_dir(self.path().join("aufs/mnt").join(id)).unwrap();
            }
            Driver::Overlay2 => {
                let place = self.path().join("overlay2").join(id);
                self.write(&place.join("link"), &id[..26]);
                let lower: Vec<String> = below.iter().map(|id| format!("l/{}", &id[..26])).collect();
                self.write(&place.join("lower"), lower.join(":"));
            }
        }
    }

    fn directory(&self, layer: &str) -> PathBuf {
        match self.driver {
            Driver::Aufs => self.path().join("aufs/diff").join(layer),
            Driver::Overlay2 => self.path().join("overlay2").join(layer).join("diff"),
        }
    }

    /// Gives an image a name, as Docker writes it.
    pub(crate) fn tag(&self, name: &str, id: &Digest) {
        let path = self.image("repositories.json");
        let mut all: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let end = name.find('@').or_else(|| name.rfind(':')).unwrap();
        all["Repositories"][&name[..end]][name] = json!(id);
        self.write(&path, all.to_string());
    }

    /// Says that one image was built from another.
    pub(crate) fn set_parent(&self, id: &Digest, parent: &Digest) {
        let path = self.image(&format!("imagedb/metadata/sha256/{}/parent", id.hex()));
        self.write(&path, parent.to_string());
    }

    /// Makes a container of an image, that never ran and changed nothing.
    pub(crate) fn create(&mut self, name: &str, image: &OldImage, command: &[&str]) -> OldContainer {
        let (id, layer) = (self.fresh(), self.fresh());
        let below: Vec<String> = image.directories.iter().rev().map(|path| self.layer_of(path)).collect();
        let init = format!("{layer}-init");
        self.new_layer(&init, &below);
        // What Docker's init layer has, and no other.
        self.write(&self.directory(&init).join(".dockerenv"), "");
        self.write(&self.directory(&init).join("etc/hosts"), "");
        self.new_layer(&layer, &[vec![init.clone()], below].concat());
        let mount = self.image(&format!("layerdb/mounts/{id}"));
        self.write(&mount.join("mount-id"), &layer);
        self.write(&mount.join("init-id"), &init);
        self.write(&mount.join("parent"), image.chain.last().unwrap().to_string());
        let config = self.path().join("containers").join(&id).join("config.v2.json");
        let content = json!({
            "StreamConfig": {},
            "State": {
                "Running": false, "ExitCode": 0, "Error": "", "StartedAt": "0001-01-01T00:00:00Z",
                "FinishedAt": "0001-01-01T00:00:00Z",
            },
            "ID": id, "Created": "2020-02-03T04:05:06.123456789Z", "Path": command[0], "Args": command[1..],
            "Config": {
                "Hostname": id[..12], "User": "", "Tty": false, "OpenStdin": false, "Env": null, "Cmd": command,
                "Image": "an:image", "WorkingDir": "", "Entrypoint": null, "Labels": {},
            },
            "Image": image.id, "Name": format!("/{name}"), "Driver": self.name(), "OS": "linux", "MountPoints": {},
        });
        self.write(&config, content.to_string());
        let host = json!({ "Binds": null, "NetworkMode": "none", "RestartPolicy": { "Name": "no" }, "CapAdd": null });
        self.write(&config.with_file_name("hostconfig.json"), host.to_string());
        OldContainer { id, changes: self.directory(&layer), config }
    }

    fn layer_of(&self, directory: &Path) -> String {
        let directory = if self.driver == Driver::Aufs { directory } else { directory.parent().unwrap() };
        directory.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// Every file with all that can be known of it, read through a mount that nobody can write to, so that it changes none
    /// of it itself.
    pub(crate) fn listing(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        fn walk(dir: &Path, lines: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let stat = fs::symlink_metadata(&path).unwrap();
                lines.push(format!(
                    "{} {:o} {}:{} {} {} {}.{} {}.{} {}.{}",
                    path.display(),
                    stat.mode(),
                    stat.uid(),
                    stat.gid(),
                    stat.size(),
                    stat.nlink(),
                    stat.atime(),
                    stat.atime_nsec(),
                    stat.mtime(),
                    stat.mtime_nsec(),
                    stat.ctime(),
                    stat.ctime_nsec(),
                ));
                if stat.is_dir() {
                    walk(&path, lines);
                }
            }
        }
        let bind = Bind { source: self.path().to_owned(), read_only: true, ..Bind::default() };
        let mounts = Mounts { specs: vec![MountSpec::Bind(bind)], whiteouts: WhiteoutForm::Merged };
        let scratch = tempfile::tempdir().unwrap();
        let tree = Mounter::new(scratch.path()).open(&mounts).unwrap();
        let at = scratch.path().join("at");
        fs::create_dir(&at).unwrap();
        let attached = tree.attach(&at).unwrap();
        let mut lines = Vec::new();
        walk(&at, &mut lines);
        attached.close().unwrap();
        let prefix = format!("{}/", at.display());
        let mut lines: Vec<String> = lines.iter().map(|line| line[prefix.len()..].to_owned()).collect();
        lines.sort();
        lines
    }
}

impl OldContainer {
    /// Changes its `config.v2.json`.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Value)) {
        change_json(&self.config, change);
    }

    /// Changes its `hostconfig.json`.
    pub(crate) fn configure_host(&self, change: impl FnOnce(&mut Value)) {
        change_json(&self.config.with_file_name("hostconfig.json"), change);
    }

    /// Writes a file of its own.
    pub(crate) fn put(&self, path: &str, content: &str) {
        let path = self.changes.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// A file system of busybox, which containers can run.
pub(crate) fn busybox() -> Vec<u8> {
    let program = fs::read("/bin/busybox").expect("busybox-static is installed");
    let file = |size: usize| Kind::File { size: size as u64, sparse: None };
    let executable = Entry { mode: 0o755, ..entry("bin/busybox", file(program.len())) };
    let mut members = vec![
        (entry("bin/", Kind::Directory), &b""[..]),
        (executable, &program),
        (entry("etc/", Kind::Directory), b""),
        (entry("etc/motd", file(6)), b"hello\n"),
        (entry("srv/", Kind::Directory), b""),
        (entry("srv/old", file(4)), b"old\n"),
        (entry("srv/one", file(5)), b"both\n"),
        (entry("srv/two", Kind::Hardlink(b"srv/one".to_vec())), b""),
    ];
    for applet in ["sh", "cat", "ls", "echo", "stat"] {
        members.push((entry(&format!("bin/{applet}"), Kind::Symlink(b"busybox".to_vec())), b""));
    }
    tar_of(&members)
}

/// Gives a file another mode.
pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}
