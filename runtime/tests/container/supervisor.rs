//! A supervisor that does what a test tells it, line by line: commands on its standard input, answers on its
//! output.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mica_runtime::{Bundle, Container, Error, Io, Running, reap};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Create { id: String, spec: Box<Spec>, output: PathBuf },
    Start,
    Exec { process: Box<Process>, output: PathBuf },
    Signal(i32),
    SignalAll(i32),
    Pause,
    Resume,
    Update(Box<LinuxResources>),
    Processes,
    Wait(i32),
    Delete,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) text: String,
    pub(crate) status: u8,
}

/// What a test sees of a process that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Made(Made),
    Ended(u8),
    Processes(Vec<i32>),
    Failed(Failure),
}

/// The test's side.
pub(crate) struct Supervisor {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Open until the supervisor is executed from it.
    _program: OwnedFd,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Supervisor {
    pub(crate) fn spawn() -> Self {
        Self::spawn_by("exec \"$0\"")
    }

    /// One that has no control groups but those of the unified hierarchy.
    pub(crate) fn spawn_unified() -> Self {
        Self::spawn_by("umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\"")
    }

    /// With mounts of its own, and executed from a file that cannot be written, as the real one.
    fn spawn_by(script: &str) -> Self {
        let program = mica_runtime::protected_self().unwrap();
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd()))
            .env("MICA_TEST_SUPERVISOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, orders, answers: BufReader::new(answers), _program: program }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&mut self, order: &Order) -> Result<Answer> {
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{}", serde_json::to_string(order).unwrap()).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        match serde_json::from_str(&line).unwrap_or_else(|_| panic!("the supervisor died")) {
            Answer::Failed(failure) => Err(failure),
            answer => Ok(answer),
        }
    }

    pub(crate) fn create(&mut self, id: &str, spec: &Spec, output: &Path) -> Result<Made> {
        let order = Order::Create { id: id.into(), spec: Box::new(spec.clone()), output: output.into() };
        self.tell(&order).map(Answer::made)
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.tell(&Order::Start).map(drop)
    }

    pub(crate) fn exec(&mut self, process: &Process, output: &Path) -> Result<Made> {
        self.tell(&Order::Exec { process: Box::new(process.clone()), output: output.into() })
            .map(Answer::made)
    }

    pub(crate) fn signal(&mut self, signal: i32) -> Result<()> {
        self.tell(&Order::Signal(signal)).map(drop)
    }

    pub(crate) fn signal_all(&mut self, signal: i32) -> Result<()> {
        self.tell(&Order::SignalAll(signal)).map(drop)
    }

    pub(crate) fn pause(&mut self) -> Result<()> {
        self.tell(&Order::Pause).map(drop)
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.tell(&Order::Resume).map(drop)
    }

    pub(crate) fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        self.tell(&Order::Update(Box::new(resources.clone()))).map(drop)
    }

    pub(crate) fn processes(&mut self) -> Vec<i32> {
        match self.tell(&Order::Processes).unwrap() {
            Answer::Processes(list) => list,
            other => panic!("{other:?}"),
        }
    }

    /// Reaps children until `pid` is among them; its status or 128 and the signal.
    pub(crate) fn wait(&mut self, pid: i32) -> u8 {
        match self.tell(&Order::Wait(pid)).unwrap() {
            Answer::Ended(code) => code,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn delete(&mut self) -> Result<()> {
        self.tell(&Order::Delete).map(drop)
    }

    /// Ends the supervisor as a crash would.
    pub(crate) fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    fn made(self) -> Made {
        match self {
            Self::Made(made) => made,
            other => panic!("{other:?}"),
        }
    }
}

/// The supervisor's side: ends with its input.
pub(crate) fn serve() {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok();
    let mut state = State::default();
    for line in stdin().lines() {
        let order = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = state.obey(order).unwrap_or_else(|error| {
            Answer::Failed(Failure { text: error.to_string(), status: error.exit_status() })
        });
        println!("{}", serde_json::to_string(&answer).unwrap());
        stdout().flush().unwrap();
    }
}

#[derive(Default)]
struct State {
    container: Option<Container>,
    executed: Vec<Running>,
    consoles: Vec<(File, PathBuf)>,
}

impl State {
    fn container(&mut self) -> &mut Container {
        self.container.as_mut().expect("no container was created")
    }

    fn obey(&mut self, order: Order) -> mica_runtime::Result<Answer> {
        match order {
            Order::Create { id, spec, output } => {
                self.container = None;
                self.executed.clear();
                let bundle = Bundle { id: &id, dir: Path::new("/"), spec: &spec, seccomp_cache: None };
                let mut container = with_io(&output, |io| Container::create(&bundle, io))?;
                let made = self.note(container.init_mut(), output);
                self.container = Some(container);
                return Ok(Answer::Made(made));
            }
            Order::Exec { process, output } => {
                let mut running = with_io(&output, |io| self.container().exec(&process, io))?;
                let made = self.note(&mut running, output);
                self.executed.push(running);
                return Ok(Answer::Made(made));
            }
            Order::Start => self.container().start()?,
            Order::Signal(signal) => self.container().signal(signal)?,
            Order::SignalAll(signal) => self.container().signal_all(signal)?,
            Order::Pause => self.container().pause()?,
            Order::Resume => self.container().resume()?,
            Order::Update(resources) => self.container().update(&resources)?,
            Order::Processes => return self.container().processes().map(Answer::Processes),
            Order::Wait(pid) => return self.wait(pid).map(Answer::Ended),
            Order::Delete => self.container().delete()?,
        }
        Ok(Answer::Done)
    }

    fn note(&mut self, running: &mut Running, output: PathBuf) -> Made {
        if let Some(console) = running.console.take() {
            self.consoles.push((File::from(console), output));
        }
        Made { pid: running.pid, notes: running.notes.clone() }
    }

    fn wait(&mut self, pid: i32) -> mica_runtime::Result<u8> {
        // What a terminal printed is read until its last process has closed it (EIO).
        for (mut console, output) in self.consoles.drain(..) {
            let mut text = Vec::new();
            let _ = console.read_to_end(&mut text);
            std::fs::write(output, text).unwrap();
        }
        loop {
            match reap(true)? {
                Some(reaped) if reaped.pid == pid => return Ok(reaped.exit.code()),
                Some(_) => {}
                None => return Err(Error::Stopped),
            }
        }
    }
}

fn with_io<T>(output: &Path, make: impl FnOnce(&Io<'_>) -> T) -> T {
    let null = File::open("/dev/null").unwrap();
    let output = File::options().create(true).append(true).open(output).unwrap();
    make(&Io { stdin: null.as_fd(), stdout: output.as_fd(), stderr: output.as_fd() })
}
