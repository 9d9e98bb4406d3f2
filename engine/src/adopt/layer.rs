//! A layer of an old Docker's image, and the tarball that it came as.

use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use mica_archive::apply::UnsupportedXattrs;
use mica_archive::digest::Hashing;
use mica_archive::writer::Writer;
use mica_archive::{Digest, diff};
use mica_core::{Changes, Trees, WhiteoutForm};

use super::root::{OldRoot, path_of};
use super::split;
use crate::layers::{Consume, Tarballs};
use crate::{Error, Result, pipe};

const BUFFER: usize = 64 << 10;

/// A layer of an image.
#[derive(Debug)]
pub(super) struct OldLayer {
    pub(super) old: Arc<OldRoot>,
    pub(super) whiteouts: WhiteoutForm,
    /// What it came as.
    pub(super) diff_id: Digest,
    /// Where its files are.
    pub(super) directory: String,
    /// Where the rest of its tarball is.
    pub(super) split: String,
    /// The bytes of its files, as Docker counted them.
    pub(super) size: u64,
}

/// Which tarball a layer is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Making {
    /// The one that it came as.
    Again,
    /// A new one, of what is in its directory.
    Anew,
}

impl OldLayer {
    /// Writes a tarball of it. Whether that which it came as was made again, the digest tells.
    pub(super) fn write(&self, making: Making, out: impl Write) -> Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER, out);
        let written = match making {
            Making::Again => self.again(&mut out),
            Making::Anew => self.anew(&mut out),
        };
        written?;
        out.flush().map_err(Error::io(|| "hand a layer on"))
    }

    /// The digest of that tarball.
    pub(super) fn digest(&self, making: Making) -> Result<Digest> {
        let mut hashing = Hashing::new(io::sink());
        self.write(making, &mut hashing)?;
        Ok(hashing.finish().1)
    }

    fn again(&self, out: &mut dyn Write) -> Result<()> {
        let record = self.old.file(&self.split)?;
        let record = record.ok_or_else(|| Error::Invalid("Docker kept no tar-split of it".to_owned()))?;
        split::assemble(record, self.files()?.as_fd(), out)
    }

    fn anew(&self, out: &mut dyn Write) -> Result<()> {
        write_changes(&self.files()?, self.whiteouts, out)
    }

    fn files(&self) -> Result<OwnedFd> {
        let files = self.old.directory(&self.directory)?;
        files.ok_or_else(|| Error::no_such("directory", self.old.shown(&self.directory)))
    }
}

/// Writes what a directory of a union changes as a layer tarball.
pub(super) fn write_changes(files: &OwnedFd, whiteouts: WhiteoutForm, out: impl Write) -> Result<()> {
    let changes = Changes::Upper { dir: path_of(files), whiteouts };
    let mut archive = Writer::new(out);
    diff::write(&changes, &Alone, &|_| false, &mut archive)?;
    archive.finish()?;
    Ok(())
}

/// A layer whose parent is not looked at.
struct Alone;

impl Trees for Alone {
    fn layer(&self) -> mica_core::Result<&Path> {
        Err(mica_core::Error::driver("mount a layer", "it belongs to another engine"))
    }

    fn parent(&self) -> mica_core::Result<Option<&Path>> {
        Ok(None)
    }
}

/// The layers of an image, to be made in a driver of ours.
pub(super) struct OldLayers<'a> {
    pub(super) layers: &'a [OldLayer],
    pub(super) makings: &'a [Making],
    pub(super) xattrs: UnsupportedXattrs,
}

impl Tarballs for OldLayers<'_> {
    fn read(&self, index: usize, consume: &mut Consume<'_>) -> Result<()> {
        let layer = &self.layers[index];
        let read = pipe::through(|writer| layer.write(self.makings[index], writer), |reader| consume(reader));
        read.map_err(Error::doing(|| format!("layer {}", layer.diff_id)))
    }

    fn blob(&self, _: usize) -> Option<Digest> {
        None
    }

    fn length(&self, index: usize) -> u64 {
        self.layers[index].size
    }

    fn xattrs(&self, _: usize) -> UnsupportedXattrs {
        self.xattrs
    }
}
