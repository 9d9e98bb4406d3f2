//! What a split keeps besides the skeleton, for the assembly.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};

use super::record::{CONTENT, DATA_PIECE, DISPLACED, END, PLACED, Record, corrupt};
use crate::Result;

/// The displaced contents by path, and the paths of the members that are not where their header says.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// For each path, by ascending number of the displacing member: that, and where the content's records start.
    displaced: HashMap<Vec<u8>, Vec<(u64, u64)>>,
    placed: HashMap<u64, Vec<u8>>,
}

impl Kept {
    /// Goes through the records of a split, up to its end.
    pub(super) fn load(split: &File) -> Result<Self> {
        let mut kept = Self::default();
        let mut record = Record::at(split, None)?;
        while record.kind != END {
            match record.kind {
                PLACED => {
                    let (member, path) = record.numbered(split)?;
                    kept.placed.insert(member, path);
                }
                DISPLACED => {
                    let (member, path) = record.numbered(split)?;
                    kept.displaced.entry(path).or_default().push((member, record.end()));
                }
                _ => {}
            }
            record = Record::at(split, Some(record.end()))?;
        }
        Ok(kept)
    }

    /// Where in the tree the member was put, if not at its own path.
    pub(super) fn place(&self, member: u64) -> Option<&[u8]> {
        self.placed.get(&member).map(Vec::as_slice)
    }

    /// The content that the member put at `path`, if a later one displaced it.
    pub(super) fn displaced<'s>(&self, split: &'s File, member: u64, path: &[u8]) -> Option<Saved<'s>> {
        let contents = self.displaced.get(path)?;
        let (_, start) = contents.get(contents.partition_point(|(by, _)| *by <= member))?;
        Some(Saved { split, next: *start, position: 0, piece: Vec::new(), start: 0 })
    }
}

/// A saved content, read forward.
#[derive(Debug)]
pub(super) struct Saved<'s> {
    split: &'s File,
    /// Where the next record is.
    next: u64,
    /// Where in the file the next byte is read.
    position: u64,
    piece: Vec<u8>,
    /// Where in the file the piece starts; never reached after the last one.
    start: u64,
}

impl Saved<'_> {
    /// Goes on at this offset, which is no smaller than where it stands.
    pub(super) fn skip_to(&mut self, offset: u64) {
        self.position = offset;
    }

    fn load_piece(&mut self) -> Result<()> {
        let record = Record::at(self.split, Some(self.next))?;
        if record.kind != CONTENT {
            self.piece.clear();
            self.start = u64::MAX;
            return Ok(());
        }
        let (offset, compressed) = record.numbered(self.split)?;
        self.piece = zstd::bulk::decompress(&compressed, DATA_PIECE)
            .map_err(|error| corrupt(self.next, format!("a content: {error}")))?;
        self.start = offset;
        self.next = record.end();
        Ok(())
    }
}

impl Read for Saved<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.position >= self.start.saturating_add(self.piece.len() as u64) && self.start < u64::MAX {
            self.load_piece().map_err(io::Error::other)?;
        }
        let length = if let Some(inside) = self.position.checked_sub(self.start) {
            let available = self.piece.get(inside as usize..).unwrap_or_default();
            let length = available.len().min(into.len());
            into[..length].copy_from_slice(&available[..length]);
            length
        } else {
            let hole = usize::try_from(self.start - self.position).unwrap_or(usize::MAX);
            let length = hole.min(into.len());
            into[..length].fill(0);
            length
        };
        self.position += length as u64;
        Ok(length)
    }
}
