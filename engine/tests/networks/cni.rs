//! `mica cni`, called as container runtimes call it: by a link in a directory of plugins, with an environment and a text on
//! standard input.

mod crash;
mod life;
mod refused;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use mica_conformance::network::Namespace;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{Answer, Host};

/// A runtime of containers on a host of its own.
struct Runtime {
    host: Host,
    dir: TempDir,
}

/// A namespace that a runtime made for a container.
struct Pod {
    id: &'static str,
    namespace: Option<Namespace>,
    path: PathBuf,
}

impl Pod {
    fn new(id: &'static str) -> Self {
        let namespace = Namespace::new().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
        Self { id, namespace: Some(namespace), path: path.into() }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> std::io::Result<T> + Send) -> T {
        self.namespace.as_ref().unwrap().inside(work).unwrap()
    }

    fn ip(&self, arguments: &str) -> String {
        let output = self.inside(|| Command::new("ip").args(arguments.split(' ')).output());
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Answers every connection with the address that it came from.
    fn serve(&self, port: u16) {
        let listener = self.inside(|| TcpListener::bind(("0.0.0.0", port)));
        thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let _ = stream.write_all(from.ip().to_string().as_bytes());
            }
        });
    }

    /// What a server answers to a connection from here.
    fn ask(&self, at: &str) -> String {
        self.inside(|| ask(at))
    }
}

fn ask(at: &str) -> std::io::Result<String> {
    let at: SocketAddr = at.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl Runtime {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_mica-cni"), dir.path().join("mica-cni")).unwrap();
        Self { host: Host::new(), dir }
    }

    /// A configuration of network `pods`, with these fields beside the usual ones.
    fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "mica-cni",
            "root": self.host.root(),
            "subnets": ["10.22.0.0/24"],
            "ipv6": false,
        });
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        config
    }

    fn command(&self, verb: &str, pod: Option<&Pod>, config: &Value) -> Command {
        let input = self.dir.path().join("input");
        std::fs::write(&input, config.to_string()).unwrap();
        let mut command = Command::new(self.dir.path().join("mica-cni"));
        command.stdin(File::open(input).unwrap()).env("CNI_COMMAND", verb).env("CNI_PATH", self.dir.path());
        if let Some(pod) = pod {
            command.env("CNI_CONTAINERID", pod.id).env("CNI_IFNAME", "eth0").env("CNI_NETNS", &pod.path);
        }
        command
    }

    fn call(&self, verb: &str, pod: Option<&Pod>, config: &Value) -> Answer {
        self.host.run(&mut self.command(verb, pod, config))
    }

    /// What a call prints; it must succeed.
    fn ok(&self, verb: &str, pod: &Pod, config: &Value) -> String {
        let answer = self.call(verb, Some(pod), config);
        assert_eq!(answer.status, Some(0), "{verb}: {answer:?}");
        answer.out
    }

    fn add(&self, pod: &Pod, config: &Value) -> Value {
        serde_json::from_str(&self.ok("ADD", pod, config)).unwrap()
    }

    /// Its code, and what it says; it must fail as the protocol has it.
    fn refused(&self, verb: &str, pod: Option<&Pod>, config: &Value) -> (u64, String) {
        told(&self.call(verb, pod, config))
    }

    /// What is in the host's kernel and in the records of endpoints.
    fn state(&self) -> String {
        let rules = self.host.run(Command::new("nft").args(["list", "ruleset"])).out;
        let connected = match self.host.mica(&["network", "inspect", "-f", "{{json .Containers}}", "pods"]) {
            Answer { status: Some(0), out, .. } => out,
            _ => String::new(),
        };
        format!("{}{rules}{connected}", self.host.links())
    }

    /// The kernel may still be at clearing away what was in a namespace that is gone.
    fn becomes(&self, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.state() != expected && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.state(), expected);
    }
}

fn told(answer: &Answer) -> (u64, String) {
    assert_eq!(answer.status, Some(1), "{answer:?}");
    let error: Value = serde_json::from_str(&answer.out).unwrap();
    assert!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].contains(&error["cniVersion"].as_str().unwrap()));
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
}
