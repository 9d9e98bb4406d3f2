//! A thin pool as the kernel has it: its messages, its status, and the volumes in it that are active.
//!
//! The kernel's own description is Documentation/admin-guide/device-mapper/thin-provisioning.rst.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use devicemapper::{ThinPoolStatus, ThinPoolStatusSummary};
use mica_core::{Error, Result, failpoint};

use super::dm::{Device, DeviceMapper, Table, Writes};

/// The kernel keeps volumes by numbers of 24 bits.
pub(crate) const MAX_VOLUME: u32 = (1 << 24) - 1;

/// How long a device may take to be let go of.
const PATIENCE: Duration = Duration::from_secs(5);

/// An active pool.
#[derive(Debug)]
pub(crate) struct ThinPool {
    dm: DeviceMapper,
    /// The pool's own device.
    name: String,
    /// What the names of its volumes' devices begin with.
    prefix: String,
}

/// How full a pool is, and how well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) transaction: u64,
    pub(crate) data: Used,
    /// In blocks of 4 KiB.
    pub(crate) metadata: Used,
    /// The kernel keeps this many blocks of metadata for deletions.
    pub(crate) metadata_reserve: u64,
    pub(crate) health: Health,
    /// Somebody holds a snapshot of the metadata.
    pub(crate) metadata_snapshot: bool,
}

/// Blocks used, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) used: u64,
    pub(crate) total: u64,
}

impl Used {
    pub(crate) fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// What a pool can still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    /// No block is free: what needs one fails.
    OutOfSpace,
    /// No block of metadata is free, so nothing can be made or deleted.
    OutOfMetadata,
    /// Its metadata cannot be written.
    ReadOnly,
    /// Its metadata must be checked by thin_check(8) before it is used.
    NeedsCheck,
    /// It does nothing at all.
    Failed,
}

impl Health {
    /// Volumes can be made, or at least deleted.
    pub(crate) fn takes_changes(self) -> bool {
        matches!(self, Self::Good | Self::OutOfSpace)
    }

    /// For people.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::OutOfSpace => "out of space: remove something, or enlarge it",
            Self::OutOfMetadata => "read-only, since its metadata is full: enlarge that",
            Self::ReadOnly => "read-only, and the kernel's log says why",
            Self::NeedsCheck => {
                "in need of a check: deactivate it, and have its metadata checked by thin_check, and repaired by \
                 thin_repair"
            }
            Self::Failed => "failed: the kernel's log says why",
        }
    }
}

impl ThinPool {
    pub(crate) fn new(dm: DeviceMapper, name: String, prefix: String) -> Self {
        Self { dm, name, prefix }
    }

    pub(crate) fn dm(&self) -> &DeviceMapper {
        &self.dm
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same pool for somebody who does not hold the lock.
    pub(crate) fn again(&self) -> Result<Self> {
        let dm = DeviceMapper::open().map_err(Error::io(|| "open device mapper"))?;
        Ok(Self { dm, name: self.name.clone(), prefix: self.prefix.clone() })
    }

    pub(crate) fn status(&self) -> Result<Status> {
        let line = self.dm.status(&self.name).map_err(Error::io(|| self.doing("ask the state of")))?;
        let parsed = line.parse().map_err(|e| Error::driver(self.doing("read the state of"), e))?;
        let ThinPoolStatus::Working(status) = parsed else {
            return Ok(Status {
                transaction: 0,
                data: Used { used: 0, total: 0 },
                metadata: Used { used: 0, total: 0 },
                metadata_reserve: 0,
                health: Health::Failed,
                metadata_snapshot: false,
            });
        };
        let data = Used { used: *status.usage.used_data, total: *status.usage.total_data };
        let metadata = Used { used: *status.usage.used_meta, total: *status.usage.total_meta };
        let metadata_reserve = status.meta_low_water.unwrap_or_default();
        Ok(Status {
            transaction: status.transaction_id,
            data,
            metadata,
            metadata_reserve,
            health: match status.summary {
                _ if status.needs_check => Health::NeedsCheck,
                // The kernel says so only once a block was asked for in vain.
                ThinPoolStatusSummary::Good if data.free() == 0 => Health::OutOfSpace,
                ThinPoolStatusSummary::Good => Health::Good,
                ThinPoolStatusSummary::OutOfSpace => Health::OutOfSpace,
                ThinPoolStatusSummary::ReadOnly if metadata.free() <= metadata_reserve => {
                    Health::OutOfMetadata
                }
                ThinPoolStatusSummary::ReadOnly => Health::ReadOnly,
            },
            metadata_snapshot: status.held_metadata_root.is_some(),
        })
    }

    /// The size of its blocks in bytes; `None` where the device is no thin pool.
    pub(crate) fn block_size(&self) -> io::Result<Option<u64>> {
        if self.dm.kind(&self.name)? != "thin-pool" {
            return Ok(None);
        }
        let arguments = self.dm.arguments(&self.name)?;
        let sectors = arguments.split(' ').nth(2).and_then(|word| word.parse::<u64>().ok());
        sectors.map(|sectors| Some(sectors * 512)).ok_or_else(|| io::Error::other(arguments))
    }

    /// Whether the rest of a block is zero where only a part was written.
    pub(crate) fn zeroes_blocks(&self) -> io::Result<bool> {
        Ok(!self.dm.arguments(&self.name)?.contains("skip_block_zeroing"))
    }

    /// How many bytes may be written to the volumes that are active.
    pub(crate) fn promised(&self) -> Result<u64> {
        let sum = || {
            let active = self.active()?;
            active.into_iter().try_fold(0, |sum: u64, (_, name, _)| {
                Ok(sum.saturating_add(self.dm.sectors(&name)?.saturating_mul(512)))
            })
        };
        sum().map_err(Error::io(|| self.doing("look at the volumes of")))
    }

    /// Sends a message, and returns when what it does is on disk.
    fn message(&self, message: &str) -> io::Result<()> {
        self.dm.message(&self.name, message)?;
        // The kernel writes the metadata then, and tells nobody who asked whether it could.
        match self.status().map_err(io::Error::other)?.health.takes_changes() {
            true => Ok(()),
            false => Err(io::Error::other("the metadata of the pool cannot be written")),
        }
    }

    /// Makes an empty volume.
    pub(crate) fn make(&self, volume: u32) -> io::Result<()> {
        self.message(&format!("create_thin {volume}"))
    }

    /// Makes a volume with the content of another. Who writes to that waits meanwhile, and `writes` says what is sure
    /// to be in the copy.
    pub(crate) fn snapshot(&self, volume: u32, origin: u32, writes: Writes) -> io::Result<()> {
        let name = self.device(origin);
        let message = format!("create_snap {volume} {origin}");
        match self.dm.find(&name)? {
            Some(_) => {
                let still = self.dm.suspend(&name, writes).map_err(unsettled)?;
                failpoint::hit("devmapper.snapshot.suspended")?;
                let made = self.message(&message);
                let resumed = still.resume();
                made.and(resumed)
            }
            None => self.message(&message),
        }
    }

    /// Deletes a volume that is not active. One that is not there counts as deleted.
    pub(crate) fn delete(&self, volume: u32) -> io::Result<()> {
        match self.message(&format!("delete {volume}")) {
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            answer => answer,
        }
    }

    pub(crate) fn set_transaction(&self, was: u64, is: u64) -> io::Result<()> {
        self.message(&format!("set_transaction_id {was} {is}"))
    }

    /// Makes a device of a volume, where it is none yet. The caller holds the lock. With `read_only` nothing can be
    /// written through it, also not by a file system that is mounted for reading alone, as xfs does.
    pub(crate) fn activate(&self, volume: u32, bytes: u64, read_only: bool) -> Result<Device> {
        let name = self.device(volume);
        let doing = || format!("activate volume {volume} of {}", self.name);
        if let Some(device) = self.dm.usable(&name).map_err(Error::io(doing))?
            && (!device.going || self.dm.keep(&name).map_err(Error::io(doing))?)
        {
            if device.suspended {
                // Somebody was killed between the two halves of a snapshot.
                self.dm.resume(&name).map_err(Error::io(doing))?;
            }
            return Ok(device);
        }
        let pool = self.dm.find(&self.name).map_err(Error::io(doing))?;
        let pool = pool.ok_or_else(|| Error::driver(doing(), "the pool is not active"))?;
        let arguments = format!("{} {volume}", pool.node().display());
        let table = Table { sectors: bytes / 512, target: "thin", arguments, read_only };
        self.dm.make(&name, &format!("MICA-{name}"), &table).map_err(Error::io(doing))
    }

    /// Does something with the device of a volume, which is active afterwards if it was before. The caller holds the lock.
    pub(crate) fn with_active<T>(
        &self,
        volume: u32,
        bytes: u64,
        work: impl FnOnce(&Device) -> Result<T>,
    ) -> Result<T> {
        let was_active = self.is_active(volume)?;
        let device = self.activate(volume, bytes, false)?;
        let done = work(&device);
        if was_active {
            return done;
        }
        let deactivated = self.deactivate(volume);
        done.and_then(|done| deactivated.map(|()| done))
    }

    /// Makes an active volume larger.
    pub(crate) fn resize(&self, volume: u32, bytes: u64) -> Result<()> {
        let name = self.device(volume);
        let resize = || {
            let arguments = self.dm.arguments(&name)?;
            self.dm
                .change(&name, &Table { sectors: bytes / 512, target: "thin", arguments, read_only: false })
        };
        resize().map(drop).map_err(Error::io(|| format!("enlarge volume {volume} of {}", self.name)))
    }

    /// A volume as `mica inspect` shows it, by the names that Docker has for this; with its device while that is there.
    pub(crate) fn describe(&self, volume: u32, bytes: u64) -> Result<Vec<(String, String)>> {
        let name = self.device(volume);
        let found = self.dm.find(&name).map_err(Error::io(|| self.doing("look at a volume of")))?;
        let lasting =
            [("DeviceName", name), ("DeviceId", volume.to_string()), ("DeviceSize", bytes.to_string())];
        let device = found.map(|device| ("Device", device.node().display().to_string()));
        Ok(lasting.into_iter().chain(device).map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub(crate) fn is_active(&self, volume: u32) -> Result<bool> {
        let found = self.dm.find(&self.device(volume));
        found.map(|device| device.is_some()).map_err(Error::io(|| self.doing("look at a volume of")))
    }

    /// How many bytes of an active volume have blocks, its own and shared ones.
    pub(crate) fn mapped(&self, volume: u32) -> Result<u64> {
        let line =
            self.dm.status(&self.device(volume)).map_err(Error::io(|| self.doing("look at a volume of")))?;
        let sectors = line.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        let sectors =
            sectors.ok_or_else(|| Error::driver(self.doing("look at a volume of"), line.clone()))?;
        Ok(sectors * 512)
    }

    /// The device of a volume goes, at the latest when its last user lets go of it.
    pub(crate) fn deactivate(&self, volume: u32) -> Result<()> {
        let gone = self.dm.remove(&self.device(volume));
        gone.map(drop).map_err(Error::io(|| format!("deactivate volume {volume} of {}", self.name)))
    }

    /// Returns when a volume has no device, or fails with `InUse` after a while. The caller holds no lock.
    pub(crate) fn wait_until_inactive(&self, volume: u32, what: impl FnOnce() -> String) -> Result<()> {
        let name = self.device(volume);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let doing = || format!("look for volume {volume} of {}", self.name);
            let Some(device) = self.dm.find(&name).map_err(Error::io(doing))? else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(Error::InUse { what: what(), by: super::holders::of(&device.node()) });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets every volume go on over which somebody was killed. The caller holds the lock.
    pub(crate) fn resume_all(&self) -> Result<()> {
        let resume = || {
            for (_, name, device) in self.active()? {
                if device.suspended {
                    self.dm.resume(&name)?;
                }
            }
            Ok(())
        };
        resume().map_err(Error::io(|| self.doing("resume the volumes of")))
    }

    /// Deactivates every volume that nobody has open. The caller holds the lock, and nobody is about to mount one.
    pub(crate) fn deactivate_idle(&self) -> Result<()> {
        let active = self.active().map_err(Error::io(|| self.doing("list the volumes of")))?;
        let mut idle = active.into_iter().filter(|(_, _, device)| device.users == 0);
        idle.try_for_each(|(volume, ..)| self.deactivate(volume))
    }

    /// The volumes that have a device, with its name.
    fn active(&self) -> io::Result<Vec<(u32, String, Device)>> {
        let mut active = Vec::new();
        for name in self.dm.names()? {
            let volume = name.strip_prefix(&self.prefix).and_then(|number| number.parse().ok());
            if let (Some(volume), Some(device)) = (volume, self.dm.find(&name)?) {
                active.push((volume, name, device));
            }
        }
        Ok(active)
    }

    fn device(&self, volume: u32) -> String {
        format!("{}{volume}", self.prefix)
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} the pool '{}'", self.name)
    }
}

/// Why what is mounted could not be frozen: a file system refuses that once it has given up its journal.
fn unsettled(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EIO) => io::Error::other(
            "the file system that is to be copied has met an error, and takes no more writes; stop what uses it, and try \
             again",
        ),
        _ => error,
    }
}
