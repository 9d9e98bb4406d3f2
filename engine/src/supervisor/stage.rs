//! Everything that is set up for a container, and struck in reverse.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mica_core::{Hold, MountOptions, failpoint};
use mica_mount::Attached;
use mica_runtime::Exit;
use oci_spec::runtime::Process;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::input::{self, Ours};
use super::log::Log;
use super::machine::{self, Machine};
use super::network::Sandbox;
use crate::container::{Bundled, Busy, Container, Source, StartOptions, State, Status, now, remove_file};
use crate::container::{await_single_thread, link, user, volume};
use crate::{Engine, Error, Result};

/// A container on its way up or down: what of it stands.
#[derive(Debug)]
pub(crate) struct Stage<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) container: &'e Container,
    pub(crate) state: State,
    busy: Option<Busy>,
    listening: bool,
    hold: Option<Hold>,
    pub(crate) rootfs: Option<Attached>,
    /// How the process ended that served the root file system, while that was mounted.
    lost: Option<String>,
    pub(crate) sandbox: Option<Sandbox<'e>>,
    pub(crate) machine: Option<Machine>,
    /// What the container was created with: others that join it begin with this.
    process: Option<Process>,
}

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) listener: OwnedFd,
    pub(crate) ours: Ours,
    pub(crate) log: Log,
    pub(crate) notes: Vec<String>,
}

impl<'e> Stage<'e> {
    pub(crate) fn new(engine: &'e Engine, container: &'e Container, busy: Busy) -> Self {
        let state = State::default();
        let busy = Some(busy);
        Self {
            engine,
            container,
            state,
            busy,
            listening: false,
            hold: None,
            rootfs: None,
            lost: None,
            sandbox: None,
            machine: None,
            process: None,
        }
    }

    /// Leaves the command that forked this process, sets everything up and starts the container's. After an error it is to be
    /// struck.
    pub(crate) fn set(&mut self, options: &StartOptions) -> Result<Ready> {
        let before = State::read(self.container.dir())?;
        self.state = State {
            status: Status::Starting,
            supervisor: std::process::id().cast_signed(),
            started: before.started,
            finished: before.finished,
            ..State::default()
        };
        super::leave_caller()?;
        self.record("stage.announced")?;
        let listener = self.listen()?;
        self.mount()?;
        self.sandbox.insert(Sandbox::new(self.engine, self.container)?).set_up()?;
        let ready = self.create(listener, options)?;
        failpoint::hit("stage.created").map_err(Error::io(|| "start a container"))?;
        self.machine()?.start()?;
        self.state.pid = self.machine()?.pid();
        self.state.status = Status::Running;
        self.state.started = now();
        self.state.finished = String::new();
        self.record("stage.running")?;
        Ok(ready)
    }

    pub(crate) fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().ok_or_else(|| self.container.not_running())
    }

    /// The process that the container was created with.
    pub(crate) fn process(&self) -> Result<Process> {
        self.process.clone().ok_or_else(|| self.container.not_running())
    }

    /// Notices whether the kernel killed a process of the container for want of memory, while its control groups are
    /// there.
    pub(crate) fn look_for_oom(&mut self) {
        let group = self.container.record().cgroup();
        let group = group.strip_prefix("/").unwrap_or(&group);
        let counts = |path: PathBuf| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
        };
        let v1 = Path::new("/sys/fs/cgroup/memory").join(group).join("memory.oom_control");
        let v2 = Path::new("/sys/fs/cgroup").join(group).join("memory.events");
        self.state.oom_killed = counts(v1) || counts(v2);
    }

    /// Becomes readable when the process ends that serves the root file system, if one does.
    pub(crate) fn server(&self) -> Option<BorrowedFd<'_>> {
        self.rootfs.as_ref().filter(|_| self.lost.is_none()).and_then(Attached::helper_pidfd)
    }

    /// Takes note of the end of a child, if it is the one that served the root file system: whatever the container does in
    /// there from now on is answered with `ENOTCONN`. What is to be told of it.
    pub(crate) fn lose(&mut self, child: i32, exit: Exit) -> Option<String> {
        let rootfs = self.rootfs.as_ref().filter(|_| self.lost.is_none())?;
        rootfs.helper_pid().filter(|&pid| i32::try_from(pid) == Ok(child))?;
        let how = match (exit, rootfs.helper_said()) {
            (Exit::Signal(number), _) => format!("was killed by signal {number}"),
            (Exit::Status(status), said) if said.is_empty() => format!("ended with status {status}"),
            (Exit::Status(_), said) => format!("ended: {said}"),
        };
        let text = format!(
            "container {} lost its file system, for process {child}, which served it, {how}; start it again",
            self.container.name()
        );
        self.state.error.clone_from(&text);
        self.lost = Some(text.clone());
        Some(text)
    }

    /// Has what was written through mappings of memory reach the layer. A process that serves the root file system is only
    /// told of it when the kernel writes it back.
    pub(crate) fn write_back(&self) -> Result<()> {
        let Some(rootfs) = self.rootfs.as_ref().filter(|rootfs| rootfs.helper_pid().is_some()) else {
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(rootfs.root(), ".", flags, Mode::empty());
        let written = root.and_then(rustix::fs::syncfs);
        written.map_err(|e| Error::io(|| "write back what is mapped into memory")(e.into()))
    }

    /// Puts the state on disk; `point` names the moment after that.
    pub(crate) fn record(&self, point: &str) -> Result<()> {
        self.state.write(self.container.dir())?;
        failpoint::hit(point).map_err(Error::io(|| "supervise a container"))
    }

    fn listen(&mut self) -> Result<OwnedFd> {
        let failed = || format!("listen in '{}'", self.container.dir().display());
        let os = |e: rustix::io::Errno| Error::io(failed)(e.into());
        remove_file(&self.container.dir().join(link::SOCKET))?;
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, self.container.dir(), dir, Mode::empty()).map_err(os)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(os)?;
        bind(&socket, &link::address(dir.as_fd()).map_err(Error::io(failed))?).map_err(os)?;
        self.listening = true;
        listen(&socket, 64).map_err(os)?;
        Ok(socket)
    }

    fn mount(&mut self) -> Result<()> {
        let record = self.container.record();
        let store = self.engine.store(Some(&record.driver))?;
        // What is removed when it ends need not reach the disk: overlayfs syncs a whole file system at each unmount.
        let options = MountOptions { volatile: record.settings.auto_remove, ..MountOptions::default() };
        let hold = self.hold.insert(store.write(&record.layer(), &options)?);
        let tree = self.engine.mounter().with_helper_apart().open(hold.mounts())?;
        self.rootfs = Some(tree.attach(&self.container.rootfs())?);
        failpoint::hit("stage.mounted").map_err(Error::io(|| "mount a container"))
    }

    fn create(&mut self, listener: OwnedFd, options: &StartOptions) -> Result<Ready> {
        let settings = &self.container.record().settings;
        let rootfs = self.container.rootfs();
        let sandbox = self.sandbox.as_ref().ok_or_else(|| self.container.not_running())?;
        let bundled = Bundled {
            user: user::resolve(self.root()?, settings.user.as_deref().unwrap_or_default())?,
            sources: self.sources()?,
            rootfs: &rootfs,
            size: options.size,
            namespace: sandbox.namespace(),
            etc: sandbox.etc()?,
            files: sandbox.limit_was(),
        };
        let spec = self.container.spec(&bundled)?;
        self.process = spec.process().clone();
        let log = Log::open(&self.container.log(), settings.log);
        let log = log.map_err(Error::io(|| format!("open '{}'", self.container.log().display())))?;
        let (theirs, mut ours) = input::streams(settings.tty, settings.stdin)?;
        let cache = self.seccomp_cache()?;
        let runtime = self.engine.runtime_of(self.container);
        await_single_thread()?;
        let machine = Machine::create(self.container, runtime, &spec, &theirs.io(), &cache)?;
        let machine = self.machine.insert(machine);
        drop(theirs);
        if let Some(console) = machine.take_console() {
            ours = input::terminal(console)?;
        }
        let mut notes = machine.notes();
        notes.extend(self.sandbox.iter_mut().flat_map(Sandbox::take_notes));
        Ok(Ready { listener, ours, log, notes })
    }

    /// The root directory of the mounted file system.
    pub(crate) fn root(&self) -> Result<BorrowedFd<'_>> {
        self.rootfs.as_ref().map(Attached::root).ok_or_else(|| mica_runtime::Error::Stopped.into())
    }

    /// The network namespace of the container, for another one to join.
    pub(crate) fn namespace(&mut self) -> Result<OwnedFd> {
        let made = self.sandbox.as_ref().and_then(Sandbox::namespace);
        let path = made
            .map_or_else(|| Ok(format!("/proc/{}/ns/net", self.machine()?.pid()).into()), Ok::<_, Error>)?;
        let file = std::fs::File::open(&path);
        Ok(file.map_err(Error::io(|| format!("open '{}'", path.display())))?.into())
    }

    /// What each mount of the settings shows, made where it is missing, as Docker makes it.
    fn sources(&self) -> Result<Vec<PathBuf>> {
        let mounts = &self.container.record().settings.mounts;
        let source = |mount: &crate::container::MountPoint| match &mount.source {
            Source::Volume { name, .. } => {
                volume::prepare(self.engine.root(), name, self.root()?, mount.target.as_ref())
            }
            Source::Bind(path) => {
                if !path.exists() {
                    std::fs::create_dir_all(path)
                        .map_err(Error::io(|| format!("create '{}' for a mount", path.display())))?;
                }
                Ok(path.clone())
            }
        };
        mounts.iter().map(source).collect()
    }

    fn seccomp_cache(&self) -> Result<PathBuf> {
        let dir = self.engine.root().path().join("seccomp");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(Error::io(|| format!("create '{}'", dir.display())))?;
        Ok(dir)
    }

    /// Undoes everything in reverse, goes on whatever fails, and records the end: the status of the command, or why it never
    /// ran. What failed is recorded and returned.
    pub(crate) fn strike(&mut self, end: Result<u8, &Error>) -> Vec<String> {
        let mut failures = self.take_down();
        let was_started = self.state.status != Status::Starting;
        let (code, reason) = match end {
            Ok(code) => (code, String::new()),
            Err(Error::Runtime { status, text }) => (*status, text.clone()),
            Err(error) => (125, error.to_string()),
        };
        let mut said: Vec<String> = Some(reason).filter(|reason| !reason.is_empty()).into_iter().collect();
        said.extend(self.lost.iter().chain(&failures).cloned());
        // A command that was never executed leaves the container as it was created, or as it ended last; but one that removes
        // itself is over, should this process be killed before it is gone.
        let auto_remove = self.container.record().settings.auto_remove;
        let never = !was_started && self.state.started.is_empty() && !auto_remove;
        self.state.status = if never { Status::Created } else { Status::Exited };
        self.state.exit_code = code;
        self.state.error = said.join("; ");
        (self.state.pid, self.state.supervisor) = (0, 0);
        if was_started || self.state.finished.is_empty() && !never {
            self.state.finished = now();
        }
        failures.extend(self.record("stage.struck").err().map(|error| error.to_string()));
        if auto_remove && let Some(busy) = &self.busy {
            let removed = self.engine.remove_held(self.container, busy, true);
            failures.extend(removed.err().map(|error| error.to_string()));
        }
        // Whoever waits for the end finds the container free.
        self.busy = None;
        failures
    }

    fn take_down(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut note = |result: Result<()>| failures.extend(result.err().map(|error| error.to_string()));
        note(self.remove_machine());
        let sandbox = self.sandbox.take().map(|mut sandbox| sandbox.take_down());
        sandbox.into_iter().flatten().for_each(|error| note(Err(error)));
        note(self.rootfs.take().map_or(Ok(()), |rootfs| rootfs.close().map_err(Error::from)));
        note(self.hold.take().map_or(Ok(()), |hold| hold.release().map_err(Error::from)));
        if std::mem::take(&mut self.listening) {
            note(remove_file(&self.container.dir().join(link::SOCKET)));
        }
        failures
    }

    /// Kills what is left of the container and removes its control groups.
    pub(crate) fn remove_machine(&mut self) -> Result<()> {
        let Some(mut machine) = self.machine.take() else { return Ok(()) };
        let Err(error) = machine.delete() else { return Ok(()) };
        // Once more without the runtime, which may be what is broken.
        machine::clean_up(self.container, None).map_err(|_| error)
    }
}
