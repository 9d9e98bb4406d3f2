//! A union that is mounted, and what serves it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::Result;
use crate::rows::make;
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(20);

/// Who lays directories over each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// The kernel.
    Overlay,
    /// The program of Debian.
    FuseOverlayfs,
    /// Mica's, with these options.
    Aufs(&'static str),
    /// Mica's, of the writable directory alone.
    Alone,
}

/// What is to be mounted.
#[derive(Debug)]
pub(crate) struct Union {
    /// Where the directories are.
    pub(crate) base: PathBuf,
    /// Below `base`, the topmost first.
    pub(crate) lowers: Vec<PathBuf>,
    /// Whether a new directory `rw` of `base` lies on top.
    pub(crate) writable: bool,
    pub(crate) way: Way,
}

impl Union {
    pub(crate) fn mount(&self, stage: &Stage, at: &Path) -> Result<Mounted> {
        if self.writable {
            for part in ["rw", "rw/upper", "rw/work"] {
                make(&self.base.join(part))?;
            }
        }
        let server = match self.way {
            Way::Overlay => {
                let data = self.overlay();
                // One page of options (mount(2)) takes many names if they are short.
                std::env::set_current_dir(&self.base)
                    .map_err(|e| format!("go to '{}': {e}", self.base.display()))?;
                let mounted =
                    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(data.as_str()));
                mounted.map_err(|e| format!("mount overlayfs with '{data}': {e}"))?;
                None
            }
            Way::FuseOverlayfs => {
                let mut command = Command::new("fuse-overlayfs");
                command.args(["-f", "-o"]).arg(self.overlay());
                Some(self.serve(&command, at)?)
            }
            Way::Aufs(options) => Some(self.aufs(stage, &self.branches(), options, at)?),
            Way::Alone => Some(self.aufs(stage, "br:rw/upper=rw", "nopassthrough", at)?),
        };
        Ok(Mounted { at: at.to_owned(), server })
    }

    fn aufs(&self, stage: &Stage, branches: &str, options: &str, at: &Path) -> Result<Pid> {
        let mut command = Command::new(stage.mica.with_file_name("mica-aufs"));
        command.args(["-f", branches, "-o", options]);
        self.serve(&command, at)
    }

    fn overlay(&self) -> String {
        let lowers: Vec<_> = self.lowers.iter().map(|lower| lower.display().to_string()).collect();
        let upper = if self.writable { ",upperdir=rw/upper,workdir=rw/work" } else { "" };
        format!("lowerdir={}{upper}", lowers.join(":"))
    }

    fn branches(&self) -> String {
        let lowers = self.lowers.iter().map(|lower| format!("{}=ro+wh", lower.display()));
        let upper = self.writable.then(|| "rw/upper=rw".to_owned());
        format!("br:{}", upper.into_iter().chain(lowers).collect::<Vec<_>>().join(":"))
    }

    /// Starts the program that serves the mount, not as a child of this process, which waits for all that it has.
    fn serve(&self, command: &Command, at: &Path) -> Result<Pid> {
        let before = device(at);
        nix::sys::prctl::set_child_subreaper(false).map_err(|e| format!("be no subreaper: {e}"))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$@\" > /dev/null & echo $!", "sh"]).arg(command.get_program());
        shell.args(command.get_args()).arg(at).current_dir(&self.base).stdin(Stdio::null());
        // What it says goes to whoever measures; a pipe would be held open by it.
        let output =
            shell.stderr(Stdio::inherit()).output().map_err(|e| format!("start {command:?}: {e}"))?;
        let pid = String::from_utf8_lossy(&output.stdout).trim().parse().map(Pid::from_raw);
        let pid =
            pid.map_err(|_| format!("start {command:?}: {}", String::from_utf8_lossy(&output.stderr)))?;
        let started = Instant::now();
        while device(at) == before {
            if kill(pid, None).is_err() || started.elapsed() > PATIENCE {
                let _ = kill(pid, Signal::SIGTERM);
                return Err(format!("{command:?} mounted nothing"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(pid)
    }
}

/// A union that is mounted.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
    server: Option<Pid>,
}

impl Mounted {
    /// User and system time that its server and what that started have used, in microseconds.
    pub(crate) fn cpu(&self) -> Result<u64> {
        let Some(server) = self.server else { return Ok(0) };
        let children = format!("/proc/{server}/task/{server}/children");
        let children = fs::read_to_string(&children).map_err(|e| format!("read '{children}': {e}"))?;
        let children = children.split_whitespace().filter_map(|pid| pid.parse().map(Pid::from_raw).ok());
        std::iter::once(server).chain(children).map(used).sum()
    }

    /// Returns when the server has ended.
    pub(crate) fn unmount(self) -> Result<()> {
        umount2(&self.at, MntFlags::empty()).map_err(|e| format!("unmount '{}': {e}", self.at.display()))?;
        let started = Instant::now();
        while self.server.is_some_and(|server| kill(server, None).is_ok()) {
            if started.elapsed() > PATIENCE {
                return Err("the mount is gone, and its server is not".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// User and system time of a process, in microseconds.
fn used(pid: Pid) -> Result<u64> {
    let time = ClockId::pid_cpu_clock_id(pid).and_then(ClockId::now);
    let time = time.map_err(|e| format!("ask for the time that process {pid} used: {e}"))?;
    u64::try_from(Duration::from(time).as_micros()).map_err(|e| e.to_string())
}

/// Which file system is there.
fn device(at: &Path) -> Option<u64> {
    fs::metadata(at).ok().map(|found| std::os::unix::fs::MetadataExt::dev(&found))
}
