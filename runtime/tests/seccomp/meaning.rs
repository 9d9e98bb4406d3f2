//! What a profile says of a call, read off the profile itself: slow, plain, and without the code under test.

use oci_spec::runtime::LinuxSeccompOperator as Op;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSyscall};

use crate::vm::Call;

pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;

pub(crate) const fn errno(number: i32) -> u32 {
    0x0005_0000 | number as u32
}

/// Calls that show each kind of numbering, by ABI: x86_64, x86, x32, aarch64, arm.
pub(crate) const CALLS: [(&str, [Option<u32>; 5]); 12] = [
    ("read", [Some(0), Some(3), Some(0x4000_0000), Some(63), Some(3)]),
    ("write", [Some(1), Some(4), Some(0x4000_0001), Some(64), Some(4)]),
    ("open", [Some(2), Some(5), Some(0x4000_0002), None, Some(5)]),
    ("ioctl", [Some(16), Some(54), Some(0x4000_0202), Some(29), Some(54)]),
    ("clone", [Some(56), Some(120), Some(0x4000_0038), Some(220), Some(120)]),
    ("personality", [Some(135), Some(136), Some(0x4000_0087), Some(92), Some(136)]),
    ("mount", [Some(165), Some(21), Some(0x4000_00a5), Some(40), Some(21)]),
    ("pwritev2", [Some(328), Some(379), Some(0x4000_0223), Some(287), Some(393)]),
    ("clone3", [Some(435); 5]),
    ("mseal", [Some(462); 5]),
    ("mmap2", [None, Some(192), None, None, Some(192)]),
    ("set_tls", [None, None, None, None, Some(0xf_0005)]),
];

/// The architectures of a profile in the order of the table's columns: name, audit architecture.
pub(crate) const ABIS: [(Arch, u32); 5] = [
    (Arch::ScmpArchX86_64, 0xc000_003e),
    (Arch::ScmpArchX86, 0x4000_0003),
    (Arch::ScmpArchX32, 0xc000_003e),
    (Arch::ScmpArchAarch64, 0xc000_00b7),
    (Arch::ScmpArchArm, 0x4000_0028),
];

pub(crate) fn number(name: &str, abi: usize) -> Option<u32> {
    let number = CALLS.iter().find(|call| call.0 == name)?.1[abi]?;
    Some(if abi == 2 { number | 0x4000_0000 } else { number })
}

/// The answer to `call` on an x86_64 host.
pub(crate) fn answer(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let listed = |abi: usize| abi == 0 || profile.architectures().iter().flatten().any(|a| *a == ABIS[abi].0);
    let default = action(profile.default_action(), profile.default_errno_ret());
    let newer = match profile.default_action() {
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace => default,
        _ => errno(libc::ENOSYS),
    };
    let x32 = call.audit == ABIS[0].1 && call.number >= 0x4000_0000;
    if call.number == u32::MAX && (0..5).any(|abi| listed(abi) && ABIS[abi].1 == call.audit) {
        return newer;
    }
    let Some(abi) = (0..5).find(|abi| listed(*abi) && ABIS[*abi].1 == call.audit && x32 == (*abi == 2))
    else {
        return KILL_PROCESS;
    };
    let rules: Vec<&LinuxSyscall> = profile.syscalls().iter().flatten().collect();
    let numbers =
        |rule: &LinuxSyscall| rule.names().iter().filter_map(|n| number(n, abi)).collect::<Vec<_>>();
    for rule in &rules {
        if numbers(rule).contains(&call.number) && matches(rule, call, abi) {
            return action(rule.action(), rule.errno_ret());
        }
    }
    let private = [None, None, Some(0x4000_0200), None, Some(0xf_0000)][abi];
    let kind = |number: u32| private.is_some_and(|private| number >= private);
    let newest = rules.iter().flat_map(|rule| numbers(rule)).filter(|n| kind(*n) == kind(call.number)).max();
    if newest.is_some_and(|newest| call.number > newest) { newer } else { default }
}

fn matches(rule: &LinuxSyscall, call: &Call, abi: usize) -> bool {
    let args: Vec<&LinuxSeccompArg> = rule.args().iter().flatten().collect();
    let repeated = args.iter().enumerate().any(|(n, arg)| args[..n].iter().any(|a| a.index() == arg.index()));
    // x86 and arm have 32-bit arguments.
    let bits = if [1, 4].contains(&abi) { u64::from(u32::MAX) } else { u64::MAX };
    let holds = |arg: &&LinuxSeccompArg| {
        let (actual, value) = (call.args[arg.index()] & bits, arg.value() & bits);
        match arg.op() {
            Op::ScmpCmpNe => actual != value,
            Op::ScmpCmpLt => actual < value,
            Op::ScmpCmpLe => actual <= value,
            Op::ScmpCmpEq => actual == value,
            Op::ScmpCmpGe => actual >= value,
            Op::ScmpCmpGt => actual > value,
            Op::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap_or(0) & value,
        }
    };
    if repeated { args.iter().any(holds) } else { args.iter().all(holds) }
}

fn action(action: Action, number: Option<u32>) -> u32 {
    let number = number.unwrap_or(libc::EPERM as u32);
    match action {
        Action::ScmpActErrno => 0x0005_0000 | number,
        Action::ScmpActTrace => 0x7ff0_0000 | number,
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
        Action::ScmpActNotify => unreachable!("no filter has it"),
    }
}
