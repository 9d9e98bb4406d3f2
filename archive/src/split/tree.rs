//! Files in the tree of a layer, by the paths that an archive has for them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

/// Paths of up to this many bytes are opened at once; PATH_MAX is 4096.
const MAX_PATH: usize = 4000;

/// Writes the path that a member has in the tree to `out`: without leading, trailing and double slashes, `.` and `..`,
/// as if the root was its own parent.
pub(super) fn clean(path: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|&byte| byte == b'/').unwrap_or(0)),
            name => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(name);
            }
        }
    }
}

/// Whether a file of this clean path comes to be in the tree: the root, whiteouts and AUFS's bookkeeping do not.
pub(super) fn is_kept(path: &[u8]) -> bool {
    let mut names = path.rsplit(|&byte| byte == b'/');
    let last = names.next().unwrap_or_default();
    !last.is_empty() && !last.starts_with(b".wh.") && !names.any(|name| name.starts_with(b".wh..wh."))
}

/// Opens the regular file at a clean path, through no link and out of no root. What else stands there is an error, and
/// is not waited for either.
pub(super) fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<File> {
    let mut directory: Option<OwnedFd> = None;
    let mut rest = path;
    while let Some((part, after)) = split_long(rest) {
        let from = directory.as_ref().map_or(root, AsFd::as_fd);
        directory = Some(open(from, part, OFlags::PATH | OFlags::DIRECTORY)?);
        rest = after;
    }
    let from = directory.as_ref().map_or(root, AsFd::as_fd);
    let file = open(from, rest, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file in the tree"));
    }
    Ok(File::from(file))
}

/// Splits off as much of a path as can be opened at once, unless that is all of it.
fn split_long(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = path.get(..=MAX_PATH)?;
    let slash = start.iter().rposition(|&byte| byte == b'/')?;
    Some((&path[..slash], &path[slash + 1..]))
}

fn open(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            // openat2(2): a rename elsewhere raced with the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// The next run of data in a file, from `offset` on: where it starts and ends.
pub(super) fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(Some((start, rustix::fs::seek(file, SeekFrom::Hole(start))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_by_its_text() {
        for (path, clean_path) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a/../b", "b"),
            ("../a", "a"),
            ("a/b/../../..", ""),
            ("..a/b..", "..a/b.."),
        ] {
            let mut out = b"before".to_vec();
            clean(path.as_bytes(), &mut out);
            assert_eq!(out, clean_path.as_bytes(), "{path}");
        }
    }

    #[test]
    fn what_never_comes_to_be_a_file_is_told_by_its_name() {
        for path in ["", ".wh.a", "a/.wh..wh..opq", ".wh..wh.plnk/1.2", "a/.wh..wh.orph/b/c"] {
            assert!(!is_kept(path.as_bytes()), "{path}");
        }
        for path in ["a", ".wh.etc/file", "a/b.wh.c"] {
            assert!(is_kept(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_file_is_found_however_long_its_path_is() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = OwnedFd::from(File::open(root.path()).unwrap());
        let mut path = Vec::new();
        let name = [b'd'; 200];
        for _ in 0..70 {
            rustix::fs::mkdirat(&dir, &name[..], Mode::RWXU).unwrap();
            dir = open(dir.as_fd(), &name, OFlags::RDONLY).unwrap();
            path.extend_from_slice(&name);
            path.push(b'/');
        }
        let made = rustix::fs::openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
        made.unwrap();
        path.extend_from_slice(b"file");
        assert!(path.len() > 3 * MAX_PATH);
        open_file(File::open(root.path()).unwrap().as_fd(), &path).unwrap();
    }

    #[test]
    fn links_pipes_and_directories_are_no_files() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("dir")).unwrap();
        std::fs::write(root.path().join("dir/file"), b"x").unwrap();
        std::os::unix::fs::symlink("dir", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("dir/file", root.path().join("file-link")).unwrap();
        let fd = File::open(root.path()).unwrap();
        rustix::fs::mknodat(&fd, "pipe", FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(open_file(fd.as_fd(), b"dir/file").is_ok());
        for path in ["dir", "link/file", "file-link", "pipe", "../../etc/passwd", "missing"] {
            assert!(open_file(fd.as_fd(), path.as_bytes()).is_err(), "{path}");
        }
    }
}
