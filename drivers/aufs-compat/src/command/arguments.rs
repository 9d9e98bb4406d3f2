//! The arguments of the command, as people, mount(8) and `mount.fuse` write them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mica_core::Result;

use super::remount::Remount;
use crate::branches::refused;
use crate::mount_options::MountOptions;

pub(super) const HELP: &str = "\
mica-aufs: mount a union of directories, as AUFS does

Usage: mica-aufs [OPTIONS] br:/rw=rw:/ro=ro+wh DIRECTORY
       mica-aufs [OPTIONS] -o br:/rw=rw:/ro=ro+wh [SOURCE] DIRECTORY
       mica-aufs [OPTIONS] -o lowerdir=/b:/c,upperdir=/a,workdir=/w [SOURCE] DIRECTORY
       umount DIRECTORY

The first branch is the topmost, and the only one that can be written. A '\\' before
a ':', ',' or '\\' in a path takes its meaning away.

Permissions of a branch:
  rw        it is written
  ro, rr    it is not written
  ro+wh     it is not written, and its whiteouts hide what is below

Options:
  -o LIST   options, with commas between them
  -f        stay in the foreground; SIGINT and SIGTERM unmount
  -r, -w    mount read-only, or not
  -h, -V    show this, or the version

Options of -o:
  br:LIST, append:LIST, prepend:LIST, add:N:LIST
            branches, with colons between them
  lowerdir=LIST, upperdir=PATH
            the same, as overlayfs has them; their marks are AUFS's
  ro, nosuid, nodev, noexec, noatime, context=LABEL, fsname=SOURCE
            as for every mount
  stale_reads
            who has a file of a lower branch open while it is first written goes on
            reading the old content, as with overlayfs; in return the kernel reads
            such files by itself
  volatile  put nothing on disk in time; after a crash throw the first branch away
  nopassthrough
            do not have the kernel read and write files by itself
  threads=N serve with so many threads instead of one for each processor

In fstab:   br:/rw=rw:/ro=ro+wh  /mnt  fuse.mica-aufs  defaults  0 0
The branches of a mount are shown in /run/mica-aufs, as AUFS shows them in /sys/fs/aufs.
";

/// How long a name the kernel takes for the source of a mount.
const LONGEST_SOURCE: usize = 255;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Help,
    Version,
    /// To look at the arguments, and do nothing (`mount -f`).
    Nothing,
    Remount(Remount),
    Mount(Box<Arguments>),
}

/// A mount that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) options: MountOptions,
    /// What the mount table is to show, where something stood in the place of a device.
    pub(super) source: Option<OsString>,
    pub(super) at: PathBuf,
    pub(super) foreground: bool,
}

/// The arguments before they are understood.
#[derive(Debug, Default)]
struct Raw {
    lists: Vec<OsString>,
    names: Vec<OsString>,
    sloppy: bool,
    fake: bool,
    foreground: bool,
    at_once: Option<Request>,
}

/// Reads the arguments, of which the first is the name that the program was called by. As `mount.TYPE`, mount(8) calls it and
/// gives it flags of its own.
pub(super) fn parse(args: &[OsString]) -> Result<Request> {
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let raw = read(args.get(1..).unwrap_or_default(), called.as_bytes().starts_with(b"mount."))?;
    if let Some(request) = raw.at_once {
        return Ok(request);
    }
    let (source, at) = match raw.names.as_slice() {
        [at] => (None, at),
        [source, at] => (Some(source), at),
        [] => return Err(refused("no directory to mount at was named; see mica-aufs --help")),
        [_, _, more, ..] => return Err(refused(format!("'{}' is one name too many", more.display()))),
    };
    if let Some(remount) = Remount::asked(&raw.lists, Path::new(at)) {
        return Ok(Request::Remount(remount));
    }
    let mut options = MountOptions::default();
    let has_branches = source.map_or(Ok(false), |source| options.add_source(source.as_bytes()))?;
    for list in &raw.lists {
        match raw.sloppy {
            true => options.add_sloppily(list.as_bytes()),
            false => options.add(list.as_bytes())?,
        }
    }
    // Called by a person, the list of branches is no name; from fstab, mount(8) must find again what it mounted.
    let by_mount = !raw.lists.is_empty();
    let shown = source.filter(|source| source.as_os_str() != "none" && (by_mount || !has_branches));
    let shown = shown.filter(|source| source.len() <= LONGEST_SOURCE);
    let options = options.finish()?;
    if raw.fake {
        return Ok(Request::Nothing);
    }
    let arguments =
        Arguments { options, source: shown.cloned(), at: PathBuf::from(at), foreground: raw.foreground };
    Ok(Request::Mount(Box::new(arguments)))
}

fn read(args: &[OsString], by_mount: bool) -> Result<Raw> {
    let mut raw = Raw::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value =
            || rest.next().cloned().ok_or_else(|| refused(format!("'{}' takes a value", arg.display())));
        match arg.as_bytes() {
            b"-o" => raw.lists.push(value()?),
            [b'-', b'o', list @ ..] => raw.lists.push(OsStr::from_bytes(list).to_owned()),
            b"-t" => drop(value()?),
            b"-f" if by_mount => raw.fake = true,
            b"-f" => raw.foreground = true,
            b"-s" => raw.sloppy = true,
            b"-r" => raw.lists.push("ro".into()),
            b"-w" => raw.lists.push("rw".into()),
            b"-n" | b"-v" => {}
            b"-h" | b"--help" => raw.at_once = raw.at_once.or(Some(Request::Help)),
            b"-V" | b"--version" => raw.at_once = raw.at_once.or(Some(Request::Version)),
            b"--" => raw.names.extend(rest.by_ref().cloned()),
            [b'-', _, ..] => {
                return Err(refused(format!("flag '{}' is unknown; see mica-aufs --help", arg.display())));
            }
            _ => raw.names.push(arg.clone()),
        }
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use rustix::mount::MountAttrFlags;

    use super::*;
    use crate::branches;

    fn mount(args: &[&str]) -> Result<Arguments> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        match parse(&args)? {
            Request::Mount(arguments) => Ok(*arguments),
            other => panic!("{other:?}"),
        }
    }

    fn branches_of(arguments: &Arguments) -> OsString {
        branches::list(&arguments.options.branches)
    }

    #[test]
    fn branches_can_stand_first_or_among_the_options() {
        for args in [
            &["mica-aufs", "br:/a=rw:/b=ro+wh", "/mnt"][..],
            &["mica-aufs", "-o", "br:/a=rw:/b=ro+wh", "none", "/mnt"],
            &["mica-aufs", "-obr:/a=rw:/b=ro+wh", "/mnt"],
            &["mica-aufs", "/mnt", "-o", "lowerdir=/b,upperdir=/a,workdir=/w"],
        ] {
            let arguments = mount(args).unwrap();
            assert_eq!(branches_of(&arguments), "/a=rw:/b=ro+wh", "{args:?}");
            assert_eq!((arguments.at, arguments.source, arguments.foreground), ("/mnt".into(), None, false));
        }
    }

    #[test]
    fn what_fstab_names_as_the_source_is_kept_so_that_mount_finds_it_again() {
        let by_fuse = mount(&["mica-aufs", "br:/a=rw", "/mnt", "-o", "rw,dev,suid"]).unwrap();
        assert_eq!(by_fuse.source.unwrap(), "br:/a=rw");
        let by_mount = mount(&["/sbin/mount.fuse.mica-aufs", "data", "/mnt", "-o", "rw,br:/a=rw"]).unwrap();
        assert_eq!(by_mount.source.unwrap(), "data");
    }

    #[test]
    fn the_flags_of_mount_mean_what_it_means_by_them() {
        let asked = |args: &[&str]| parse(&args.iter().map(OsString::from).collect::<Vec<_>>());
        let fake = asked(&["mount.fuse.mica-aufs", "br:/a=rw", "/mnt", "-f", "-v", "-o", "rw"]);
        assert_eq!(fake.unwrap(), Request::Nothing);
        let sloppy = mount(&["mount.fuse.mica-aufs", "br:/a=rw", "/mnt", "-s", "-o", "nosuch,ro"]).unwrap();
        assert!(sloppy.options.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
        assert!(mount(&["mica-aufs", "-f", "br:/a=rw", "/mnt"]).unwrap().foreground);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (args, words) in [
            (&["mica-aufs"][..], "no directory"),
            (&["mica-aufs", "br:/a=rw", "/mnt", "/more"], "'/more' is one name too many"),
            (&["mica-aufs", "--nosuch", "br:/a=rw", "/mnt"], "'--nosuch' is unknown"),
            (&["mica-aufs", "/mnt", "-o"], "'-o' takes a value"),
            (&["mica-aufs", "/mnt"], "there is no branch"),
            (&["mica-aufs", "br:/a=rw", "/mnt", "-o", "noplink"], "'noplink'"),
        ] {
            let text = mount(args).unwrap_err().to_string();
            assert!(text.contains(words), "{args:?}: {text}");
        }
    }
}
