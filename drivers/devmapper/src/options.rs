//! What the driver can be told.

use std::fmt;
use std::path::PathBuf;

use mica_core::{ByteSize, Error, Quota, Result};

use crate::NAME;

mica_core::driver_options! {
    /// What `--storage-opt devmapper.NAME=VALUE` sets. What a pool is made with stays as it is.
    pub(crate) struct Options {
        /// A block device that the pool is made on, together with 'metadata'. Both must be empty.
        /// Without these and without 'pool' it is made on files, which is for trying out and not for production.
        data: Option<PathBuf> = None,
        /// A block device for the pool's metadata: 48 bytes for each block of 'data', at least 2M.
        metadata: Option<PathBuf> = None,
        /// The name of an empty thin pool that is there already. It is used, never resized and never removed.
        pool: Option<String> = None,
        /// The most that the file of a pool may grow to; 100G where it is not given. It can be raised at any time.
        file_size: Option<ByteSize> = None,
        /// How much is shared or copied at once: a multiple of 64K; 64K where it is not given. Fixed with the pool.
        block_size: Option<ByteSize> = None,
        /// The size of a layer's file system: what a container may hold, its image included. It can be raised
        /// at any time, for layers to come; where it is not given it is that of the pool, and 10G of a new one.
        base_size: Option<ByteSize> = None,
        /// The file system of the layers: ext4 or xfs; ext4 where it is not given. Fixed with the pool.
        filesystem: Option<Kind> = None,
        /// More arguments for mkfs, separated by blanks, such as '-i 8192'. Used when the pool is made.
        mkfs_args: Option<String> = None,
        /// More mount options of the layers' file system, separated by commas.
        mount_options: Option<String> = None,
        /// The most bytes that a container may write, where it asks for no limit of its own.
        size: Option<ByteSize> = None,
        /// The most files that a container may make, likewise.
        inodes: Option<u64> = None,
        /// No layer is made while less than this part of the pool's data or metadata is free, in percent.
        min_free: u8 = 10,
        /// Give the blocks of removed layers back to what the pool is made on.
        /// Where it is not given, that is done for a pool on files.
        discard: Option<bool> = None,
    }
}

/// A kind of file system that layers can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The least size in bytes; mkfs.xfs(8) refuses less than 300 MiB.
    pub(crate) fn smallest(self) -> u64 {
        match self {
            Self::Ext4 => 32 << 20,
            Self::Xfs => 300 << 20,
        }
    }

    /// The least size in bytes of a pool in which an empty one and a snapshot of it have room, logs included.
    pub(crate) fn smallest_pool(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 256 << 20,
        }
    }

    /// The options of mkfs that may be given, by letter. The others name devices, or what the driver decides.
    fn mkfs_letters(self) -> &'static str {
        match self {
            Self::Ext4 => "bCEgGiIJmNOT",
            Self::Xfs => "bdilmns",
        }
    }
}

/// What the pool is made on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backing {
    /// Files below the driver's root.
    Files,
    /// Two block devices.
    Devices { data: PathBuf, metadata: PathBuf },
    /// Somebody made it.
    Pool { name: String },
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files => f.write_str("files, which is for trying out and not for production"),
            Self::Devices { data, metadata } => write!(f, "{} and {}", data.display(), metadata.display()),
            Self::Pool { name } => write!(f, "the pool '{name}'"),
        }
    }
}

/// Words of mount options that can lose or show what they must not, or that the driver sets itself.
const RESERVED_MOUNT: &[&str] = &[
    "barrier",
    "data",
    "data_err",
    "errors",
    "journal_dev",
    "journal_path",
    "logdev",
    "nobarrier",
    "noload",
    "noquota",
    "norecovery",
    "nouuid",
    "pqnoenforce",
    "prjquota",
    "ro",
    "rtdev",
    "rw",
];

/// Likewise of the values of mkfs' arguments.
const RESERVED_MKFS: &[&str] =
    &["^has_journal", "^project", "^quota", "discard", "file", "logdev", "name", "quotatype", "uuid"];

impl Options {
    pub(crate) fn file_size(&self) -> u64 {
        self.file_size.map_or(100 << 30, |size| size.0)
    }

    pub(crate) fn block_size(&self) -> u64 {
        self.block_size.map_or(64 << 10, |size| size.0)
    }

    pub(crate) fn base_size(&self) -> u64 {
        self.base_size.map_or(10 << 30, |size| size.0)
    }

    pub(crate) fn filesystem(&self) -> Kind {
        self.filesystem.unwrap_or(Kind::Ext4)
    }

    /// What a container may write that asks for no limit.
    pub(crate) fn quota(&self) -> Quota {
        Quota { bytes: self.size.map(|size| size.0), inodes: self.inodes }
    }

    /// Which pool is asked for, where one is. Fails with `Options` for a contradiction.
    pub(crate) fn backing(&self) -> Result<Option<Backing>> {
        match (&self.data, &self.metadata, &self.pool) {
            (None, None, None) => Ok(None),
            (None, None, Some(name)) if is_device_name(name) => {
                Ok(Some(Backing::Pool { name: name.clone() }))
            }
            (None, None, Some(name)) => {
                refuse(&format!("'pool' is '{name}', and not the name of a device below /dev/mapper"))
            }
            (Some(data), Some(metadata), None) => {
                Ok(Some(Backing::Devices { data: data.clone(), metadata: metadata.clone() }))
            }
            (_, _, Some(_)) => refuse(
                "'pool' names a pool that is there already, which has its own devices: leave out 'data' and 'metadata'",
            ),
            _ => refuse("'data' and 'metadata' are needed together: a block device each"),
        }
    }

    /// Fails with `Options` for values out of range, and for those that are not to be given.
    pub(crate) fn check(&self) -> Result<()> {
        let (kind, block) = (self.filesystem(), self.block_size());
        if block == 0 || block % (64 << 10) != 0 || block > 1 << 30 {
            return refuse("'block_size' must be a multiple of 64K, and 1G at the most");
        }
        let least = |name: &str, is: u64, least: u64| match is < least {
            true => {
                refuse(&format!("'{name}' is too small: a pool with {} needs {}", kind.name(), size(least)))
            }
            false => Ok(()),
        };
        least("base_size", self.base_size(), kind.smallest())?;
        let backing = self.backing()?;
        match backing {
            None => least("file_size", self.file_size(), kind.smallest_pool())?,
            Some(_) if self.file_size.is_some() => {
                return refuse("'file_size' is of a pool on files, and another one is asked for");
            }
            Some(_) => {}
        }
        if self.min_free > 90 {
            return refuse("'min_free' is a part of the pool in percent, 90 at the most");
        }
        for option in self.more_mount_options().split(',') {
            let name = option.split('=').next().unwrap_or_default();
            if RESERVED_MOUNT.contains(&name) {
                return refuse(&format!(
                    "'mount_options' has '{name}', which could lose what layers hold or is set by the driver itself"
                ));
            }
        }
        self.mkfs_args().map(drop)
    }

    /// The mount options that were given.
    pub(crate) fn more_mount_options(&self) -> &str {
        self.mount_options.as_deref().unwrap_or_default()
    }

    /// The arguments for mkfs that were given, each a letter and its value. Fails with `Options` for those that are not
    /// to be given.
    pub(crate) fn mkfs_args(&self) -> Result<Vec<(char, &str)>> {
        let mut words = self.mkfs_args.as_deref().unwrap_or_default().split_whitespace();
        let mut args = Vec::new();
        let known = self.filesystem().mkfs_letters();
        while let Some(word) = words.next() {
            let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
            let letter = letters.next().filter(|letter| known.contains(*letter));
            let value = match letters.as_str() {
                "" => words.next().unwrap_or_default(),
                value => value,
            };
            let parts = || value.split([',', '=']);
            match letter {
                Some(letter) if !value.is_empty() && !value.starts_with('-') => {
                    if value.contains('/') || parts().any(|part| RESERVED_MKFS.contains(&part)) {
                        return refuse(&format!(
                            "'mkfs_args' has '-{letter} {value}', which the driver decides itself"
                        ));
                    }
                    args.push((letter, value));
                }
                _ => {
                    let known: Vec<String> = known.chars().map(|letter| format!("-{letter}")).collect();
                    return refuse(&format!(
                        "'mkfs_args' has '{word}'; those for {} are {}, each with its value",
                        self.filesystem().name(),
                        known.join(" ")
                    ));
                }
            }
        }
        Ok(args)
    }
}

/// A number of bytes for people, in the units that options are given in.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(shift, unit)| {
            let text = format!("{:.1}", bytes as f64 / (1u64 << shift) as f64);
            format!("{} {unit}", text.trim_end_matches(".0"))
        },
    )
}

/// What the kernel takes for a name; it has 127 bytes for one.
fn is_device_name(name: &str) -> bool {
    !name.is_empty() && name.len() < 128 && !name.contains('/') && !name.contains(char::is_control)
}

fn refuse<T>(text: &str) -> Result<T> {
    Err(Error::Options(format!("storage driver '{NAME}': {text}")))
}

#[cfg(test)]
mod tests {
    use mica_core::{OptionMap, options};

    use super::*;

    fn check(given: &[(&str, &str)]) -> Result<Options> {
        let given: OptionMap = given.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let options: Options = options::parse(NAME, &given, Options::DOCS)?;
        options.check().map(|()| options)
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_line_that_names_it() {
        for (given, named) in [
            (&[("data", "/dev/a")][..], "'metadata'"),
            (&[("metadata", "/dev/a")], "'data'"),
            (&[("pool", "p"), ("data", "/dev/a"), ("metadata", "/dev/b")], "'pool'"),
            (&[("pool", "p"), ("file_size", "1G")], "'file_size'"),
            (&[("pool", "/dev/mapper/p")], "'pool'"),
            (&[("block_size", "100k")], "multiple of 64K"),
            (&[("block_size", "0")], "'block_size'"),
            (&[("block_size", "2G")], "'block_size'"),
            (&[("base_size", "1M")], "needs 32 MiB"),
            (&[("filesystem", "xfs"), ("base_size", "64M")], "needs 300 MiB"),
            (&[("file_size", "10M")], "needs 64 MiB"),
            (&[("filesystem", "btrfs")], "'btrfs'"),
            (&[("min_free", "91")], "'min_free'"),
            (&[("min_free", "10%")], "'10%'"),
            (&[("mount_options", "noatime,noload")], "'noload'"),
            (&[("mount_options", "errors=continue")], "'errors'"),
            (&[("mkfs_args", "/dev/sda")], "'/dev/sda'"),
            (&[("mkfs_args", "-U random")], "'-U'"),
            (&[("mkfs_args", "-i")], "'-i'"),
            (&[("mkfs_args", "-J device=/dev/sda")], "device=/dev/sda"),
            (&[("mkfs_args", "-O ^has_journal")], "^has_journal"),
            (&[("filesystem", "xfs"), ("mkfs_args", "-m uuid=x")], "uuid=x"),
        ] {
            let text = check(given).unwrap_err().to_string();
            assert!(text.contains(named) && !text.contains('\n'), "{given:?}: {text}");
        }
    }

    #[test]
    fn sizes_are_told_as_they_are_given() {
        let told = [512, 64 << 10, 10 << 30, (3 << 20) + (512 << 10)].map(size);
        assert_eq!(told, ["512 B", "64 KiB", "10 GiB", "3.5 MiB"]);
    }

    #[test]
    fn arguments_for_mkfs_are_letters_with_values() {
        let options = check(&[("mkfs_args", "-i 8192 -Osparse_super2")]).unwrap();
        assert_eq!(options.mkfs_args().unwrap(), [('i', "8192"), ('O', "sparse_super2")]);
        assert!(check(&[]).unwrap().mkfs_args().unwrap().is_empty());
    }
}
