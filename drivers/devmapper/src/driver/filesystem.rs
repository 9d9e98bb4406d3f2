//! The file system inside of a volume.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mica_core::graphdriver::WhiteoutForm;
use mica_core::mount::{Fs, IdMap};
use mica_core::{Error, MountSpec, Mounts, Result};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::sys;
use crate::options::Kind;

/// Where that of ext4 is. The offsets in it are those of "ext4 Data Structures and Algorithms", kernel documentation.
const SUPERBLOCK: u64 = 1024;

/// Has xfs give up at once on metadata that it cannot write, as ext4 does. It would try for ever, and with it who writes
/// to a pool that is full (admin-guide/xfs.rst, "Error Handling").
const XFS_GIVES_UP: [&str; 3] = ["ENOSPC", "EIO", "default"];

impl Kind {
    /// Makes one, with more options of mkfs, each a letter and its value. `prezeroed`: the volume reads as zeroes where
    /// nothing was written, also beside what is, so nothing needs to be written that is zero.
    pub(crate) fn make(self, node: &Path, uuid: &str, more: &[(char, &str)], prezeroed: bool) -> Result<()> {
        let identity = format!("uuid={uuid}");
        let zeroed = match prezeroed {
            true => "nodiscard,assume_storage_prezeroed=1,quotatype=prjquota",
            false => "nodiscard,lazy_itable_init=0,lazy_journal_init=0,quotatype=prjquota",
        };
        let (own, flags): (&[(char, &str)], &[&str]) = match self {
            Self::Ext4 => (
                &[('m', "0"), ('J', "size=16"), ('O', "quota,project"), ('E', zeroed), ('U', uuid)],
                &["-q", "-F"],
            ),
            Self::Xfs => (&[('m', identity.as_str())], &["-q", "-f", "-K"]),
        };
        let mut options: Vec<(char, String)> =
            own.iter().map(|(letter, value)| (*letter, (*value).to_owned())).collect();
        for (letter, value) in more {
            match options.iter_mut().find(|(own, _)| own == letter) {
                // mke2fs(8) takes the last of several.
                Some((_, own)) if *letter != 'm' || self == Self::Xfs => *own = format!("{own},{value}"),
                _ => options.push((*letter, (*value).to_owned())),
            }
        }
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        command.args(flags);
        for (letter, value) in options {
            command.arg(format!("-{letter}")).arg(value);
        }
        run(command.arg(node))?;
        self.tells_times(node)
    }

    /// Fails with `Options` where files would have times by the second: two writes within one look like one.
    fn tells_times(self, node: &Path) -> Result<()> {
        if self == Self::Xfs {
            return Ok(());
        }
        let mut size = [0; 2];
        direct(node)
            .and_then(|device| device.read_exact_at(&mut size, SUPERBLOCK + 0x58))
            .map_err(Error::io(|| "read a new file system"))?;
        match u16::from_le_bytes(size) {
            256.. => Ok(()),
            size => Err(Error::Options(format!(
                "inodes of {size} bytes have no room for exact times: 'mkfs_args' needs '-I 256', or more"
            ))),
        }
    }

    /// The uuid that a file system was made with.
    pub(crate) fn identity(self, node: &Path) -> io::Result<String> {
        // The offsets are those of the superblocks: `s_uuid` of ext4 in its second KiB, `sb_uuid` of xfs.
        let at = match self {
            Self::Ext4 => SUPERBLOCK + 0x68,
            Self::Xfs => 32,
        };
        let mut uuid = [0; 16];
        direct(node)?.read_exact_at(&mut uuid, at)?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok([&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]].map(hex).join("-"))
    }

    /// Whether a file system that is not mounted has met no error, and was unmounted whole.
    pub(crate) fn is_sound(self, node: &Path) -> io::Result<bool> {
        if self == Self::Xfs {
            // It keeps no such mark: a failed write shuts it down, and the mount that follows repairs it.
            return Ok(true);
        }
        const ERRORS: u16 = 0x2;
        let device = direct(node)?;
        let mut state = [0; 2];
        device.read_exact_at(&mut state, SUPERBLOCK + 0x3a)?;
        Ok(u16::from_le_bytes(state) & ERRORS == 0 && !needs_recovery(&device)?)
    }

    /// Makes a mounted file system fill its volume, which has so many bytes now.
    pub(crate) fn grow(self, root: &OwnedFd, bytes: u64) -> io::Result<()> {
        let block = rustix::fs::fstatvfs(root)?.f_frsize;
        match self {
            Self::Ext4 => sys::grow_ext4(root.as_fd(), bytes / block),
            Self::Xfs => sys::grow_xfs(root.as_fd(), bytes / block),
        }
    }

    /// How a volume is mounted.
    pub(crate) fn mount(self, how: &Mounting<'_>) -> Mounts {
        let own: &[(&str, Option<&str>)] = match self {
            // A write that is lost must not look as if it had happened.
            Self::Ext4 => &[("errors", Some("remount-ro")), ("data_err", Some("abort"))],
            // A snapshot has the identity of its origin.
            Self::Xfs => &[("nouuid", None)],
        };
        let mut options: Vec<(String, Option<String>)> =
            own.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
        if how.quota {
            options.push(("prjquota".to_owned(), None));
        }
        for option in how.more.split(',').filter(|option| !option.is_empty()) {
            let (name, value) =
                option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            options.push((name.to_owned(), value.map(str::to_owned)));
        }
        let errors: &[&str] = if self == Self::Xfs && !how.read_only { &XFS_GIVES_UP } else { &[] };
        let retries = |error| (format!("error/metadata/{error}/max_retries").into(), "0".to_owned());
        let fs = Fs {
            fstype: self.name().to_owned(),
            source: how.node.to_owned(),
            options,
            settings: errors.iter().map(retries).collect(),
            read_only: how.read_only,
            label: how.label.clone(),
            id_map: how.id_map.clone(),
            ..Fs::default()
        };
        Mounts { specs: vec![MountSpec::Fs(fs)], whiteouts: WhiteoutForm::Merged }
    }
}

/// What a mount depends on.
#[derive(Clone, Debug)]
pub(crate) struct Mounting<'a> {
    pub(crate) node: &'a Path,
    pub(crate) quota: bool,
    pub(crate) more: &'a str,
    pub(crate) read_only: bool,
    pub(crate) label: Option<String>,
    pub(crate) id_map: Option<IdMap>,
}

/// Makes the root of a new file system what an empty layer shows.
pub(crate) fn tidy(root: &OwnedFd) -> io::Result<()> {
    match rustix::fs::unlinkat(root.as_fd(), "lost+found", AtFlags::REMOVEDIR) {
        Err(rustix::io::Errno::NOENT) => {}
        removed => removed?,
    }
    Ok(rustix::fs::fchmod(root.as_fd(), Mode::from_raw_mode(0o755))?)
}

/// The root of a mounted tree, open for calls that an `O_PATH` descriptor does not take.
pub(crate) fn root_of(tree: &mica_mount::Tree) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(tree.root(), ".", flags, Mode::empty())?)
}

/// Whether the log of an ext4 holds what is not where it belongs.
pub(crate) fn needs_recovery(device: &File) -> io::Result<bool> {
    const NEEDS_RECOVERY: u32 = 0x4;
    let mut incompatible = [0; 4];
    device.read_exact_at(&mut incompatible, SUPERBLOCK + 0x60)?;
    Ok(u32::from_le_bytes(incompatible) & NEEDS_RECOVERY != 0)
}

/// Opens a device that is read as the disk has it.
pub(crate) fn direct(node: &Path) -> io::Result<File> {
    let file = File::open(node)?;
    sys::forget(&file)?;
    Ok(file)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::Unavailable {
            reason: format!("{program} is not installed; Debian has it in e2fsprogs or xfsprogs"),
        },
        _ => Error::driver(format!("run {program}"), e),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    Err(Error::driver(format!("run {program}"), last.trim()))
}
