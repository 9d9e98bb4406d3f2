//! Extraction of a layer into a directory: safe against any archive, and complete.
//!
//! # Why a member cannot reach outside
//!
//! Nothing is ever opened, made, changed or removed by a path. Every call names *one* component below an open
//! directory, and that component is never followed if it is a link: directories are opened with `O_NOFOLLOW`
//! and `O_DIRECTORY`, files are created with `O_EXCL`, metadata is set through the descriptor or with
//! `AT_SYMLINK_NOFOLLOW`, or where no call takes that, through `/proc/self/fd`. This equals `openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, on every kernel. `..` is never passed on: it is taken out of a
//! member's name by its text, and where it comes from a link it is a step up in the list of directories that
//! are open, which begins at the root. (The one exception, in the removal of a tree, checks that it arrives
//! where it came from.)
//!
//! The only thing kept from one member to the next is that list, from the root to the last member's parent. A
//! member changes things below its end only, so what is in the list cannot be replaced behind it.
//!
//! # What a link in a path means
//!
//! A member below a symbolic link that the tree holds, such as `lib/x` where `lib -> usr/lib` came with a lower
//! layer, goes where a program in the container would put it: the link is read and walked one component at a
//! time, its `/` being the root of the tree. In a tree that holds only this layer, the lower one's link is not
//! there; then `lib` is made as a directory, as the archive says and as other engines do. Only the last
//! component is never followed: a directory that meets a link replaces it.
//!
//! # Attributes
//!
//! An ACL comes as the kernel's attribute (`SCHILY.xattr.system.posix_acl_access`, from GNU tar and this crate), as text
//! (`SCHILY.acl.access`, from GNU tar, star and bsdtar), or as both, of which the first counts. A text names users and
//! groups; without a number behind it a name says nothing here, for it is nobody's or somebody else's. Other engines
//! leave ACLs as text out. What cannot be set, or is not told in full, follows [`UnsupportedXattrs`].
//!
//! # Order
//!
//! Of two members with one path the last one counts. A directory that meets a directory keeps its content and
//! takes the new metadata; anything else replaces what is there with all below it. Missing parents are made
//! with mode 0755. A directory's own metadata is set when the extractor leaves it, so a read-only one can be
//! filled; one that is entered again keeps its time. Memory does not grow with the archive, but for some bytes
//! per name in a merged tree, where an opaque directory must know what is of this layer.
//!
//! A member that names the root, such as `./`, describes it like any directory's; without one the root stays as it
//! is. The OCI specification excepts no member, and umoci does the same; Docker on overlay2 and containerd pass it over.

mod adopt;
mod cursor;
mod fault;
mod foreign;
mod frame;
mod link;
mod member;
mod metadata;
mod name;
mod opaque;
mod remove;
mod seen;
mod site;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::os::fd::AsFd;

pub use adopt::adopt;
pub use mica_core::WhiteoutForm;
use rustix::fs::FileType;

use crate::{Entry, Error, Kind, Result};
use cursor::Cursor;
use fault::Attempt;
use link::Lead;
use metadata::XattrRules;
use name::Meaning;
use site::Site;

/// Large enough that a write costs little beside its bytes, small enough for the processor's cache.
const BUFFER: usize = 256 << 10;
const WARNING_LIMIT: usize = 100;
/// In bytes, of the paths in each set that [`Applied`] has.
const PATHS_LIMIT: usize = 8 << 20;

/// Told of a regular file that this run extracted, by its path in the tree, before it goes. An error ends the run.
pub type Displaced<'a> = Box<dyn FnMut(&[u8]) -> Result<()> + Send + 'a>;

/// What happens to an extended attribute that the file, the file system or the user namespace cannot have, or that
/// the archive does not tell in full: an ACL that names users without their numbers, an encoding that is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnsupportedXattrs {
    /// The layer is refused.
    #[default]
    Strict,
    /// The attribute, or of an ACL the rules with such names, is left out, and [`Applied::warnings`] says so.
    Warn,
}

/// What happens to `security.selinux` attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelinuxLabels {
    /// They are left out: labels belong to the policy of the host, which the host of the archive's maker had not.
    #[default]
    Skip,
    /// They are set like every other attribute.
    Keep,
}

/// How to extract.
pub struct ApplyOptions<'a> {
    /// What a whiteout becomes in the tree.
    pub whiteouts: WhiteoutForm,
    /// What happens to attributes that cannot be set.
    pub xattrs: UnsupportedXattrs,
    /// What happens to SELinux labels.
    pub labels: SelinuxLabels,
    /// Who wants to know what a later member displaces. May be told of more than this run extracted, in rare
    /// cases.
    pub displaced: Option<Displaced<'a>>,
}

impl ApplyOptions<'_> {
    /// The default rules, with this form of whiteouts.
    pub fn new(whiteouts: WhiteoutForm) -> Self {
        Self {
            whiteouts,
            xattrs: UnsupportedXattrs::default(),
            labels: SelinuxLabels::default(),
            displaced: None,
        }
    }
}

impl fmt::Debug for ApplyOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplyOptions")
            .field("whiteouts", &self.whiteouts)
            .field("xattrs", &self.xattrs)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// What an extraction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The bytes of content that were written, also of what was displaced later.
    pub bytes: u64,
    /// The inodes that were made, also of what was displaced later.
    pub inodes: u64,
    /// The layer hides everything below it. Overlayfs does not honour that mark on the root of a layer, so the
    /// layer must be mounted without its parents.
    pub opaque_root: bool,
    /// In a tree that holds only this layer: directories, by their path in the tree, that members lie in and the
    /// archive does not list. They have mode 0755 and hide the metadata that the layers below have for them, until
    /// [`adopt`] gives it to them.
    pub implied: BTreeSet<Vec<u8>>,
    /// In overlay form: directories that hold whiteouts. Where a parent has no such directory, overlayfs lists
    /// their names as if they were files, until [`adopt`] removes them.
    pub hiding: BTreeSet<Vec<u8>>,
    /// What was left out, one sentence each; the first hundred.
    pub warnings: Vec<String>,
    /// How many warnings more there were.
    pub more_warnings: u64,
    /// The length of all paths that each set ever had.
    path_bytes: [usize; 2],
}

impl Applied {
    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNING_LIMIT {
            self.warnings.push(warning);
        } else {
            self.more_warnings += 1;
        }
    }

    /// Members lie in `path`, which no member lists.
    fn imply(&mut self, path: &[u8]) {
        let added = add(&mut self.implied, &mut self.path_bytes[0], path);
        self.warn_of_too_many(added, "directories are not listed");
    }

    /// The directory at `path` holds a whiteout.
    fn hide_in(&mut self, path: &[u8]) {
        let added = add(&mut self.hiding, &mut self.path_bytes[1], path);
        self.warn_of_too_many(added, "directories hold whiteouts");
    }

    fn warn_of_too_many(&mut self, added: bool, what: &str) {
        let warning = format!("too many {what}: some are not fitted to the layers below");
        if !added && !self.warnings.contains(&warning) {
            self.warn(warning);
        }
    }

    /// What is at `path` goes, with all below it.
    fn forget(&mut self, path: &[u8]) {
        self.implied.remove(path);
        self.hiding.remove(path);
        self.forget_below(path);
    }

    /// What is below `path` stands for itself, whatever the layers below have there.
    fn forget_below(&mut self, path: &[u8]) {
        for paths in [&mut self.implied, &mut self.hiding] {
            if !paths.is_empty() {
                let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
                let below = paths.range(start.clone()..).take_while(|below| below.starts_with(&start));
                for below in below.cloned().collect::<Vec<_>>() {
                    paths.remove(&below);
                }
            }
        }
    }
}

/// Adds a path to a set and its length to what the set has taken so far; says whether there was room.
fn add(paths: &mut BTreeSet<Vec<u8>>, bytes: &mut usize, path: &[u8]) -> bool {
    if !paths.contains(path) {
        if *bytes + path.len() > PATHS_LIMIT {
            return false;
        }
        *bytes += path.len();
        paths.insert(path.to_vec());
    }
    true
}

/// Takes the members of one layer, in the archive's order, and makes them in a directory.
///
/// The directory belongs to the extractor alone while it lives. After an error it holds a part of the layer and
/// is to be thrown away; every further call fails.
#[derive(Debug)]
pub struct Extractor<'a> {
    cursor: Cursor,
    site: Site<'a>,
    buffer: Vec<u8>,
    /// The clean path of the last member.
    path: Vec<u8>,
    /// Whether its content is in the directory at hand.
    content_here: bool,
    failed: bool,
}

impl<'a> Extractor<'a> {
    /// Starts in `root`, a directory that is open, be it with `O_PATH`. It opens its own descriptors from there.
    pub fn new(root: impl AsFd, options: ApplyOptions<'a>) -> Result<Self> {
        let opening = |errno: rustix::io::Errno| Error::io("opening the root of the tree")(errno.into());
        let rules = XattrRules { unsupported: options.xattrs, labels: options.labels };
        Ok(Self {
            cursor: Cursor::new(root.as_fd()).map_err(opening)?,
            site: Site::new(options.whiteouts, rules, options.displaced),
            buffer: vec![0; BUFFER],
            path: Vec::new(),
            content_here: false,
            failed: false,
        })
    }

    /// Extracts one member. `content` yields the bytes of a file; of a sparse one, those of its segments one after
    /// the other. It may be read in part or not at all.
    pub fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        let mut path = std::mem::take(&mut self.path);
        self.content_here = false;
        let done = self
            .usable()
            .and_then(|()| name::clean(&entry.path, false, &mut path))
            .and_then(|()| self.member(&path, entry, content));
        self.path = path;
        self.failed = done.is_err();
        done.map_err(|fault| fault.of(&entry.path))
    }

    /// Where the content of the last member is now: a path from the root without links. `None` if that was no
    /// file, or nothing of it was extracted.
    pub fn content_at(&self) -> Option<Vec<u8>> {
        self.content_here.then(|| name::join(self.cursor.path(), name::split(&self.path).1))
    }

    /// Sets what is due on the directories that are open still.
    pub fn finish(mut self) -> Result<Applied> {
        let usable = self.usable();
        usable.and_then(|()| self.cursor.finish(&mut self.site)).map_err(|fault| fault.of(b"/"))?;
        Ok(self.site.applied)
    }

    fn usable(&self) -> Attempt {
        if self.failed { fault::refuse("an earlier member could not be extracted") } else { Ok(()) }
    }

    fn member(&mut self, path: &[u8], entry: &Entry, content: &mut dyn Read) -> Attempt {
        metadata::check(entry)?;
        let (parent, last) = name::split(path);
        let meaning = name::meaning(parent, last)?;
        match meaning {
            Meaning::Bookkeeping => return Ok(()),
            Meaning::Root => return self.root(entry),
            Meaning::Plain(_) | Meaning::Whiteout(_) | Meaning::Opaque => {}
        }
        // umoci lists what a directory had after the file that takes its place.
        if matches!(meaning, Meaning::Whiteout(_))
            && let Lead::Blocked(stat, path) = link::find(&self.cursor, parent)?
            && self.site.hides(&stat, &path)
        {
            return Ok(());
        }
        self.cursor.enter(parent, &mut self.site)?;
        match meaning {
            Meaning::Whiteout(name) => self.whiteout(name),
            Meaning::Opaque => self.opaque(),
            _ => self.plain(last, entry, content),
        }
    }

    fn root(&mut self, entry: &Entry) -> Attempt {
        self.cursor.ascend(0, &mut self.site)?;
        if entry.kind == Kind::Directory {
            let entry = self.translate(entry)?;
            self.describe_here(&entry);
        } else {
            let path = fault::printable(&entry.path);
            self.site.applied.warn(format!("'{path}' was left out: it names the root and is no directory"));
        }
        Ok(())
    }

    fn whiteout(&mut self, name: &[u8]) -> Attempt {
        self.cursor.displace(name, &mut self.site)?;
        self.site.hide(self.cursor.here(), self.cursor.path(), name)
    }

    fn opaque(&mut self) -> Attempt {
        let here = self.cursor.here();
        if !here.alone && !self.site.is_opaque(here.place) {
            opaque::clear(here, &mut self.site)?;
            self.site.applied.forget_below(self.cursor.path());
            self.cursor.forget_alias();
            self.cursor.here_mut().changed = true;
        }
        self.site.mark_opaque(self.cursor.here_mut())
    }

    fn translate<'e>(&mut self, entry: &'e Entry) -> Attempt<Cow<'e, Entry>> {
        foreign::translate(entry, self.site.rules.unsupported, &mut self.site.applied)
    }

    fn plain(&mut self, name: &[u8], entry: &Entry, content: &mut dyn Read) -> Attempt {
        let entry = &*self.translate(entry)?;
        match &entry.kind {
            Kind::File { size, sparse } => self.file(name, entry, *size, sparse.as_deref(), content),
            Kind::Directory => self.directory(name, entry),
            Kind::Symlink(target) => self.symlink(name, entry, target),
            Kind::Hardlink(target) => self.hardlink(name, target),
            Kind::CharDevice(major, minor) => {
                self.node(name, entry, FileType::CharacterDevice, *major, *minor)
            }
            Kind::BlockDevice(major, minor) => self.node(name, entry, FileType::BlockDevice, *major, *minor),
            Kind::Fifo => self.node(name, entry, FileType::Fifo, 0, 0),
        }
    }
}
