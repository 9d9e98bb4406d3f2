//! Device mapper: devices with a table of one target, and messages to that target.
//!
//! Failures are plain [`io::Error`]s with the kernel's error number, which is what callers decide by.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use devicemapper::errors::Error as CoreError;
use devicemapper::{DM, DevId, DeviceInfo, DmError, DmFlags, DmName, DmOptions, DmUuid};
use mica_core::failpoint;

/// The kernel's device mapper.
pub(crate) struct DeviceMapper(DM);

impl fmt::Debug for DeviceMapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceMapper")
    }
}

/// A device that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// The number `N` of `/dev/dm-N`.
    minor: u32,
    pub(crate) uuid: String,
    /// How many have it open: mounts, and tables of other devices.
    pub(crate) users: i32,
    pub(crate) suspended: bool,
    /// It goes when its last user does.
    pub(crate) going: bool,
    /// It has a table. One that has none was made by somebody who was killed over it.
    pub(crate) live: bool,
}

/// What a device is to be: its size in sectors of 512 bytes, its target, and the target's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) sectors: u64,
    pub(crate) target: &'static str,
    pub(crate) arguments: String,
    /// Nothing can be written through it.
    pub(crate) read_only: bool,
}

impl Device {
    /// Its node. Without udev there is no other, and with udev there is this one too.
    pub(crate) fn node(&self) -> PathBuf {
        format!("/dev/dm-{}", self.minor).into()
    }
}

impl DeviceMapper {
    pub(crate) fn open() -> io::Result<Self> {
        // The crate's own failure has no error number.
        File::open("/dev/mapper/control")?;
        DM::new().map(Self).map_err(plain)
    }

    /// The version of a kind of target, where the kernel has it.
    pub(crate) fn target(&self, name: &str) -> io::Result<Option<(u32, u32, u32)>> {
        let all = self.0.list_versions().map_err(plain)?;
        Ok(all
            .into_iter()
            .find(|known| known.0 == name)
            .map(|(_, major, minor, patch)| (major, minor, patch)))
    }

    /// The names of all devices.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let all = self.0.list_devices().map_err(plain)?;
        Ok(all.into_iter().map(|(name, ..)| name.to_string()).collect())
    }

    /// The device of this name.
    pub(crate) fn find(&self, name: &str) -> io::Result<Option<Device>> {
        present(self.0.device_info(&DevId::Name(self::name(name)?)).map(|info| device(&info)))
    }

    /// The device of this name, to be used. One without a table is removed, and counts as none. The caller holds the lock of
    /// those who make such devices.
    pub(crate) fn usable(&self, name: &str) -> io::Result<Option<Device>> {
        match self.find(name)? {
            Some(device) if !device.live => self.remove_unused(name).map(|()| None),
            found => Ok(found),
        }
    }

    /// Makes a device. After an error there is none.
    pub(crate) fn make(&self, name: &str, uuid: &str, table: &Table) -> io::Result<Device> {
        let uuid = DmUuid::new(uuid).map_err(plain)?;
        self.0.device_create(self::name(name)?, Some(uuid), DmOptions::private()).map_err(plain)?;
        failpoint::hit("devmapper.device.made").and_then(|()| self.load(name, table)).inspect_err(|_| {
            let _ = self.remove(name);
        })
    }

    /// Gives a device a new table. What is written meanwhile waits.
    pub(crate) fn change(&self, name: &str, table: &Table) -> io::Result<Device> {
        self.load_table(name, table)?;
        failpoint::hit("devmapper.table.loaded")?;
        // One call holds the device still, changes the table and lets it go on: whoever is killed here leaves a device
        // that answers.
        let options = DmOptions::private().set_flags(DmFlags::DM_SKIP_LOCKFS);
        self.0.device_suspend(&DevId::Name(self::name(name)?), options).map_err(plain)?;
        self.find(name)?.ok_or_else(gone)
    }

    /// Removes a device, now or when its last user lets go. `false`: there was none.
    pub(crate) fn remove(&self, name: &str) -> io::Result<bool> {
        let options = DmOptions::private().set_flags(DmFlags::DM_DEFERRED_REMOVE);
        Ok(present(self.0.device_remove(&DevId::Name(self::name(name)?), options))?.is_some())
    }

    /// Removes a device unless somebody has it open.
    pub(crate) fn remove_unused(&self, name: &str) -> io::Result<()> {
        match present(self.0.device_remove(&DevId::Name(self::name(name)?), DmOptions::private())) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            removed => removed.map(drop),
        }
    }

    /// Has a device stay that was to go. `false`: it has gone.
    pub(crate) fn keep(&self, name: &str) -> io::Result<bool> {
        match present(self.0.target_msg(&DevId::Name(self::name(name)?), None, "@cancel_deferred_remove")) {
            // It is going at this moment, and its name is free already.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            kept => kept.map(|kept| kept.is_some()),
        }
    }

    /// Holds a device still until the value is dropped, whatever happens: who writes to it waits.
    pub(crate) fn suspend<'a>(&'a self, name: &'a str, writes: Writes) -> io::Result<Suspended<'a>> {
        let flags = match writes {
            Writes::Flushed => DmFlags::DM_SUSPEND | DmFlags::DM_SKIP_LOCKFS,
            Writes::Settled => DmFlags::DM_SUSPEND,
        };
        let options = DmOptions::private().set_flags(flags);
        self.0.device_suspend(&DevId::Name(self::name(name)?), options).map_err(plain)?;
        Ok(Suspended { mapper: self, name })
    }

    /// Lets a device go on that somebody left suspended.
    pub(crate) fn resume(&self, name: &str) -> io::Result<()> {
        let options = DmOptions::private();
        self.0.device_suspend(&DevId::Name(self::name(name)?), options).map(drop).map_err(plain)
    }

    /// Sends a message to the target of a device.
    pub(crate) fn message(&self, name: &str, message: &str) -> io::Result<()> {
        self.0.target_msg(&DevId::Name(self::name(name)?), None, message).map(drop).map_err(plain)
    }

    /// What the target of a device says of its state; nothing is flushed for it.
    pub(crate) fn status(&self, name: &str) -> io::Result<String> {
        Ok(self.line(name, DmFlags::DM_NOFLUSH)?.3)
    }

    /// The arguments of the target of a device.
    pub(crate) fn arguments(&self, name: &str) -> io::Result<String> {
        Ok(self.line(name, DmFlags::DM_STATUS_TABLE)?.3)
    }

    /// The kind of target of a device, such as `thin-pool`.
    pub(crate) fn kind(&self, name: &str) -> io::Result<String> {
        Ok(self.line(name, DmFlags::DM_STATUS_TABLE)?.2)
    }

    /// The size of a device in sectors.
    pub(crate) fn sectors(&self, name: &str) -> io::Result<u64> {
        Ok(self.line(name, DmFlags::DM_STATUS_TABLE)?.1)
    }

    fn line(&self, name: &str, flags: DmFlags) -> io::Result<(u64, u64, String, String)> {
        let options = DmOptions::default().set_flags(flags);
        let (_, lines) = self.0.table_status(&DevId::Name(self::name(name)?), options).map_err(plain)?;
        lines.into_iter().next().ok_or_else(gone)
    }

    fn load(&self, name: &str, table: &Table) -> io::Result<Device> {
        self.load_table(name, table)?;
        self.resume(name)?;
        let device = self.find(name)?.ok_or_else(gone)?;
        if device.node().exists() {
            return Ok(device);
        }
        let lacking = format!("'{}' is not there: /dev must be a devtmpfs", device.node().display());
        Err(io::Error::new(io::ErrorKind::NotFound, lacking))
    }

    fn load_table(&self, name: &str, table: &Table) -> io::Result<()> {
        let line = (0, table.sectors, table.target.to_owned(), table.arguments.clone());
        let id = DevId::Name(self::name(name)?);
        let flags = if table.read_only { DmFlags::DM_READONLY } else { DmFlags::empty() };
        self.0.table_load(&id, &[line], DmOptions::private().set_flags(flags)).map(drop).map_err(plain)
    }
}

/// What a suspended device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// All that was sent to it.
    Flushed,
    /// A file system that needs no repair: what is mounted is frozen first, as fsfreeze(8) does.
    Settled,
}

/// A device that is held still.
#[derive(Debug)]
pub(crate) struct Suspended<'a> {
    mapper: &'a DeviceMapper,
    name: &'a str,
}

impl Suspended<'_> {
    /// Lets it go on, and says how that went.
    pub(crate) fn resume(self) -> io::Result<()> {
        let resumed = self.mapper.resume(self.name);
        std::mem::forget(self);
        resumed
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        let _ = self.mapper.resume(self.name);
    }
}

fn device(info: &DeviceInfo) -> Device {
    Device {
        minor: info.device().minor,
        uuid: info.uuid().map(ToString::to_string).unwrap_or_default(),
        users: info.open_count(),
        suspended: info.flags().contains(DmFlags::DM_SUSPEND),
        going: info.flags().contains(DmFlags::DM_DEFERRED_REMOVE),
        live: info.flags().contains(DmFlags::DM_ACTIVE_PRESENT),
    }
}

fn name(name: &str) -> io::Result<&DmName> {
    DmName::new(name).map_err(plain)
}

/// `ENXIO` is how the kernel says that there is no such device.
fn present<T>(answer: Result<T, DmError>) -> io::Result<Option<T>> {
    match answer.map_err(plain) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        answer => answer.map(Some),
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENXIO)
}

/// The error number alone: the text of the crate's own errors is two pages of headers.
fn plain(error: DmError) -> io::Error {
    match error {
        DmError::Core(CoreError::Ioctl(_, _, _, number)) => io::Error::from_raw_os_error(*number as i32),
        other => io::Error::other(other.to_string()),
    }
}
