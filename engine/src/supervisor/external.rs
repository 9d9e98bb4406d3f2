//! An OCI runtime of the user's (runc, crun, youki), driven by its command line.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mica_runtime::{Io, Running};
use oci_spec::runtime::{Process, Spec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::console::ConsoleSocket;
use crate::container::Container;
use crate::{Error, Result, sys};

/// A container of another runtime. Its first process is a child of this one, which is a subreaper.
#[derive(Debug)]
pub(crate) struct External {
    tool: Tool,
    init: Running,
    process: Process,
    /// Tells the files of one exec from another's.
    execs: u32,
}

/// How the runtime is called for one container.
#[derive(Debug)]
struct Tool {
    program: String,
    id: String,
    /// The bundle, which is the working directory too, so that sockets in it have short names.
    bundle: PathBuf,
}

impl External {
    /// Writes the bundle and has the container created.
    pub(crate) fn create(container: &Container, program: &str, spec: &Spec, io: &Io<'_>) -> Result<Self> {
        let tool = Tool::of(container, program);
        let failed = || format!("write the bundle '{}'", tool.bundle.display());
        fs::create_dir_all(&tool.bundle).map_err(Error::io(failed))?;
        spec.save(tool.bundle.join("config.json")).map_err(|e| Error::io(failed)(io::Error::other(e)))?;
        let process = spec.process().clone().unwrap_or_default();
        let init = tool.launch(&["create", "--bundle", "."], &process, io, "init")?;
        Ok(Self { tool, init, process, execs: 0 })
    }

    pub(crate) fn init(&self) -> &Running {
        &self.init
    }

    pub(crate) fn take_console(&mut self) -> Option<OwnedFd> {
        self.init.console.take()
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.command(&["start"])
    }

    pub(crate) fn exec(&mut self, process: &Process, io: &Io<'_>) -> Result<Running> {
        let mut process = process.clone();
        // What the built-in runtime takes from the first process.
        process.set_rlimits(process.rlimits().clone().or_else(|| self.process.rlimits().clone()));
        self.execs += 1;
        let name = format!("exec-{}", self.execs);
        let file = self.tool.bundle.join(format!("{name}.json"));
        let failed = || format!("write '{}'", file.display());
        let text = serde_json::to_vec(&process).map_err(|e| Error::io(failed)(e.into()))?;
        fs::write(&file, text).map_err(Error::io(failed))?;
        let process_file = format!("{name}.json");
        let running =
            self.tool.launch(&["exec", "--detach", "--process", &process_file], &process, io, &name);
        crate::container::remove_file(&file)?;
        running
    }

    pub(crate) fn signal(&self, number: i32) -> Result<()> {
        let Some(signal) = Signal::from_named_raw(number) else {
            return self.command_after(&["kill"], &[&number.to_string()]);
        };
        match pidfd_send_signal(&self.init.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Err(mica_runtime::Error::Stopped.into()),
            sent => sent.map_err(|e| Error::io(|| "signal a container")(e.into())),
        }
    }

    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let text = self.tool.run(&["ps", "--format", "json"], &[], None)?;
        serde_json::from_str(&text).map_err(|e| Error::io(|| "list the processes of a container")(e.into()))
    }

    /// A verb of the runtime's that takes the container alone.
    pub(crate) fn command(&self, verb: &[&str]) -> Result<()> {
        self.command_after(verb, &[])
    }

    fn command_after(&self, verb: &[&str], rest: &[&str]) -> Result<()> {
        self.tool.run(verb, rest, None).map(drop)
    }

    pub(crate) fn delete(&mut self) -> Result<()> {
        self.tool.delete()
    }

    /// Has the runtime forget a container whose supervisor died.
    pub(crate) fn forget(container: &Container, program: &str) -> Result<()> {
        let tool = Tool::of(container, program);
        if tool.bundle.join("state").exists() { tool.delete() } else { Ok(()) }
    }
}

impl Tool {
    fn of(container: &Container, program: &str) -> Self {
        let bundle = container.dir().join("bundle");
        Self { program: program.to_owned(), id: container.id().to_owned(), bundle }
    }

    fn delete(&self) -> Result<()> {
        self.run(&["delete", "--force"], &[], None)?;
        crate::root::remove_tree(&self.bundle)
    }

    /// Has a process made that goes on after the runtime's command ended.
    fn launch(&self, verb: &[&str], process: &Process, io: &Io<'_>, name: &str) -> Result<Running> {
        let pid_file = format!("{name}.pid");
        let mut arguments = [verb, &["--pid-file", &pid_file]].concat();
        let socket_name = format!("{name}.sock");
        let socket = match process.terminal() {
            Some(true) => {
                arguments.extend(["--console-socket", &socket_name]);
                Some(ConsoleSocket::listen(&self.bundle, &socket_name)?)
            }
            _ => None,
        };
        // What it leaves running must hold no pipe that this process waits on.
        let null = null()?;
        let nothing = Io { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
        self.run(&arguments, &[], Some(if socket.is_some() { &nothing } else { io }))?;
        let path = self.bundle.join(&pid_file);
        let failed = || format!("find the process that {} made", self.program);
        let text = fs::read_to_string(&path).map_err(Error::io(failed))?;
        crate::container::remove_file(&path)?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::io(failed)(io::Error::other("its pid file holds no number")))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::io(failed)(e.into()))?;
        let console = socket.map(ConsoleSocket::receive).transpose()?;
        Ok(Running { pid: pid.as_raw_pid(), pidfd, console, notes: Vec::new() })
    }

    /// Runs a verb to its end and returns what it printed. With `streams` it and what it leaves running have these.
    fn run(&self, verb: &[&str], rest: &[&str], streams: Option<&Io<'_>>) -> Result<String> {
        let doing = || format!("run '{} {}'", self.program, verb[0]);
        let failed = || Error::io(doing);
        let log = self.bundle.join("runtime.log");
        crate::container::remove_file(&log)?;
        let mut command = Command::new(&self.program);
        command.current_dir(&self.bundle).args(["--root", "state", "--log", "runtime.log"]);
        command.args(verb).arg(&self.id).args(rest);
        // Or it would go on making what the next command has just cleaned up.
        sys::die_with_this(&mut command);
        if let Some(io) = streams {
            let duplicate = |fd: rustix::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(Stdio::from);
            command.stdin(duplicate(io.stdin).map_err(failed())?);
            command.stdout(duplicate(io.stdout).map_err(failed())?);
            command.stderr(duplicate(io.stderr).map_err(failed())?);
            let status = command.status().map_err(|e| missing(&self.program, &e))?;
            return if status.success() { Ok(String::new()) } else { Err(self.said(&log, &doing())) };
        }
        let output = command.stdin(Stdio::null()).output().map_err(|e| missing(&self.program, &e))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(self.said(&log, &doing())),
        }
    }

    /// The last thing in the runtime's log, with the exit status that a shell has for it.
    fn said(&self, log: &Path, doing: &str) -> Error {
        let text = fs::read_to_string(log).unwrap_or_default();
        let last = text.lines().next_back().unwrap_or("it failed and says nothing");
        let said =
            last.split_once("msg=").map_or(last, |(_, said)| said).trim_matches('"').replace("\\\"", "\"");
        let lower = said.to_lowercase();
        let any = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
        let status = match () {
            () if any(&["file not found", "not found in $path", "no such file"]) => 127,
            () if any(&["permission denied", "exec format error", "is a directory"]) => 126,
            () => 125,
        };
        Error::Runtime { status, text: format!("{doing}: {said}") }
    }
}

fn missing(program: &str, error: &io::Error) -> Error {
    let text =
        format!("runtime '{program}' cannot be run: {error}; name one with --runtime, or leave that out");
    Error::Runtime { status: 125, text }
}

/// `/dev/null`, for processes that have no input or whose output nobody wants.
pub(crate) fn null() -> Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/null");
    file.map(Into::into).map_err(Error::io(|| "open '/dev/null'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_has_the_status_of_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let tool = Tool { program: "runc".into(), id: "x".into(), bundle: dir.path().into() };
        let line = "time=\"2026\" level=error msg=\"runc create failed: exec: \\\"nosuch\\\": executable file not found in $PATH\"";
        fs::write(&log, line).unwrap();
        let Error::Runtime { status, text } = tool.said(&log, "run 'runc create'") else { panic!() };
        assert_eq!(status, 127);
        fs::write(&log, "executable file `nosuch` not found in $PATH").unwrap();
        let Error::Runtime { status: of_crun, .. } = tool.said(&log, "run 'crun create'") else { panic!() };
        assert_eq!(of_crun, 127);
        assert!(text.ends_with("exec: \"nosuch\": executable file not found in $PATH"), "{text}");
        let _ = null().unwrap().as_fd();
    }
}
