//! Layer tarballs as lists of members, applied through `mica-archive` as the engine does it.

use std::io;
use std::path::Path;

use mica_archive::apply::{ApplyOptions, Extractor};
use mica_archive::reader::Reader;
use mica_archive::{Entry, Kind, Time};

use crate::bench::{Bench, Holds, How};
use crate::mounted::Mounted;
use crate::outcome::{Doing, Verdict};

/// One member with its content.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) entry: Entry,
    pub(crate) content: Vec<u8>,
}

fn member(path: &str, kind: Kind, mode: u32) -> Member {
    let entry = Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Time { seconds: 1_500_000_000, nanoseconds: 0 },
        xattrs: Vec::new(),
    };
    Member { entry, content: Vec::new() }
}

pub(crate) fn file(path: &str, content: &str) -> Member {
    let kind = Kind::File { size: content.len() as u64, sparse: None };
    Member { content: content.into(), ..member(path, kind, 0o644) }
}

pub(crate) fn directory(path: &str) -> Member {
    member(path, Kind::Directory, 0o755)
}

pub(crate) fn symlink(path: &str, target: &str) -> Member {
    member(path, Kind::Symlink(target.into()), 0o777)
}

pub(crate) fn hard_link(path: &str, to: &str) -> Member {
    member(path, Kind::Hardlink(to.into()), 0o644)
}

pub(crate) fn device(path: &str, major: u32, minor: u32) -> Member {
    member(path, Kind::CharDevice(major, minor), 0o660)
}

pub(crate) fn fifo(path: &str) -> Member {
    member(path, Kind::Fifo, 0o640)
}

/// Hides what the parent has under this path.
pub(crate) fn whiteout(path: &str) -> Member {
    let (dir, name) =
        path.rsplit_once('/').map_or((String::new(), path), |(dir, name)| (format!("{dir}/"), name));
    file(&format!("{dir}.wh.{name}"), "")
}

/// Hides all that the parent has below this directory.
pub(crate) fn opaque(dir: &str) -> Member {
    file(&format!("{dir}/.wh..wh..opq"), "")
}

impl Member {
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.entry.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.entry.uid, self.entry.gid) = (uid, gid);
        self
    }

    pub(crate) fn time(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.entry.mtime = Time { seconds, nanoseconds };
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.entry.xattrs.push((name.into(), value.into()));
        self
    }
}

/// Fills a layer with these members.
pub(crate) fn apply(bench: &Bench<'_>, layer: &impl Holds, members: &[Member]) -> Verdict {
    bench.mount(layer, How::Apply)?.visit(|tree| extract(tree, members))
}

fn extractor(tree: &Mounted) -> Verdict<Extractor<'static>> {
    let root = open(tree.path())?;
    Extractor::new(root, ApplyOptions::new(tree.whiteouts())).doing(|| "extract")
}

fn extract(tree: &Mounted, members: &[Member]) -> Verdict {
    let mut extractor = extractor(tree)?;
    for member in members {
        extractor.entry(&member.entry, &mut &*member.content).doing(|| "extract")?;
    }
    extractor.finish().map(drop).doing(|| "extract")
}

/// Fills a layer with a tarball, and says how many bytes of content that was.
pub(crate) fn apply_tar(bench: &Bench<'_>, layer: &impl Holds, tar: &[u8]) -> Verdict<u64> {
    bench.mount(layer, How::Apply)?.visit(|tree| {
        let mut extractor = extractor(tree)?;
        let mut reader = Reader::new(tar);
        while let Some(entry) = reader.next().doing(|| "read the tarball")? {
            extractor.entry(&entry, &mut reader.content()).doing(|| "extract")?;
        }
        extractor.finish().map(|applied| applied.bytes).doing(|| "extract")
    })
}

fn open(dir: &Path) -> Verdict<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
        .map_err(io::Error::from)
        .doing(|| format!("open {}", dir.display()))
}
