//! The mounts section of a bundle: option words become attributes.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{Propagation, unsupported};
use crate::error::{Error, Result};
use crate::sys::MountAttr;

/// One mount.
#[derive(Debug)]
pub(crate) struct MountPlan {
    pub(crate) target: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum Kind {
    Filesystem(Filesystem),
    /// A tree of the host, with the mounts below it or without.
    Bind {
        source: PathBuf,
        recursive: bool,
    },
    /// The container's own control groups.
    Cgroup,
}

/// A new instance of a file system.
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub(crate) fstype: String,
    pub(crate) source: Option<PathBuf>,
    /// `key`, or `key=value`, for the file system itself.
    pub(crate) options: Vec<String>,
}

/// Flags of the mount, as opposed to those of the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) top: MountAttr,
    /// For the mount and all below it.
    pub(crate) tree: MountAttr,
    pub(crate) propagation: Vec<Propagation>,
}

impl Attributes {
    /// Words like `rw` and `dev` take back earlier words, but never what the host mounted the source with.
    fn keep_protection(&mut self) {
        self.top.clear &= libc::MOUNT_ATTR__ATIME;
        self.tree.clear &= libc::MOUNT_ATTR__ATIME;
    }
}

impl MountPlan {
    pub(crate) fn new(mount: &Mount) -> Result<Self> {
        let target = mount.destination().clone();
        if !target.is_absolute() {
            return Err(Error::spec(format!("mount target {} is not absolute", target.display())));
        }
        let options = Options::parse(mount.options().as_deref().unwrap_or_default(), &target)?;
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(unsupported("id-mapped mounts"));
        }
        let fstype = mount.typ().as_deref().unwrap_or_default();
        let mut attributes = options.attributes;
        let kind = match fstype {
            _ if options.bind || fstype == "bind" => {
                let source = mount.source().clone().filter(|source| source.is_absolute());
                let source = source.ok_or_else(|| {
                    Error::spec(format!("bind mount on {} needs an absolute source", target.display()))
                })?;
                attributes.keep_protection();
                Kind::Bind { source, recursive: options.recursive }
            }
            "" => {
                return Err(Error::spec(format!(
                    "mount on {} has neither type nor bind option",
                    target.display()
                )));
            }
            "cgroup" | "cgroup2" => Kind::Cgroup,
            _ => Kind::Filesystem(Filesystem {
                fstype: fstype.to_owned(),
                source: mount.source().clone(),
                options: options.filesystem,
            }),
        };
        Ok(Self { target, kind, attributes })
    }
}

#[derive(Default)]
struct Options {
    bind: bool,
    recursive: bool,
    attributes: Attributes,
    filesystem: Vec<String>,
}

impl Options {
    fn parse(list: &[String], target: &Path) -> Result<Self> {
        let mut options = Self::default();
        for option in list {
            options.add(option, target)?;
        }
        Ok(options)
    }

    fn add(&mut self, option: &str, target: &Path) -> Result<()> {
        if let Some((set, clear)) = attribute(option) {
            change(&mut self.attributes.top, set, clear);
            // The file system is made read-only too, as mount(2) does it.
            match option {
                "ro" => self.filesystem.push(option.to_owned()),
                "rw" => self.filesystem.retain(|word| word != "ro"),
                _ => {}
            }
            return Ok(());
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            change(&mut self.attributes.tree, set, clear);
            return Ok(());
        }
        if let Some(propagation) = Propagation::parse(option) {
            self.attributes.propagation.push(propagation);
            return Ok(());
        }
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "defaults" | "" => {}
            "remount" | "tmpcopyup" | "copy-symlink" | "idmap" | "ridmap" => {
                return Err(unsupported(&format!("mount option {option:?} (on {})", target.display())));
            }
            other => self.filesystem.push(other.to_owned()),
        }
        Ok(())
    }
}

/// The bits that an option sets and clears; the later of two contradicting options wins.
fn attribute(option: &str) -> Option<(u64, u64)> {
    let atime = libc::MOUNT_ATTR__ATIME;
    let on = |bit| Some((bit, 0));
    let off = |bit| Some((0, bit));
    match option {
        "ro" => on(libc::MOUNT_ATTR_RDONLY),
        "rw" => off(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => on(libc::MOUNT_ATTR_NOSUID),
        "suid" => off(libc::MOUNT_ATTR_NOSUID),
        "nodev" => on(libc::MOUNT_ATTR_NODEV),
        "dev" => off(libc::MOUNT_ATTR_NODEV),
        "noexec" => on(libc::MOUNT_ATTR_NOEXEC),
        "exec" => off(libc::MOUNT_ATTR_NOEXEC),
        "nosymfollow" => on(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => off(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => on(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => off(libc::MOUNT_ATTR_NODIRATIME),
        "noatime" => Some((libc::MOUNT_ATTR_NOATIME, atime)),
        "strictatime" => Some((libc::MOUNT_ATTR_STRICTATIME, atime)),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => Some((libc::MOUNT_ATTR_RELATIME, atime)),
        _ => None,
    }
}

fn change(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.set = (attr.set & !clear) | set;
    attr.clear = (attr.clear & !set) | clear;
    if clear & libc::MOUNT_ATTR__ATIME != 0 {
        // The access-time modes are one field: the kernel wants the whole of it cleared to set one.
        attr.clear |= libc::MOUNT_ATTR__ATIME;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(options: &[&str]) -> Attributes {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Options::parse(&options, Path::new("/x")).unwrap().attributes
    }

    #[test]
    fn the_later_of_two_contradicting_options_wins() {
        assert_eq!(attributes(&["ro", "rw"]).top.set, 0);
        assert_eq!(attributes(&["rw", "ro"]).top, attributes(&["ro"]).top);
    }

    #[test]
    fn rro_reaches_the_mounts_below_and_ro_does_not() {
        assert_eq!(attributes(&["rro"]).tree.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(attributes(&["rro"]).top, MountAttr::default());
        assert_eq!(attributes(&["ro"]).tree, MountAttr::default());
    }

    #[test]
    fn rprivate_is_a_propagation_and_not_a_file_system_option() {
        let parsed = Options::parse(&["rprivate".into(), "mode=755".into()], Path::new("/x")).unwrap();
        assert_eq!(parsed.filesystem, ["mode=755"]);
        assert_eq!(parsed.attributes.propagation, [Propagation { flag: libc::MS_PRIVATE, recursive: true }]);
    }
}
