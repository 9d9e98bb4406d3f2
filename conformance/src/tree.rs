//! What a directory tree holds, so that two trees can be compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::outcome::{Doing, Stop, Verdict};

/// Extended attributes that the host puts on files by itself: its security modules, and xfs, which shows ACLs once more.
const HOSTS_OWN: [&str; 5] =
    ["security.selinux", "security.ima", "security.evm", "trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"];

/// How many differences a failure tells.
const TOLD: usize = 20;

/// Everything that one name of a tree shows to `stat`, `read`, `readlink` and `getxattr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `file`, `directory`, `link`, `character device`, `block device`, `fifo` or `socket`.
    pub kind: &'static str,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner and the group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// The length of a file.
    pub size: u64,
    /// A hash of a file's content.
    pub content: u64,
    /// Where a symbolic link points.
    pub target: Option<PathBuf>,
    /// The number of a device.
    pub device: u64,
    /// By full name.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first name, in order, of the file that this is another name of.
    pub same_as: Option<PathBuf>,
    /// The inode number, which no comparison looks at.
    pub inode: u64,
}

/// Whose times two trees must agree on. The times of what a test did not set come from the clock and always differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Nobody's.
    Ignored,
    /// All but the directories'.
    OfFiles,
    /// Everybody's.
    OfAll,
}

/// A tree at one moment, by path below its root; the root itself is the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The nodes.
    pub nodes: BTreeMap<PathBuf, Node>,
}

impl Snapshot {
    /// Reads the whole tree, contents included. It is not entered where something is mounted in it.
    pub fn of(root: &Path) -> Verdict<Self> {
        let mut reader = Reader { root, names: HashMap::new(), nodes: BTreeMap::new() };
        reader.visit(PathBuf::new())?;
        let mut nodes = reader.nodes;
        for names in reader.names.values_mut().filter(|names| names.len() > 1) {
            names.sort();
            for name in &names[1..] {
                if let Some(node) = nodes.get_mut(name) {
                    node.same_as = Some(names[0].clone());
                }
            }
        }
        Ok(Self { nodes })
    }

    /// Each way in which this tree differs from the expected one, a line each.
    pub fn differences(&self, expected: &Self, times: Times) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, node) in &expected.nodes {
            match self.nodes.get(path) {
                None => lines.push(format!("{} is missing, expected a {}", shown(path), node.kind)),
                Some(found) => node.tell(found, times, &shown(path), &mut lines),
            }
        }
        for (path, node) in &self.nodes {
            if !expected.nodes.contains_key(path) {
                lines.push(format!("{} is there, a {}; expected nothing", shown(path), node.kind));
            }
        }
        lines
    }

    /// Fails where this tree differs from the expected one.
    pub fn expect(&self, expected: &Self, times: Times) -> Verdict {
        let lines = self.differences(expected, times);
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} differences", lines.len());
        for line in lines.iter().take(TOLD) {
            let _ = write!(text, "\n  {line}");
        }
        if lines.len() > TOLD {
            text.push_str("\n  …");
        }
        Err(Stop::failed(text))
    }

    /// The paths at which two trees differ in anything that a layer tarball tells: a directory's time is left out,
    /// for a new name in it changes that too.
    pub fn changed(&self, parent: &Self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self
            .nodes
            .iter()
            .filter(|(path, node)| {
                let mut lines = Vec::new();
                match parent.nodes.get(*path) {
                    Some(old) => old.tell(node, Times::OfFiles, "", &mut lines),
                    None => return true,
                }
                !lines.is_empty()
            })
            .map(|(path, _)| path.clone())
            .collect();
        paths.extend(parent.nodes.keys().filter(|path| !self.nodes.contains_key(*path)).cloned());
        paths.sort();
        paths
    }
}

impl Node {
    fn tell(&self, found: &Self, times: Times, path: &str, lines: &mut Vec<String>) {
        let mut differs = |what: &str, found: String, expected: String| {
            if found != expected {
                lines.push(format!("{path}: {what} is {found}, expected {expected}"));
            }
        };
        if self.kind != found.kind {
            return differs("kind", found.kind.to_owned(), self.kind.to_owned());
        }
        differs("mode", format!("{:04o}", found.mode), format!("{:04o}", self.mode));
        differs("owner", format!("{:?}", found.owner), format!("{:?}", self.owner));
        let timed = match times {
            Times::Ignored => false,
            Times::OfFiles => self.kind != "directory",
            Times::OfAll => true,
        };
        if timed {
            let text = |(seconds, nanoseconds)| format!("{seconds}.{nanoseconds:09}");
            differs("mtime", text(found.mtime), text(self.mtime));
        }
        differs("size", found.size.to_string(), self.size.to_string());
        if found.size == self.size {
            differs("content", format!("#{:016x}", found.content), format!("#{:016x}", self.content));
        }
        differs("target", format!("{:?}", found.target), format!("{:?}", self.target));
        differs("device", format!("{:#x}", found.device), format!("{:#x}", self.device));
        let other_name = |same: &Option<PathBuf>| {
            same.as_deref().map_or("no other name".to_owned(), |p| format!("one with {}", shown(p)))
        };
        differs("hard link", other_name(&found.same_as), other_name(&self.same_as));
        for name in self.xattrs.keys().chain(found.xattrs.keys()) {
            let text = |value: Option<&Vec<u8>>| {
                value.map_or("absent".to_owned(), |v| format!("\"{}\"", v.escape_ascii()))
            };
            let what = format!("attribute {}", name.display());
            let (found, expected) = (text(found.xattrs.get(name)), text(self.xattrs.get(name)));
            if found != expected && !lines.iter().any(|line| line.starts_with(&format!("{path}: {what}"))) {
                lines.push(format!("{path}: {what} is {found}, expected {expected}"));
            }
        }
    }
}

struct Reader<'a> {
    root: &'a Path,
    names: HashMap<(u64, u64), Vec<PathBuf>>,
    nodes: BTreeMap<PathBuf, Node>,
}

impl Reader<'_> {
    fn visit(&mut self, path: PathBuf) -> Verdict {
        let full = if path.as_os_str().is_empty() { self.root.to_owned() } else { self.root.join(&path) };
        let meta = fs::symlink_metadata(&full).doing(|| format!("stat {}", shown(&path)))?;
        if meta.is_dir() {
            for entry in fs::read_dir(&full).doing(|| format!("list {}", shown(&path)))? {
                let name = entry.doing(|| format!("list {}", shown(&path)))?.file_name();
                self.visit(path.join(name))?;
            }
        } else if meta.nlink() > 1 {
            self.names.entry((meta.dev(), meta.ino())).or_default().push(path.clone());
        }
        let node = node(&full, &meta).map_err(|stop| stop.within(shown(&path)))?;
        self.nodes.insert(path, node);
        Ok(())
    }
}

fn node(full: &Path, meta: &Metadata) -> Verdict<Node> {
    let kind = meta.file_type();
    let device = kind.is_char_device() || kind.is_block_device();
    Ok(Node {
        kind: match kind {
            k if k.is_file() => "file",
            k if k.is_dir() => "directory",
            k if k.is_symlink() => "link",
            k if k.is_char_device() => "character device",
            k if k.is_block_device() => "block device",
            k if k.is_fifo() => "fifo",
            _ => "socket",
        },
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        size: if kind.is_file() { meta.len() } else { 0 },
        content: if kind.is_file() { hash(full)? } else { 0 },
        target: if kind.is_symlink() { Some(fs::read_link(full).doing(|| "read the link")?) } else { None },
        device: if device { meta.rdev() } else { 0 },
        xattrs: xattrs(full)?,
        same_as: None,
        inode: meta.ino(),
    })
}

fn hash(path: &Path) -> Verdict<u64> {
    let mut file = File::open(path).doing(|| "open")?;
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).doing(|| "read")? {
            0 => return Ok(hasher.finish()),
            n => hasher.write(&buffer[..n]),
        }
    }
}

/// The extended attributes of a name that may be a symbolic link; none where the file system has none.
pub(crate) fn xattrs(path: &Path) -> Verdict<BTreeMap<OsString, Vec<u8>>> {
    use rustix::io::Errno;
    let mut list = Vec::new();
    let length = match rustix::fs::llistxattr_query(path) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).doing(|| "list the extended attributes"),
    };
    list.resize(length, 0);
    let length = rustix::fs::llistxattr(path, &mut *list).doing(|| "list the extended attributes")?;
    let names = list[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    for name in names.map(OsStr::from_bytes).filter(|name| HOSTS_OWN.iter().all(|own| name != own)) {
        let doing = || format!("read attribute {}", name.display());
        let length = rustix::fs::lgetxattr_query(path, name).doing(doing)?;
        let mut value = vec![0; length];
        let length = rustix::fs::lgetxattr(path, name, &mut *value).doing(doing)?;
        value.truncate(length);
        found.insert(OsString::from_vec(name.as_bytes().to_vec()), value);
    }
    Ok(found)
}

/// A path below a tree's root, for people.
pub(crate) fn shown(path: &Path) -> String {
    format!("/{}", path.as_os_str().as_bytes().escape_ascii())
}
