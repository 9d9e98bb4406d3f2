//! The default profile, call by call.

use mica_runtime::seccomp::{compile, default_profile};
use oci_spec::runtime::{Capabilities, Capability};

use crate::meaning::{ALLOW, KILL_PROCESS, errno};
use crate::vm::{Call, run};
use crate::{default_program, usual_capabilities};

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

fn answer(capabilities: &Capabilities, kernel: (u32, u32), number: libc::c_long, first: u64) -> u32 {
    let program = compile(&default_profile(capabilities, kernel)).unwrap();
    let call = Call { audit: X86_64, number: number as u32, args: [first, 0, 0, 0, 0, 0] };
    run(&program, &call).0
}

fn usual(number: libc::c_long, first: u64) -> u32 {
    answer(&usual_capabilities(), (6, 1), number, first)
}

#[test]
fn every_architecture_of_the_host_is_filtered_and_a_foreign_one_is_killed() {
    let program = default_program();
    let answer = |audit, number| run(&program, &Call { audit, number, args: [0; 6] }).0;
    let getpid = [(X86_64, 39), (X86, 20), (X86_64, 0x4000_0000 + 39)];
    let mount = [(X86_64, 165), (X86, 21), (X86_64, 0x4000_0000 + 165)];
    assert_eq!(getpid.map(|(audit, number)| answer(audit, number)), [ALLOW; 3]);
    assert_eq!(mount.map(|(audit, number)| answer(audit, number)), [errno(libc::EPERM); 3]);
    assert_eq!(answer(0xc000_00b7, 172), KILL_PROCESS);
}

#[test]
fn namespaces_are_made_by_those_only_who_have_sys_admin() {
    let admin = Capabilities::from([Capability::SysAdmin]);
    for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(usual(libc::SYS_clone, flag), errno(libc::EPERM), "{flag:#x}");
        assert_eq!(answer(&admin, (6, 1), libc::SYS_clone, flag), ALLOW, "{flag:#x}");
    }
    // What a new thread and a fork are made with.
    assert_eq!(usual(libc::SYS_clone, 0x003d_0f00), ALLOW);
    assert_eq!(usual(libc::SYS_clone, 0x0120_0011), ALLOW);
    assert_eq!(usual(libc::SYS_clone3, 0), errno(libc::ENOSYS), "glibc falls back to clone");
    assert_eq!(answer(&admin, (6, 1), libc::SYS_clone3, 0), ALLOW);
}

#[test]
fn no_socket_reaches_the_kernels_cryptography_or_the_hypervisor() {
    for refused in [38, 40, (1 << 32) + 38, (1 << 32) + 40, (1 << 32) + 1, u64::MAX] {
        assert_eq!(usual(libc::SYS_socket, refused), errno(libc::EPERM), "{refused:#x}");
    }
    for allowed in (0..64).filter(|family| ![38, 40].contains(family)) {
        assert_eq!(usual(libc::SYS_socket, allowed), ALLOW, "{allowed}");
    }
}

#[test]
fn a_personality_that_weakens_a_process_is_refused() {
    for allowed in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(usual(libc::SYS_personality, allowed), ALLOW, "{allowed:#x}");
    }
    let no_randomisation = 0x4_0000;
    for refused in [no_randomisation, 0x8 | no_randomisation, (1 << 32) + 8] {
        assert_eq!(usual(libc::SYS_personality, refused), errno(libc::EPERM), "{refused:#x}");
    }
}

#[test]
fn a_capability_opens_the_calls_that_it_is_for() {
    let pairs = [
        (Capability::SysTime, libc::SYS_clock_settime),
        (Capability::SysModule, libc::SYS_finit_module),
        (Capability::SysChroot, libc::SYS_chroot),
        (Capability::SysBoot, libc::SYS_reboot),
        (Capability::DacReadSearch, libc::SYS_open_by_handle_at),
        (Capability::Bpf, libc::SYS_bpf),
        (Capability::SysAdmin, libc::SYS_mount),
    ];
    for (capability, number) in pairs {
        assert_eq!(answer(&Capabilities::new(), (6, 1), number, 0), errno(libc::EPERM), "{capability}");
        assert_eq!(answer(&Capabilities::from([capability]), (6, 1), number, 0), ALLOW, "{capability}");
    }
}

#[test]
fn tracing_waits_for_the_kernel_in_which_it_cannot_pass_the_filter() {
    assert_eq!(answer(&usual_capabilities(), (4, 7), libc::SYS_ptrace, 0), errno(libc::EPERM));
    assert_eq!(answer(&usual_capabilities(), (4, 8), libc::SYS_ptrace, 0), ALLOW);
}

#[test]
fn refused_and_unknown_calls_are_told_apart_at_the_newest_number() {
    let removexattrat = 466;
    assert_eq!(usual(removexattrat, 0), ALLOW);
    for newer in [467, 470, 600, 0x3fff_ffff] {
        assert_eq!(usual(newer, 0), errno(libc::ENOSYS), "{newer}");
    }
    assert_eq!(usual(libc::SYS_kexec_load, 0), errno(libc::EPERM));
}

#[test]
fn every_call_is_decided_in_a_few_steps_of_a_short_program() {
    let program = default_program();
    let count = program.instructions().len();
    let calls = (0..600).flat_map(|n| [(X86_64, n), (X86, n), (X86_64, 0x4000_0000 + n)]);
    let steps = |args| {
        calls.clone().map(|(audit, number)| run(&program, &Call { audit, number, args }).1).max().unwrap()
    };
    let (plain, longest) = (steps([0; 6]), steps([u64::MAX; 6]));
    println!(
        "default filter: {count} instructions, {plain} steps at most, {longest} with the longest tests of arguments"
    );
    assert!(count <= 500, "{count} instructions");
    assert!(plain <= 20, "{plain} steps");
    assert!(longest <= 40, "{longest} steps");
}
