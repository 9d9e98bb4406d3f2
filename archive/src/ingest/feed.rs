//! Buffers that circle between threads.

use std::io::{self, BufRead, ErrorKind, Read};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::Result;

/// Buffers of one size, a fixed number of them.
pub(super) struct Pool {
    free: Receiver<Box<[u8]>>,
    back: Sender<Box<[u8]>>,
}

impl Pool {
    pub(super) fn new(count: usize, size: usize) -> Self {
        let (back, free) = channel();
        for _ in 0..count {
            // The other end is in this very function.
            let _ = back.send(vec![0; size].into_boxed_slice());
        }
        Self { free, back }
    }

    /// Waits for a free buffer. Every buffer comes back when it is dropped, wherever that is, so this ends.
    pub(super) fn take(&self) -> Buffer {
        let bytes = self.free.recv().unwrap_or_default();
        Buffer { bytes, length: 0, back: self.back.clone() }
    }
}

/// A piece of a stream. Dropping it gives the memory back to its pool.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
    back: Sender<Box<[u8]>>,
}

impl Buffer {
    /// Reads until it is full or the source ends; `None` if the source had ended before.
    pub(super) fn fill(mut self, source: &mut impl Read) -> io::Result<Option<Self>> {
        while self.length < self.bytes.len() {
            match source.read(&mut self.bytes[self.length..]) {
                Ok(0) => break,
                Ok(taken) => self.length += taken,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((self.length > 0).then_some(self))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A pool that is gone needs no buffers.
        let _ = self.back.send(std::mem::take(&mut self.bytes));
    }
}

/// The stream that comes in pieces over a channel; it ends when the sender is gone.
pub(super) struct Feed {
    pieces: Receiver<Result<Arc<Buffer>>>,
    piece: Option<Arc<Buffer>>,
    read: usize,
}

impl Feed {
    pub(super) fn new(pieces: Receiver<Result<Arc<Buffer>>>) -> Self {
        Self { pieces, piece: None, read: 0 }
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.as_ref().is_none_or(|piece| self.read == piece.len()) {
            // Given back before the wait: the sender may be waiting for it.
            self.piece = None;
            self.read = 0;
            self.piece = self.pieces.recv().ok().transpose().map_err(io::Error::other)?;
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece[self.read..]))
    }

    fn consume(&mut self, length: usize) {
        self.read += length;
    }
}

impl Read for Feed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}
