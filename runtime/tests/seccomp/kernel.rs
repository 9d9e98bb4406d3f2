//! The default filter in this host's kernel.

use std::ffi::CString;

use mica_runtime::seccomp::{Error, compile};
use rustix::io::Errno;
use serde_json::json;

use crate::sys::{End, call, child, drop_privileges, shell};
use crate::{default_program, profile};

#[test]
fn a_directory_is_made_and_a_mount_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = CString::new(dir.path().join("made").to_str().unwrap()).unwrap();
    let at = path.as_ptr() as u64;
    let made =
        child(Some(&default_program()), || call(libc::SYS_mkdirat, [libc::AT_FDCWD as u64, at, 0o755]));
    assert_eq!(made, End::Returned(0));
    assert!(dir.path().join("made").is_dir());

    let mount = || call(libc::SYS_mount, [0, at, 0]);
    assert_ne!(child(None, mount), End::Returned(libc::EPERM), "it is the filter that refuses");
    assert_eq!(child(Some(&default_program()), mount), End::Returned(libc::EPERM));
}

#[test]
fn a_call_that_the_profile_is_too_old_for_is_not_there() {
    for number in [libc::SYS_clone3, 467, 600] {
        let end = child(Some(&default_program()), || call(number, [0; 3]));
        assert_eq!(end, End::Returned(libc::ENOSYS), "{number}");
    }
}

#[test]
fn a_refused_socket_family_stays_refused_when_the_register_holds_more_than_the_kernel_reads() {
    let socket = |family: u64| move || call(libc::SYS_socket, [family, libc::SOCK_STREAM as u64, 0]);
    assert_eq!(child(None, socket((1 << 32) + 1)), End::Returned(0), "the kernel reads 32 bits");
    assert_eq!(child(Some(&default_program()), socket(1)), End::Returned(0));
    assert_eq!(child(Some(&default_program()), socket(38)), End::Returned(libc::EPERM));
    assert_eq!(child(Some(&default_program()), socket((1 << 32) + 38)), End::Returned(libc::EPERM));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_call_works_and_is_filtered() {
    use crate::sys::call32;

    const GETPID: u32 = 20;
    const MOUNT: u32 = 21;
    const UMASK: u32 = 60;
    let getpid = || i32::from(call32(GETPID, 0) != std::process::id() as i32);
    if child(None, getpid) != End::Returned(0) {
        eprintln!(
            "skip: a_32_bit_call_works_and_is_filtered: this kernel has no 32-bit calls (CONFIG_IA32_EMULATION)"
        );
        return;
    }
    assert_eq!(child(Some(&default_program()), getpid), End::Returned(0));
    assert_eq!(child(Some(&default_program()), || -call32(MOUNT, 0)), End::Returned(libc::EPERM));
    assert_eq!(child(Some(&default_program()), || -call32(600, 0)), End::Returned(libc::ENOSYS));

    let no_umask = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{
            "names": ["umask"], "action": "SCMP_ACT_ERRNO",
            "args": [{ "index": 0, "value": 0o22, "op": "SCMP_CMP_EQ" }],
        }],
    });
    let no_umask = compile(&profile(no_umask)).unwrap();
    for first in [0o22, (1 << 32) + 0o22] {
        let end = child(Some(&no_umask), || -call32(UMASK, first));
        assert_eq!(end, End::Returned(libc::EPERM), "the kernel reads 32 bits of {first:#x}");
    }

    let native_only = compile(&profile(json!({ "defaultAction": "SCMP_ACT_ALLOW" }))).unwrap();
    assert_eq!(
        child(Some(&native_only), getpid),
        End::Killed(libc::SIGSYS),
        "of an architecture not in the profile"
    );
}

#[test]
fn a_profiles_actions_are_the_kernels() {
    let ends = [
        ("KILL_PROCESS", End::Killed(libc::SIGSYS)),
        ("TRAP", End::Killed(libc::SIGSYS)),
        ("LOG", End::Returned(0)),
    ];
    for (action, end) in ends {
        let program = compile(&profile(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["getppid"], "action": format!("SCMP_ACT_{action}") }],
        })));
        assert_eq!(child(Some(&program.unwrap()), || call(libc::SYS_getppid, [0; 3])), end, "{action}");
    }
}

#[test]
fn ordinary_programs_run_under_the_default_filter() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {} && mkdir a && echo text > a/b && ln -s b a/c && chmod 600 a/b && ls -l a | wc -l && cat a/c && \
         date > d & wait; unshare -m true; echo $?",
        dir.path().display()
    );
    let output = shell(default_program(), &script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\ntext\n1\n", "{output:?}");
}

#[test]
fn a_filter_takes_a_privilege_or_no_new_privs() {
    let program = default_program();
    let refused = child(None, || {
        drop_privileges();
        i32::from(!matches!(program.install(), Err(Error::Install { source: Errno::ACCESS })))
    });
    assert_eq!(refused, End::Returned(0));
    let taken = child(None, || {
        drop_privileges();
        call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0]);
        i32::from(program.install().is_err())
    });
    assert_eq!(taken, End::Returned(0));
}
