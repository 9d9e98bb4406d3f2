//! Overlays by `mount(2)`, which takes one page of options.

use std::ffi::{CStr, CString, OsString};
use std::fmt::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use mica_core::mount::Overlay;
use mica_core::{Error, Result};
use nix::sched::CloneFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::error::failed;
use crate::fs::label;
use crate::idmap;
use crate::overlay::{FIXED, Layers, directories, doing, flags, is_plain};

/// Mounts an overlay at `at`. Its layers are named by their paths where these fit, for those who read the mount table, else
/// by the numbers of descriptors.
pub(crate) fn overlay(spec: &Overlay, at: &Path, scratch: &Path) -> Result<()> {
    let layers = Layers::of(spec)?;
    if layers.have_paths() && directories(spec).all(is_plain) {
        let options = options(spec, directories(spec).map(|dir| dir.as_os_str().to_owned()))?;
        if options.len() < rustix::param::page_size() {
            return mount(at, &text_of(options)?).map_err(|e| failed(doing(spec), e, ""));
        }
    }
    let _attached = layers.attach(scratch)?;
    by_number(&layers, at)
}

/// Mounts with paths that are relative to `/proc/self/fd`, so that 500 of them fit into a page. The working directory belongs to a
/// thread that has one of its own and ends after this.
fn by_number(layers: &Layers<'_>, at: &Path) -> Result<()> {
    let opened = open_all(layers)?;
    let names = opened.iter().map(|fd| OsString::from(fd.as_raw_fd().to_string()));
    let options = text_of(options(layers.spec, names)?)?;
    let at = std::path::absolute(at).map_err(Error::io(|| "find the place of a mount"))?;
    let mounted = idmap::run_as_mapped_root(layers.spec.id_map.as_ref(), || {
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        rustix::process::chdir("/proc/self/fd")?;
        Ok(mount(&at, &options)?)
    });
    mounted.map_err(|e| failed(doing(layers.spec), e, ""))
}

/// Opens every layer at once; an overlay of 500 needs as many descriptors.
fn open_all(layers: &Layers<'_>) -> Result<Vec<OwnedFd>> {
    let count = directories(layers.spec).count();
    let opened: Result<Vec<OwnedFd>> = directories(layers.spec).map(|dir| layers.open(dir)).collect();
    opened.map_err(|error| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        match limit {
            Some(limit) if limit < count as u64 + 64 => Error::driver(
                doing(layers.spec),
                format!(
                    "its layers have long paths, and this kernel takes them only as open descriptors: \
                     the limit of {limit} open files (ulimit -n) is too low for {count}"
                ),
            ),
            _ => error,
        }
    })
}

/// The option string, with these names for the layers in the order of [`directories`].
fn options(spec: &Overlay, names: impl Iterator<Item = OsString>) -> Result<OsString> {
    let mut head = String::new();
    for (name, value) in FIXED {
        // Writing to a string does not fail.
        let _ = write!(head, "{name}={value},");
    }
    for name in flags(spec) {
        head.push_str(name);
        head.push(',');
    }
    if let Some(context) = &spec.label {
        head.push_str(&label(context));
        head.push(',');
    }
    let mut all = OsString::from(head);
    for (index, name) in names.enumerate() {
        let upper = spec.lowers.len();
        all.push(match index {
            _ if index == upper => ",upperdir=",
            _ if index == upper + 1 => ",workdir=",
            0 => "lowerdir=",
            _ => ":",
        });
        all.push(name);
    }
    Ok(all)
}

fn text_of(options: OsString) -> Result<CString> {
    let length = options.len();
    if length >= rustix::param::page_size() {
        return Err(Error::driver(
            "mount an overlay",
            format!("its options take {length} bytes, more than a page"),
        ));
    }
    CString::new(options.into_vec()).map_err(|e| Error::driver("mount an overlay", e))
}

fn mount(at: &Path, options: &CStr) -> Result<(), Errno> {
    rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), options)
}
