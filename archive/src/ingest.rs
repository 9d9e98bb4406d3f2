//! Taking in a layer tarball: decompressed, hashed and consumed at once, by threads that hand buffers on.
//!
//! ```text
//! source ─ fetch, hash ─▶ decompress ─┬─▶ hash (DiffID)
//!                                     └─▶ read members ─▶ consume    (the caller's thread)
//! ```
//!
//! A tarball that fits into one buffer, as that of a small change does, is hashed and consumed by the caller's thread alone.
//!
//! The buffers circle in two pools of fixed size, which bounds the memory and makes the fast threads wait for the
//! slow ones. When one end fails the others notice at their next buffer and end too: nobody waits for a thread that
//! is gone (CVE-2021-20291).

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ScopedJoinHandle};

use crate::compress::{Compression, Decoder};
use crate::digest::{Digest, Hasher, Hashing};
use crate::reader::Reader;
use crate::tap::Tap;
use crate::{Entry, Error, Result};

mod feed;

use feed::{Buffer, Feed, Pool};

/// The buffers between fetching and decompressing, and those after it: their number and their size in bytes.
const FETCHED: (usize, usize) = (4, 128 * 1024);
const DECODED: (usize, usize) = (6, 256 * 1024);

/// A plain archive of fewer bytes is not worth the threads.
const SMALL: usize = 64 * 1024;

/// What is known of a tarball beforehand. All of it is checked, what is `None` is not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// The digest of the stream as it comes.
    pub blob: Option<Digest>,
    /// The digest of the uncompressed archive. With it, the archive may lack its end.
    pub diff_id: Option<Digest>,
    /// The most bytes that the uncompressed archive may have.
    pub max_size: Option<u64>,
}

/// What a tarball turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingested {
    /// The digest of the stream as it came.
    pub blob: Digest,
    /// Its length in bytes.
    pub blob_size: u64,
    /// How it was compressed.
    pub compression: Compression,
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Reads a tarball to its end, in any compression, and calls `consume` with each member. `tap` sees the uncompressed
/// archive, and comes back.
///
/// A wrong digest shows at the end only: on an error nothing that was consumed may be used. This returns when all
/// threads have ended, so a source that blocks forever blocks it too.
pub fn ingest<T: Tap>(
    mut source: impl Read + Send,
    tap: T,
    expected: &Expected,
    consume: impl FnMut(&Entry, &mut dyn Read) -> Result<()>,
) -> Result<(Ingested, T)> {
    let mut start = Vec::with_capacity(SMALL);
    source.by_ref().take(SMALL as u64).read_to_end(&mut start).map_err(Error::io("read the archive"))?;
    let compression = Compression::of(&start);
    let is_whole = start.len() < SMALL;
    let (ingested, tap) = match compression {
        Compression::None if is_whole => small(&start, tap, expected, consume),
        Compression::None => plain(io::Cursor::new(start).chain(source), tap, expected, consume),
        _ => compressed(io::Cursor::new(start).chain(source), tap, expected, consume),
    }?;
    check("the blob's digest", &ingested.blob, expected.blob.as_ref())?;
    check("the layer's DiffID", &ingested.diff_id, expected.diff_id.as_ref())?;
    Ok((ingested, tap))
}

fn check(what: &'static str, found: &Digest, expected: Option<&Digest>) -> Result<()> {
    match expected {
        Some(expected) if expected != found => {
            Err(Error::Digest { what, found: found.to_string(), expected: expected.to_string() })
        }
        _ => Ok(()),
    }
}

fn small<T: Tap>(
    archive: &[u8],
    tap: T,
    expected: &Expected,
    consume: impl FnMut(&Entry, &mut dyn Read) -> Result<()>,
) -> Result<(Ingested, T)> {
    let size = archive.len() as u64;
    within(size, expected.max_size)?;
    let diff_id = Digest::of(archive);
    let tap = members(archive, tap, expected, consume)?;
    let ingested = Ingested { blob: diff_id, blob_size: size, compression: Compression::None, diff_id, size };
    Ok((ingested, tap))
}

fn within(size: u64, limit: Option<u64>) -> Result<()> {
    match limit {
        Some(limit) if size > limit => Err(Error::Limit { what: "its size in bytes", found: size, limit }),
        _ => Ok(()),
    }
}

/// Without the stage that decompresses: the blob is the archive.
fn plain<T: Tap>(
    source: impl Read + Send,
    tap: T,
    expected: &Expected,
    consume: impl FnMut(&Entry, &mut dyn Read) -> Result<()>,
) -> Result<(Ingested, T)> {
    let (archive, fed) = channel();
    let (hashed, to_hash) = channel();
    thread::scope(|scope| {
        let fetch = scope.spawn(|| fan_out(source, archive, hashed, expected.max_size));
        let hash = scope.spawn(|| hash(to_hash));
        let read = members(Feed::new(fed), tap, expected, consume);
        let (fetched, hashed) = (joined(fetch), joined(hash));
        fetched?;
        let (diff_id, size) = hashed?;
        let ingested =
            Ingested { blob: diff_id, blob_size: size, compression: Compression::None, diff_id, size };
        Ok((ingested, read?))
    })
}

fn compressed<T: Tap>(
    source: impl Read + Send,
    tap: T,
    expected: &Expected,
    consume: impl FnMut(&Entry, &mut dyn Read) -> Result<()>,
) -> Result<(Ingested, T)> {
    let (blob, fetched) = channel();
    let (archive, fed) = channel();
    let (hashed, to_hash) = channel();
    thread::scope(|scope| {
        let fetch = scope.spawn(|| fetch(source, blob));
        let decode = scope.spawn(|| decode(Feed::new(fetched), archive, hashed, expected.max_size));
        let hash = scope.spawn(|| hash(to_hash));
        let read = members(Feed::new(fed), tap, expected, consume);
        let (fetched, decoded, hashed) = (joined(fetch), joined(decode), joined(hash));
        let ((blob, blob_size), compression, (diff_id, size)) = (fetched?, decoded?, hashed?);
        Ok((Ingested { blob, blob_size, compression, diff_id, size }, read?))
    })
}

/// A thread's result. That one panicked is the input's doing: decoders are large.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| Error::Io {
        doing: "decompress and hash the archive".to_owned(),
        source: io::Error::other("a thread of it panicked"),
    })
}

/// Reads the blob and hashes it.
#[allow(clippy::needless_pass_by_value, reason = "a stream ends when its sender is dropped")]
fn fetch(source: impl Read, blob: Sender<Result<Arc<Buffer>>>) -> (Digest, u64) {
    let mut source = Hashing::new(source);
    let pool = Pool::new(FETCHED.0, FETCHED.1);
    while let Some(piece) = pool.take().fill(&mut source).map_err(Error::io("read the archive")).transpose() {
        let is_last = piece.is_err();
        if blob.send(piece.map(Arc::new)).is_err() || is_last {
            break;
        }
    }
    let (_, digest, length) = source.finish();
    (digest, length)
}

/// Decompresses the blob; how it was compressed.
fn decode(
    blob: Feed,
    archive: Sender<Result<Arc<Buffer>>>,
    hashed: Sender<Arc<Buffer>>,
    max_size: Option<u64>,
) -> Compression {
    match Decoder::new(blob) {
        Ok(decoder) => {
            let compression = decoder.compression();
            fan_out(decoder, archive, hashed, max_size);
            compression
        }
        Err(error) => {
            // A receiver that is gone has its own error to tell.
            let _ = archive.send(Err(error));
            Compression::None
        }
    }
}

/// Hands each piece of the archive to the hash and to the reader of members, until one of them is gone.
#[allow(clippy::needless_pass_by_value, reason = "a stream ends when its sender is dropped")]
fn fan_out(
    mut source: impl Read,
    archive: Sender<Result<Arc<Buffer>>>,
    hashed: Sender<Arc<Buffer>>,
    max_size: Option<u64>,
) {
    let pool = Pool::new(DECODED.0, DECODED.1);
    let mut size = 0;
    loop {
        let piece = match pool.take().fill(&mut source) {
            Ok(None) => return,
            Ok(Some(piece)) => Arc::new(piece),
            Err(error) => {
                let _ = archive.send(Err(Error::io("read the archive")(error)));
                return;
            }
        };
        size += piece.len() as u64;
        if let Err(error) = within(size, max_size) {
            let _ = archive.send(Err(error));
            return;
        }
        if hashed.send(Arc::clone(&piece)).is_err() || archive.send(Ok(piece)).is_err() {
            return;
        }
    }
}

fn hash(pieces: Receiver<Arc<Buffer>>) -> (Digest, u64) {
    let mut hasher = Hasher::new();
    let mut length = 0;
    for piece in pieces {
        hasher.update(&piece);
        length += piece.len() as u64;
    }
    (hasher.finish(), length)
}

/// Reads the archive to the end of its stream.
fn members<T: Tap>(
    archive: impl BufRead,
    tap: T,
    expected: &Expected,
    mut consume: impl FnMut(&Entry, &mut dyn Read) -> Result<()>,
) -> Result<T> {
    let mut reader = Reader::with_tap(archive, tap);
    if expected.diff_id.is_some() {
        reader = reader.allow_missing_end();
    }
    while let Some(entry) = reader.next()? {
        consume(&entry, &mut reader.content())?;
    }
    reader.finish().map(|(_, tap)| tap)
}
