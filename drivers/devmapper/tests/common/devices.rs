//! Block devices for a pool to be on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use devicemapper::{DM, DevId, DmFlags, DmName, DmOptions};

pub(crate) const MIB: u64 = 1 << 20;

/// A loop device on a file without blocks. Dropping it detaches it.
pub(crate) struct Disk {
    file: PathBuf,
    pub(crate) node: PathBuf,
}

impl Disk {
    pub(crate) fn new(dir: &Path, name: &str, size: u64) -> Self {
        let file = dir.join(name);
        File::create(&file).unwrap().set_len(size).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Self { file, node: String::from_utf8(made.stdout).unwrap().trim().into() }
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, size: u64) {
        File::options().write(true).open(&self.file).unwrap().set_len(size).unwrap();
        assert!(Command::new("losetup").arg("-c").arg(&self.node).status().unwrap().success());
    }

    pub(crate) fn name(&self) -> &str {
        self.node.to_str().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.node).status();
    }
}

/// A device of device mapper with a table of its own. Dropping it removes it.
pub(crate) struct Mapped {
    name: String,
    pub(crate) node: PathBuf,
}

impl Mapped {
    pub(crate) fn new(name: &str, bytes: u64, target: &str, arguments: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let dm = DM::new().unwrap();
        let device = dm.device_create(DmName::new(&name).unwrap(), None, DmOptions::private()).unwrap();
        let node = PathBuf::from(format!("/dev/dm-{}", device.device().minor));
        let mapped = Self { name, node };
        mapped.load(&[(bytes, target, arguments)]);
        mapped
    }

    /// Gives it another table: parts with their sizes in bytes.
    pub(crate) fn load(&self, parts: &[(u64, &str, &str)]) {
        let dm = DM::new().unwrap();
        let mut start = 0;
        let lines: Vec<_> = parts
            .iter()
            .map(|(bytes, target, arguments)| {
                let line = (start, bytes / 512, (*target).to_owned(), (*arguments).to_owned());
                start += line.1;
                line
            })
            .collect();
        dm.table_load(&self.id(), &lines, DmOptions::private()).unwrap();
        let options = DmOptions::private().set_flags(DmFlags::DM_NOFLUSH | DmFlags::DM_SKIP_LOCKFS);
        dm.device_suspend(&self.id(), options).unwrap();
    }

    /// What it is, and what it says of its state.
    pub(crate) fn status(&self) -> (String, String) {
        let dm = DM::new().unwrap();
        let line = |flags| {
            let (_, lines) = dm.table_status(&self.id(), DmOptions::default().set_flags(flags)).unwrap();
            lines[0].3.clone()
        };
        (line(DmFlags::DM_STATUS_TABLE), line(DmFlags::DM_NOFLUSH))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> DevId<'_> {
        DevId::Name(DmName::new(&self.name).unwrap())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let options = DmOptions::private().set_flags(DmFlags::DM_DEFERRED_REMOVE);
        let _ = DM::new().unwrap().device_remove(&self.id(), options);
    }
}

/// Sends a message to the target of a device.
pub(crate) fn message(device: &str, message: &str) {
    assert!(try_message(device, message), "{device} refuses '{message}'");
}

pub(crate) fn try_message(device: &str, message: &str) -> bool {
    let device = DmName::new(device).unwrap();
    DM::new().unwrap().target_msg(&DevId::Name(device), None, message).is_ok()
}

/// The name of the pool of a root, where that is the driver's.
pub(crate) fn pool_of(dir: &Path) -> String {
    let record = fs::read_to_string(dir.join("root/pool")).unwrap();
    let uuid = record.split("\"uuid\":\"").nth(1).unwrap();
    format!("mica-{}-pool", &uuid[..8])
}
