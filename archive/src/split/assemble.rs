//! Putting an archive together again from a split and a tree.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;

use super::kept::{Kept, Saved};
use super::record::{END, IN_TREE, INLINE, Record, SKELETON, corrupt};
use super::tree;
use crate::digest::{Digest, Hashing};
use crate::output::Output;
use crate::reader::Reader;
use crate::tap::Tap;
use crate::writer::explain;
use crate::{Entry, Error, Kind, Result};

/// How much of the skeleton is decompressed at once, in bytes.
const BUFFER: usize = 64 * 1024;

/// Writes to `out` the archive of which `split` was recorded, with the contents that `tree` has, and returns its length.
///
/// That it is the layer's own, with the DiffID `expected`, is known only at the end: on an error nothing of what was
/// written may be used.
pub fn assemble<W: Write>(split: &File, tree: BorrowedFd<'_>, expected: &Digest, out: W) -> Result<u64> {
    let kept = Kept::load(split)?;
    let skeleton = zstd::stream::read::Decoder::with_buffer(Pieces::new(split)?)
        .map_err(Error::io("start the zstd decoder"))?;
    let skeleton = BufReader::with_capacity(BUFFER, skeleton);
    let tap = Raw { output: Output::new(Hashing::new(out)) };
    let mut reader = Reader::with_tap(skeleton, tap).allow_missing_end();
    let mut member = 0;
    let mut path = Vec::new();
    while let Some(entry) = reader.next()? {
        member += 1;
        let stored = reader.remaining();
        if stored == 0 {
            continue;
        }
        tree::clean(&entry.path, &mut path);
        let (skeleton, tap) = reader.elide_content();
        let mut mark = [0];
        skeleton.read_exact(&mut mark).map_err(Error::io("read the split of the layer"))?;
        match mark[0] {
            INLINE => tap.output.copy(skeleton, stored).map_err(|stopped| explain(&path, stopped))?,
            IN_TREE => {
                let place = kept.place(member).unwrap_or(&path);
                let content = match kept.displaced(split, member, place) {
                    Some(saved) => Content::Saved(saved),
                    None => Content::of_tree(tree, place)?,
                };
                tap.content_of(&entry, place, content)?;
            }
            other => return Err(corrupt(0, format!("the mark of a content is '{}'", other.escape_ascii()))),
        }
    }
    let (_, tap) = reader.finish()?;
    let out = tap.output.finish().map_err(Error::io("write the archive"))?;
    let (_, found, length) = out.finish();
    if found == *expected {
        return Ok(length);
    }
    Err(Error::Digest {
        what: "the layer's DiffID",
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

/// Passes on what the skeleton has.
struct Raw<W: Write> {
    output: Output<Hashing<W>>,
}

impl<W: Write> Raw<W> {
    /// Writes what the archive holds of a file.
    fn content_of(&mut self, entry: &Entry, path: &[u8], mut content: Content<'_>) -> Result<()> {
        let Kind::File { size, sparse } = &entry.kind else {
            return Ok(());
        };
        let Some(map) = sparse else {
            return self.output.copy(&mut content, *size).map_err(|stopped| explain(path, stopped));
        };
        for segment in map {
            content.skip_to(segment.offset).map_err(Error::io("read the layer's tree"))?;
            self.output.copy(&mut content, segment.length).map_err(|stopped| explain(path, stopped))?;
        }
        Ok(())
    }
}

impl<W: Write> Tap for Raw<W> {
    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.put(bytes).map_err(Error::io("write the archive"))
    }

    fn member(&mut self, _: &Entry, _: u64) -> Result<()> {
        Ok(())
    }

    fn content(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Where the content of a file comes from.
enum Content<'s> {
    Tree(File),
    Saved(Saved<'s>),
}

impl Content<'_> {
    fn of_tree(tree: BorrowedFd<'_>, path: &[u8]) -> Result<Self> {
        tree::open_file(tree, path).map(Self::Tree).map_err(|error| {
            Error::io(format!("take '{}' from the layer's tree", path.escape_ascii()))(error)
        })
    }

    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        match self {
            Self::Tree(file) => file.seek(SeekFrom::Start(offset)).map(|_| ()),
            Self::Saved(saved) => {
                saved.skip_to(offset);
                Ok(())
            }
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tree(file) => file.read(into),
            Self::Saved(saved) => saved.read(into),
        }
    }
}

/// The compressed skeleton, from one record to the next.
struct Pieces<'s> {
    split: &'s File,
    record: Record,
    piece: Vec<u8>,
    read: usize,
}

impl<'s> Pieces<'s> {
    fn new(split: &'s File) -> Result<Self> {
        let mut pieces = Self { split, record: Record::at(split, None)?, piece: Vec::new(), read: 0 };
        pieces.load()?;
        Ok(pieces)
    }

    /// Takes the record at hand, or the next one that has a piece.
    fn load(&mut self) -> Result<()> {
        while !matches!(self.record.kind, SKELETON | END) {
            self.record = Record::at(self.split, Some(self.record.end()))?;
        }
        if self.record.kind == SKELETON {
            self.piece = self.record.payload(self.split)?;
            self.read = 0;
            self.record = Record::at(self.split, Some(self.record.end()))?;
        }
        Ok(())
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.piece.len() {
            self.load().map_err(io::Error::other)?;
        }
        Ok(&self.piece[self.read..])
    }

    fn consume(&mut self, length: usize) {
        self.read += length;
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}
