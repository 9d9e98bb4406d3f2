//! Running from where no container can overwrite the program.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatvfs, openat};

use crate::{Error, Result, sys};

/// Executes this command anew from a read-only mount of its program, unless that is where it runs already: it will be the
/// supervisor of a container, whose processes can reach its file (CVE-2019-5736). Descriptors that the caller left open
/// are closed by it, so that a supervisor does not keep them for days. Returns when there is nothing to do.
pub(super) fn protect() -> Result<()> {
    let failed = || "protect the program from containers";
    let program = openat(CWD, "/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let program = program.map_err(|e| Error::io(failed)(e.into()))?;
    let mount = fstatvfs(&program).map_err(|e| Error::io(failed)(e.into()))?;
    if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
        // It was executed by a number.
        return rustix::thread::set_name(c"mica").map_err(|e| Error::io(failed)(e.into()));
    }
    let program = mica_runtime::protected_self()?;
    sys::close_on_exec().map_err(Error::io(failed))?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    Err(Error::io(failed)(command.args(arguments).exec()))
}
