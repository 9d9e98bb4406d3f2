//! The pool of a driver's root: how it is made, found again, grown, and put away.
//!
//! ```text
//! root/pool        what the pool is; written before the pool is made, and again when it is ready for layers
//! root/data        the pool's blocks, where it is on files
//! root/metadata    and its metadata
//! ```
//!
//! The pool is active while somebody works with it, and stays active while a volume is. Volume 1 holds an empty
//! file system, of which every base layer is a snapshot. By its identity a pool is known as ours.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mica_core::{Error, Result, durable, failpoint};
use mica_mount::Mounter;
use serde::{Deserialize, Serialize};

use super::dm::{Device, DeviceMapper, Table};
use super::filesystem::{self, Mounting};
use super::thin::{Health, Status, ThinPool};
use super::{quota, sys};
use crate::options::{Backing, Kind, Options};

/// The volume with the empty file system.
pub(crate) const BASE: u32 = 1;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// The kernel uses no more metadata than that.
const MOST_METADATA: u64 = 16 << 30;
/// What files grow by.
const STEP: u64 = 256 * MIB;
const LEAST_METADATA: u64 = 2 * MIB;

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
    /// The base volume is there.
    pub(crate) ready: bool,
}

/// The pool of this root.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) record: Record,
    pub(crate) thin: ThinPool,
    root: PathBuf,
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
        let dm = DeviceMapper::open().map_err(unavailable)?;
        let short = self.uuid.get(..8).unwrap_or(&self.uuid);
        let name = match &self.backing {
            Backing::Pool { name } => name.clone(),
            _ => format!("mica-{short}-pool"),
        };
        Ok(ThinPool::new(dm, name, format!("mica-{short}-")))
    }

    /// Fails with `Options` where they ask for another pool than this one.
    pub(crate) fn agrees(&self, options: &Options, given: &mica_core::OptionMap) -> Result<()> {
        let fixed = |name: &str, there: String| {
            Err(Error::Options(format!(
                "the pool of this root has {name} {there}, which is fixed when it is made: leave '{name}' out, or use \
                 another root"
            )))
        };
        if given.contains_key("block_size") && options.block_size.0 != self.block_size {
            return fixed("block_size", self.block_size.to_string());
        }
        if given.contains_key("filesystem") && options.filesystem != self.filesystem {
            return fixed("filesystem", self.filesystem.name().to_owned());
        }
        if given.contains_key("base_size") && options.base_size.0 < self.base_size {
            return Err(Error::Options(format!(
                "'base_size' {} is less than the {} bytes of the layers that are there: file systems only grow",
                options.base_size.0, self.base_size
            )));
        }
        let backing = ["data", "metadata", "pool"].into_iter().any(|name| given.contains_key(name));
        if backing && options.backing()? != self.backing {
            return fixed(if options.pool.is_some() { "pool" } else { "data" }, self.backing.to_string());
        }
        Ok(())
    }
}

impl Pool {
    /// The pool of a record, active. The caller holds the lock.
    pub(crate) fn open(root: &Path, record: Record) -> Result<Self> {
        let pool = Self { thin: record.thin()?, record, root: root.to_owned() };
        if pool.wake()? && pool.record.ready {
            pool.recognise()?;
        }
        Ok(pool)
    }

    /// Has the pool active. Returns whether it was not. The caller holds the lock.
    pub(crate) fn wake(&self) -> Result<bool> {
        let name = self.thin.name();
        let doing = || format!("activate the pool '{name}'");
        let found = self.thin.dm().find(name).map_err(Error::io(doing))?;
        match (&self.record.backing, found) {
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
                self.thin.dm().make(name, &self.uuid(), &table).map_err(|e| refused(e, doing()))?;
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
            Some(device) if device.users == 0 => {
                self.thin.dm().remove(self.thin.name()).map(drop).map_err(Error::io(doing))
            }
            _ => Ok(()),
        }
    }

    /// Makes room for `bytes` more, as far as files may grow. The caller holds the lock.
    pub(crate) fn grow(&self, bytes: u64, limit: u64) -> Result<()> {
        if self.record.backing != Backing::Files {
            return Ok(());
        }
        let status = self.thin.status()?;
        let block = self.record.block_size;
        let total = status.data.total * block;
        let wanted = (status.data.used * block).saturating_add(bytes);
        // By steps: each one stops whoever writes for a moment.
        let wanted = wanted.checked_next_multiple_of(STEP).unwrap_or(wanted).min(limit) / block * block;
        let data = wanted.max(total);
        let metadata = metadata_for(data, block).max(status.metadata.total * 4096);
        // More than the rule says where many snapshots share much.
        let tight = status.metadata.free() < 2 * status.metadata_reserve.max(256);
        let metadata = if tight { (metadata * 2).min(MOST_METADATA) } else { metadata };
        if data == total && metadata == status.metadata.total * 4096 {
            return Ok(());
        }
        self.resize(data, metadata).map_err(Error::io(|| format!("grow the pool '{}'", self.thin.name())))
    }

    fn resize(&self, data: u64, metadata: u64) -> io::Result<()> {
        for (file, size) in [("data", data), ("metadata", metadata)] {
            let file = File::options().write(true).open(self.root.join(file))?;
            if file.metadata()?.len() < size {
                file.set_len(size)?;
                file.sync_all()?;
            }
        }
        failpoint::hit("devmapper.grow.files")?;
        let arguments = self.thin.dm().arguments(self.thin.name())?;
        let nodes = Nodes::of(&arguments)?;
        for node in [&nodes.data, &nodes.metadata] {
            sys::grown(node)?;
        }
        failpoint::hit("devmapper.grow.devices")?;
        let table = Table { sectors: sys::size(&nodes.data)? / SECTOR, target: "thin-pool", arguments };
        self.thin.dm().change(self.thin.name(), &table).map(drop)
    }

    /// The block device of the metadata, for the tools that read it.
    pub(crate) fn metadata_node(&self) -> io::Result<PathBuf> {
        Ok(Nodes::of(&self.thin.dm().arguments(self.thin.name())?)?.metadata)
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
        Ok(Nodes::of(&self.thin.dm().arguments(self.thin.name())?)?.data)
    }

    fn uuid(&self) -> String {
        format!("MICA-{}-pool", self.record.uuid)
    }

    fn table(&self, nodes: &Nodes) -> Result<Table> {
        let doing = || format!("look at '{}'", nodes.data.display());
        let block = self.record.block_size / SECTOR;
        let sectors = sys::size(&nodes.data).map_err(Error::io(doing))? / SECTOR / block * block;
        let (metadata, data) = (nodes.metadata.display(), nodes.data.display());
        // Blocks need no zeroing, since file systems never show what they did not write.
        let arguments = format!("{metadata} {data} {block} 0 2 error_if_no_space skip_block_zeroing");
        Ok(Table { sectors, target: "thin-pool", arguments })
    }

    /// The devices that the pool is to be made on, and what keeps them there until it is.
    fn nodes(&self) -> Result<(Nodes, Vec<File>)> {
        match &self.record.backing {
            Backing::Devices { data, metadata } => {
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
        })?;
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

/// Makes the pool of a root that has none, or goes on where a crash ended that. The caller holds the lock.
pub(crate) fn set_up(root: &Path, options: &Options) -> Result<Pool> {
    let record = match Record::read(root)? {
        Some(record) => record,
        None => begin(root, options)?,
    };
    let mut pool = Pool::open(root, record)?;
    let made = if pool.record.ready { Ok(()) } else { fill(&mut pool, options) };
    if let Err(error) = made {
        let _ = pool.rest();
        return Err(error);
    }
    Ok(pool)
}

fn begin(root: &Path, options: &Options) -> Result<Record> {
    let record = Record {
        uuid: fs::read_to_string("/proc/sys/kernel/random/uuid")
            .map_err(Error::io(|| "get a random uuid"))?
            .trim()
            .to_owned(),
        backing: options.backing()?,
        block_size: options.block_size.0,
        base_size: options.base_size.0 / SECTOR * SECTOR,
        filesystem: options.filesystem,
        quota: false,
        ready: false,
    };
    match &record.backing {
        Backing::Files => files(root, options)?,
        Backing::Devices { data, metadata } => blank(data, metadata, record.block_size)?,
        Backing::Pool { name } => unused(name)?,
    }
    record.write(root)?;
    failpoint::hit("devmapper.pool.recorded").map_err(Error::io(|| "make a pool"))?;
    Ok(record)
}

/// Makes the files of a pool anew. They have no blocks yet.
fn files(root: &Path, options: &Options) -> Result<()> {
    let block = options.block_size.0;
    let data = (options.base_size.0 / 4).clamp(64 * MIB, 2048 * MIB).min(options.file_size.0) / block * block;
    for (name, size) in [("data", data), ("metadata", metadata_for(data, block))] {
        let path = root.join(name);
        let make = || {
            let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.set_len(size)?;
            file.sync_all()
        };
        make().map_err(Error::io(|| format!("make '{}'", path.display())))?;
    }
    durable::sync_dir(root).map_err(Error::io(|| "make a pool"))
}

/// Fails with `Options` unless both are block devices, large enough, and with nothing on them.
fn blank(data: &Path, metadata: &Path, block: u64) -> Result<()> {
    let size = |path: &Path| {
        sys::size(path)
            .map_err(|e| Error::Options(format!("'{}' cannot be used for a pool: {e}", path.display())))
    };
    let (data_size, metadata_size) = (size(data)?, size(metadata)?);
    let least = metadata_for(data_size, block);
    if metadata_size < least {
        return Err(Error::Options(format!(
            "'{}' has {metadata_size} bytes; the metadata of {data_size} bytes of data needs {least}",
            metadata.display()
        )));
    }
    for path in [data, metadata] {
        let mut start = vec![0; 64 << 10];
        let read = File::options().read(true).custom_flags(libc::O_EXCL).open(path);
        read.and_then(|mut file| file.read_exact(&mut start))
            .map_err(Error::io(|| format!("read '{}'", path.display())))?;
        if start.iter().any(|byte| *byte != 0) {
            return Err(Error::Options(format!(
                "'{}' holds something: if it can go, zero its beginning, such as by 'blkdiscard -z -l 64KiB {0}'",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Fails with `Options` unless this is a thin pool that nobody has volumes in.
fn unused(name: &str) -> Result<()> {
    let dm = DeviceMapper::open().map_err(unavailable)?;
    let refuse = |why: String| Err(Error::Options(format!("the pool '{name}' cannot be used: {why}")));
    match dm.find(name) {
        Ok(Some(_)) => {}
        Ok(None) => {
            return refuse(
                "there is no such device; 'dmsetup ls --target thin-pool' lists those that are".into(),
            );
        }
        Err(error) => return refuse(error.to_string()),
    }
    let pool = ThinPool::new(dm, name.to_owned(), String::new());
    let status = pool.status()?;
    match status {
        Status { health: Health::Good, transaction: 0, .. } if status.data.used == 0 => Ok(()),
        Status { health: Health::Good, .. } => {
            refuse("it holds volumes of somebody, and only an empty one is taken".into())
        }
        Status { health, .. } => refuse(health.told().to_owned()),
    }
}

/// Makes the base volume, once more where that was begun before.
fn fill(pool: &mut Pool, options: &Options) -> Result<()> {
    let doing = || "make the base volume";
    let transaction = pool.thin.status()?.transaction;
    pool.thin.deactivate(BASE)?;
    pool.thin.delete(BASE).map_err(Error::io(doing))?;
    pool.grow(pool.record.base_size.min(256 * MIB), options.file_size.0)?;
    pool.thin.make(BASE).map_err(Error::io(doing))?;
    failpoint::hit("devmapper.base.made").map_err(Error::io(doing))?;
    let empty = |device: &Device| make_empty(pool, &device.node(), options);
    pool.record.quota = pool.thin.with_active(BASE, pool.record.base_size, empty)?;
    failpoint::hit("devmapper.base.filled").map_err(Error::io(doing))?;
    if transaction < u64::from(BASE) {
        pool.thin.set_transaction(transaction, u64::from(BASE)).map_err(Error::io(doing))?;
    }
    pool.record.ready = true;
    pool.record.write(&pool.root)
}

/// Makes the empty file system. Returns whether it keeps quotas.
fn make_empty(pool: &Pool, node: &Path, options: &Options) -> Result<bool> {
    let kind = pool.record.filesystem;
    kind.make(node, &pool.record.uuid, &options.mkfs_args)?;
    let mounter = Mounter::new(&pool.root);
    let open = |quota| {
        mounter.open(&kind.mount(&Mounting {
            node,
            quota,
            more: &options.mount_options,
            read_only: false,
            label: None,
            id_map: None,
        }))
    };
    let (tree, quota) = match open(true) {
        Ok(tree) => (tree, true),
        // The kernel may lack quotas.
        Err(_) => (open(false)?, false),
    };
    let doing = || "prepare the base volume";
    let root = filesystem::root_of(&tree).map_err(Error::io(doing))?;
    filesystem::tidy(&root).map_err(Error::io(doing))?;
    let quota = quota && quota::prepare(&root).is_ok();
    rustix::fs::syncfs(&root).map_err(io::Error::from).map_err(Error::io(doing))?;
    drop(root);
    tree.close()?;
    Ok(quota)
}

/// The size of metadata for so much data: the kernel's rule of thumb is 48 bytes a block.
fn metadata_for(data: u64, block: u64) -> u64 {
    (data / block * 48).next_multiple_of(MIB).clamp(LEAST_METADATA, MOST_METADATA)
}

#[allow(clippy::needless_pass_by_value, reason = "given to map_err")]
fn unavailable(error: io::Error) -> Error {
    Error::Unavailable {
        reason: format!(
            "device mapper cannot be used ({error}): it needs the kernel modules dm_mod and dm_thin_pool"
        ),
    }
}

fn refused(error: io::Error, doing: String) -> Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => Error::Unavailable {
            reason: format!(
                "{doing}: the kernel refuses; it needs the module dm_thin_pool, and its log says more"
            ),
        },
        Some(libc::EBUSY) => Error::InUse {
            what: "a device of the pool".to_owned(),
            by: "something else, see 'lsblk'".to_owned(),
        },
        _ => Error::io(|| doing)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_follows_the_data() {
        assert_eq!(metadata_for(64 * MIB, 64 << 10), 2 * MIB);
        assert_eq!(metadata_for(100 << 30, 64 << 10), 75 * MIB);
        assert_eq!(metadata_for(1 << 60, 64 << 10), MOST_METADATA);
    }
}
