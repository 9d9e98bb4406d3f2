//! Children under a filter, and system calls as no library makes them.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use mica_runtime::seccomp::Program;

/// What became of a child.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It returned this, as an errno or a small number.
    Returned(i32),
    Killed(i32),
}

/// Runs `body` in a child under `program`, if any. `body` may make system calls and nothing else.
pub(crate) fn child(program: Option<&Program>, body: impl FnOnce() -> i32) -> End {
    // SAFETY: the child makes system calls only, allocates nothing and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let installed = program.is_none_or(|program| program.install().is_ok());
        let result = if installed { body() } else { 255 };
        // SAFETY: ends the child without running what its parent registered to run at exit.
        unsafe { libc::_exit(result) }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above, and writes to `status`.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) {
        End::Killed(libc::WTERMSIG(status))
    } else {
        End::Returned(libc::WEXITSTATUS(status))
    }
}

/// Makes a system call; 0, or its errno.
pub(crate) fn call(number: libc::c_long, args: [u64; 3]) -> i32 {
    // SAFETY: the callers pass numbers or pointers to live, NUL-terminated strings, in a child that ends right after.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], 0_u64, 0_u64) };
    if result >= 0 {
        return 0;
    }
    // SAFETY: the address of the thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// Becomes a user without any capability.
pub(crate) fn drop_privileges() {
    call(libc::SYS_setgroups, [0, 0, 0]);
    call(libc::SYS_setresuid, [65534; 3]);
}

/// Makes a call of the 32-bit ABI, from 64-bit code; its result, an errno as a negative number.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call32(number: u32, first: u64) -> i32 {
    let result: u32;
    // SAFETY: the callers pass calls without pointers; the kernel may clear r8 to r11 and keeps the rest. rbx is the
    // compiler's own and gets its value back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}", "int 0x80", "xchg rbx, {first}",
            first = inout(reg) first => _,
            inlateout("eax") number => result,
            in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    result as i32
}

/// Runs a shell script under `program`.
pub(crate) fn shell(program: Program, script: &str) -> Output {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    // SAFETY: `install` makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || program.install().map_err(std::io::Error::other)) };
    command.output().expect("sh runs")
}
