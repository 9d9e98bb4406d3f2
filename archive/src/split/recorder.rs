//! Recording a split while an archive passes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::{self, CONTENT, DATA_PIECE, DISPLACED, END, IN_TREE, INLINE, PLACED, SKELETON};
use super::tree::{self, is_kept};
use crate::tap::Tap;
use crate::{Entry, Error, Result};

/// The skeleton goes to the split in pieces of at least this many bytes.
const PIECE: usize = 64 * 1024;
/// Cheap: a skeleton repeats itself so much that a higher level gains little.
const LEVEL: i32 = 1;

/// Starts a split in `out`: the recorder is the tap of the reader or writer of the archive, the keeper hears from the
/// extractor.
pub fn record<W: Write>(mut out: W) -> Result<(Recorder<W>, Keeper<W>)> {
    record::write_magic(&mut out)?;
    let skeleton = zstd::stream::write::Encoder::new(Vec::with_capacity(2 * PIECE), LEVEL)
        .map_err(Error::io("start the zstd encoder"))?;
    let shared =
        Arc::new(Mutex::new(Shared { out: Some(out), member: 0, path: Vec::new(), awaits_place: false }));
    Ok((Recorder { skeleton, shared: Arc::clone(&shared), is_inline: false }, Keeper { shared }))
}

/// What both halves write to.
struct Shared<W> {
    /// Gone once the split is finished.
    out: Option<W>,
    /// The number of the current member, and where it belongs in the tree.
    member: u64,
    path: Vec<u8>,
    /// Whether its content is to be found there.
    awaits_place: bool,
}

impl<W: Write> Shared<W> {
    fn out(&mut self) -> Result<&mut W> {
        self.out.as_mut().ok_or_else(|| Error::Io {
            doing: "write the split of the layer".to_owned(),
            source: io::Error::other("it is finished already"),
        })
    }
}

fn lock<W>(shared: &Mutex<Shared<W>>) -> MutexGuard<'_, Shared<W>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records the skeleton of the archive that passes it as a [`Tap`].
pub struct Recorder<W: Write> {
    skeleton: zstd::stream::write::Encoder<'static, Vec<u8>>,
    shared: Arc<Mutex<Shared<W>>>,
    /// Whether the current content belongs in the skeleton.
    is_inline: bool,
}

impl<W: Write> Recorder<W> {
    /// Ends the split and hands back what it was written to. Nothing is synced.
    pub fn finish(self) -> Result<W> {
        let rest = self.skeleton.finish().map_err(Error::io("compress the split of the layer"))?;
        let mut shared = lock(&self.shared);
        let out = shared.out()?;
        record::write(out, SKELETON, None, &rest)?;
        record::write(out, END, None, &[])?;
        out.flush().map_err(Error::io("write the split of the layer"))?;
        let out = shared.out.take();
        drop(shared);
        out.ok_or_else(|| Error::Io {
            doing: "write the split of the layer".to_owned(),
            source: io::Error::other("it is finished already"),
        })
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.skeleton.write_all(bytes).map_err(Error::io("compress the split of the layer"))?;
        let piece = self.skeleton.get_mut();
        if piece.len() >= PIECE {
            record::write(lock(&self.shared).out()?, SKELETON, None, piece)?;
            piece.clear();
        }
        Ok(())
    }
}

impl<W: Write> Tap for Recorder<W> {
    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.add(bytes)
    }

    fn member(&mut self, entry: &Entry, stored: u64) -> Result<()> {
        let mut shared = lock(&self.shared);
        shared.member += 1;
        tree::clean(&entry.path, &mut shared.path);
        self.is_inline = !is_kept(&shared.path);
        shared.awaits_place = stored > 0 && !self.is_inline;
        drop(shared);
        match (stored, self.is_inline) {
            (0, _) => Ok(()),
            (_, true) => self.add(&[INLINE]),
            (_, false) => self.add(&[IN_TREE]),
        }
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_inline { self.add(bytes) } else { Ok(()) }
    }
}

impl<W: Write> fmt::Debug for Recorder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("member", &lock(&self.shared).member).finish_non_exhaustive()
    }
}

/// Keeps in the split what the tree will not have, or not where it is expected. Its clones are one and the same.
pub struct Keeper<W> {
    shared: Arc<Mutex<Shared<W>>>,
}

impl<W> Clone for Keeper<W> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<W: Write> Keeper<W> {
    /// Says where in the tree the content of the current member is: a path without `.`, `..` and links. `None` for a
    /// member that is not in the tree as a file.
    pub fn placed(&self, path: Option<&[u8]>) -> Result<()> {
        let mut shared = lock(&self.shared);
        match path {
            Some(path) if path != shared.path => {
                let member = shared.member;
                record::write(shared.out()?, PLACED, Some(member), path)
            }
            None if shared.awaits_place => Err(Error::Refused {
                path: shared.path.escape_ascii().to_string(),
                reason: "its content was not extracted, so the layer could not be reproduced".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Saves the content of the file at `path` of the tree under `root`, which the current member is about to replace
    /// or remove: that it is a regular file is for the caller to see to.
    pub fn displaced(&self, root: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let saving = || format!("save the replaced '{}'", path.escape_ascii());
        let mut file = tree::open_file(root, path).map_err(|error| Error::io(saving())(error))?;
        let mut shared = lock(&self.shared);
        let member = shared.member;
        let out = shared.out()?;
        record::write(out, DISPLACED, Some(member), path)?;
        let mut offset = 0;
        while let Some((start, end)) =
            tree::next_data(&file, offset).map_err(|error| Error::io(saving())(error))?
        {
            save(out, &mut file, start, end - start).map_err(|error| Error::io(saving())(error))?;
            offset = end;
        }
        Ok(())
    }
}

/// Writes a run of a file's data as content records.
fn save(out: &mut impl Write, file: &mut File, mut offset: u64, mut length: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut piece = Vec::with_capacity(DATA_PIECE);
    while length > 0 {
        piece.clear();
        let most = length.min(DATA_PIECE as u64);
        let taken = Read::by_ref(file).take(most).read_to_end(&mut piece)? as u64;
        if taken == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compressed = zstd::bulk::compress(&piece, LEVEL)?;
        record::write(out, CONTENT, Some(offset), &compressed).map_err(io::Error::other)?;
        offset += taken;
        length -= taken;
    }
    Ok(())
}

impl<W> fmt::Debug for Keeper<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("member", &lock(&self.shared).member).finish_non_exhaustive()
    }
}
