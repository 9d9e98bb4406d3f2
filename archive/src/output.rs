//! The buffer between what makes an archive and what takes it: content is read straight into it.

use std::io::{self, ErrorKind, Read, Write};

/// Written in pieces of about this many bytes.
const CAPACITY: usize = 128 * 1024;
/// With less room than this, the buffer is written before more is read into it.
const MIN_ROOM: usize = 4096;

#[derive(Debug)]
pub(crate) struct Output<W> {
    out: W,
    buffer: Box<[u8]>,
    /// How much of the buffer waits to be written.
    used: usize,
}

/// Why a copy stopped.
pub(crate) enum Stopped {
    /// The source ended this many bytes too early.
    Short(u64),
    /// The source failed.
    Read(io::Error),
    /// The output failed.
    Write(io::Error),
}

impl<W: Write> Output<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, buffer: vec![0; CAPACITY].into_boxed_slice(), used: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > CAPACITY - self.used {
            self.write_out()?;
        }
        if bytes.len() > CAPACITY {
            return self.out.write_all(bytes);
        }
        self.buffer[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(())
    }

    /// Copies exactly `length` bytes.
    pub(crate) fn copy(&mut self, source: &mut dyn Read, mut length: u64) -> Result<(), Stopped> {
        while length > 0 {
            match self.fill(source, length)?.len() {
                0 => return Err(Stopped::Short(length)),
                taken => length -= taken as u64,
            }
        }
        Ok(())
    }

    /// Reads once, `most` bytes at the most; what was read, which is nothing only at the end of the source.
    pub(crate) fn fill(&mut self, source: &mut dyn Read, most: u64) -> Result<&[u8], Stopped> {
        if CAPACITY - self.used < MIN_ROOM {
            self.write_out().map_err(Stopped::Write)?;
        }
        let start = self.used;
        let room = &mut self.buffer[start..];
        let most = room.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        loop {
            match source.read(&mut room[..most]) {
                Ok(taken) => {
                    self.used += taken;
                    return Ok(&self.buffer[start..start + taken]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Stopped::Read(error)),
            }
        }
    }

    /// Writes out what waits, and hands back what it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.write_out()?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer[..self.used])?;
        self.used = 0;
        Ok(())
    }
}
