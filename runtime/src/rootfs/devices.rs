//! `/dev`: the nodes and links that every container has, those that the bundle adds, and the console.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, statat, symlinkat};
use rustix::io::Errno;

use super::resolve::{self, Missing};
use super::{Rootfs, attach, clone_tree};
use crate::error::{Context, Error, Result};
use crate::plan::Kind;

/// Name, major and minor number (Documentation/admin-guide/devices.txt).
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

impl Rootfs<'_> {
    /// A `/dev` that is bound from the host is left as it is.
    pub(super) fn make_devices(&self) -> Result<()> {
        let bound = |kind: &Kind| matches!(kind, Kind::Bind { .. });
        if self.plan.mounts.iter().any(|mount| bound(&mount.kind) && mount.target == Path::new("/dev")) {
            return Ok(());
        }
        let what = || "opening /dev";
        let dev = resolve::open_or_make(self.root(), Path::new("/dev"), Missing::Directory).context(what)?;
        let mode = Mode::from_raw_mode(0o666);
        for (name, major, minor) in NODES {
            let node =
                Node { kind: FileType::CharacterDevice, number: makedev(major, minor), mode, owner: (0, 0) };
            node.make(dev.as_fd(), name)?;
        }
        for (name, target) in LINKS {
            match symlinkat(target, &dev, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).context(|| format!("linking /dev/{name}")),
            }
        }
        self.plan.devices.iter().try_for_each(|device| self.make_device(device))
    }

    fn make_device(&self, device: &LinuxDevice) -> Result<()> {
        let path = device.path();
        let what = || format!("making device {}", path.display());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
        else {
            return Err(Error::spec(format!("device path {} names no file", path.display())));
        };
        let parent = resolve::open_or_make(self.root(), parent, Missing::Directory).context(what)?;
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => return Err(Error::spec(format!("device {} has no type", path.display()))),
        };
        let part = |number: i64| u32::try_from(number).map_err(|_| Errno::INVAL).context(what);
        let number = makedev(part(device.major())?, part(device.minor())?);
        let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        Node { kind, number, mode, owner }.make(parent.as_fd(), name)
    }

    /// Binds the terminal `slave` on `/dev/console`; by descriptors only (CVE-2025-52565).
    pub(crate) fn bind_console(&self, slave: BorrowedFd<'_>) -> Result<()> {
        let what = || "binding the terminal on /dev/console";
        let tree = clone_tree(slave, Path::new(""), false).context(what)?;
        let target =
            resolve::open_or_make(self.root(), Path::new("/dev/console"), Missing::File).context(what)?;
        attach(tree.as_fd(), target.as_fd()).context(what)
    }

    /// `/dev/null` of the container, or the host's where it has none; certainly that device (CVE-2025-31133).
    pub(super) fn null(&self) -> Result<OwnedFd> {
        let inside = resolve::open_path(self.root(), Path::new("/dev/null"));
        let host = || resolve::open_path(rustix::fs::CWD, Path::new("/dev/null"));
        inside.ok().filter(is_null).or_else(|| host().ok().filter(is_null)).ok_or_else(|| {
            Error::spec(
                "/dev/null is not the null device (character device 1:3), so no path can be masked with it",
            )
        })
    }
}

fn is_null(fd: &OwnedFd) -> bool {
    statat(fd, "", AtFlags::EMPTY_PATH).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
    })
}

struct Node {
    kind: FileType,
    number: Dev,
    mode: Mode,
    owner: (u32, u32),
}

impl Node {
    /// One that is there already is accepted if it is the same device. The umask is 0.
    fn make(&self, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
        let what = || format!("making device node {name}");
        match mknodat(parent, name, self.kind, self.mode, self.number) {
            Err(Errno::EXIST) => {
                let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).context(what)?;
                if FileType::from_raw_mode(there.st_mode) != self.kind || there.st_rdev != self.number {
                    return Err(Error::spec(format!("{name} is in the image already and is another file")));
                }
            }
            made => made.context(what)?,
        }
        let (uid, gid) = self.owner;
        if (uid, gid) != (0, 0) {
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).context(what)?;
        }
        Ok(())
    }
}
