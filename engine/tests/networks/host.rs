//! A host without a network, and a data root on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use mica_conformance::network::Namespace;
use mica_engine::networks::Networks;
use mica_engine::{Config, Engine, drivers};
use serde_json::Value;
use tempfile::TempDir;

use crate::run;

/// A network namespace that plays the host.
pub(crate) struct Host {
    dir: TempDir,
    namespace: Namespace,
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), namespace: Namespace::new().unwrap() }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Runs a program on the host.
    pub(crate) fn run(&self, command: &mut Command) -> Answer {
        // A child is in the namespace of the thread that starts it.
        let output = self.namespace.inside(|| command.output()).unwrap();
        Answer {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn mica(&self, arguments: &[&str]) -> Answer {
        self.run(&mut self.command(arguments))
    }

    pub(crate) fn with_failpoint(&self, point: &str, arguments: &[&str]) -> Answer {
        self.run(self.command(arguments).env("MICA_FAILPOINT", point))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mica"));
        command.arg("--root").arg(self.root()).args(arguments);
        command
    }

    /// What it prints; it must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.mica(arguments);
        assert_eq!(answer.status, Some(0), "{arguments:?}: {answer:?}");
        answer.out
    }

    /// What it says; it must fail in one line.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let answer = self.mica(arguments);
        assert_eq!(answer.status, Some(1), "{arguments:?}: {answer:?}");
        assert_eq!(answer.err.lines().count(), 1, "{arguments:?}: {answer:?}");
        answer.err
    }

    pub(crate) fn inspect(&self, name: &str) -> Value {
        let shown: Value = serde_json::from_str(&self.ok(&["network", "inspect", name])).unwrap();
        shown[0].clone()
    }

    /// The subnets of a network.
    pub(crate) fn subnets(&self, name: &str) -> Vec<String> {
        let config = self.inspect(name)["IPAM"]["Config"].clone();
        let config = config.as_array().unwrap();
        config.iter().map(|pool| pool["Subnet"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn names(&self, filters: &[&str]) -> Vec<String> {
        let listed = self.ok(&[&["network", "ls", "--format", "{{.Name}}"], filters].concat());
        listed.lines().map(str::to_owned).collect()
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        let answer = self.run(Command::new("ip").args(arguments.split(' ')));
        assert_eq!(answer.status, Some(0), "ip {arguments}: {answer:?}");
        answer.out
    }

    pub(crate) fn setting(&self, name: &str) -> String {
        let path = Path::new("/proc/sys/net").join(name);
        self.namespace.inside(|| fs::read_to_string(path)).unwrap().trim().to_owned()
    }

    pub(crate) fn set(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(name);
        self.namespace.inside(|| fs::write(path, value)).unwrap();
    }

    /// What a program does that uses the engine as a library.
    pub(crate) fn with<T: Send>(&self, work: impl FnOnce(&Networks) -> T + Send) -> T {
        let root = self.root();
        let done = self.namespace.inside(|| {
            let engine = Engine::open(Config::new(root, drivers::registry())).map_err(io::Error::other)?;
            Ok(work(&engine.networks()))
        });
        done.unwrap()
    }

    pub(crate) fn links(&self) -> String {
        self.ip("-o link")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run::clear(&self.root());
    }
}
