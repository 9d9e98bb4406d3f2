//! What the driver can be told.

use std::fmt;
use std::path::PathBuf;

use mica_core::{ByteSize, Error, Result};

use crate::NAME;

mica_core::driver_options! {
    /// What `--storage-opt devmapper.NAME=VALUE` sets. What a pool is made with stays as it is.
    pub(crate) struct Options {
        /// A block device that the pool is made on, together with 'metadata'. Both must be empty.
        /// Without these and without 'pool' it is made on files, which is for trying out.
        data: Option<PathBuf> = None,
        /// A block device for the pool's metadata: 48 bytes for each block of 'data', at least 2M.
        metadata: Option<PathBuf> = None,
        /// The name of an empty thin pool that is there already. It is used, never resized and never removed.
        pool: Option<String> = None,
        /// The most that the files of a pool may grow to.
        file_size: ByteSize = ByteSize(100 << 30),
        /// How much is shared or copied at once: a multiple of 64K.
        block_size: ByteSize = ByteSize(64 << 10),
        /// The size of a layer's file system: what a container may hold, its image included.
        base_size: ByteSize = ByteSize(10 << 30),
        /// The file system of the layers: ext4 or xfs.
        filesystem: Kind = Kind::Ext4,
        /// More arguments for mkfs, separated by blanks.
        mkfs_args: String = String::new(),
        /// More mount options, separated by commas.
        mount_options: String = String::new(),
        /// No layer is made while less than this part of the pool is free, in percent.
        min_free: u8 = 10,
        /// Give the blocks of removed layers back to what the pool is made on.
        /// On where the pool is made on files.
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
            Self::Ext4 => 16 << 20,
            Self::Xfs => 300 << 20,
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

impl Options {
    /// What the pool is to be made on. Fails with `Options` for a contradiction, and for values out of range.
    pub(crate) fn backing(&self) -> Result<Backing> {
        match (&self.data, &self.metadata, &self.pool) {
            (None, None, None) => Ok(Backing::Files),
            (None, None, Some(name)) => Ok(Backing::Pool { name: name.clone() }),
            (Some(data), Some(metadata), None) => {
                Ok(Backing::Devices { data: data.clone(), metadata: metadata.clone() })
            }
            (_, _, Some(_)) => refuse(
                "'pool' names a pool that is there already, which has its own devices: \
                                       leave out 'data' and 'metadata'",
            ),
            _ => refuse("'data' and 'metadata' are needed together: a block device each"),
        }
    }

    /// Fails with `Options` for values out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let (block, base) = (self.block_size.0, self.base_size.0);
        if block == 0 || block % (64 << 10) != 0 || block > 1 << 30 {
            return refuse("'block_size' must be a multiple of 64K, and 1G at the most");
        }
        if base < self.filesystem.smallest() {
            let (kind, least) = (self.filesystem.name(), self.filesystem.smallest() >> 20);
            return refuse(&format!("'base_size' is too small: {kind} needs {least}M"));
        }
        if self.min_free > 90 {
            return refuse("'min_free' is a part of the pool in percent, 90 at the most");
        }
        self.backing().map(drop)
    }
}

fn refuse<T>(text: &str) -> Result<T> {
    Err(Error::Options(format!("storage driver '{NAME}': {text}")))
}
