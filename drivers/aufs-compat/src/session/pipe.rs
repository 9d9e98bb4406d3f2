//! Answers to reads that this process never holds.
//!
//! The library reads a file into memory and writes that to `/dev/fuse`: the content is copied twice before the kernel has it in
//! its cache. Through a pipe it goes by reference (splice(2)), and is copied once.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

use super::LONGEST_DATA;
use super::message::Reply;

/// What is shorter is no part of a read ahead, and left to the library.
const SHORTEST: usize = 64 * 1024;

/// What one thread sends content through. It is empty between two answers.
#[derive(Debug)]
pub(super) struct Pipe {
    from: io::PipeReader,
    to: io::PipeWriter,
    /// How many pages fit in. The head of an answer takes one.
    pages: usize,
}

/// A part of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Pipe {
    /// None where there is none to be had.
    pub(super) fn new() -> Option<Self> {
        let (from, to) = io::pipe().ok()?;
        // More than /proc/sys/fs/pipe-max-size is for who has CAP_SYS_RESOURCE.
        let sizes = [2 * LONGEST_DATA, LONGEST_DATA];
        let size = sizes.into_iter().find_map(|size| fcntl_setpipe_size(&to, size).ok())?;
        Some(Self { from, to, pages: size / page_size() })
    }

    /// Whether this part is to go through here.
    pub(super) fn takes(&self, part: Part) -> bool {
        let page = page_size();
        let before = part.offset as usize % page;
        part.length >= SHORTEST && (before + part.length).div_ceil(page) < self.pages
    }

    /// Answers a read with a part of a file. Fails where nothing was answered: the file cannot be read this way, or not at all.
    /// After that this pipe is not to be used any more.
    pub(super) fn answer(
        &mut self,
        queue: BorrowedFd<'_>,
        unique: u64,
        file: BorrowedFd<'_>,
        part: Part,
    ) -> io::Result<()> {
        use std::io::Write;
        let head = Reply::ok(unique).finish_with(part.length);
        self.to.write_all(&head)?;
        let length = self.fill(file, part)?;
        if length < part.length {
            return self.answer_short(queue, unique, head.len(), length);
        }
        let whole = head.len() + length;
        let sent = splice(&self.from, None, queue, None, whole, SpliceFlags::empty())?;
        if sent == whole { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn fill(&self, file: BorrowedFd<'_>, part: Part) -> io::Result<usize> {
        let mut length = 0;
        while length < part.length {
            let mut offset = part.offset + length as u64;
            let flags = SpliceFlags::NONBLOCK;
            match splice(file, Some(&mut offset), &self.to, None, part.length - length, flags) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(length)
    }

    /// The file ended: the head says more than there is.
    fn answer_short(
        &mut self,
        queue: BorrowedFd<'_>,
        unique: u64,
        head: usize,
        length: usize,
    ) -> io::Result<()> {
        let mut reply = vec![0; head + length];
        self.from.read_exact(&mut reply)?;
        reply[..head].copy_from_slice(&Reply::ok(unique).finish_with(length));
        rustix::io::write(queue, &reply)?;
        Ok(())
    }
}

fn page_size() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    /// What an answer to a read of this part comes to, of a file of 100 KiB.
    fn answered(part: Part) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, content())?;
        let mut pipe = Pipe::new().unwrap();
        let (mut queue, to) = io::pipe()?;
        fcntl_setpipe_size(&to, LONGEST_DATA)?;
        pipe.answer(to.as_fd(), 7, File::open(&file)?.as_fd(), part)?;
        // It is empty again.
        pipe.answer(to.as_fd(), 7, File::open(&file)?.as_fd(), part)?;
        drop(to);
        let mut sent = Vec::new();
        queue.read_to_end(&mut sent)?;
        let (first, second) = sent.split_at(sent.len() / 2);
        assert_eq!(first, second);
        Ok((first[..16].to_vec(), first[16..].to_vec()))
    }

    fn content() -> Vec<u8> {
        (0..100 << 10).map(|at: u32| at.to_ne_bytes()[at as usize % 3]).collect()
    }

    #[test]
    fn a_part_is_answered_with_its_content() {
        for (offset, length) in [(0, 100 << 10), (4096, 65536), (4097, 65536), (1, 3)] {
            let (head, sent) = answered(Part { offset, length }).unwrap();
            assert_eq!(head, Reply::ok(7).finish_with(length));
            assert_eq!(sent, content()[offset as usize..][..length], "{length} at {offset}");
        }
    }

    #[test]
    fn where_the_file_ends_the_answer_does_too() {
        for (offset, there) in [(90 << 10, 10 << 10), (100 << 10, 0), (1 << 40, 0)] {
            let (head, sent) = answered(Part { offset, length: 65536 }).unwrap();
            assert_eq!(head, Reply::ok(7).finish_with(there));
            assert_eq!(sent, content()[content().len() - there..], "at {offset}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_answered() {
        let (queue, to) = io::pipe().unwrap();
        let part = Part { offset: 0, length: 65536 };
        let directory = File::open("/").unwrap();
        Pipe::new().unwrap().answer(to.as_fd(), 7, directory.as_fd(), part).unwrap_err();
        rustix::io::ioctl_fionbio(&queue, true).unwrap();
        assert_eq!(rustix::io::read(&queue, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
    }

    #[test]
    fn no_part_is_taken_that_does_not_fit() {
        let pipe = Pipe::new().unwrap();
        let takes = |offset, length| pipe.takes(Part { offset, length });
        let most = (pipe.pages - 1) * page_size();
        assert!(!takes(0, SHORTEST - 1) && takes(0, SHORTEST));
        assert!(takes(0, most) && !takes(1, most) && !takes(0, most + 1));
    }
}
