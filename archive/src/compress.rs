//! Decompression of layer tarballs, told apart by their first bytes and never by a name or a media type.
//!
//! Everything happens in this process: an external decompressor has been a way out of the sandbox before
//! (CVE-2014-9357, CVE-2019-14271).

use std::fmt;
use std::io::{self, BufRead, Chain, Cursor, ErrorKind, Read};

use crate::{Error, Result};

/// The largest window, in bytes, that a stream may make the decompressor keep.
pub const MAX_WINDOW: u64 = 128 * 1024 * 1024;

/// The bytes that tell a format.
const SNIFFED: usize = 6;
/// What an xz decoder needs besides its window, in KiB.
const XZ_OVERHEAD: u32 = 128;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known here.
    None,
    /// RFC 1952, of one or more members.
    Gzip,
    /// RFC 8878, of any number of frames, skippable ones among them.
    Zstd,
    /// The xz container, of one or more streams.
    Xz,
    /// bzip2, of one or more streams.
    Bzip2,
}

impl Compression {
    /// Of a stream that starts with these bytes; six are enough.
    #[must_use]
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }

    fn stream(self) -> &'static str {
        match self {
            Self::None => "stream",
            Self::Gzip => "gzip stream",
            Self::Zstd => "zstd stream",
            Self::Xz => "xz stream",
            Self::Bzip2 => "bzip2 stream",
        }
    }
}

/// A stream whose first bytes were looked at and put back.
type Sniffed<R> = Chain<Cursor<Vec<u8>>, R>;

enum Format<R: BufRead> {
    Plain(Sniffed<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Sniffed<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Sniffed<R>>>),
    Xz(Box<lzma_rust2::XzReader<Sniffed<R>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<Sniffed<R>>>),
}

/// Decompresses whatever its source turns out to be.
///
/// An error of the source comes out as it is, one of the compressed data as an [`Error`] inside the
/// [`io::Error`], which [`Error::io`] unpacks.
pub struct Decoder<R: BufRead> {
    compression: Compression,
    format: Format<R>,
    /// Bytes decompressed so far.
    position: u64,
}

impl<R: BufRead> Decoder<R> {
    /// Reads the first bytes of `source` and chooses by them.
    pub fn new(mut source: R) -> Result<Self> {
        let mut start = Vec::with_capacity(SNIFFED);
        source
            .by_ref()
            .take(SNIFFED as u64)
            .read_to_end(&mut start)
            .map_err(Error::io("read the start of the archive"))?;
        let compression = Compression::of(&start);
        let source = Cursor::new(start).chain(source);
        let format = match compression {
            Compression::None => Format::Plain(source),
            Compression::Gzip => Format::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Zstd => Format::Zstd(Box::new(zstd_decoder(source)?)),
            Compression::Xz => {
                let limit = (MAX_WINDOW / 1024) as u32 + XZ_OVERHEAD;
                Format::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, limit)))
            }
            Compression::Bzip2 => Format::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(source))),
        };
        Ok(Self { compression, format, position: 0 })
    }

    /// What the source turned out to be.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Tells what is wrong with the data from what is wrong with the source.
    fn explain(&self, error: io::Error) -> io::Error {
        let is_of_source = error.raw_os_error().is_some()
            || matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
            || error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>);
        if is_of_source || self.compression == Compression::None {
            return error;
        }
        let text = error.to_string();
        let reason = match error.kind() {
            ErrorKind::UnexpectedEof => "it was cut off".to_owned(),
            // zstd has no code of its own for this that the crate passes on.
            kind if kind == ErrorKind::OutOfMemory || text.contains("too much memory") => {
                format!("its window is larger than {} MiB", MAX_WINDOW >> 20)
            }
            _ => text,
        };
        let what = self.compression.stream();
        io::Error::new(ErrorKind::InvalidData, Error::Corrupt { what, offset: self.position, reason })
    }
}

fn zstd_decoder<R: BufRead>(source: R) -> Result<zstd::stream::read::Decoder<'static, R>> {
    let starting = || Error::io("start the zstd decoder");
    let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(starting())?;
    decoder.window_log_max(MAX_WINDOW.ilog2()).map_err(starting())?;
    Ok(decoder)
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.format {
            Format::Plain(source) => source.read(into),
            Format::Gzip(decoder) => decoder.read(into),
            Format::Zstd(decoder) => decoder.read(into),
            Format::Xz(decoder) => decoder.read(into),
            Format::Bzip2(decoder) => decoder.read(into),
        };
        let length = result.map_err(|error| self.explain(error))?;
        self.position += length as u64;
        Ok(length)
    }
}

impl<R: BufRead> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("compression", &self.compression)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
