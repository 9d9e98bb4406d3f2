//! A copy of a directory tree with everything that `stat` and `listxattr` show.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr,
    lsetxattr,
};

/// Copies what is in `from`, and its metadata, to the empty directory `to`.
pub(crate) fn tree(from: &Path, to: &Path) -> io::Result<()> {
    visit(from, to, &mut HashMap::new())
}

fn visit(from: &Path, to: &Path, names: &mut HashMap<u64, PathBuf>) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if !meta.is_dir() && meta.nlink() > 1 {
        if let Some(first) = names.get(&meta.ino()) {
            return fs::hard_link(first, to);
        }
        names.insert(meta.ino(), to.to_owned());
    }
    let kind = meta.file_type();
    if kind.is_dir() {
        if !to.exists() {
            fs::create_dir(to)?;
        }
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            visit(&from.join(&name), &to.join(&name), names)?;
        }
    } else if kind.is_file() {
        data(from, to)?;
    } else if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else {
        let kind = match kind {
            k if k.is_char_device() => FileType::CharacterDevice,
            k if k.is_block_device() => FileType::BlockDevice,
            k if k.is_fifo() => FileType::Fifo,
            _ => FileType::Socket,
        };
        rustix::fs::mknodat(CWD, to, kind, Mode::RUSR, meta.rdev())?;
    }
    metadata(from, to, &meta)
}

/// The parts of a file that are not holes.
fn data(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::create(to)?);
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&source, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&source, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let wanted = buffer.len().min((end - at) as usize);
            source.read_exact_at(&mut buffer[..wanted], at)?;
            target.write_all_at(&buffer[..wanted], at)?;
            at += wanted as u64;
        }
    }
    Ok(())
}

fn metadata(from: &Path, to: &Path, meta: &Metadata) -> io::Result<()> {
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    let mut names = vec![0; 1 << 16];
    let length = llistxattr(from, &mut *names)?;
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let length = lgetxattr(from, name, &mut *value)?;
        lsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
