//! Requests and replies as the kernel lays them out: words in the order of this machine (`linux/fuse.h`).

use std::io;

use fuse_backend_rs::api::filesystem::{Context, Entry};

/// The kinds of requests that this module knows by their number.
pub(super) mod opcode {
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const READ: u32 = 15;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// How long the head of a request is.
pub(super) const HEAD: usize = 40;

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) inode: u64,
    pub(super) caller: Context,
}

impl Head {
    /// Reads it. The kernel sends no request without a whole head.
    pub(super) fn of(request: &[u8]) -> io::Result<Self> {
        let mut words = Words(request);
        let (_length, opcode) = (words.word()?, words.word()?);
        let (unique, inode) = (words.long()?, words.long()?);
        let (uid, gid, pid) = (words.word()?, words.word()?, words.word()?);
        Ok(Self { opcode, unique, inode, caller: Context { uid, gid, pid: pid as libc::pid_t } })
    }

    /// Whether the kernel waits for an answer.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.opcode, opcode::FORGET | opcode::BATCH_FORGET)
    }
}

/// What is left to read of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a>(pub(super) &'a [u8]);

impl<'a> Words<'a> {
    pub(super) fn word(&mut self) -> io::Result<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn long(&mut self) -> io::Result<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(io::ErrorKind::InvalidInput)?;
        self.0 = rest;
        Ok(*head)
    }
}

/// A reply, or a notice, which is a reply to nothing.
#[derive(Debug)]
pub(super) struct Reply(Vec<u8>);

impl Reply {
    /// To be sent as it is, or after more was added.
    pub(super) fn ok(unique: u64) -> Self {
        Self([&[0; 8][..], &unique.to_ne_bytes()].concat())
    }

    /// To be sent as it is.
    pub(super) fn error(unique: u64, error: &io::Error) -> Self {
        let mut reply = Self::ok(unique);
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        reply.0[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        reply
    }

    /// A notice of this kind, to be added to.
    pub(super) fn notice(kind: i32) -> Self {
        let mut notice = Self::ok(0);
        notice.0[4..8].copy_from_slice(&kind.to_ne_bytes());
        notice
    }

    pub(super) fn word(mut self, word: u32) -> Self {
        self.0.extend(word.to_ne_bytes());
        self
    }

    pub(super) fn long(mut self, long: u64) -> Self {
        self.0.extend(long.to_ne_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// `struct fuse_entry_out`.
    pub(super) fn entry(self, entry: &Entry) -> Self {
        let (entry_time, attr_time) = (entry.entry_timeout, entry.attr_timeout);
        let stat = &entry.attr;
        self.long(entry.inode)
            .long(entry.generation)
            .long(entry_time.as_secs())
            .long(attr_time.as_secs())
            .word(entry_time.subsec_nanos())
            .word(attr_time.subsec_nanos())
            .long(stat.st_ino)
            .long(stat.st_size as u64)
            .long(stat.st_blocks as u64)
            .long(stat.st_atime as u64)
            .long(stat.st_mtime as u64)
            .long(stat.st_ctime as u64)
            .word(stat.st_atime_nsec as u32)
            .word(stat.st_mtime_nsec as u32)
            .word(stat.st_ctime_nsec as u32)
            .word(stat.st_mode)
            .word(stat.st_nlink as u32)
            .word(stat.st_uid)
            .word(stat.st_gid)
            .word(stat.st_rdev as u32)
            .word(stat.st_blksize as u32)
            .word(entry.attr_flags)
    }

    /// As it goes to the kernel.
    pub(super) fn finish(self) -> Vec<u8> {
        self.finish_with(0)
    }

    /// The same, with so many bytes to come behind it.
    pub(super) fn finish_with(mut self, more: usize) -> Vec<u8> {
        let length = (self.0.len() + more) as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}
