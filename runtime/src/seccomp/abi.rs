//! The system call ABIs of the hosts that Mica runs on, and what each calls by which number.

use oci_spec::runtime::Arch;

use super::policy::Condition;
use super::table::ROWS;

/// A way to call the kernel. The kernel tells a filter the audit architecture and the number; x86_64 and x32 share
/// the former and are told apart by a bit of the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// What x86 also reaches through `socketcall`: its first argument is the place in this list, from 1 (linux/net.h).
#[rustfmt::skip]
const SOCKETCALL: [&str; 20] = [
    "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
    "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg",
    "sendmmsg",
];

/// What x86 also reaches through `ipc`, by the lower half of its first argument (linux/ipc.h); the upper is a version.
#[rustfmt::skip]
const IPC: [(&str, u64); 12] = [
    ("semop", 1), ("semget", 2), ("semctl", 3), ("semtimedop", 4),
    ("msgsnd", 11), ("msgrcv", 12), ("msgget", 13), ("msgctl", 14),
    ("shmat", 21), ("shmdt", 22), ("shmget", 23), ("shmctl", 24),
];

impl Abi {
    /// The ABI of this build's own calls.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else if cfg!(target_arch = "x86") {
        Self::X86
    } else if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else if cfg!(target_arch = "arm") {
        Self::Arm
    } else {
        panic!("no system call numbers are known for this architecture")
    };

    /// What an OCI profile means by `arch`, or none where no host of Mica's has such an ABI.
    pub(super) fn from_oci(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Some(Self::NATIVE),
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// The kernel's `AUDIT_ARCH_*`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The first number that is this ABI's, under its audit architecture.
    pub(super) fn base(self) -> u32 {
        if self == Self::X32 { 0x4000_0000 } else { 0 }
    }

    /// Where numbers begin that only this ABI has. They stand apart from those that all share, so the newest of
    /// either kind is found by itself.
    pub(super) fn private(self) -> Option<u32> {
        match self {
            Self::X32 => Some(self.base() + 512),
            Self::Arm => Some(0xf_0000),
            _ => None,
        }
    }

    /// The bits of an argument. Where a register has more, the kernel reads no others.
    pub(super) fn argument(self) -> u64 {
        match self {
            Self::X86 | Self::Arm => u64::from(u32::MAX),
            Self::X86_64 | Self::X32 | Self::Aarch64 => u64::MAX,
        }
    }

    /// The number of the call `name`, if this ABI has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let row = ROWS.binary_search_by_key(&name, |row| row.0).ok()?;
        Some(self.base() + ROWS.get(row)?.1[self as usize]?)
    }

    /// The call that also carries `name` out, and what its arguments then are.
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, Condition)> {
        if self != Self::X86 {
            return None;
        }
        if let Some(place) = SOCKETCALL.iter().position(|call| *call == name) {
            return Some((self.number("socketcall")?, Condition::masked(0, u64::MAX, place as u64 + 1)));
        }
        let (_, call) = IPC.iter().find(|call| call.0 == name)?;
        Some((self.number("ipc")?, Condition::masked(0, 0xffff, *call)))
    }
}
