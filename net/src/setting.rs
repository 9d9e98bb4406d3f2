//! Settings of a network namespace: the files below `/proc/sys/net`, which are those of the reading thread's
//! namespace.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mica_core::{Error, Result};

/// Its value, without the newline; `None` where the kernel has no such setting, as all of IPv6's on a host without
/// it.
///
/// The name is a path below `/proc/sys/net`, such as `ipv6/conf/eth0/accept_ra`.
pub(crate) fn read(name: &str) -> Result<Option<String>> {
    match fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(|| format!("read the setting net/{name}"))(e)),
    }
}

/// Sets it; answers whether the kernel has it.
pub(crate) fn write(name: &str, value: &str) -> Result<bool> {
    let written =
        OpenOptions::new().write(true).open(path(name)).and_then(|mut file| file.write_all(value.as_bytes()));
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(|| format!("set net/{name} to {value}"))(e)),
    }
}

/// Sets it where the kernel has it and it differs: some settings take the kernel long even where they stay as they
/// are.
pub(crate) fn ensure(name: &str, value: &str) -> Result<()> {
    if read(name)?.is_some_and(|now| now != value) {
        write(name, value)?;
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}
