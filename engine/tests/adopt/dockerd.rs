//! A data root that Debian's dockerd wrote: an image that was imported, one that a Dockerfile made of it, one that was
//! committed, and containers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mica_archive::Kind;
use mica_archive::reader::Reader;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::docker::busybox;
use crate::home::Home;

/// What Docker and Mica put into every container, each in its own way.
const MOUNT_POINTS: [&str; 12] = [
    ".dockerenv",
    "dev",
    "dev/console",
    "dev/pts",
    "dev/shm",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "sys",
    "etc",
];

/// What a container does: of everything that a layer can tell, something.
const SCRIPT: &str = "
    b=/bin/busybox
    $b mkdir /tmp && $b chown 5:6 /tmp && $b chmod 1777 /tmp
    $b rm -r /srv && $b mkdir /srv && echo new > /srv/new && $b ln /srv/new /srv/also
    $b rm /etc/motd && $b ln -s /etc/motd /etc/link
    $b ln /bin/busybox /bin/second && $b seq 9999 > /etc/many
    exit 3";

const DOCKERFILE: &str =
    "FROM base:1\nRUN /bin/busybox rm /srv/old && echo built > /srv/built\nLABEL a=b\nUSER 7\n";

/// A dockerd in name spaces of its own: what it mounts and starts is gone with it.
struct Dockerd {
    dir: TempDir,
    programs: String,
    group: String,
    daemon: Option<Child>,
}

impl Dockerd {
    /// Starts it, or says why not.
    fn start() -> Result<Self, String> {
        let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("docker/usr");
        let path = std::env::var("PATH").unwrap_or_default();
        let programs = format!("{0}/sbin:{0}/bin:{path}:/usr/sbin:/sbin", unpacked.display());
        let has = |program: &str| programs.split(':').any(|dir| Path::new(dir).join(program).exists());
        if let Some(missing) =
            ["dockerd", "containerd", "runc", "docker"].iter().find(|program| !has(program))
        {
            return Err(format!("{missing} is not there; cargo xtask setup brings it"));
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        // Without the key it would make a directory below /etc.
        fs::write(at("daemon.json"), json!({ "deprecated-key-path": at("key.json") }).to_string()).unwrap();
        let group = format!("mica-dockerd-{}", std::process::id());
        // Whatever else it makes below /run and /opt goes with its name space.
        let script = "mount -t tmpfs none /run && mount -t tmpfs none /opt && exec dockerd \"$@\"";
        let log = fs::File::create(at("log")).unwrap();
        let daemon = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .args(["--data-root", &at("root"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--config-file", &at("daemon.json")])
            .args(["-H", &format!("unix://{}", at("sock")), "--storage-driver", "overlay2"])
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false", "--cgroup-parent", &group])
            .env("PATH", &programs)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("unshare cannot be run: {error}"))?;
        let mut dockerd = Self { dir, programs, group, daemon: Some(daemon) };
        dockerd.wait()?;
        Ok(dockerd)
    }

    /// Waits until it answers.
    fn wait(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !self.docker(&["version"]).output().unwrap().status.success() {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap().is_some();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                return Err(format!("dockerd does not start: {}", log.lines().last().unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> String {
        self.path("root").to_str().unwrap().to_owned()
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker
            .env("PATH", &self.programs)
            .env("DOCKER_HOST", format!("unix://{}", self.path("sock").display()));
        docker.env("DOCKER_CONFIG", self.path("client")).env("DOCKER_BUILDKIT", "0");
        docker.args(arguments).stdin(Stdio::null());
        docker
    }

    fn ok(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.docker(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?}: {told}");
        output.stdout
    }

    fn inspect(&self, name: &str) -> Value {
        serde_json::from_slice::<Value>(&self.ok(&["inspect", name])).unwrap()[0].clone()
    }

    /// Stops it in good order; its root stays.
    fn stop(&mut self) {
        let pid = fs::read_to_string(self.path("pid")).ok();
        let mut daemon = self.daemon.take().unwrap();
        // The file has its number in its own name space; from here it is the child of unshare.
        let children = format!("/proc/{0}/task/{0}/children", daemon.id());
        let child = fs::read_to_string(children).ok().and_then(|text| text.trim().parse().ok());
        match pid.and(child).and_then(Pid::from_raw) {
            Some(pid) => kill_process(pid, Signal::TERM).unwrap(),
            None => daemon.kill().unwrap(),
        }
        daemon.wait().unwrap();
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // With it the name space of its processes ends.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // In each hierarchy below the group of who started it, as /proc/self/cgroup tells (cgroups(7)), or at its root.
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().filter_map(|line| Some(line.split_once(":/")?.1)).chain([""]);
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let hierarchies: Vec<_> =
            hierarchies.map(|hierarchy| hierarchy.path()).chain(["/sys/fs/cgroup".into()]).collect();
        for own in own {
            for hierarchy in &hierarchies {
                let _ = fs::remove_dir(hierarchy.join(own).join(&self.group));
            }
        }
    }
}

/// Every file of an export, with all that a tar has of it, but for what every container has.
fn files(tarball: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(tarball);
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut links: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some(mut entry) = reader.next().unwrap() {
        let path = String::from_utf8(std::mem::take(&mut entry.path)).unwrap();
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        if path.is_empty() || MOUNT_POINTS.contains(&path.as_str()) {
            continue;
        }
        if let Kind::Hardlink(target) = &entry.kind {
            links.entry(String::from_utf8(target.clone()).unwrap()).or_default().push(path);
            continue;
        }
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content).unwrap();
        // Docker's exports have no fractions of seconds.
        entry.mtime.nanoseconds = 0;
        files.insert(path, format!("{entry:?} {}", mica_archive::Digest::of(&content)));
    }
    // Which of the names of a file comes first depends on the order of the walk.
    for (first, others) in links {
        let file = files[&first].clone();
        let mut names = [vec![first], others].concat();
        names.sort();
        for name in &names {
            files.insert(name.clone(), format!("{file}, the same as {names:?}"));
        }
    }
    files.into_iter().map(|(path, file)| format!("{path} {file}")).collect()
}

fn fill(docker: &Dockerd) {
    let tarball = docker.path("base.tar");
    fs::write(&tarball, busybox()).unwrap();
    docker.ok(&["import", "-c", "CMD [\"sh\"]", "-c", "ENV A=1", tarball.to_str().unwrap(), "base:1"]);
    let run = [
        "run",
        "--name",
        "web",
        "--network",
        "none",
        "-h",
        "box",
        "-e",
        "B=2",
        "-l",
        "k=v",
        "base:1",
        "sh",
        "-c",
    ];
    let output = docker.docker(&[&run[..], &[SCRIPT]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    docker.ok(&["commit", "web", "next:1"]);
    docker.ok(&["tag", "next:1", "registry.example:5000/team/next:2"]);
    let context = docker.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    docker.ok(&["build", "--network", "none", "-q", "-t", "built", context.to_str().unwrap()]);
    docker.ok(&["create", "--name", "made", "--network", "none", "built", "cat", "/srv/built"]);
}

#[test]
fn what_a_real_dockerd_left_is_here_as_it_was() {
    let mut docker = match Dockerd::start() {
        Ok(docker) => docker,
        Err(why) => return eprintln!("skip: engine/real-dockerd: {why}"),
    };
    fill(&docker);
    let names = ["base:1", "next:1", "registry.example:5000/team/next:2", "built:latest"];
    let images = names.map(|name| docker.inspect(name));
    let containers = ["web", "made"].map(|name| (name, docker.inspect(name), docker.ok(&["export", name])));
    let home = Home::new();
    let root = docker.root();
    let text = home.refused(&["storage", "adopt", &root]);
    assert!(text.contains("a Docker works in"), "{text}");
    docker.stop();
    let answer = home.run(&["storage", "adopt", &root]);
    assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""), "{answer:?}");
    home.assert_consistent();
    for (name, image) in names.iter().zip(images) {
        let found: Value = serde_json::from_str(&home.ok(&["inspect", name])).unwrap();
        assert_eq!(found[0]["Id"], image["Id"], "{name}");
        assert_eq!(found[0]["RootFS"]["Layers"], image["RootFS"]["Layers"], "{name}");
    }
    for (name, was, exported) in containers {
        let found: Value = serde_json::from_str(&home.ok(&["inspect", name])).unwrap();
        for key in ["Id", "Created", "Image", "Path", "Args", "Name"] {
            assert_eq!(found[0][key], was[key], "{name}: {key}");
        }
        for key in ["Hostname", "Env", "Cmd", "User", "Labels", "WorkingDir"] {
            assert_eq!(found[0]["Config"][key], was["Config"][key], "{name}: {key}");
        }
        assert_eq!(found[0]["State"]["ExitCode"], was["State"]["ExitCode"], "{name}");
        let output = home.command(&["export", name]).output().unwrap();
        assert_eq!(files(&output.stdout), files(&exported), "{name}");
    }
    assert_eq!(home.ok(&["start", "-a", "made"]), "built\n");
}
