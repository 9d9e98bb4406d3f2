//! Copying files into a container and out of one.
//!
//! The container is not trusted, and may change its files meanwhile. Its paths are resolved by the kernel with the
//! container's root as `/` (`openat2`, `RESOLVE_IN_ROOT`), once, and what comes out is a descriptor that is used from then
//! on; links met on the way down are copied, never followed. Nothing of the container is executed (CVE-2018-15664,
//! CVE-2019-14271, CVE-2021-41089).

mod pack;
mod place;

use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use mica_archive::apply::{ApplyOptions, Extractor, UnsupportedXattrs};
use mica_archive::reader::Reader;
use mica_archive::writer::Writer;
use mica_core::{MountOptions, WhiteoutForm};
use mica_mount::Held;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::reach::{Purpose, Reached};
use super::{Busy, Container, MountPoint, Source as MountSource, volume};
use crate::supervisor::wire::Request;
use crate::volumes::Volume;
use crate::{Engine, Error, Result};
use pack::{Ownership, Packer};
use place::{Base, Origin, Target};

/// The files of a container, for as long as something is copied.
#[derive(Debug)]
struct Files {
    root: OwnedFd,
    held: Option<(Held, Busy)>,
}

/// How files are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Owners are kept, and not those of who copies.
    pub archive: bool,
    /// A link as the source is followed.
    pub follow: bool,
}

impl Engine {
    /// Copies what is at `from` in the container to `to` on the host.
    pub fn copy_out(&self, container: &Container, from: &str, to: &str, options: CopyOptions) -> Result<()> {
        let (files, path) = self.files(container, from)?;
        let base = Base::Root(files.root.as_fd());
        let origin = Origin::find(&base, &path, options.follow)?;
        copy(&origin, &Base::Host, to, to, options)?;
        drop(origin);
        files.close()
    }

    /// Copies what is at `from` on the host to `to` in the container.
    pub fn copy_in(&self, container: &Container, from: &str, to: &str, options: CopyOptions) -> Result<()> {
        let origin = Origin::find(&Base::Host, from, options.follow)?;
        let (files, path) = self.files(container, to)?;
        copy(&origin, &Base::Root(files.root.as_fd()), &path, to, options)?;
        files.close()
    }

    /// Writes what is at `from` in the container as a tarball.
    pub fn copy_to_archive(
        &self,
        container: &Container,
        from: &str,
        options: CopyOptions,
        out: impl Write,
    ) -> Result<()> {
        let (files, path) = self.files(container, from)?;
        let origin = Origin::find(&Base::Root(files.root.as_fd()), &path, options.follow)?;
        let mut archive = Writer::new(out);
        let mut put = |entry: &mica_archive::Entry, content: &mut dyn Read| archive.append(entry, content);
        // A tarball keeps owners, as those of Docker do.
        Packer::new(Ownership::Kept, &mut put).pack(&origin, origin.name())?;
        archive.finish()?;
        drop(origin);
        files.close()
    }

    /// Extracts a tarball in the directory `to` of the container.
    pub fn copy_from_archive(&self, container: &Container, to: &str, archive: impl Read) -> Result<()> {
        let (files, path) = self.files(container, to)?;
        let directory = Base::Root(files.root.as_fd()).directory(&path)?;
        let mut reader = Reader::new(BufReader::new(archive));
        let mut extractor = Extractor::new(&directory, literal())?;
        while let Some(entry) = reader.next()? {
            extractor.entry(&entry, &mut reader.content())?;
        }
        extractor.finish()?;
        drop(directory);
        files.close()
    }

    /// The files of a container, and where `path` is in them.
    fn files(&self, container: &Container, path: &str) -> Result<(Files, String)> {
        let busy = match self.reach(container, Purpose::Change("being copied"), Some(&Request::Root))? {
            Reached::Idle(busy) => busy,
            Reached::Live(_, handed) => {
                let root = handed.into_iter().next().ok_or_else(|| container.not_running())?;
                return Ok((Files { root, held: None }, path.to_owned()));
            }
        };
        if let Some((mount, rest)) = self.mount_at(container, path) {
            let source = match &mount.source {
                MountSource::Bind(path) => path.clone(),
                MountSource::Volume { name, .. } => self.volume_data(container, name, &mount.target)?,
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(CWD, &source, flags, Mode::empty());
            let root = root.map_err(|e| Error::io(|| format!("open '{}'", source.display()))(e.into()))?;
            return Ok((Files { root, held: None }, rest));
        }
        let held = self.hold(container)?;
        let root = held.tree().root().try_clone_to_owned().map_err(Error::io(|| "open a container"))?;
        Ok((Files { root, held: Some((held, busy)) }, path.to_owned()))
    }

    /// Mounts the files of a container that does not run.
    fn hold(&self, container: &Container) -> Result<Held> {
        let record = container.record();
        let hold = self.store(Some(&record.driver))?.write(&record.layer(), &MountOptions::default())?;
        Ok(Held::open(hold, &self.mounter())?)
    }

    /// The files of a volume of a container that does not run, with what the image has for a new one.
    fn volume_data(&self, container: &Container, name: &str, target: &str) -> Result<PathBuf> {
        let volume = Volume::read_or_make(self.root(), name)?;
        if volume.is_filled() {
            return Ok(volume.data());
        }
        let held = self.hold(container)?;
        let data = volume::prepare(self.root(), name, held.tree().root(), target.as_ref())?;
        held.close()?;
        Ok(data)
    }

    /// The mount of a container that does not run in which a path lies, and the path in it.
    fn mount_at<'c>(&self, container: &'c Container, path: &str) -> Option<(&'c MountPoint, String)> {
        let wanted = plain(path);
        let mounts = container.record().settings.mounts.iter();
        let below = mounts.filter_map(|mount| {
            let rest = wanted.strip_prefix(plain(&mount.target)).ok()?;
            let is_directory = match &mount.source {
                MountSource::Bind(path) => path.is_dir(),
                MountSource::Volume { .. } => true,
            };
            let mut rest = format!("/{}", rest.display());
            if path.ends_with("/.") || path.ends_with('/') {
                rest.push_str(if path.ends_with('.') { "/." } else { "/" });
            }
            is_directory.then_some((mount, rest))
        });
        below.min_by_key(|(_, rest)| rest.len())
    }
}

impl Files {
    /// Nothing in it is open any more: a file system that a process serves would not end.
    fn close(self) -> Result<()> {
        drop(self.root);
        self.held.map_or(Ok(()), |(held, _busy)| Ok(held.close()?))
    }
}

/// A path without `.`, `..` and doubled slashes, by its text alone.
fn plain(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Files as they are: a name that begins with `.wh.` is a name.
fn literal() -> ApplyOptions<'static> {
    ApplyOptions { xattrs: UnsupportedXattrs::Warn, ..ApplyOptions::new(WhiteoutForm::Aufs) }
}

/// Copies to `path` below `base`, which is what the user called `to`.
fn copy(origin: &Origin, base: &Base<'_>, path: &str, to: &str, options: CopyOptions) -> Result<()> {
    let put_there = || {
        let target = Target::find(base, path, origin)?;
        let mut extractor = Extractor::new(&target.directory, literal())?;
        let mut put = |entry: &mica_archive::Entry, content: &mut dyn Read| extractor.entry(entry, content);
        let ownership = if options.archive { Ownership::Kept } else { Ownership::Root };
        Packer::new(ownership, &mut put).pack(origin, &target.name)?;
        extractor.finish()?;
        Ok(())
    };
    put_there().map_err(Error::doing::<Error, _>(|| format!("copy to '{}'", to.escape_debug())))
}
