//! A data root for one test, and the command that works on it, in a network namespace of the test's own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mica_conformance::network::enter_new;
use tempfile::TempDir;

use crate::run;

pub(crate) const MICA: &str = env!("CARGO_BIN_EXE_mica");

/// A scratch directory with a data root in it.
pub(crate) struct Home {
    pub(crate) dir: TempDir,
    root: PathBuf,
}

impl Drop for Home {
    fn drop(&mut self) {
        run::clear(&self.root);
    }
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

thread_local! {
    /// Leaves the machine's network: this thread, once, and whatever it starts from then on.
    static OWN_NETWORK: () = enter_new().unwrap();
}

impl Home {
    pub(crate) fn new() -> Self {
        let mut home = Self::at(PathBuf::new());
        home.root = home.dir.path().join("root");
        home
    }

    /// With its data root elsewhere.
    pub(crate) fn at(root: PathBuf) -> Self {
        OWN_NETWORK.with(|()| Self { dir: tempfile::tempdir().unwrap(), root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a file beside the data root.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MICA);
        command.arg("--root").arg(&self.root).args(arguments);
        command.env_remove("MICA_FAILPOINT").env_remove("MICA_ROOT").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn with_failpoint(&self, point: &str, arguments: &[&str]) -> Answer {
        self.command(arguments).env("MICA_FAILPOINT", point).output().unwrap().into()
    }

    pub(crate) fn with_input(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that refuses its input does not read to the end of it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap().into()
    }

    /// What the command prints; it must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.status, Some(0), "mica {arguments:?}: {}", answer.err);
        answer.out
    }

    /// What the command says when it fails: one line, exit status 1.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        self.run(arguments).refusal()
    }

    /// The storage drivers of this host.
    pub(crate) fn drivers(&self) -> Vec<String> {
        let answer = self.ok(&["drivers", "--format", "{{.Name}} {{.Status}}"]);
        answer.lines().filter_map(|line| line.strip_suffix(" available")).map(str::to_owned).collect()
    }

    /// Imports a tarball and returns the image's id.
    pub(crate) fn import(&self, name: &str, tar: &[u8]) -> String {
        let file = self.file("import.tar", tar);
        self.ok(&["import", &file, name]).trim().to_owned()
    }

    /// Names in a directory of the root.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(directory)) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Nothing is half-made: no intent, no scratch, no lock, and records and drivers agree.
    pub(crate) fn assert_consistent(&self) {
        let answer = self.run(&["storage", "check", "--full"]);
        assert!(answer.status == Some(0) && answer.out.ends_with("all is well\n"), "{answer:?}");
        assert_eq!(answer.err, "");
        for directory in ["intents", "tmp", "locks"] {
            assert_eq!(self.names(directory), Vec::<String>::new(), "{directory}");
        }
    }

    /// There is no image, no layer, and nothing half-made.
    pub(crate) fn assert_empty(&self) {
        self.assert_consistent();
        assert_eq!((self.names("images"), self.names("layers")), (Vec::new(), Vec::new()));
        let answer = self.ok(&["storage", "check"]);
        assert_eq!(answer, "0 images, 0 image layers, 0 layers in drivers: all is well\n");
    }
}

impl Answer {
    pub(crate) fn refusal(self) -> String {
        assert_eq!(self.status, Some(1), "{self:?}");
        assert!(self.err.starts_with("mica: ") && self.err.lines().count() == 1, "{self:?}");
        self.err
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
