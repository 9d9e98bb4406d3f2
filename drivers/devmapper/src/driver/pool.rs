//! The pool of a driver's root: how it is found, made active, recognised, and put away.
//!
//! ```text
//! root/pool        what the pool is; written before the pool is made, and again when it is ready for layers
//! root/data        the pool's blocks, where it is on files
//! root/metadata    and its metadata
//! ```
//!
//! The pool is active while somebody works with it, and stays active while a volume is. Volume 1 holds an empty
//! file system, of which every base layer is a snapshot. By its identity a pool is known as ours.

mod growth;
mod setup;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mica_core::{Error, Result, durable, failpoint};
use serde::{Deserialize, Serialize};

use super::dm::{DeviceMapper, Table};
use super::metadata;
use super::thin::ThinPool;
use super::{sys, volumes};
use crate::options::{Backing, Kind, Options, size};
pub(crate) use growth::METADATA_BLOCK;
pub(crate) use setup::{look, set_up};

/// The volume with the empty file system.
pub(crate) const BASE: u32 = 1;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// What a pool is, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Names the pool, and the file system of its base volume.
    pub(crate) uuid: String,
    pub(crate) backing: Backing,
    /// In bytes.
    pub(crate) block_size: u64,
    pub(crate) base_size: u64,
    pub(crate) filesystem: Kind,
    /// The file systems keep quotas.
    pub(crate) quota: bool,
    /// The base volume was about to be made, so one that is there is ours.
    #[serde(default)]
    begun: bool,
    /// The base volume is there.
    pub(crate) ready: bool,
}

/// The pool of this root.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) record: Record,
    pub(crate) thin: ThinPool,
    root: PathBuf,
    /// The volumes that the pool had before it became active, if it was not and is ours alone.
    pub(crate) found: Option<Vec<u32>>,
}

impl Record {
    /// The record of a root, where there is one.
    pub(crate) fn read(root: &Path) -> Result<Option<Self>> {
        let content = match fs::read(root.join("pool")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            content => content.map_err(Error::io(|| format!("read '{}'", root.join("pool").display())))?,
        };
        let corrupt = |e: serde_json::Error| Error::Corrupt {
            what: format!("'{}'", root.join("pool").display()),
            reason: e.to_string(),
        };
        serde_json::from_slice(&content).map(Some).map_err(corrupt)
    }

    fn write(&self, root: &Path) -> Result<()> {
        let content =
            serde_json::to_vec(self).map_err(|e| Error::driver("write the record of the pool", e))?;
        durable::write(&root.join("pool"), &content).map_err(Error::io(|| "write the record of the pool"))
    }

    /// The pool by its names, active or not.
    pub(crate) fn thin(&self) -> Result<ThinPool> {
        let dm = DeviceMapper::open().map_err(|e| unavailable(&e))?;
        let short = self.uuid.get(..8).unwrap_or(&self.uuid);
        let name = match &self.backing {
            Backing::Pool { name } => name.clone(),
            _ => format!("mica-{short}-pool"),
        };
        Ok(ThinPool::new(dm, name, format!("mica-{short}-")))
    }

    /// Fails with `Options` where they ask for another pool than this one. Other names for its devices do not: it is
    /// recognised by what it holds.
    pub(crate) fn agrees(&self, options: &Options) -> Result<()> {
        let fixed = |name: &str, there: String| {
            Err(Error::Options(format!(
                "the pool of this root has {name} {there}, which is fixed when it is made: leave '{name}' out, or use \
                 another root"
            )))
        };
        if options.block_size.is_some_and(|asked| asked.0 != self.block_size) {
            return fixed("block_size", size(self.block_size));
        }
        if options.filesystem.is_some_and(|asked| asked != self.filesystem) {
            return fixed("filesystem", self.filesystem.name().to_owned());
        }
        if let Some(asked) = options.base_size
            && asked.0 < self.base_size
        {
            return Err(Error::Options(format!(
                "'base_size' is {}, and the layers that are there have {}: file systems only grow",
                size(asked.0),
                size(self.base_size)
            )));
        }
        match (options.backing()?, &self.backing) {
            (None, Backing::Files | Backing::Devices { .. } | Backing::Pool { .. })
            | (Some(Backing::Devices { .. }), Backing::Devices { .. })
            | (Some(Backing::Pool { .. }), Backing::Pool { .. }) => Ok(()),
            (Some(Backing::Pool { .. }), there) => fixed("pool", format!("on {there}")),
            (Some(_), there) => fixed("data", format!("on {there}")),
        }
    }

    /// Whether a pool made by these options would be like this one.
    fn is_what_is_asked(&self, options: &Options) -> Result<bool> {
        let is_pool = matches!(self.backing, Backing::Pool { .. });
        Ok(self.backing == options.backing()?.unwrap_or(Backing::Files)
            && self.base_size == options.base_size() / MIB * MIB
            && self.filesystem == options.filesystem()
            && (is_pool || self.block_size == options.block_size()))
    }
}

impl Pool {
    /// The pool of a record, active, on the devices that the options name if they do. The caller holds the lock.
    pub(crate) fn open(root: &Path, mut record: Record, options: &Options) -> Result<Self> {
        let recorded = record.backing.clone();
        if let (Some(named), true) = (options.backing()?, record.ready) {
            record.backing = named;
        }
        let mut pool = Self { thin: record.thin()?, record, root: root.to_owned(), found: None };
        pool.found = pool.look_at_rest()?;
        let woken = pool.wake()?;
        let recognised = match (&pool.record.backing, woken) {
            _ if !pool.record.ready => Ok(false),
            (Backing::Files, false) => pool.is_on_own_files().map(|()| false),
            (Backing::Devices { .. }, false) => Ok(false),
            _ => pool.recognise().map(|()| true),
        };
        let known = recognised.and_then(|recognised| match recognised && pool.record.backing != recorded {
            true => pool.record.write(&pool.root),
            false => Ok(()),
        });
        if let Err(error) = known {
            let _ = pool.rest();
            return Err(error);
        }
        Ok(pool)
    }

    /// Puts away what a process that was killed over making the pool has left active. The caller holds the lock.
    pub(crate) fn put_away(root: &Path, record: Record) -> Result<()> {
        let pool = Self { thin: record.thin()?, record, root: root.to_owned(), found: None };
        pool.thin.deactivate(BASE)?;
        pool.rest()
    }

    /// The volumes of a pool that is ready and not active.
    fn look_at_rest(&self) -> Result<Option<Vec<u32>>> {
        let doing = || format!("look at the pool '{}'", self.thin.name());
        let Some(path) = self.metadata_at_rest().filter(|_| self.record.ready) else { return Ok(None) };
        if self.thin.dm().usable(self.thin.name()).map_err(Error::io(doing))?.is_some() {
            return Ok(None);
        }
        let damage = match metadata::volumes(&path) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => "it was emptied, or another device has this name now".to_owned(),
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                e.to_string()
            }
            Err(error) => return Err(missing(&path, &error)),
        };
        Err(Error::Corrupt {
            what: format!("the pool '{}'", self.thin.name()),
            reason: format!("'{}' has no sound metadata of a pool: {damage}", path.display()),
        })
    }

    /// Fails with `InUse` where the active pool of this name is on the files of another root.
    fn is_on_own_files(&self) -> Result<()> {
        let doing = || format!("look at the pool '{}'", self.thin.name());
        let path = self.root.join("data");
        let own = fs::metadata(&path).map_err(Error::io(doing))?;
        let theirs = self.data_node().and_then(|node| sys::backing(&node)).map_err(Error::io(doing))?;
        if theirs == (own.dev(), own.ino()) {
            return Ok(());
        }
        Err(Error::InUse {
            what: format!("the pool '{}'", self.thin.name()),
            by: format!("another root, of which '{}' is a copy", self.root.display()),
        })
    }

    /// The directory of the driver.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Has the pool active. Returns whether it was not. The caller holds the lock.
    pub(crate) fn wake(&self) -> Result<bool> {
        let name = self.thin.name();
        let doing = || format!("activate the pool '{name}'");
        let dm = self.thin.dm();
        let found = match &self.record.backing {
            Backing::Pool { .. } => dm.find(name),
            _ => dm.usable(name),
        };
        match (&self.record.backing, found.map_err(Error::io(doing))?) {
            (Backing::Pool { .. }, Some(_)) => Ok(false),
            (Backing::Pool { .. }, None) => Err(Error::Unavailable {
                reason: format!("there is no pool '{name}'; activate it, for LVM by 'vgchange -ay'"),
            }),
            (_, Some(device)) if device.uuid == self.uuid() => {
                if device.suspended {
                    self.thin.dm().resume(name).map_err(Error::io(doing))?;
                }
                Ok(false)
            }
            (_, Some(device)) => Err(Error::Corrupt {
                what: format!("the pool '{name}'"),
                reason: format!("a device of this name is somebody else's: its uuid is '{}'", device.uuid),
            }),
            (_, None) => {
                let (nodes, _held) = self.nodes()?;
                let table = self.table(&nodes)?;
                failpoint::hit("devmapper.pool.attached").map_err(Error::io(doing))?;
                self.thin.dm().make(name, &self.uuid(), &table).map_err(|e| refused(e, doing()))?;
                failpoint::hit("devmapper.pool.active").map_err(Error::io(doing))?;
                Ok(true)
            }
        }
    }

    /// Puts a pool of ours away that nothing uses; the next call that needs it brings it back. The caller holds the lock.
    pub(crate) fn rest(&self) -> Result<()> {
        let doing = || format!("deactivate the pool '{}'", self.thin.name());
        if matches!(self.record.backing, Backing::Pool { .. }) {
            return Ok(());
        }
        match self.thin.dm().find(self.thin.name()).map_err(Error::io(doing))? {
            // Never by a deferred removal: that forgets the name before the metadata is written, and the next call would
            // make a second pool on the same files.
            Some(device) if device.users == 0 => {
                self.thin.dm().remove_unused(self.thin.name()).map_err(Error::io(doing))
            }
            _ => Ok(()),
        }
    }

    /// The block device of the metadata, for the tools that read it.
    pub(crate) fn metadata_node(&self) -> io::Result<PathBuf> {
        Ok(self.active_nodes()?.metadata)
    }

    /// Where the metadata is while the pool rests, for who repairs it; `None` where the pool is somebody's.
    pub(crate) fn metadata_at_rest(&self) -> Option<PathBuf> {
        match &self.record.backing {
            Backing::Files => Some(self.root.join("metadata")),
            Backing::Devices { metadata, .. } => Some(metadata.clone()),
            Backing::Pool { .. } => None,
        }
    }

    /// The block device of the data.
    pub(crate) fn data_node(&self) -> io::Result<PathBuf> {
        Ok(self.active_nodes()?.data)
    }

    fn active_nodes(&self) -> io::Result<Nodes> {
        Nodes::of(&self.thin.dm().arguments(self.thin.name())?)
    }

    fn uuid(&self) -> String {
        format!("MICA-{}-pool", self.record.uuid)
    }

    fn table(&self, nodes: &Nodes) -> Result<Table> {
        let doing = || format!("look at '{}'", nodes.data.display());
        let block = self.record.block_size / SECTOR;
        let sectors = sys::size(&nodes.data).map_err(Error::io(doing))? / SECTOR / block * block;
        let (metadata, data) = (nodes.metadata.display(), nodes.data.display());
        // Blocks are zeroed before they are used: mkfs and file systems rely on what was never written being zero.
        let arguments = format!("{metadata} {data} {block} 0 1 error_if_no_space");
        Ok(Table { sectors, target: "thin-pool", arguments, read_only: false })
    }

    /// The devices that the pool is to be made on, and what keeps them there until it is.
    fn nodes(&self) -> Result<(Nodes, Vec<File>)> {
        match &self.record.backing {
            Backing::Devices { data, metadata } => {
                for path in [data, metadata] {
                    sys::size(path).map_err(|e| missing(path, &e))?;
                }
                Ok((Nodes { data: data.clone(), metadata: metadata.clone() }, Vec::new()))
            }
            _ => {
                let attach = |name: &str| {
                    let path = self.root.join(name);
                    let file = File::options().read(true).write(true).open(&path);
                    file.and_then(|file| sys::attach(&file))
                        .map_err(Error::io(|| format!("make a loop device of '{}'", path.display())))
                };
                let ((data, held), (metadata, held_too)) = (attach("data")?, attach("metadata")?);
                Ok((Nodes { data, metadata }, vec![held, held_too]))
            }
        }
    }

    /// Fails with `Corrupt` where the base volume is not that of this pool: the devices were given to another one.
    fn recognise(&self) -> Result<()> {
        let what = || format!("the pool '{}'", self.thin.name());
        let found = self.thin.with_active(BASE, self.record.base_size, |device| {
            let found = self.record.filesystem.identity(&device.node());
            found.map_err(Error::io(|| format!("read the base volume of {}", what())))
        });
        let found = match found {
            Err(error) if volumes::is_lacking(&error) => "missing".to_owned(),
            found => found?,
        };
        if found == self.record.uuid {
            return Ok(());
        }
        let reason =
            format!("its base volume is '{found}' and not '{}': it is another pool", self.record.uuid);
        Err(Error::Corrupt { what: what(), reason })
    }
}

/// The two devices of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nodes {
    data: PathBuf,
    metadata: PathBuf,
}

impl Nodes {
    /// Those in the arguments of a thin-pool target, where they are numbers such as `7:1`.
    fn of(arguments: &str) -> io::Result<Self> {
        let mut words = arguments.split(' ');
        let (Some(metadata), Some(data)) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("a pool with the table '{arguments}'")));
        };
        Ok(Self { data: node(data)?, metadata: node(metadata)? })
    }
}

fn node(number: &str) -> io::Result<PathBuf> {
    let link = fs::read_link(Path::new("/sys/dev/block").join(number))?;
    let name = link.file_name().ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new("/dev").join(name))
}

/// That device mapper cannot be used, for people.
pub(crate) fn unavailable(error: &io::Error) -> Error {
    let modules = "it needs the kernel modules dm_mod and dm_thin_pool";
    let reason = match error.kind() {
        io::ErrorKind::NotFound => format!("no device mapper: /dev/mapper/control is not there; {modules}"),
        io::ErrorKind::PermissionDenied => "device mapper is for root alone".to_owned(),
        _ => format!("no device mapper: /dev/mapper/control does not open, {error}; {modules}"),
    };
    Error::Unavailable { reason }
}

fn missing(device: &Path, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        _ => error.to_string(),
    };
    Error::Unavailable { reason: format!("the pool is on '{}': {why}", device.display()) }
}

fn refused(error: io::Error, doing: String) -> Error {
    let why = match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "the kernel refuses its devices, and says in its log why: they may be smaller than they were"
        }
        Some(libc::EBUSY) => "something else uses a device that it is on, see 'lsblk'",
        Some(libc::EILSEQ | libc::EIO) => {
            "its metadata is damaged: 'thin_check' says how far, 'thin_repair' saves what can be read"
        }
        _ => return Error::io(|| doing)(error),
    };
    Error::driver(doing, why)
}
