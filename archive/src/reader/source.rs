//! The stream under a reader: counts what it hands out and tells the tap.

use std::io::{self, BufRead, ErrorKind, Seek};

use super::{MAX_EXTENDED, MAX_TRAILING};
use crate::header::BLOCK;
use crate::tap::Tap;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Source<R, T> {
    pub(super) inner: R,
    pub(super) tap: T,
    /// Bytes consumed of `inner`.
    pub(super) position: u64,
    /// An error of the tap while content was consumed, where none can be returned.
    failure: Option<Error>,
}

impl<R: BufRead, T: Tap> Source<R, T> {
    pub(super) fn new(inner: R, tap: T) -> Self {
        Self { inner, tap, position: 0, failure: None }
    }

    /// The next block, `None` where the stream ends instead.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.buffer()?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.raw_exact(&mut block)?;
        Ok(Some(block))
    }

    /// The content of an extended header, without its padding.
    pub(super) fn extended(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(Error::Limit {
                what: "an extended tar header in bytes",
                found: size,
                limit: MAX_EXTENDED,
            });
        }
        let size = size as usize;
        let mut bytes = vec![0; size.next_multiple_of(BLOCK)];
        self.raw_exact(&mut bytes)?;
        bytes.truncate(size);
        Ok(bytes)
    }

    pub(super) fn raw_exact(&mut self, into: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            let available = self.buffer()?;
            if available.is_empty() {
                return Err(truncated(self.position));
            }
            let length = available.len().min(into.len() - filled);
            into[filled..filled + length].copy_from_slice(&available[..length]);
            self.consume(length);
            filled += length;
        }
        self.tap.raw(into)
    }

    /// Passes over `size` bytes and their padding, which are no member's content.
    pub(super) fn skip_raw(&mut self, size: u64) -> Result<()> {
        let mut left = size.checked_next_multiple_of(BLOCK as u64).ok_or(Error::Limit {
            what: "a volume label in bytes",
            found: size,
            limit: i64::MAX as u64,
        })?;
        while left > 0 {
            match self.pass(left)? {
                0 => return Err(truncated(self.position)),
                length => left -= length,
            }
        }
        Ok(())
    }

    /// Passes over everything that is left. It must end some time: an endless stream would keep this busy for ever.
    pub(super) fn raw_to_end(&mut self) -> Result<()> {
        let start = self.position;
        while self.pass(u64::MAX)? > 0 {
            let found = self.position - start;
            if found > MAX_TRAILING {
                let what = "what follows the archive, in bytes,";
                return Err(Error::Limit { what, found, limit: MAX_TRAILING });
            }
        }
        Ok(())
    }

    /// Shows the tap what the buffer has, `most` at the most; how many bytes that was.
    fn pass(&mut self, most: u64) -> Result<u64> {
        self.buffer()?;
        let available = self.inner.fill_buf().map_err(Error::io("read the archive"))?;
        let length = available.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        self.tap.raw(&available[..length])?;
        self.consume(length);
        Ok(length as u64)
    }

    /// What the buffer has of a content with `remaining` bytes; empty only at its end.
    pub(super) fn content(&mut self, remaining: u64) -> io::Result<&[u8]> {
        if let Some(failure) = self.failure.take() {
            return Err(io::Error::other(failure));
        }
        if remaining == 0 {
            return Ok(&[]);
        }
        let position = self.position;
        let available = self.filled()?;
        if available.is_empty() {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, truncated(position)));
        }
        Ok(&available[..available.len().min(usize::try_from(remaining).unwrap_or(usize::MAX))])
    }

    pub(super) fn consume_content(&mut self, length: usize) {
        // The bytes are those that `content` returned: nothing is read for this.
        let told = match self.inner.fill_buf() {
            Ok(available) => self.tap.content(&available[..length.min(available.len())]),
            Err(error) => Err(Error::io("read the archive")(error)),
        };
        if let Err(error) = told {
            self.failure.get_or_insert(error);
        }
        self.consume(length);
    }

    /// Surfaces what went wrong while content was consumed.
    pub(super) fn take_failure(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// What waits in the buffer, which is read first if it is empty; nothing only at the end of the stream.
    fn buffer(&mut self) -> Result<&[u8]> {
        self.filled().map_err(Error::io("read the archive"))
    }

    fn filled(&mut self) -> io::Result<&[u8]> {
        while let Err(error) = self.inner.fill_buf() {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.inner.consume(length);
        self.position += length as u64;
    }
}

impl<R: BufRead + Seek, T: Tap> Source<R, T> {
    /// Passes over this much content and padding, of which the tap is told no more than the last byte.
    pub(super) fn seek_past(&mut self, content: u64, padding: usize) -> Result<()> {
        let Some(length) = content.saturating_add(padding as u64).checked_sub(1) else {
            return Ok(());
        };
        let start = self.position;
        // What no file can be long enough for is missing.
        let distance = i64::try_from(length).map_err(|_| truncated(start))?;
        self.inner.seek_relative(distance).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => truncated(start),
            _ => Error::io("read the archive")(error),
        })?;
        self.position += length;
        self.raw_exact(&mut [0]).map_err(|error| match error {
            Error::Corrupt { .. } => truncated(start),
            error => error,
        })
    }
}

fn truncated(offset: u64) -> Error {
    Error::Corrupt {
        what: "tar archive",
        offset,
        reason: "it was cut off in the middle of a member".to_owned(),
    }
}
