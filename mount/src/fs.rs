//! A file system of the kernel on a device.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mica_core::mount::Fs;
use mica_core::{Error, Result};
use rustix::fs::CWD;
use rustix::mount::{self, MountAttrFlags, MountFlags, UnmountFlags};

use crate::context::Context;
use crate::error::failed;
use crate::idmap;
use crate::scratch::open_dir;

/// The mount, detached.
pub(crate) fn open(fs: &Fs) -> Result<OwnedFd> {
    let context = Context::open(&fs.fstype, doing(fs))?;
    context.string("source", &fs.source)?;
    for (name, value) in &fs.options {
        match value {
            Some(value) => context.string(name, value.as_str())?,
            None => context.flag(name)?,
        }
    }
    if let Some(label) = &fs.label {
        context.string("context", label.as_str())?;
    }
    if fs.read_only {
        context.flag("ro")?;
    }
    context.check(context.create())?;
    let attributes = if fs.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    let tree = context.mount(attributes)?;
    set(fs, tree.as_fd())?;
    if let Some(map) = &fs.id_map {
        idmap::shift(tree.as_fd(), map, &doing(fs))?;
    }
    Ok(tree)
}

/// Mounts it by `mount(2)`.
pub(crate) fn classic(fs: &Fs, at: &Path) -> Result<()> {
    let mut options: Vec<String> = fs.options.iter().map(option).collect();
    options.extend(fs.label.as_deref().map(label));
    let data = text(&options.join(","))?;
    let flags = if fs.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount::mount(&fs.source, at, fs.fstype.as_str(), flags, data.as_c_str())
        .map_err(|e| failed(doing(fs), e, ""))?;
    let set = open_dir(CWD, at).and_then(|root| set(fs, root.as_fd()));
    set.inspect_err(|_| {
        let _ = mount::unmount(at, UnmountFlags::DETACH);
    })
}

/// Gives a mounted file system its settings.
fn set(fs: &Fs, root: BorrowedFd<'_>) -> Result<()> {
    if fs.settings.is_empty() {
        return Ok(());
    }
    let dir = settings(fs, root).map_err(|e| failed(doing(fs), e, "its settings are not found"))?;
    for (name, value) in &fs.settings {
        let path = dir.join(name);
        std::fs::write(&path, value).map_err(|e| {
            failed(doing(fs), e, &format!("'{value}' cannot be written to '{}'", path.display()))
        })?;
    }
    Ok(())
}

/// Where the kernel shows the settings of a mounted file system, by the name that its device has there.
fn settings(fs: &Fs, root: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let device = rustix::fs::fstat(root)?.st_dev;
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let device = std::fs::read_link(Path::new("/sys/dev/block").join(number))?;
    let name = device.file_name().ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new("/sys/fs").join(&fs.fstype).join(name))
}

/// The mount option that gives every file this SELinux context, whose categories may hold commas.
pub(crate) fn label(context: &str) -> String {
    format!("context=\"{context}\"")
}

/// The form in which `mount(2)` takes its options.
pub(crate) fn text(options: &str) -> Result<CString> {
    CString::new(options).map_err(|e| Error::driver("mount", e))
}

fn option((name, value): &(String, Option<String>)) -> String {
    value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}"))
}

fn doing(fs: &Fs) -> String {
    format!("mount '{}' as {}", fs.source.display(), fs.fstype)
}
