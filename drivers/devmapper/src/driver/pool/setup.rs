//! How a pool is made, once for a root.
//!
//! The record says what it is to be before anything is made, and that it is ready when it has its base volume. What a
//! crash leaves in between is gone on with, or given up when another pool is asked for.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use mica_core::{Error, Result, durable, failpoint};
use mica_mount::Mounter;

use super::growth::{enlarge, metadata_for};
use super::{BASE, MIB, Pool, Record, SECTOR, unavailable};
use crate::driver::dm::{Device, DeviceMapper};
use crate::driver::filesystem::{self, Mounting};
use crate::driver::thin::{Health, ThinPool};
use crate::driver::{quota, sys, volumes};
use crate::options::{Backing, Options, size as told};

/// What is looked at, or made empty, at the beginning of a device: signatures of file systems and partitions stand
/// there, that of btrfs at 64 KiB.
const START: usize = 2 << 20;

/// Why a pool is not taken.
const TAKEN: &str = "it holds volumes of somebody, and only an empty one is taken";

/// The pool of a root, which is made where there is none. The caller holds the lock.
pub(crate) fn set_up(root: &Path, options: &Options) -> Result<Pool> {
    match Record::read(root)? {
        Some(record) if record.ready => return Pool::open(root, record, options),
        Some(record) if record.is_what_is_asked(options)? => return make(root, record, options),
        Some(record) => give_up(root, record, options, Given::Before)?,
        None => {}
    }
    let record = intend(root, options)?;
    failpoint::hit("devmapper.pool.recorded").map_err(Error::io(|| "make a pool"))?;
    let made = make(root, record, options);
    if let (Err(_), Ok(Some(record))) = (&made, Record::read(root)) {
        // Where this fails, too, the record stays, and the next call gives it up or goes on.
        let _ = give_up(root, record, options, Given::Now);
    }
    made
}

/// When the devices of a pool were found empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Now,
    /// By a process that was killed, so somebody may have put something there since.
    Before,
}

/// Fails with `Options` where a pool cannot be made on what the options name. Changes nothing.
pub(crate) fn look(options: &Options) -> Result<()> {
    match options.backing()? {
        None => Ok(()),
        Some(Backing::Pool { name }) => unused(&name, options).map(drop),
        Some(Backing::Devices { data, metadata }) => blank(&data, &metadata, options),
        Some(Backing::Files) => Ok(()),
    }
}

fn intend(root: &Path, options: &Options) -> Result<Record> {
    look(options)?;
    let backing = options.backing()?.unwrap_or(Backing::Files);
    let block_size = match &backing {
        Backing::Pool { name } => unused(name, options)?,
        _ => options.block_size(),
    };
    let uuid =
        fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(Error::io(|| "get a random uuid"))?;
    let record = Record {
        uuid: uuid.trim().to_owned(),
        backing,
        block_size,
        base_size: options.base_size() / MIB * MIB,
        filesystem: options.filesystem(),
        quota: false,
        begun: false,
        ready: false,
    };
    record.write(root)?;
    Ok(record)
}

/// Makes the pool of a record, or what is missing of it.
fn make(root: &Path, record: Record, options: &Options) -> Result<Pool> {
    let _claim = claim(&record)?;
    if record.backing == Backing::Files {
        files(root, &record, options.file_size())?;
    }
    let mut pool = Pool::open(root, record, options)?;
    let filled = fill(&mut pool, options);
    if filled.is_err() {
        let _ = pool.rest();
    }
    filled.map(|()| pool)
}

/// Keeps others from taking the same pool at the same time. The kernel does that for devices.
fn claim(record: &Record) -> Result<Option<File>> {
    let Backing::Pool { name } = &record.backing else { return Ok(None) };
    let claim = || {
        let device = DeviceMapper::open()?.find(name)?.ok_or(io::ErrorKind::NotFound)?;
        let file = File::open(device.node())?;
        file.lock()?;
        Ok(Some(file))
    };
    claim().map_err(Error::io(|| format!("take the pool '{name}'")))
}

/// Makes the files of a pool, where they are not there. They have no blocks of data yet.
fn files(root: &Path, record: &Record, limit: u64) -> Result<()> {
    let block = record.block_size;
    let data = (record.base_size / 4).clamp(64 * MIB, 2048 * MIB).max(record.filesystem.smallest_pool());
    let data = data.min(limit) / block * block;
    for (name, size) in [("data", data), ("metadata", metadata_for(data, block) + 2 * MIB)] {
        let path = root.join(name);
        let make = || {
            File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            enlarge(&path, size, name == "metadata")
        };
        make().map_err(Error::io(|| format!("make '{}'", path.display())))?;
    }
    durable::sync_dir(root).map_err(Error::io(|| "make a pool"))
}

/// Fails with `Options` unless both are block devices, large enough, and with nothing on them that nobody uses.
fn blank(data: &Path, metadata: &Path, options: &Options) -> Result<()> {
    let refuse = |text: String| Err(Error::Options(text));
    let unusable = |path: &Path, e: &io::Error| {
        Error::Options(format!("'{}' cannot be used for a pool: {}", path.display(), plain(e)))
    };
    let size = |path: &Path| sys::size(path).map_err(|e| unusable(path, &e));
    let (data_size, metadata_size) = (size(data)?, size(metadata)?);
    if is_same(data, metadata) {
        return refuse(format!("'data' and 'metadata' are one device: '{}'", data.display()));
    }
    let least = options.filesystem().smallest_pool();
    if data_size < least {
        return refuse(format!("'{}' has {}; a pool needs {}", data.display(), told(data_size), told(least)));
    }
    let least = metadata_for(data_size, options.block_size());
    if metadata_size < least {
        return refuse(format!(
            "'{}' has {}; the metadata of {} of data needs {}",
            metadata.display(),
            told(metadata_size),
            told(data_size),
            told(least)
        ));
    }
    for path in [data, metadata] {
        if holds_something(path).map_err(|e| unusable(path, &e))? {
            return refuse(format!(
                "'{0}' holds something: if that can go, empty it by 'wipefs -a {0}' and 'blkdiscard -z -l 2MiB {0}'",
                path.display()
            ));
        }
    }
    Ok(())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let number = |path: &Path| fs::metadata(path).ok().map(|file| file.rdev());
    number(one) == number(other)
}

fn holds_something(device: &Path) -> io::Result<bool> {
    // Fails where it is mounted, or another device is made of it.
    let file = File::options().read(true).custom_flags(libc::O_EXCL).open(device)?;
    sys::forget(&file)?;
    let mut start = Vec::with_capacity(START);
    file.take(START as u64).read_to_end(&mut start)?;
    Ok(start.iter().any(|byte| *byte != 0))
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        io::ErrorKind::ResourceBusy => "something else uses it, see 'lsblk'".to_owned(),
        _ => error.to_string(),
    }
}

/// Fails with `Options` unless this is a thin pool that nobody has volumes in. Returns the size of its blocks.
fn unused(name: &str, options: &Options) -> Result<u64> {
    let dm = DeviceMapper::open().map_err(|e| unavailable(&e))?;
    let refuse = |why: &str| Err(Error::Options(format!("the pool '{name}' cannot be used: {why}")));
    let doing = || format!("look at the pool '{name}'");
    if dm.find(name).map_err(Error::io(doing))?.is_none() {
        return refuse("there is no such device; 'dmsetup ls --target thin-pool' lists those that are");
    }
    let pool = ThinPool::new(dm, name.to_owned(), String::new());
    let Some(block) = pool.block_size().map_err(Error::io(doing))? else {
        return refuse("it is a device, but no thin pool; 'dmsetup ls --target thin-pool' lists those");
    };
    let status = pool.status()?;
    if status.health != Health::Good {
        return refuse(&format!("it is {}", status.health.told()));
    }
    if status.transaction != 0 || status.data.used != 0 {
        return refuse(TAKEN);
    }
    if options.block_size.is_some_and(|asked| asked.0 != block) {
        return refuse(&format!("its blocks have {}: leave out 'block_size'", told(block)));
    }
    Ok(block)
}

/// Makes the base volume.
fn fill(pool: &mut Pool, options: &Options) -> Result<()> {
    let doing = || "make the base volume";
    if pool.thin.status()?.transaction > 0 {
        // All that was left to do is to say so, where it was this root that raised it.
        pool.recognise()?;
    } else {
        begin(pool)?;
        failpoint::hit("devmapper.base.begun").map_err(Error::io(doing))?;
        pool.grow(pool.record.base_size.min(256 * MIB), options.file_size())?;
        pool.thin.make(BASE).map_err(Error::io(doing))?;
        failpoint::hit("devmapper.base.made").map_err(Error::io(doing))?;
        let prezeroed = pool.thin.zeroes_blocks().map_err(Error::io(doing))?;
        let empty = |device: &Device| make_empty(pool, &device.node(), options, prezeroed);
        pool.record.quota = pool.thin.with_active(BASE, pool.record.base_size, empty)?;
        failpoint::hit("devmapper.base.filled").map_err(Error::io(doing))?;
        pool.record.write(&pool.root)?;
        failpoint::hit("devmapper.base.recorded").map_err(Error::io(doing))?;
        pool.thin.set_transaction(0, u64::from(BASE)).map_err(Error::io(doing))?;
        failpoint::hit("devmapper.base.raised").map_err(Error::io(doing))?;
    }
    pool.record.ready = true;
    pool.record.write(&pool.root)
}

/// Records that the base volume is about to be made, or deletes what was made of it before. Fails with `Options` where there
/// is one that somebody else made.
fn begin(pool: &mut Pool) -> Result<()> {
    if pool.record.begun {
        return unmake(pool);
    }
    match pool.thin.with_active(BASE, pool.record.base_size, |_| Ok(())) {
        Err(error) if volumes::is_lacking(&error) => {}
        Err(error) => return Err(error),
        Ok(()) => {
            return Err(Error::Options(format!("the pool '{}' cannot be used: {TAKEN}", pool.thin.name())));
        }
    }
    pool.record.begun = true;
    pool.record.write(&pool.root)
}

fn unmake(pool: &Pool) -> Result<()> {
    pool.thin.deactivate(BASE)?;
    pool.thin.delete(BASE).map_err(Error::io(|| "delete a base volume that is not finished"))
}

/// Makes the empty file system. Returns whether it keeps quotas.
fn make_empty(pool: &Pool, node: &Path, options: &Options, prezeroed: bool) -> Result<bool> {
    let kind = pool.record.filesystem;
    kind.make(node, &pool.record.uuid, &options.mkfs_args()?, prezeroed)?;
    let mounter = Mounter::new(&pool.root);
    let open = |quota| {
        mounter.open(&kind.mount(&Mounting {
            node,
            quota,
            more: options.more_mount_options(),
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

/// Takes away what was made of a pool that is not ready.
fn give_up(root: &Path, record: Record, options: &Options, given: Given) -> Result<()> {
    let (backing, begun) = (record.backing.clone(), record.begun);
    let doing = || "give up a pool";
    // Where it cannot be had, such as since a device is gone, there is nothing to take away.
    if let Ok(pool) = Pool::open(root, record, options) {
        let is_ours = begun && pool.thin.status()?.transaction == 0;
        if is_ours {
            unmake(&pool)?;
        }
        pool.rest()?;
        if let (true, Given::Now, Backing::Devices { data, metadata }) = (is_ours, given, &backing) {
            for device in [data, metadata] {
                empty(device).map_err(Error::io(doing))?;
            }
        }
    }
    let leftovers: &[&str] =
        if backing == Backing::Files { &["data", "metadata", "pool"] } else { &["pool"] };
    for name in leftovers {
        match fs::remove_file(root.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(Error::io(doing))?,
        }
    }
    Ok(())
}

fn empty(device: &Path) -> io::Result<()> {
    let size = sys::size(device)?.min(START as u64) / SECTOR * SECTOR;
    let mut file = File::options().write(true).custom_flags(libc::O_EXCL).open(device)?;
    file.write_all(&vec![0; size as usize])?;
    file.sync_all()
}
