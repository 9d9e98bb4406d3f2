//! Requests that the library does not pass on, and answers to those that no file system needs to see.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::CreateIn;
use fuse_backend_rs::api::filesystem::{Context, Entry, FileSystem, OpenOptions};

use super::Connection;
use super::message::{HEAD, Head, Reply, Words, opcode};

/// What [`FileSystem::create`] answers with, too.
pub type Opened = (Entry, Option<u64>, OpenOptions, Option<u32>);

/// A place in an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub inode: u64,
    /// What the file system made of it when it was opened.
    pub handle: u64,
    /// In bytes.
    pub offset: u64,
}

/// What a file system is asked for beyond [`FileSystem`].
///
/// The kernel asks no second time for what is answered with `ENOSYS`, and does without.
pub trait Extra: FileSystem<Inode = u64, Handle = u64> + Send + Sync {
    /// The terms of the connection are settled; nothing was asked yet.
    fn connected(&self, connection: &Arc<Connection>) {
        let _ = connection;
    }

    /// The file that an open file is read from, where a read has no other effect.
    fn source(&self, handle: u64) -> Option<Arc<OwnedFd>> {
        let _ = handle;
        None
    }

    /// Puts everything that was written on disk.
    fn syncfs(&self, caller: &Context) -> io::Result<()> {
        let _ = caller;
        Err(unsupported())
    }

    /// Opens a new file in a directory that has no name there (`O_TMPFILE`). Without it, `EOPNOTSUPP` is what a program sees.
    fn tmpfile(&self, caller: &Context, parent: u64, how: &CreateIn) -> io::Result<Opened> {
        let _ = (caller, parent, how);
        Err(unsupported())
    }

    /// Copies between open files; answers with how many bytes. Without it, the kernel reads and writes.
    fn copy_file_range(&self, caller: &Context, from: Span, to: Span, length: u64) -> io::Result<u64> {
        let _ = (caller, from, to, length);
        Err(unsupported())
    }
}

/// For the requests that are answered here, the reply.
pub(super) fn answer<F: Extra>(fs: &F, head: &Head, request: &[u8]) -> Option<Reply> {
    let ok = || Reply::ok(head.unique);
    let body = Words(request.get(HEAD..).unwrap_or_default());
    let answered = match head.opcode {
        opcode::SYNCFS => fs.syncfs(&head.caller).map(|()| ok()),
        opcode::TMPFILE => tmpfile(fs, head, body),
        opcode::COPY_FILE_RANGE => copy(fs, head, body).map(|copied| ok().word(copied as u32).word(0)),
        opcode::COPY_FILE_RANGE_64 => copy(fs, head, body).map(|copied| ok().long(copied)),
        // The kernel sends one for every signal that meets a waiting process, and does not say whether it kills. Programs do
        // not expect a call on a file to fail for any other signal, so all are let finish.
        opcode::INTERRUPT => Err(unsupported()),
        // What is to be done at the end is done at the end of the session, of which this tells only some mounts.
        opcode::DESTROY => Ok(ok()),
        _ => return None,
    };
    Some(answered.unwrap_or_else(|error| Reply::error(head.unique, &error)))
}

fn tmpfile<F: Extra>(fs: &F, head: &Head, mut body: Words<'_>) -> io::Result<Reply> {
    let how =
        CreateIn { flags: body.word()?, mode: body.word()?, umask: body.word()?, fuse_flags: body.word()? };
    // A name follows, which means nothing.
    CStr::from_bytes_until_nul(body.0).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (entry, handle, options, backing) = fs.tmpfile(&head.caller, head.inode, &how)?;
    let reply = Reply::ok(head.unique).entry(&entry);
    Ok(reply.long(handle.unwrap_or(0)).word(options.bits()).word(backing.unwrap_or(0)))
}

fn copy<F: Extra>(fs: &F, head: &Head, mut body: Words<'_>) -> io::Result<u64> {
    let from = Span { inode: head.inode, handle: body.long()?, offset: body.long()? };
    let to = Span { inode: body.long()?, handle: body.long()?, offset: body.long()? };
    let (length, flags) = (body.long()?, body.long()?);
    match flags {
        0 => fs.copy_file_range(&head.caller, from, to, length),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn unsupported() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSYS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file system that can do nothing of this.
    struct Nothing;

    impl FileSystem for Nothing {
        type Inode = u64;
        type Handle = u64;
    }

    impl Extra for Nothing {}

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut request = vec![0; HEAD];
        request[4..8].copy_from_slice(&opcode.to_ne_bytes());
        request[8..16].copy_from_slice(&7u64.to_ne_bytes());
        request.extend(body);
        request
    }

    fn error_of(opcode: u32, body: &[u8]) -> Option<i32> {
        let request = request(opcode, body);
        let reply = answer(&Nothing, &Head::of(&request).unwrap(), &request)?.finish();
        assert_eq!(
            (reply.len(), &reply[..4], &reply[8..16]),
            (16, &16u32.to_ne_bytes()[..], &7u64.to_ne_bytes()[..])
        );
        Some(-i32::from_ne_bytes(reply[4..8].try_into().unwrap()))
    }

    #[test]
    fn what_a_file_system_cannot_do_the_kernel_does_without() {
        for (opcode, body) in [
            (opcode::SYNCFS, &[0; 8][..]),
            (opcode::TMPFILE, &[0; 18]),
            (opcode::COPY_FILE_RANGE, &[0; 56]),
            (opcode::COPY_FILE_RANGE_64, &[0; 56]),
            (opcode::INTERRUPT, &[0; 8]),
        ] {
            assert_eq!(error_of(opcode, body), Some(libc::ENOSYS), "{opcode}");
        }
        assert_eq!(error_of(opcode::DESTROY, &[]), Some(0));
    }

    #[test]
    fn flags_of_a_copy_that_do_not_exist_yet_are_refused() {
        let body = [[0; 48].as_slice(), &1u64.to_ne_bytes()].concat();
        assert_eq!(error_of(opcode::COPY_FILE_RANGE, &body), Some(libc::EINVAL));
    }

    #[test]
    fn a_request_of_another_kind_is_left_to_the_library() {
        const LOOKUP: u32 = 1;
        assert_eq!(error_of(LOOKUP, b"name\0"), None);
    }

    proptest! {
        #[test]
        fn no_request_makes_it_panic(opcode in 45u32..60, body in prop::collection::vec(any::<u8>(), 0..80)) {
            let request = request(opcode, &body);
            let _ = answer(&Nothing, &Head::of(&request).unwrap(), &request).map(Reply::finish);
            let _ = Head::of(&body);
        }
    }
}
