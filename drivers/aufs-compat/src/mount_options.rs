//! The options of a mount, as AUFS's, fuse-overlayfs's and fstab's are written.

mod known;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use mica_core::{Error, Result};
use rustix::mount::MountAttrFlags;

use crate::branches::{self, BranchSpec, Permission, parse_list, refused, split, unescape};
use known::Known;

/// How a union is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// Who has a lower file open while it is copied up goes on reading the old content, as with overlayfs (`stale_reads`). The
    /// kernel then reads lower files by itself on a writable mount, too.
    pub stale_reads: bool,
    /// Nothing is put on disk before it is in its place (`volatile`): after a crash the writable branch is to be thrown away.
    pub volatile: bool,
    /// The kernel reads and writes files by itself where it can (`nopassthrough` turns it off).
    pub passthrough: bool,
    /// How many threads serve (`threads=N`); none means one for each processor.
    pub threads: Option<usize>,
    /// The name of the directory in which the branches are shown (`si=HEX`), for the [helper](crate::helper) alone.
    pub id: Option<String>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { stale_reads: false, volatile: false, passthrough: true, threads: None, id: None }
    }
}

impl ServeOptions {
    /// The options that [`MountOptions::add`] reads as these.
    pub fn text(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.stale_reads.then(|| "stale_reads".to_owned()));
        words.extend(self.volatile.then(|| "volatile".to_owned()));
        words.extend((!self.passthrough).then(|| "nopassthrough".to_owned()));
        words.extend(self.threads.map(|threads| format!("threads={threads}")));
        words.extend(self.id.as_ref().map(|id| format!("si={id}")));
        words.join(",")
    }
}

/// Everything that options say of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The branches, the topmost first.
    pub branches: Vec<BranchSpec>,
    /// How it is served.
    pub options: ServeOptions,
    /// What the kernel forbids on it; nothing of that unless it is asked for, so devices and setuid programs work.
    pub attributes: MountAttrFlags,
    /// An SELinux context for every file (`context=`).
    pub label: Option<String>,
    /// What the mount table is to show as its source (`fsname=`).
    pub source: Option<OsString>,
    overlay: OverlayWords,
}

/// `lowerdir` and `upperdir`, which can come in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OverlayWords {
    lower: Vec<Vec<u8>>,
    upper: Option<Vec<u8>>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            branches: Vec::new(),
            options: ServeOptions::default(),
            attributes: MountAttrFlags::empty(),
            label: None,
            source: None,
            overlay: OverlayWords::default(),
        }
    }
}

impl MountOptions {
    /// Whether it is mounted so that nobody writes it.
    pub fn is_read_only(&self) -> bool {
        self.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }

    /// Adds the options of a list with commas between them. Of two that contradict each other the later one counts.
    pub fn add(&mut self, list: &[u8]) -> Result<()> {
        split(list, b',').filter(|word| !word.is_empty()).try_for_each(|word| self.add_one(word))
    }

    /// The same, but passes over what it does not know, as `mount -s` asks for.
    pub fn add_sloppily(&mut self, list: &[u8]) {
        for word in split(list, b',') {
            let _ = self.add_one(word);
        }
    }

    /// Adds the branches that stand where a device would, if they do: `br:…`.
    pub fn add_source(&mut self, source: &[u8]) -> Result<bool> {
        let names = [&b"br:"[..], b"br=", b"dirs:", b"dirs=", b"lowerdir="];
        if !names.iter().any(|name| source.starts_with(name)) {
            return Ok(false);
        }
        self.add(source).map(|()| true)
    }

    /// The branches are complete: refuses those that make no union. Relative paths begin at the working directory.
    pub fn finish(mut self) -> Result<Self> {
        let overlay = std::mem::take(&mut self.overlay);
        if overlay != OverlayWords::default() {
            if !self.branches.is_empty() {
                return Err(refused(
                    "the branches are named twice: use either br: or lowerdir= and upperdir=",
                ));
            }
            self.branches = overlay.branches()?;
        }
        let read_only = self.is_read_only();
        for BranchSpec { path, permission } in &mut self.branches {
            *path =
                std::path::absolute(&*path).map_err(Error::io(|| format!("find '{}'", path.display())))?;
            if read_only {
                *permission = permission.frozen();
            }
        }
        branches::check(&self.branches)?;
        Ok(self)
    }

    fn add_one(&mut self, word: &[u8]) -> Result<()> {
        let (name, value) = match word.iter().position(|&byte| byte == b'=' || byte == b':') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        };
        let name = String::from_utf8_lossy(name);
        if self.add_branches(&name, value)? || self.add_own(&name, value)? {
            return Ok(());
        }
        let value = value.map(|value| String::from_utf8_lossy(&unescape(value)).into_owned());
        match known::find(&name, value.as_deref()) {
            Some(Known::Ignored) => Ok(()),
            Some(Known::Set(set)) => {
                self.attributes |= set;
                Ok(())
            }
            Some(Known::Clear(clear)) => {
                self.attributes -= clear;
                Ok(())
            }
            Some(Known::Time(how)) => {
                self.attributes -= known::times();
                self.attributes |= how;
                Ok(())
            }
            Some(Known::Refused(why)) => Err(refused(format!("option '{name}' is not possible here: {why}"))),
            None => Err(unknown(&name, value.as_deref())),
        }
    }

    fn add_branches(&mut self, name: &str, value: Option<&[u8]>) -> Result<bool> {
        match (name, value) {
            ("br" | "dirs", Some(list)) if self.branches.is_empty() => {
                self.branches = parse_list(list, true)?;
            }
            ("br" | "dirs", Some(_)) => {
                return Err(refused("the branches are named twice: add more by append:"));
            }
            ("append", Some(list)) => {
                let more = parse_list(list, self.branches.is_empty())?;
                self.branches.extend(more);
            }
            ("prepend", Some(list)) => self.insert(0, list)?,
            ("add" | "ins", Some(list)) => {
                let at = list.iter().position(|&byte| byte == b':').unwrap_or(list.len());
                let index = String::from_utf8_lossy(&list[..at]).parse::<usize>();
                let Some(index) = index.ok().filter(|&index| index <= self.branches.len()) else {
                    return Err(refused(format!(
                        "'{name}' takes the place of the new branch first, as in {name}:1:/b=ro+wh"
                    )));
                };
                self.insert(index, list.get(at + 1..).unwrap_or_default())?;
            }
            ("lowerdir", Some(list)) => self.overlay.lower = split(list, b':').map(unescape).collect(),
            ("upperdir", Some(path)) => self.overlay.upper = Some(unescape(path)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn insert(&mut self, index: usize, list: &[u8]) -> Result<()> {
        let more = parse_list(list, index == 0)?;
        self.branches.splice(index..index, more);
        Ok(())
    }

    fn add_own(&mut self, name: &str, value: Option<&[u8]>) -> Result<bool> {
        let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
        match (name, text) {
            ("stale_reads", None) => self.options.stale_reads = true,
            ("volatile", None) => self.options.volatile = true,
            ("passthrough", None) => self.options.passthrough = true,
            ("nopassthrough", None) => self.options.passthrough = false,
            ("threads", Some(count)) => {
                let threads = count.parse().ok().filter(|count| (1..=1024).contains(count));
                self.options.threads =
                    Some(threads.ok_or_else(|| refused("'threads' takes a number from 1 to 1024"))?);
            }
            ("si", Some(id)) => {
                let is_id =
                    !id.is_empty() && id.len() <= 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
                self.options.id = Some(
                    is_id.then_some(id).ok_or_else(|| refused("'si' takes at most 16 hexadecimal digits"))?,
                );
            }
            ("context", Some(label)) => self.label = Some(label.trim_matches('"').to_owned()),
            ("fsname", Some(_)) => self.source = value.map(|value| OsString::from_vec(unescape(value))),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl OverlayWords {
    /// Whiteouts count on all of them: AUFS's, since that is what a union of these leaves in them.
    fn branches(self) -> Result<Vec<BranchSpec>> {
        let upper = self.upper.map(|path| (path, Permission::Writable { whole_whiteouts: false }));
        let read_only = Permission::ReadOnly { real: false, whiteouts: true };
        let lower = self.lower.into_iter().map(|path| (path, read_only));
        let branch = |(path, permission): (Vec<u8>, Permission)| match path.is_empty() {
            true => Err(refused("a branch has no path")),
            false => Ok(BranchSpec { path: OsString::from_vec(path).into(), permission }),
        };
        upper.into_iter().chain(lower).map(branch).collect()
    }
}

fn unknown(name: &str, value: Option<&str>) -> Error {
    let given = value.map_or_else(|| format!("'{name}'"), |value| format!("'{name}={value}'"));
    refused(format!(
        "option {given} is unknown; there are br: (or lowerdir=, upperdir=), append:, prepend:, ro, nosuid, nodev, noexec, noatime, \
         context=, fsname=, stale_reads, volatile, nopassthrough and threads=, and those of AUFS and fstab that need nothing done"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(list: &str) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        options.add(list.as_bytes())?;
        options.finish()
    }

    fn branches(list: &str) -> String {
        branches::list(&read(list).unwrap().branches).into_string().unwrap()
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut options = MountOptions::default();
            let _ = options.add(&bytes);
            let _ = options.finish();
        }

        #[test]
        fn no_words_make_the_parser_panic(words in prop::collection::vec(
            r"(br|dirs|append|prepend|add|ins|lowerdir|upperdir|si|threads|udba|xino|context|ro)?[:=]?[/a0-9:=+\\]{0,9}(=rw|=ro\+wh)?", 0..6))
        {
            let mut options = MountOptions::default();
            let _ = options.add(words.join(",").as_bytes());
            let _ = options.finish();
        }

        #[test]
        fn what_is_written_is_read_as_the_same(
            (stale_reads, volatile, passthrough) in any::<(bool, bool, bool)>(),
            threads in prop::option::of(1usize..1024),
            id in prop::option::of("[0-9a-f]{1,16}"),
        ) {
            let options = ServeOptions { stale_reads, volatile, passthrough, threads, id };
            let mut read = MountOptions::default();
            read.add(options.text().as_bytes()).unwrap();
            prop_assert_eq!(read.options, options);
        }
    }

    #[test]
    fn the_options_of_dockers_aufs_driver_are_taken() {
        let all = "br:/d/c=rw:/d/b=ro+wh,dio,xino=/dev/shm/aufs.xino,dirperm1,append:/d/a=ro+wh,";
        assert_eq!(branches(all), "/d/c=rw:/d/b=ro+wh:/d/a=ro+wh");
    }

    #[test]
    fn branches_can_be_added_anywhere() {
        assert_eq!(
            branches("br:/a=ro,prepend:/b=rw,add:1:/c=ro+wh,append=/d=rr"),
            "/b=rw:/c=ro+wh:/a=ro:/d=rr"
        );
    }

    #[test]
    fn the_directories_of_an_overlay_are_branches() {
        assert_eq!(branches(r"lowerdir=/a\:b:/c,workdir=/w,upperdir=/u"), r"/u=rw:/a\:b=ro+wh:/c=ro+wh");
        assert_eq!(branches("lowerdir=/a:/b"), "/a=ro+wh:/b=ro+wh");
    }

    #[test]
    fn a_mount_that_is_read_only_has_no_writable_branch() {
        assert_eq!(branches("br:/a=rw:/b=ro,ro"), "/a=ro+wh:/b=ro");
        assert_eq!(branches("br:/a=rw:/b=ro,ro,rw"), "/a=rw:/b=ro");
    }

    #[test]
    fn what_fstab_says_of_a_mount_is_taken() {
        let all = "br:/a=rw,defaults,noauto,nofail,_netdev,x-systemd.automount,user,nosuid,dev,noatime,comment=x,exec";
        let attributes = read(all).unwrap().attributes;
        assert_eq!(attributes, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOATIME);
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused_by_name() {
        for (list, words) in [
            ("br:/a=rw,nosuch", "'nosuch' is unknown"),
            ("br:/a=rw,nosuch=1", "'nosuch=1' is unknown"),
            ("br:/a=rw,shwh", "'shwh' is not possible here"),
            ("br:/a=rw,del:/a", "'del'"),
            ("br:/a=rw,udba=sometimes", "'udba'"),
            ("br:/a=rw,threads=0", "'threads' takes a number"),
            ("br:/a=rw,br:/b=rw", "named twice"),
            ("br:/a=rw,lowerdir=/b", "named twice"),
            ("br:/a=rw,add:9:/b=ro", "'add' takes the place"),
            ("br:/a=rw,si=../x", "'si' takes"),
            ("dio", "no branch"),
            ("upperdir=", "no path"),
        ] {
            let text = read(list).unwrap_err().to_string();
            assert!(text.contains(words), "{list}: {text}");
        }
    }
}
