//! A tree to extract into, beside a victim that nothing may touch.

#![allow(dead_code, unreachable_pub)]

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mica_archive::apply::{Applied, ApplyOptions, Extractor, WhiteoutForm};
use mica_archive::reader::Reader;
use mica_archive::writer::Writer;
use mica_archive::{Entry, Kind, Result, Time};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use tempfile::TempDir;

/// A member of a layer, with its content.
#[derive(Clone)]
pub struct Member {
    pub entry: Entry,
    pub content: Vec<u8>,
}

/// On one line, for the lists that a property test prints.
impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.entry.path.escape_ascii();
        match &self.entry.kind {
            Kind::Symlink(target) => write!(f, "{path} -> {}", target.escape_ascii()),
            Kind::Hardlink(target) => write!(f, "{path} = {}", target.escape_ascii()),
            Kind::Directory => write!(f, "{path}/ {:o}", self.entry.mode),
            kind => write!(f, "{path} {kind:?}"),
        }
    }
}

impl Member {
    pub fn mode(mut self, mode: u32) -> Self {
        self.entry.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.entry.uid, self.entry.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.entry.mtime = Time { seconds, nanoseconds };
        self
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.entry.xattrs.push((name.into(), value.into()));
        self
    }
}

pub fn member(path: impl AsRef<[u8]>, kind: Kind) -> Member {
    let entry = Entry {
        path: path.as_ref().to_vec(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time { seconds: 1_000_000_000, nanoseconds: 123_456_789 },
        xattrs: Vec::new(),
    };
    Member { entry, content: Vec::new() }
}

pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Member {
    let content = content.as_ref().to_vec();
    let kind = Kind::File { size: content.len() as u64, sparse: None };
    Member { content, ..member(path, kind) }.mode(0o644)
}

pub fn dir(path: impl AsRef<[u8]>) -> Member {
    member(path, Kind::Directory)
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
    member(path, Kind::Symlink(target.as_ref().to_vec())).mode(0o777)
}

pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
    member(path, Kind::Hardlink(target.as_ref().to_vec())).mode(0o644)
}

pub const OVERLAY: WhiteoutForm = WhiteoutForm::Overlay { user_xattr: false };
pub const FORMS: [WhiteoutForm; 3] = [WhiteoutForm::Merged, OVERLAY, WhiteoutForm::Aufs];

/// Extracts by way of a real tarball.
pub fn apply_with(root: &Path, members: &[Member], options: ApplyOptions<'_>) -> Result<Applied> {
    let mut writer = Writer::new(Vec::new());
    for member in members {
        writer.append(&member.entry, &mut &member.content[..])?;
    }
    let tar = writer.finish()?;
    let mut reader = Reader::new(&tar[..]);
    let mut extractor = Extractor::new(open(root), options)?;
    while let Some(entry) = reader.next()? {
        extractor.entry(&entry, &mut reader.content())?;
    }
    extractor.finish()
}

/// Hands the entries to the extractor as they are, for what no tarball can say.
pub fn apply_entries(root: &Path, members: &[Member], options: ApplyOptions<'_>) -> Result<Applied> {
    let mut extractor = Extractor::new(open(root), options)?;
    for member in members {
        extractor.entry(&member.entry, &mut &member.content[..])?;
    }
    extractor.finish()
}

pub fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

/// `root` to extract into, and `victim/hello` beside it.
pub struct Sandbox {
    dir: TempDir,
    victim: Vec<String>,
}

impl Sandbox {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "victim"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("victim/hello"), "hello world").unwrap();
        let mut sandbox = Self { dir, victim: Vec::new() };
        sandbox.victim = sandbox.look();
        sandbox
    }

    /// With this layer extracted already.
    pub fn with(base: &[Member]) -> Self {
        let sandbox = Self::new();
        sandbox.apply(WhiteoutForm::Merged, base).unwrap();
        sandbox
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root().join(below)
    }

    pub fn apply(&self, form: WhiteoutForm, members: &[Member]) -> Result<Applied> {
        apply_with(&self.root(), members, ApplyOptions::new(form))
    }

    /// Everything outside of the root: names, modes, owners, times, link counts and content.
    fn look(&self) -> Vec<String> {
        let victim = self.dir.path().join("victim");
        let hello = victim.join("hello");
        let names = |path: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            format!("{names:?}")
        };
        let meta = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
            format!("{:o} {}:{} {} {times:?}", meta.mode(), meta.uid(), meta.gid(), meta.nlink())
        };
        let content = fs::read_to_string(&hello).unwrap();
        vec![names(self.dir.path()), names(&victim), meta(&victim), meta(&hello), content]
    }

    /// Nothing outside has changed, and nothing inside has the victim's content.
    pub fn assert_unbroken(&self) {
        assert_eq!(self.look(), self.victim, "something outside of the root has changed");
        for path in walk(&self.root()) {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_file() {
                assert_ne!(fs::read(&path).unwrap(), b"hello world", "{path:?} shows what is outside");
            }
        }
    }

    /// A path as a program sees it whose root is the tree.
    pub fn inside(&self, path: &str) -> Option<fs::File> {
        let root = open(&self.root());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok().map(fs::File::from)
    }

    pub fn content(&self, path: &str) -> Option<String> {
        let mut content = String::new();
        self.inside(path)?.read_to_string(&mut content).ok()?;
        Some(content)
    }

    pub fn same_file(&self, a: &str, b: &str) -> bool {
        let id = |path| {
            self.inside(path).map(|file| file.metadata().unwrap()).map(|meta| (meta.dev(), meta.ino()))
        };
        id(a).is_some() && id(a) == id(b)
    }

    /// The names in the tree, directories with a slash at the end, sorted.
    pub fn names(&self) -> Vec<String> {
        let root = self.root();
        walk(&root)
            .iter()
            .map(|path| {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                if fs::symlink_metadata(path).unwrap().is_dir() {
                    format!("{name}/")
                } else {
                    name.to_owned()
                }
            })
            .collect()
    }
}

/// Everything below a directory, sorted.
pub fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}
