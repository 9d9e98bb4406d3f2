//! A file system of the kernel on a device.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mica_core::mount::Fs;
use mica_core::{Error, Result};
use rustix::mount::{self, MountAttrFlags, MountFlags};

use crate::context::Context;
use crate::error::failed;
use crate::idmap;

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
        .map_err(|e| failed(doing(fs), e, ""))
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
