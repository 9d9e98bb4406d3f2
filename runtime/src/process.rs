//! The last steps of a process on its way to its command: limits, user, capabilities, filter, exec.
//!
//! They are the same for the first process of a container and for those that join it.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::process::{
    Gid, Resource, Rlimit, Signal, Uid, chdir, fchdir, getcwd, getrlimit, set_parent_process_death_signal,
    setrlimit, umask,
};
use rustix::thread::{CapabilitySet, set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid};

use crate::command;
use crate::error::{Context, Error, Result};
use crate::plan::ProcessPlan;
use crate::rootfs::resolve::{self, Missing};
use crate::seccomp::Program;
use crate::{capabilities, sys};

/// A process that has done what root may do and its user may not, and what can fail early.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    plan: &'a ProcessPlan,
    /// Whether root could enter the working directory.
    entered: bool,
}

/// Prepares the calling process, whose root is the container's. Also returns notes on what this host does not
/// grant.
pub(crate) fn prepare(plan: &mut ProcessPlan) -> Result<(Prepared<'_>, Vec<String>)> {
    match sys::new_session_keyring() {
        // A kernel without keyrings has no key to hide.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        made => made.context(|| "starting a session keyring")?,
    }
    own_standard_streams(plan.uid)?;
    if plan.variable("HOME").is_none() {
        let home = [b"HOME=", home(plan.uid).as_bytes()].concat();
        plan.env.push(CString::new(home).unwrap_or_else(|_| c"HOME=/".into()));
    }
    let mut notes: Vec<String> = clamp_limits(&mut plan.rlimits)?;
    if let Some(capabilities) = &mut plan.capabilities {
        notes.extend(capabilities::clamp(capabilities)?);
    }
    let entered = match enter_directory(&plan.cwd) {
        // A user's directory on a network file system may be closed to root and open to the user.
        Err(Error::Os { source, .. }) if source.raw_os_error() == Some(libc::EACCES) => false,
        entered => entered.map(|()| true)?,
    };
    if entered {
        command::find(plan)?;
    }
    umask(Mode::from_raw_mode(plan.umask.unwrap_or(0o022)));
    Ok((Prepared { plan, entered }, notes))
}

impl Prepared<'_> {
    /// Becomes the command; returns only with what prevented it.
    pub(crate) fn finish(self, filter: Option<&Program>) -> Result<Infallible> {
        let Self { plan, entered } = self;
        let install = |filter: &Program| filter.install().map_err(Error::from);
        sys::cloexec_all().context(|| "closing inherited files")?;
        for (resource, limit) in &plan.rlimits {
            setrlimit(*resource, *limit).context(|| format!("setting rlimit {resource:?}"))?;
        }
        capabilities::drop_bounding(plan.capabilities.as_ref())?;
        // Without no_new_privs only CAP_SYS_ADMIN may install a filter, so it goes in before capabilities go.
        if !plan.no_new_privileges {
            filter.map(install).transpose()?;
        }
        become_user(plan)?;
        if !entered {
            enter_directory(&plan.cwd)?;
        }
        capabilities::set(plan.capabilities.as_ref())?;
        // Changing the user clears it (prctl(2)); no container outlives its supervisor.
        set_parent_process_death_signal(Some(Signal::KILL))
            .context(|| "tying the process to its supervisor")?;
        if plan.no_new_privileges {
            set_no_new_privs(true).context(|| "setting no_new_privs")?;
            filter.map(install).transpose()?;
        }
        Err(command::execute(plan))
    }
}

/// Makes the working directory where it is missing, as images expect; `root` is the container's.
pub(crate) fn make_directory(root: BorrowedFd<'_>, cwd: &Path) -> Result<()> {
    let what = || format!("making the working directory {}", cwd.display());
    resolve::open_or_make(root, cwd, Missing::Directory).map(drop).context(what)
}

/// A directory outside of the root, through a descriptor that leaked, would be a way out (CVE-2024-21626).
fn enter_directory(cwd: &Path) -> Result<()> {
    let what = || format!("entering the working directory {}", cwd.display());
    let dir =
        openat(CWD, cwd, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(what)?;
    fchdir(&dir).context(what)?;
    let now = getcwd(Vec::new()).context(what)?;
    if now.to_bytes().first() != Some(&b'/') {
        chdir("/").context(what)?;
        return Err(Error::spec(format!("working directory {} is outside of the container", cwd.display())));
    }
    Ok(())
}

fn become_user(plan: &ProcessPlan) -> Result<()> {
    let what = || format!("becoming user {}:{}", plan.uid, plan.gid);
    rustix::thread::set_keep_capabilities(true).context(what)?;
    let groups: Vec<Gid> = plan.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups).context(what)?;
    set_thread_gid(Gid::from_raw(plan.gid)).context(what)?;
    set_thread_uid(Uid::from_raw(plan.uid)).context(what)?;
    rustix::thread::set_keep_capabilities(false).context(what)
}

/// Lets the process reopen its streams by `/dev/stdout`, which it may otherwise not if it is not root.
fn own_standard_streams(uid: u32) -> Result<()> {
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = fstat(fd).context(|| "reading the owner of a standard stream")?;
        let null = stat.st_rdev == rustix::fs::makedev(1, 3);
        if stat.st_uid == uid || null {
            continue;
        }
        match fchown(fd, Some(Uid::from_raw(uid)), None) {
            // Read-only file systems and files without owners stay as they are, and work as they can.
            Ok(()) | Err(Errno::ROFS | Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error).context(|| "giving a standard stream to the user"),
        }
    }
    Ok(())
}

/// Cuts what only CAP_SYS_RESOURCE could raise to what this process may have; says so.
fn clamp_limits(limits: &mut [(Resource, Rlimit)]) -> Result<Vec<String>> {
    let own = rustix::thread::capabilities(None).context(|| "reading the supervisor's capabilities")?;
    if own.effective.contains(CapabilitySet::SYS_RESOURCE) {
        return Ok(Vec::new());
    }
    let mut notes = Vec::new();
    for (resource, wanted) in limits {
        let Some(most) = getrlimit(*resource).maximum else { continue };
        let cut = |value: Option<u64>| Some(value.map_or(most, |value| value.min(most)));
        let possible = Rlimit { current: cut(wanted.current), maximum: cut(wanted.maximum) };
        if possible != *wanted {
            let wanted = wanted.maximum.map_or("unlimited".to_owned(), |value| value.to_string());
            notes.push(format!(
                "rlimit {resource:?} stays at {most}: raising it to {wanted} needs CAP_SYS_RESOURCE"
            ));
        }
        *wanted = possible;
    }
    Ok(notes)
}

/// The home directory that the container's own `/etc/passwd` gives `uid`, else `/`.
fn home(uid: u32) -> String {
    let lines = passwd().unwrap_or_default();
    let entry = |line: &str| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then_some(fields.nth(2)?.to_owned())
    };
    lines.lines().find_map(entry).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())
}

/// The first megabyte of it, if it is an ordinary file: an image must not be able to make us wait or swell.
fn passwd() -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, "/etc/passwd", flags, Mode::empty()).ok()?;
    if resolve::file_type(file.as_fd()).ok()? != rustix::fs::FileType::RegularFile {
        return None;
    }
    let mut bytes = vec![0; 1 << 20];
    let length = rustix::io::read(&file, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks the kernel to kill this process sooner or later than others when memory runs out. Called while the
/// host's `/proc` is there.
pub(crate) fn adjust_oom_score(score: Option<i32>) -> Result<Option<String>> {
    let Some(score) = score else { return Ok(None) };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Ok(Some(format!("oom_score_adj is not lowered to {score}: that needs CAP_SYS_RESOURCE")))
        }
        set => set.map(|()| None).context(|| format!("setting oom_score_adj to {score}")),
    }
}
