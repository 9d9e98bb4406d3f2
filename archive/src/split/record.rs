//! The records of a split, one at a time.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::{Error, Result};

pub(super) const MAGIC: &[u8; 8] = b"MicaSpl1";

pub(super) const SKELETON: u8 = b'S';
pub(super) const PLACED: u8 = b'P';
pub(super) const DISPLACED: u8 = b'D';
pub(super) const CONTENT: u8 = b'C';
pub(super) const END: u8 = b'E';

/// The marks in the skeleton.
pub(super) const IN_TREE: u8 = b't';
pub(super) const INLINE: u8 = b'i';

/// Displaced data is compressed in pieces of this many bytes.
pub(super) const DATA_PIECE: usize = 128 * 1024;
/// The most that a record's payload may have, in bytes: it is read at once.
const MAX_PAYLOAD: u32 = 4 * 1024 * 1024;

const READING: &str = "read the split of the layer";
const WRITING: &str = "write the split of the layer";

/// Writes one record.
pub(super) fn write(out: &mut impl Write, kind: u8, number: Option<u64>, payload: &[u8]) -> Result<()> {
    let length = payload.len() + number.map_or(0, |_| 8);
    let length = u32::try_from(length).ok().filter(|&length| length <= MAX_PAYLOAD).ok_or(Error::Limit {
        what: "a record of the split in bytes",
        found: length as u64,
        limit: u64::from(MAX_PAYLOAD),
    })?;
    let mut head = Vec::with_capacity(13);
    head.push(kind);
    head.extend_from_slice(&length.to_le_bytes());
    if let Some(number) = number {
        head.extend_from_slice(&number.to_le_bytes());
    }
    out.write_all(&head).and_then(|()| out.write_all(payload)).map_err(Error::io(WRITING))
}

pub(super) fn write_magic(out: &mut impl Write) -> Result<()> {
    out.write_all(MAGIC).map_err(Error::io(WRITING))
}

/// A record's kind and where its payload is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) kind: u8,
    start: u64,
    length: u32,
}

impl Record {
    /// The record at `offset`, or the first one.
    pub(super) fn at(split: &File, offset: Option<u64>) -> Result<Self> {
        let offset = match offset {
            Some(offset) => offset,
            None => first(split)?,
        };
        let mut head = [0; 5];
        read_exact(split, &mut head, offset)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        let is_known = matches!(kind, SKELETON | PLACED | DISPLACED | CONTENT | END);
        if !is_known || length > MAX_PAYLOAD {
            return Err(corrupt(offset, format!("no record, but '{}'", head.escape_ascii())));
        }
        Ok(Self { kind, start: offset + 5, length })
    }

    /// Where the next record starts.
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }

    pub(super) fn payload(&self, split: &File) -> Result<Vec<u8>> {
        let mut payload = vec![0; self.length as usize];
        read_exact(split, &mut payload, self.start)?;
        Ok(payload)
    }

    /// The payload of a record that starts with a number.
    pub(super) fn numbered(&self, split: &File) -> Result<(u64, Vec<u8>)> {
        let mut payload = self.payload(split)?;
        let Some(number) = payload.first_chunk().copied() else {
            return Err(corrupt(self.start, "a record without its number".to_owned()));
        };
        payload.drain(..8);
        Ok((u64::from_le_bytes(number), payload))
    }
}

fn first(split: &File) -> Result<u64> {
    let mut magic = [0; MAGIC.len()];
    read_exact(split, &mut magic, 0)?;
    if &magic == MAGIC {
        return Ok(magic.len() as u64);
    }
    Err(corrupt(0, format!("starts with '{}', expected '{}'", magic.escape_ascii(), MAGIC.escape_ascii())))
}

fn read_exact(split: &File, into: &mut [u8], offset: u64) -> Result<()> {
    split.read_exact_at(into, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => corrupt(offset, "it was cut off".to_owned()),
        _ => Error::io(READING)(error),
    })
}

pub(super) fn corrupt(offset: u64, reason: String) -> Error {
    Error::Corrupt { what: "split", offset, reason }
}
