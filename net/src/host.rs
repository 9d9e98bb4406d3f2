//! The host's own settings: changed only where a network needs it, noted before, put back by `restore`.
//!
//! A note is a file of two lines, what was and what is, in the driver's directory, named after the setting. The directory is
//! emptied when the host starts, and so are the settings.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mica_core::network::{Families, Family, HostChange};
use mica_core::{Error, Result, durable, failpoint};

use crate::firewall::Firewall;
use crate::setting;

/// The settings of the host that a driver changes.
#[derive(Debug)]
pub(crate) struct Host {
    notes: PathBuf,
}

impl Host {
    /// With its notes in the driver's directory.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { notes: dir.join("host") }
    }

    /// Makes the host forward packets of these families, where it does not. What it forwards on our account alone the firewall
    /// closes first, but for our networks. Answers what was changed.
    ///
    /// Where packets of IPv6 are forwarded, the kernel heeds router advertisements only with `accept_ra` at 2, and forgets the
    /// default routes that it has from them (kernel documentation, ip-sysctl): an interface that has 1 gets 2 before.
    pub(crate) fn forward(&self, families: Families, firewall: &dyn Firewall) -> Result<Vec<HostChange>> {
        let (mut off, mut on_our_account) = (Vec::new(), Families::NONE);
        for family in [Family::V4, Family::V6].into_iter().filter(|family| families.has(*family)) {
            let setting = switch(family);
            let forwards = setting::read(setting)?.as_deref() == Some("1");
            if !forwards {
                off.push(family);
            }
            // One that was noted before is closed again, should somebody have flushed the rules.
            let ours = !forwards || self.note(setting)?.is_some();
            match family {
                Family::V4 => on_our_account.v4 = ours,
                Family::V6 => on_our_account.v6 = ours,
            }
        }
        if on_our_account == Families::NONE {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        firewall.close(on_our_account)?;
        let mut changes = Vec::new();
        for family in off {
            if family == Family::V6 {
                for setting in heeding_routers()? {
                    changes.extend(self.change(&setting, "2")?);
                }
            }
            changes.extend(self.change(switch(family), "1")?);
        }
        Ok(changes)
    }

    /// What is changed now, for people.
    pub(crate) fn changed(&self) -> Result<Vec<HostChange>> {
        let mut changes = Vec::new();
        for name in self.names()? {
            if let Some(note) = self.note(&name)?
                && setting::read(&name)?.as_deref() == Some(&note.now)
            {
                changes.push(HostChange { setting: spelt(&name), was: note.was, now: note.now });
            }
        }
        Ok(changes)
    }

    /// Puts back what was changed and is as it was left. Answers what was changed by that.
    pub(crate) fn restore(&self) -> Result<Vec<HostChange>> {
        if !self.notes.exists() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let mut names = self.names()?;
        // Forwarding goes first: a router that an interface is to stop heeding would else be forgotten.
        names.sort_by_key(|name| name.contains("accept_ra"));
        let (mut changes, mut failures) = (Vec::new(), Vec::new());
        for name in names {
            match self.put_back(&name) {
                Ok(change) => changes.extend(change),
                Err(failure) => failures.push(failure),
            }
        }
        Error::unless_complete("what was changed of the host's settings", failures)?;
        Ok(changes)
    }

    fn put_back(&self, name: &str) -> Result<Option<HostChange>> {
        let Some(note) = self.note(name)? else { return Ok(None) };
        let ours = setting::read(name)?.as_deref() == Some(&note.now);
        let change = ours && setting::write(name, &note.was)?;
        let path = self.path(name);
        fs::remove_file(&path)
            .and_then(|()| durable::sync_parent(&path))
            .map_err(Error::io(|| format!("remove the note of {}", spelt(name))))?;
        Ok(change.then(|| HostChange { setting: spelt(name), was: note.now, now: note.was }))
    }

    /// Notes the old value, unless one is noted already, and sets the new one.
    fn change(&self, name: &str, now: &str) -> Result<Option<HostChange>> {
        let Some(was) = setting::read(name)?.filter(|was| was != now) else { return Ok(None) };
        if self.note(name)?.is_none() {
            durable::write(&self.path(name), format!("{was}\n{now}\n").as_bytes())
                .map_err(Error::io(|| format!("note the value of {}", spelt(name))))?;
        }
        failpoint::hit("host.noted").map_err(Error::io(|| format!("change {}", spelt(name))))?;
        let there = setting::write(name, now)?;
        Ok(there.then(|| HostChange { setting: spelt(name), was, now: now.to_owned() }))
    }

    fn lock(&self) -> Result<File> {
        let locked = || {
            fs::create_dir_all(&self.notes)?;
            let file = File::create(self.notes.join(LOCK))?;
            file.lock()?;
            Ok(file)
        };
        locked().map_err(Error::io(|| "lock the notes of the host's settings"))
    }

    fn names(&self) -> Result<Vec<String>> {
        let named = || {
            let entries = match fs::read_dir(&self.notes) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().replace(SLASH, "/");
                // A note that is half written begins nothing.
                if name != LOCK && !name.ends_with(".new") {
                    names.push(name);
                }
            }
            Ok(names)
        };
        named().map_err(Error::io(|| "list the notes of the host's settings"))
    }

    fn note(&self, name: &str) -> Result<Option<Note>> {
        let text = match fs::read_to_string(self.path(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(Error::io(|| format!("read the note of {}", spelt(name))))?,
        };
        match text.lines().collect::<Vec<_>>()[..] {
            [was, now] => Ok(Some(Note { was: was.to_owned(), now: now.to_owned() })),
            _ => Err(Error::Corrupt {
                what: format!("note '{}'", self.path(name).display()),
                reason: "it has not two lines".to_owned(),
            }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.notes.join(name.replace('/', SLASH))
    }
}

const LOCK: &str = "lock";

/// Stands for a slash in the name of a note; no name of an interface holds one.
const SLASH: &str = ":";

/// The values that a note names.
struct Note {
    was: String,
    now: String,
}

const fn switch(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4/ip_forward",
        Family::V6 => "ipv6/conf/all/forwarding",
    }
}

/// A setting as `sysctl` takes it: dots between its parts, and a slash where the name of an interface has a dot.
fn spelt(name: &str) -> String {
    let swapped = |letter| match letter {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    format!("net.{}", name.chars().map(swapped).collect::<String>())
}

/// `accept_ra` of every interface that heeds router advertisements now and would cease to, and of those that come.
fn heeding_routers() -> Result<Vec<String>> {
    let mut settings = Vec::new();
    let listed = || fs::read_dir("/proc/sys/net/ipv6/conf")?.collect::<io::Result<Vec<_>>>();
    for entry in listed().map_err(Error::io(|| "list the interfaces of IPv6"))? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let setting = format!("ipv6/conf/{name}/accept_ra");
        // `all` is no interface, and no router is behind `lo`.
        if name != "all" && name != "lo" && setting::read(&setting)?.as_deref() == Some("1") {
            settings.push(setting);
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use mica_core::network::OwnerId;
    use tempfile::TempDir;

    use super::*;
    use crate::firewall::pick;
    use crate::played;

    const BOTH: Families = Families { v4: true, v6: true };

    /// Does something on a new host.
    fn played(work: impl FnOnce(&Host, &dyn Firewall, &TempDir) + Send) {
        let dir = tempfile::tempdir().unwrap();
        let on_host = || {
            let firewall = pick::open(Some("nft"), OwnerId::from_bytes([9; 8]), dir.path())?;
            work(&Host::new(dir.path()), &*firewall, &dir);
            Ok(())
        };
        played::on(&played::machine(), on_host).unwrap();
    }

    fn value(setting: &str) -> String {
        setting::read(setting).unwrap().unwrap()
    }

    fn names(changes: &[HostChange]) -> Vec<&str> {
        changes.iter().map(|change| change.setting.as_str()).collect()
    }

    #[test]
    fn forwarding_is_turned_on_when_it_is_needed_and_put_back() {
        played(|host, firewall, dir| {
            assert_eq!(host.forward(Families::NONE, firewall).unwrap(), []);
            let changes = host.forward(Families { v4: true, v6: false }, firewall).unwrap();
            let [HostChange { setting, was, now }] = &changes[..] else { panic!("{changes:?}") };
            assert_eq!((&setting[..], &was[..], &now[..]), ("net.ipv4.ip_forward", "0", "1"));
            assert_eq!(value("ipv6/conf/all/forwarding"), "0");
            assert_eq!(host.forward(Families { v4: true, v6: false }, firewall).unwrap(), []);
            assert_eq!(host.changed().unwrap(), changes);
            // Another process, which knows only the notes.
            let restored = Host::new(dir.path()).restore().unwrap();
            assert_eq!(names(&restored), ["net.ipv4.ip_forward"]);
            assert_eq!(value("ipv4/ip_forward"), "0");
            assert_eq!((host.restore().unwrap(), host.changed().unwrap()), (Vec::new(), Vec::new()));
        });
    }

    #[test]
    fn what_is_forwarded_on_our_account_is_closed_first_and_again_after_a_flush() {
        played(|host, firewall, _| {
            let closed = || firewall.list().unwrap().iter().filter(|o| o.object.contains("'closed'")).count();
            host.forward(BOTH, firewall).unwrap();
            assert_eq!(closed(), 2);
            assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
            host.forward(BOTH, firewall).unwrap();
            assert_eq!(closed(), 2);
        });
    }

    #[test]
    fn a_host_that_forwards_by_itself_is_left_alone_and_not_closed() {
        played(|host, firewall, _| {
            setting::write("ipv4/ip_forward", "1").unwrap();
            assert_eq!(host.forward(Families { v4: true, v6: false }, firewall).unwrap(), []);
            assert_eq!(firewall.list().unwrap(), []);
            assert_eq!(host.restore().unwrap(), []);
            assert_eq!(value("ipv4/ip_forward"), "1");
        });
    }

    #[test]
    fn an_interface_that_heeds_routers_goes_on_doing_so() {
        played(|host, firewall, _| {
            let link = ["link", "add", "uplink0", "type", "veth", "peer", "name", "uplink1"];
            assert!(Command::new("ip").args(link).status().unwrap().success());
            setting::write("ipv6/conf/uplink1/accept_ra", "0").unwrap();
            let changes = host.forward(BOTH, firewall).unwrap();
            assert!(names(&changes).contains(&"net.ipv6.conf.uplink0.accept_ra"), "{changes:?}");
            assert_eq!(value("ipv6/conf/uplink0/accept_ra"), "2");
            assert_eq!(value("ipv6/conf/uplink1/accept_ra"), "0");
            host.restore().unwrap();
            assert_eq!(value("ipv6/conf/uplink0/accept_ra"), "1");
            assert_eq!(value("ipv6/conf/all/forwarding"), "0");
        });
    }

    #[test]
    fn what_the_owner_changed_since_is_not_put_back() {
        played(|host, firewall, _| {
            host.forward(Families { v4: true, v6: false }, firewall).unwrap();
            setting::write("ipv4/ip_forward", "0").unwrap();
            assert_eq!(host.changed().unwrap(), []);
            assert_eq!(host.restore().unwrap(), []);
            assert_eq!(value("ipv4/ip_forward"), "0");
        });
    }

    #[test]
    fn a_setting_is_spelt_as_sysctl_takes_it() {
        assert_eq!(spelt("ipv4/ip_forward"), "net.ipv4.ip_forward");
        assert_eq!(spelt("ipv6/conf/eth0.1/accept_ra"), "net.ipv6.conf.eth0/1.accept_ra");
    }
}
