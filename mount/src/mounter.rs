//! Makes trees of specifications.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use mica_core::{Error, MountSpec, Mounts, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::error::failed;
use crate::helper::{Server, Start};
use crate::overlay::descriptor_path;
use crate::scratch::{Scratch, make_private};
use crate::writes::Writes;
use crate::{Calls, Tree, bind, classic, fs, helper, idmap, overlay};

/// Makes trees of specifications.
#[derive(Clone, Debug)]
pub struct Mounter {
    scratch: PathBuf,
    helper: Start,
    calls: Calls,
}

impl Mounter {
    /// Makes them by the best calls that the kernel has. `scratch` is an existing directory; where a tree needs a place in the
    /// tree of names, on old kernels, it gets one in there, and leaves nothing of it behind.
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        Self { scratch: scratch.into(), helper: Start::default(), calls: Calls::best() }
    }

    /// Names the command that serves [`MountSpec::Helper`]. The driver's name and the helper's arguments are appended.
    #[must_use]
    pub fn with_helper<A: Into<OsString>>(mut self, command: impl IntoIterator<Item = A>) -> Self {
        self.helper.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Names what the mount table shows as the source of a [`MountSpec::Helper`], instead of the driver's name.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<OsString>) -> Self {
        self.helper.source = Some(source.into());
        self
    }

    /// Keeps the process that serves a [`MountSpec::Helper`] out of this process's mount namespace. It must be so where
    /// that is to end with the mount, for otherwise each would keep the other. Elsewhere it would only keep what others have
    /// mounted.
    #[must_use]
    pub fn with_helper_apart(mut self) -> Self {
        self.helper.apart = true;
        self
    }

    /// Uses these calls. [`Calls::best`] says which ones the kernel has at the most.
    #[must_use]
    pub fn with_calls(mut self, calls: Calls) -> Self {
        self.calls = calls;
        self
    }

    /// Mounts a tree. After an error nothing of it is left.
    pub fn open(&self, mounts: &Mounts) -> Result<Tree> {
        let Some((first, rest)) = mounts.specs.split_first() else {
            return Err(Error::driver("mount a layer", "the driver names no mount"));
        };
        match self.calls {
            Calls::Classic => self.attached(first, rest),
            _ => self.detached(first, rest),
        }
    }

    fn detached(&self, first: &MountSpec, rest: &[MountSpec]) -> Result<Tree> {
        let (server, root) = self.one(first)?;
        let mut writes = Writes::default();
        writes.watch(first, root.as_fd())?;
        if rest.is_empty() {
            return Ok(Tree::detached(root, server, writes));
        }
        // Only since 6.15 can a mount be put onto one that is detached.
        let mut place = Scratch::make(&self.scratch)?;
        place.attach(root.as_fd())?;
        for spec in rest {
            let at = below(root.as_fd(), target(spec)?)?;
            let (_, mount) = self.one(spec)?;
            writes.watch(spec, mount.as_fd())?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            rustix::mount::move_mount(mount.as_fd(), "", at.as_fd(), "", flags)
                .map_err(|e| failed(format!("attach at '{}' of a tree", target_text(spec)), e, ""))?;
        }
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let whole = rustix::mount::open_tree(CWD, place.at(), flags)
            .map_err(|e| failed("detach a tree of several mounts", e, ""))?;
        bind::make_private(whole.as_fd(), "make a tree private")?;
        place.close()?;
        Ok(Tree::detached(whole, server, writes))
    }

    /// One mount, detached, and the process that serves it: first, so that it is dropped last.
    fn one(&self, spec: &MountSpec) -> Result<(Option<Server>, OwnedFd)> {
        match spec {
            MountSpec::Bind(spec) => Ok((None, bind::open(spec)?)),
            MountSpec::Overlay(spec) => Ok((None, overlay::open(spec, self.calls, &self.scratch)?)),
            MountSpec::Fs(spec) => Ok((None, fs::open(spec)?)),
            MountSpec::Helper(spec) => {
                helper::open(spec, &self.helper).map(|(root, server)| (Some(server), root))
            }
            other => Err(unknown(other)),
        }
    }

    fn attached(&self, first: &MountSpec, rest: &[MountSpec]) -> Result<Tree> {
        let mut server = None;
        let mut place = Scratch::make(&self.scratch)?;
        place.mounted_by(|at| self.one_at(first, at).map(|started| server = started))?;
        settle(first, place.at())?;
        let root = place.root()?;
        let mut writes = Writes::default();
        writes.watch(first, root.as_fd())?;
        for spec in rest {
            let target = target(spec)?;
            self.one_at(spec, &descriptor_path(below(root.as_fd(), target)?.as_fd()))?;
            // Opened again: the first descriptor is the directory that is covered now.
            let mount = below(root.as_fd(), target)?;
            settle(spec, &descriptor_path(mount.as_fd()))?;
            writes.watch(spec, mount.as_fd())?;
        }
        Ok(Tree::attached(root, place, server, writes))
    }

    fn one_at(&self, spec: &MountSpec, at: &Path) -> Result<Option<Server>> {
        match spec {
            MountSpec::Bind(spec) => {
                idmap::need(self.calls, spec.id_map.as_ref())?;
                bind::classic(spec, at)?;
            }
            MountSpec::Overlay(spec) => {
                idmap::need(self.calls, spec.id_map.as_ref())?;
                classic::overlay(spec, at, &self.scratch)?;
            }
            MountSpec::Fs(spec) => {
                idmap::need(self.calls, spec.id_map.as_ref())?;
                fs::classic(spec, at)?;
            }
            MountSpec::Helper(spec) => {
                return helper::classic(spec, &self.helper, at).map(Some);
            }
            other => return Err(unknown(other)),
        }
        Ok(None)
    }
}

/// Gives a mount that `mount(2)` made what that call could not give it at once.
fn settle(spec: &MountSpec, at: &Path) -> Result<()> {
    make_private(at)?;
    match spec {
        MountSpec::Bind(spec) if spec.read_only => bind::freeze(spec, at),
        _ => Ok(()),
    }
}

fn unknown(spec: &MountSpec) -> Error {
    Error::driver("mount a layer", format!("this program knows no such mount: {spec:?}"))
}

/// Where a mount that is not the first one goes. Only the kinds that name a place below the tree can be that.
fn target(spec: &MountSpec) -> Result<&Path> {
    match spec {
        MountSpec::Bind(spec) if spec.target != Path::new("") => Ok(&spec.target),
        MountSpec::Fs(spec) if spec.target != Path::new("") => Ok(&spec.target),
        _ => Err(Error::driver("mount a layer", "a mount after the first names no place below the tree")),
    }
}

fn target_text(spec: &MountSpec) -> String {
    target(spec).map(|path| path.display().to_string()).unwrap_or_default()
}

/// Opens a directory below `root`, name by name, so that no link in the tree leads out of it.
fn below(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let doing = || format!("open '{}' below the tree", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = root.try_clone_to_owned().map_err(Error::io(doing))?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            return Err(Error::driver(doing(), "it must be a relative path without '..'"));
        };
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(|e| Error::io(doing)(e.into()))?;
    }
    Ok(dir)
}
