//! Reading a tar archive member by member: v7, ustar, GNU, star and PAX, in any mixture.
//!
//! How long a member is gets decided in one place (`reader/member.rs`), so that everything after it agrees on
//! where the next header is: a PAX `size` replaces the one of the header, and members without content (links,
//! directories, devices) have none whatever their size field says. Other container engines do the same.

use std::io::{self, BufRead, Read, Seek};

use crate::header::{BLOCK, Header};
use crate::pax::Defaults;
use crate::tap::Tap;
use crate::{Entry, Error, Result};

mod member;
mod source;

use member::{Before, Member};
use source::Source;

/// The longest extended header (long name, PAX records) that is taken, in bytes: each is held in memory.
pub const MAX_EXTENDED: u64 = 1024 * 1024;

/// The most that may follow the end of an archive, in bytes: padding and garbage.
pub const MAX_TRAILING: u64 = 64 * 1024 * 1024;

/// Reads the members of an uncompressed tar archive, in constant memory.
///
/// After an error the place in the archive is lost: read no further.
#[derive(Debug)]
pub struct Reader<R, T = ()> {
    source: Source<R, T>,
    defaults: Defaults,
    /// Content of the current member not yet read.
    remaining: u64,
    /// Filler between that and the next header.
    padding: usize,
    is_over: bool,
    needs_end: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the start of an archive. Give a file a large buffer:
    /// `BufReader::with_capacity(128 * 1024, file)`.
    pub fn new(source: R) -> Self {
        Self::with_tap(source, ())
    }
}

impl<R: BufRead, T: Tap> Reader<R, T> {
    /// As [`Reader::new`]; `tap` is told of all that is read, skipped content included.
    pub fn with_tap(source: R, tap: T) -> Self {
        Self {
            source: Source::new(source, tap),
            defaults: Defaults::default(),
            remaining: 0,
            padding: 0,
            is_over: false,
            needs_end: true,
        }
    }

    /// Takes the end of the stream between two members for the end of the archive, where the two blocks of zeros
    /// are missing. Only for a stream whose completeness something else proves, such as its digest.
    #[must_use]
    pub fn allow_missing_end(mut self) -> Self {
        self.needs_end = false;
        self
    }

    /// The next member, `None` after the last one. What was not read of the content before it is skipped.
    #[allow(clippy::should_implement_trait, reason = "fallible, and the content borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<Entry>> {
        if self.is_over {
            return Ok(None);
        }
        self.skip_content()?;
        let Some(member) = self.next_member()? else {
            self.is_over = true;
            return Ok(None);
        };
        self.source.tap.member(&member.entry, member.stored)?;
        (self.remaining, self.padding) = (member.stored, member.padding);
        Ok(Some(member.entry))
    }

    /// What the archive holds of the current member: all of a file, or the segments of a sparse one one after
    /// another. What is wrong with the archive comes as an [`io::Error`] around an [`Error`], which
    /// [`Error::io`] unpacks.
    pub fn content(&mut self) -> Content<'_, R, T> {
        Content { source: &mut self.source, remaining: &mut self.remaining }
    }

    /// How many bytes [`Reader::content`] still has.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Where in the archive the reader stands, in bytes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.source.position
    }

    /// Reads the stream to its end, past whatever follows the archive, and hands back what the reader was made
    /// from.
    pub fn finish(mut self) -> Result<(R, T)> {
        while self.next()?.is_some() {}
        self.source.raw_to_end()?;
        Ok((self.source.inner, self.source.tap))
    }

    /// Says that the content of the current member is not in the stream, although its padding is. Returns the
    /// stream and the tap, for the caller to fetch the content from elsewhere.
    pub(crate) fn elide_content(&mut self) -> (&mut R, &mut T) {
        self.remaining = 0;
        (&mut self.source.inner, &mut self.source.tap)
    }

    fn skip_content(&mut self) -> Result<()> {
        let mut content = self.content();
        while *content.remaining > 0 {
            let length = content.fill_buf().map_err(Error::io("skip the content of a member"))?.len();
            content.consume(length);
        }
        self.source.take_failure()?;
        self.source.raw_exact(&mut [0; BLOCK][..self.padding])?;
        self.padding = 0;
        Ok(())
    }

    /// Reads headers up to one that is a member's own.
    fn next_member(&mut self) -> Result<Option<Member>> {
        let mut before = Before::default();
        loop {
            let at = self.source.position;
            let Some(block) = self.header_block(before.is_empty())? else {
                return Ok(None);
            };
            let corrupt = |reason| Error::Corrupt { what: "tar header", offset: at, reason };
            let header = Header::parse(&block).map_err(corrupt)?;
            let size = header.size().map_err(corrupt)?;
            match header.kind() {
                b'x' | b'X' => before.set_records(self.source.extended(size)?).map_err(corrupt)?,
                b'L' => before.set_path(self.source.extended(size)?).map_err(corrupt)?,
                b'K' => before.set_link(self.source.extended(size)?).map_err(corrupt)?,
                b'g' => self.defaults.add(&self.source.extended(size)?).map_err(corrupt)?,
                // A volume's label names the archive, not a member.
                b'V' => self.source.skip_raw(size)?,
                _ => return Member::resolve(&header, before, &self.defaults, &mut self.source, at).map(Some),
            }
        }
    }

    /// The next block that is not the end of the archive.
    fn header_block(&mut self, may_end: bool) -> Result<Option<[u8; BLOCK]>> {
        let at = self.source.position;
        let corrupt =
            |reason: &str| Error::Corrupt { what: "tar archive", offset: at, reason: reason.into() };
        let is_zero = |block: &[u8; BLOCK]| block.iter().all(|&byte| byte == 0);
        match self.source.block()? {
            Some(block) if !is_zero(&block) => return Ok(Some(block)),
            _ if !may_end => return Err(corrupt("extended header without a member after it")),
            None if !self.needs_end => return Ok(None),
            None if at == 0 => return Err(corrupt("it is empty")),
            None => return Err(corrupt("it has no end: it was cut off between two members")),
            Some(_) => {}
        }
        match self.source.block()? {
            Some(block) if is_zero(&block) => Ok(None),
            // Some readers stop here and some go on; what follows must not depend on who reads.
            Some(_) => Err(corrupt("a single block of zeros, expected two at the end and none before")),
            None if self.needs_end => Err(corrupt("it was cut off between its two blocks of zeros")),
            None => Ok(None),
        }
    }
}

impl<R: BufRead + Seek> Reader<R> {
    /// As [`Reader::next`], but passes over content by seeking: of a large member only the last byte is read, which
    /// proves that it is there.
    pub fn seek_next(&mut self) -> Result<Option<Entry>> {
        self.source.seek_past(self.remaining, self.padding)?;
        (self.remaining, self.padding) = (0, 0);
        self.next()
    }
}

/// The content of a member: see [`Reader::content`].
#[derive(Debug)]
pub struct Content<'a, R, T> {
    source: &'a mut Source<R, T>,
    remaining: &'a mut u64,
}

impl<R: BufRead, T: Tap> BufRead for Content<'_, R, T> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.content(*self.remaining)
    }

    fn consume(&mut self, length: usize) {
        let length = usize::try_from(*self.remaining).map_or(length, |remaining| remaining.min(length));
        *self.remaining -= length as u64;
        self.source.consume_content(length);
    }
}

impl<R: BufRead, T: Tap> Read for Content<'_, R, T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
