//! Writing a tar archive: ustar headers, with PAX records for what those cannot say.
//!
//! The same entries and contents give the same bytes, always. Files are written plain, never in a sparse form:
//! the OCI image specification asks for that.

use std::io::{self, Read, Write};

use crate::header::BLOCK;
use crate::output::{Output, Stopped};
use crate::tap::Tap;
use crate::{Entry, Error, Kind, Result, Segment};

mod encode;

/// Writes members to a tar archive. It buffers by itself.
///
/// After an error the archive is unusable; nothing more should be written to it.
#[derive(Debug)]
pub struct Writer<W, T = ()> {
    output: Output<W>,
    tap: T,
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
        Self { output: Output::new(out), tap }
    }

    /// Writes a member and, of a file, its content: exactly `size` bytes are taken from `content`, and it is an
    /// error if it ends before. Of a sparse file `content` has only the segments; the holes are written as zeros.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        self.raw(&encode::headers(entry)?)?;
        let Kind::File { size, sparse } = &entry.kind else {
            return self.tap.member(entry, 0);
        };
        self.tap.member(entry, *size)?;
        match sparse {
            None => self.copy(entry, content, *size)?,
            Some(map) => self.fill(entry, content, *size, map)?,
        }
        let padding = size.wrapping_neg() as usize % BLOCK;
        self.raw(&[0; BLOCK][..padding])
    }

    /// Ends the archive and hands back what it was written to, flushed.
    pub fn finish(self) -> Result<W> {
        self.finish_with_tap().map(|(out, _)| out)
    }

    /// As [`Writer::finish`], with the tap.
    pub fn finish_with_tap(mut self) -> Result<(W, T)> {
        self.raw(&[0; 2 * BLOCK])?;
        let out = self.output.finish().map_err(Error::io("write the archive"))?;
        Ok((out, self.tap))
    }

    fn copy(&mut self, entry: &Entry, content: &mut dyn Read, mut length: u64) -> Result<()> {
        while length > 0 {
            let taken = self.output.fill(content, length).and_then(|taken| match taken {
                [] => Err(Stopped::Short(length)),
                taken => Ok(taken),
            });
            let taken = taken.map_err(|stopped| explain(&entry.path, stopped))?;
            self.tap.content(taken)?;
            length -= taken.len() as u64;
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
            let hole = segment.offset.checked_sub(at).ok_or_else(refused)?;
            self.copy(entry, &mut io::repeat(0), hole)?;
            self.copy(entry, content, segment.length)?;
            at = segment.offset.checked_add(segment.length).ok_or_else(refused)?;
        }
        let hole = size.checked_sub(at).ok_or_else(refused)?;
        self.copy(entry, &mut io::repeat(0), hole)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.tap.raw(bytes)?;
        self.output.put(bytes).map_err(Error::io("write the archive"))
    }
}

/// Says which member was being copied.
pub(crate) fn explain(path: &[u8], stopped: Stopped) -> Error {
    let reading = || format!("read '{}'", path.escape_ascii());
    match stopped {
        Stopped::Short(missing) => Error::Io {
            doing: reading(),
            source: io::Error::other(format!("it ends {missing} bytes early: it became shorter meanwhile")),
        },
        Stopped::Read(error) => Error::io(reading())(error),
        Stopped::Write(error) => Error::io("write the archive")(error),
    }
}
