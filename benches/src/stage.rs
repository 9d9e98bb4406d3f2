//! Where it happens: a directory, the programs, the images.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

use crate::Result;
use crate::images::Shape;

/// A directory to work in, and what is worked with. What it made is gone when it is dropped. Below `tmpfs` making
/// things durable costs nothing.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    /// The file that holds the file system in memory; open, it stays without a name.
    _memory: Option<tempfile::NamedTempFile>,
    pub(crate) mica: PathBuf,
    pub(crate) rootfs: PathBuf,
}

impl Stage {
    pub(crate) fn new(dir: Option<&Path>, mica: &Path, rootfs: &Path) -> Result<Self> {
        let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        unshare(namespaces).map_err(|e| format!("namespaces of its own, which need root: {e}"))?;
        mica_conformance::network::kernel::set_up("lo", true).map_err(|e| format!("set up 'lo': {e}"))?;
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).map_err(|e| format!("make mounts private: {e}"))?;
        // What Mica keeps there until the host is started again is gone with this program.
        let run = mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none);
        run.map_err(|e| format!("mount a tmpfs at /run: {e}"))?;
        // crun 1.8 refuses hosts on which a controller sits in the unified hierarchy beside the old ones.
        let _ = umount("/sys/fs/cgroup/unified");
        let absolute = |path: &Path| fs::canonicalize(path).map_err(|e| format!("'{}': {e}", path.display()));
        let (mica, rootfs) = (absolute(mica)?, absolute(rootfs)?);
        let made = match dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let at = made.map_err(|e| format!("a directory to work in: {e}"))?;
        let memory = if dir.is_none() { Some(memory(at.path())?) } else { None };
        let stage = Self { dir: at, _memory: memory, mica, rootfs };
        tmpfs(&stage.path("tmpfs"))?;
        let copied = fs::copy(&stage.rootfs, stage.path("rootfs.tar"));
        copied.map_err(|e| format!("copy the root file system: {e}"))?;
        Ok(stage)
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `mica` with a data root of this name.
    pub(crate) fn mica(&self, root: &str) -> Command {
        let mut command = Command::new(&self.mica);
        command.arg("--root").arg(self.path(root));
        command
    }

    /// A data root of this name with an image of this shape, called `bench`.
    pub(crate) fn image(&self, root: &str, shape: Shape) -> Result<()> {
        let archive = self.path("image.tar");
        shape.make(&archive)?;
        crate::measure::run(self.mica(root).args(["load", "--input"]).arg(&archive)).map(drop)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for mounted in [&self.path("tmpfs"), self.dir.path()] {
            let _ = nix::mount::umount2(mounted, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn tmpfs(at: &Path) -> Result<()> {
    fs::create_dir(at).map_err(|e| format!("create '{}': {e}", at.display()))?;
    let mounted = mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>);
    mounted.map_err(|e| format!("mount a tmpfs: {e}"))
}

/// An ext4 file system in memory, mounted at `at`.
fn memory(at: &Path) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").map_err(|e| format!("a file in memory: {e}"))?;
    let sized = File::options().write(true).open(file.path()).and_then(|file| file.set_len(12 << 30));
    sized.map_err(|e| format!("a file in memory: {e}"))?;
    for (program, arguments) in [("mkfs.ext4", &["-q", "-F"][..]), ("mount", &["-o", "loop,noatime"][..])] {
        let mut command = Command::new(program);
        command.args(arguments).arg(file.path());
        if program == "mount" {
            command.arg(at);
        }
        crate::measure::run(&mut command)?;
    }
    Ok(file)
}
