//! The one system call of this module.
#![allow(unsafe_code)]

use rustix::io::Errno;

use super::bpf::Instruction;

/// `seccomp(SECCOMP_SET_MODE_FILTER)` for the calling thread.
pub(super) fn set_filter(instructions: &[Instruction], flags: u32) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| Errno::INVAL)?,
        filter: instructions.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies `len` instructions from `filter` and writes to neither; `Instruction` has the layout
    // of `sock_filter` (`repr(C)`, the same four fields).
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
