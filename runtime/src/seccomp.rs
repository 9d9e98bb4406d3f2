//! Seccomp: from a profile in OCI's form to a filter in the kernel.
//!
//! [`default_profile`] is the list of calls that a container may make, [`compile`] turns any profile into a program
//! of the kernel's, [`Program::install`] puts it on the calling thread for good. What a program answers: the call's
//! verdict by the profile; `ENOSYS` to calls newer than any that the profile names, so that libraries fall back to
//! older ones; death to calls of an architecture that the profile leaves out.

use std::fmt;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};
use rustix::io::Errno;

mod abi;
mod bpf;
mod cache;
mod policy;
mod profile;
mod sys;
mod table;

pub use bpf::Instruction;
pub use cache::cached;
pub use profile::{KernelVersion, default_profile};

/// The kernel takes no longer program (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// A seccomp operation's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call is to be decided by another process.
    #[error(
        "seccomp profile: SCMP_ACT_NOTIFY needs an agent that decides, and none is supported; use SCMP_ACT_ERRNO"
    )]
    Notify,
    /// A number is given to an action that returns none.
    #[error("seccomp profile: {action} returns no errno; drop errnoRet, or use SCMP_ACT_ERRNO")]
    ErrnoUnused {
        /// The action.
        action: LinuxSeccompAction,
    },
    /// The kernel would cut the number.
    #[error("seccomp profile: errnoRet {errno} is too large, the largest is {max}")]
    ErrnoTooLarge {
        /// What was asked.
        errno: u32,
        /// The largest that the action can return.
        max: u32,
    },
    /// No call has so many arguments.
    #[error("seccomp profile: no argument has the index {index}, they are 0 to 5")]
    Argument {
        /// What was asked.
        index: usize,
    },
    /// The profile says too much for one program.
    #[error(
        "seccomp profile: its filter has {count} instructions, the kernel takes {MAX_INSTRUCTIONS}; use fewer rules with arguments"
    )]
    TooLong {
        /// The instructions that it would need.
        count: usize,
    },
    /// The kernel did not take the program.
    #[error("cannot install the seccomp filter: {source}{}", hint(*source))]
    Install {
        /// What it said.
        source: Errno,
    },
}

fn hint(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS => " (it takes CAP_SYS_ADMIN or no_new_privs)",
        Errno::INVAL => {
            " (the kernel was built without CONFIG_SECCOMP_FILTER, or lacks a flag of the profile's)"
        }
        _ => "",
    }
}

/// A filter, ready for the kernel.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
}

/// Compiles `profile`. Its architectures are those listed and the host's own; others that are listed but cannot
/// occur on such a host are skipped, as are names that an architecture lacks.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program> {
    let instructions = bpf::assemble(&policy::sections(profile)?);
    match instructions.len() {
        count if count > MAX_INSTRUCTIONS => Err(Error::TooLong { count }),
        _ => Ok(Program { instructions, flags: flags(profile) }),
    }
}

/// The flags to install with. A profile that says nothing of flags gets what runc gives it: speculation stays on, as
/// it is for every process since Linux 5.16.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else { return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32 };
    flags.iter().fold(0, |all, flag| {
        all | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
            // There is one thread when a filter is installed, and nobody who would be notified.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync
            | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

impl Program {
    /// Puts the filter on the calling thread and on all that it will start. It cannot be taken off again; an execve
    /// keeps it.
    ///
    /// The kernel takes it from a thread with `CAP_SYS_ADMIN` in its user namespace or with `no_new_privs`. So where
    /// `no_new_privs` is off, install before capabilities are dropped, and the profile must allow what comes after
    /// (`capset`, `setuid`, `prctl` …, as the default one does); where it is on, install last, right before execve.
    /// Makes one system call and no allocation, so it may follow a fork.
    pub fn install(&self) -> Result<()> {
        sys::set_filter(&self.instructions, self.flags).map_err(|source| Error::Install { source })
    }

    /// The instructions, first to last.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({} instructions, flags {:#x})", self.instructions.len(), self.flags)
    }
}
