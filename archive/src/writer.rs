//! Writing a tar archive: ustar headers, with PAX records for what those cannot say.
//!
//! The same entries and contents give the same bytes, always. Files are written plain, never in a sparse form:
//! the OCI image specification asks for that.

use std::io::{ErrorKind, Read, Write};

use crate::header::BLOCK;
use crate::tap::Tap;
use crate::{Entry, Error, Kind, Result, Segment};

mod encode;

/// Written to the stream in pieces of about this many bytes.
const BUFFER: usize = 128 * 1024;

/// Writes members to a tar archive. It buffers by itself.
///
/// After an error the archive is unusable; nothing more should be written to it.
#[derive(Debug)]
pub struct Writer<W, T = ()> {
    out: W,
    tap: T,
    buffer: Box<[u8]>,
    /// How much of the buffer waits to be written.
    used: usize,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self::with_tap(out, ())
    }
}

impl<W: Write, T: Tap> Writer<W, T> {
    /// As [`Writer::new`]; `tap` is told of all that is written.
    pub fn with_tap(out: W, tap: T) -> Self {
        Self { out, tap, buffer: vec![0; BUFFER].into_boxed_slice(), used: 0 }
    }

    /// Writes a member and, of a file, its content: exactly `size` bytes are taken from `content`, and it is an
    /// error if it ends before. Of a sparse file `content` has only the segments; the holes are written as zeros.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        let headers = encode::headers(entry)?;
        self.tap.raw(&headers)?;
        self.put(&headers)?;
        let Kind::File { size, sparse } = &entry.kind else {
            return self.tap.member(entry, 0);
        };
        self.tap.member(entry, *size)?;
        match sparse {
            None => self.copy(entry, content, *size)?,
            Some(map) => self.fill(entry, content, *size, map)?,
        }
        self.pad(*size)
    }

    /// Ends the archive and hands back what it was written to, flushed.
    pub fn finish(self) -> Result<W> {
        self.finish_with_tap().map(|(out, _)| out)
    }

    /// As [`Writer::finish`], with the tap.
    pub fn finish_with_tap(mut self) -> Result<(W, T)> {
        let end = [0; 2 * BLOCK];
        self.tap.raw(&end)?;
        self.put(&end)?;
        self.flush()?;
        self.out.flush().map_err(Error::io("write the archive"))?;
        Ok((self.out, self.tap))
    }

    /// Copies `length` bytes of content through the buffer.
    fn copy(&mut self, entry: &Entry, content: &mut dyn Read, mut length: u64) -> Result<()> {
        let reading = || format!("read '{}'", entry.path.escape_ascii());
        while length > 0 {
            if BUFFER - self.used < BLOCK {
                self.flush()?;
            }
            let room = &mut self.buffer[self.used..];
            let most = room.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let taken = match content.read(&mut room[..most]) {
                Ok(0) => {
                    let reason = format!("it has {length} bytes less than its header says");
                    return Err(Error::Io { doing: reading(), source: std::io::Error::other(reason) });
                }
                Ok(taken) => taken,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io(reading())(error)),
            };
            self.tap.content(&room[..taken])?;
            self.used += taken;
            length -= taken as u64;
        }
        Ok(())
    }

    /// Writes a sparse file out in full.
    fn fill(&mut self, entry: &Entry, content: &mut dyn Read, size: u64, map: &[Segment]) -> Result<()> {
        let refused = || Error::Refused {
            path: entry.path.escape_ascii().to_string(),
            reason: "its sparse map does not fit in its size".to_owned(),
        };
        let mut at = 0;
        for segment in map {
            self.zeros(segment.offset.checked_sub(at).ok_or_else(refused)?)?;
            self.copy(entry, content, segment.length)?;
            at = segment.offset.checked_add(segment.length).ok_or_else(refused)?;
        }
        self.zeros(size.checked_sub(at).ok_or_else(refused)?)
    }

    fn zeros(&mut self, mut length: u64) -> Result<()> {
        let zeros = [0; 8 * BLOCK];
        while length > 0 {
            let piece = &zeros[..zeros.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
            self.tap.content(piece)?;
            self.put(piece)?;
            length -= piece.len() as u64;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = size.wrapping_neg() as usize % BLOCK;
        let zeros = &[0; BLOCK][..padding];
        self.tap.raw(zeros)?;
        self.put(zeros)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > BUFFER - self.used {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            return self.out.write_all(bytes).map_err(Error::io("write the archive"));
        }
        self.buffer[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer[..self.used]).map_err(Error::io("write the archive"))?;
        self.used = 0;
        Ok(())
    }
}
