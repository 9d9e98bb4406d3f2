//! A process that is killed between two of its changes to the file system, by counting its system calls (ptrace(2)).

use std::io;

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, killpg, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid};

use super::fork;

/// The calls after which a disk may hold something else than before.
const CHANGES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_copy_file_range,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_lremovexattr,
    libc::SYS_ioctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
];

/// What became of a traced process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    /// It was killed before the step that was asked for.
    Killed,
    /// It ended with this status after so many steps.
    Ended { status: i32, steps: usize },
}

/// Runs `work` in another process, and kills that, with all its threads and children, as it is about to make its
/// `step`-th change to a file system, counted from 0.
pub(crate) fn kill_at_step(step: usize, work: impl FnOnce() -> u8) -> io::Result<Traced> {
    let child = fork(|| {
        // A group of its own, so that its tracer can wait for it and its descendants, and for nobody else.
        let ready = setpgid(Pid::from_raw(0), Pid::from_raw(0)).and_then(|()| ptrace::traceme());
        if ready.and_then(|()| raise(Signal::SIGSTOP)).is_err() {
            return 102;
        }
        work()
    })?;
    let pid = Pid::from_raw(child.pid());
    let traced = follow(pid, step);
    // Whatever is left of the group, also after an error.
    let _ = killpg(pid, Signal::SIGKILL);
    while wait_for_group(pid).is_ok() {}
    std::mem::forget(child);
    traced
}

fn wait_for_group(leader: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(Pid::from_raw(-leader.as_raw()), Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

fn follow(leader: Pid, step: usize) -> io::Result<Traced> {
    // It stops itself before it works, in its group by then.
    waitpid(leader, Some(WaitPidFlag::__WALL))?;
    let follow = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    ptrace::setoptions(leader, follow | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)?;
    ptrace::syscall(leader, None)?;
    let mut steps = 0;
    loop {
        let (pid, signal) = match wait_for_group(leader)? {
            WaitStatus::Exited(pid, status) if pid == leader => return Ok(Traced::Ended { status, steps }),
            WaitStatus::Signaled(pid, signal, _) if pid == leader => {
                return Err(io::Error::other(format!("the traced process died of {signal}")));
            }
            WaitStatus::PtraceSyscall(pid) => {
                if is_change(pid) {
                    if steps == step {
                        return Ok(Traced::Killed);
                    }
                    steps += 1;
                }
                (pid, None)
            }
            // A new thread or child begins with this signal, which is the tracer's.
            WaitStatus::Stopped(pid, Signal::SIGSTOP) | WaitStatus::PtraceEvent(pid, ..) => (pid, None),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => continue,
        };
        match ptrace::syscall(pid, signal) {
            // It is being killed by somebody else; its end comes next.
            Err(Errno::ESRCH) => {}
            other => other?,
        }
    }
}

/// Whether a process that stopped at a system call is about to enter one that changes something.
fn is_change(pid: Pid) -> bool {
    let Ok(info) = ptrace::syscall_info(pid) else { return false };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return false;
    }
    // SAFETY: the kernel filled this member, as `op` says.
    let number = unsafe { info.u.entry.nr };
    CHANGES.iter().any(|&change| u64::try_from(change) == Ok(number))
}
