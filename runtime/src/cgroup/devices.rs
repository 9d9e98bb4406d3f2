//! Which devices a container may open and make.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::device_filter;
use crate::error::{Context, Error, Result};
use crate::sys;

/// A rule as the kernel knows it; of several that match a device the last one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Kind,
    /// `None`: any.
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Block,
    Character,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) mknod: bool,
}

/// What every container may use, as bundles made for runc expect: making nodes, and the devices of its
/// `/dev`.
const ALWAYS: [(char, Option<u32>, Option<u32>, &str); 10] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// The rules of a bundle, and then those that always hold.
pub(super) fn rules(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| Error::spec(format!("device number {value} is out of range"))),
    };
    let mut rules = Vec::with_capacity(list.len() + ALWAYS.len());
    for rule in list {
        rules.push(Rule {
            allow: rule.allow(),
            kind: match rule.typ().unwrap_or_default() {
                LinuxDeviceType::A => Kind::Any,
                LinuxDeviceType::B => Kind::Block,
                LinuxDeviceType::C | LinuxDeviceType::U => Kind::Character,
                LinuxDeviceType::P => {
                    return Err(Error::spec("a device rule is for a fifo, which needs none"));
                }
            },
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access: access(rule.access().as_deref().unwrap_or("rwm"))?,
        });
    }
    for (kind, major, minor, letters) in ALWAYS {
        let kind = if kind == 'b' { Kind::Block } else { Kind::Character };
        rules.push(Rule { allow: true, kind, major, minor, access: access(letters)? });
    }
    Ok(rules)
}

fn access(letters: &str) -> Result<Access> {
    if letters.is_empty() || letters.chars().any(|letter| !"rwm".contains(letter)) {
        return Err(Error::spec(format!("device access {letters:?} must be of the letters r, w and m")));
    }
    let has = |letter| letters.contains(letter);
    Ok(Access { read: has('r'), write: has('w'), mknod: has('m') })
}

impl Rule {
    /// The line that `devices.allow` and `devices.deny` take.
    fn line(&self) -> String {
        let part = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = match self.kind {
            Kind::Any => 'a',
            Kind::Block => 'b',
            Kind::Character => 'c',
        };
        let Access { read, write, mknod } = self.access;
        let access: String =
            [(read, 'r'), (write, 'w'), (mknod, 'm')].iter().filter(|(on, _)| *on).map(|(_, c)| c).collect();
        format!("{kind} {}:{} {access}", part(self.major), part(self.minor))
    }
}

pub(super) fn apply_v1(group: &Path, rules: &[Rule]) -> Result<()> {
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        fs::write(group.join(file), rule.line())
            .context(|| format!("writing {:?} to {file}", rule.line()))?;
    }
    Ok(())
}

/// On v2 a small program decides, which is gone with the group. Rules that are set later narrow those before.
pub(super) fn apply_v2(group: &Path, rules: &[Rule]) -> Result<()> {
    let what = || "restricting devices (the kernel needs CONFIG_CGROUP_BPF)";
    let group = openat(CWD, group, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(what)?;
    let program = sys::bpf_load(&device_filter::assemble(rules)).context(what)?;
    sys::bpf_attach(group.as_fd(), program.as_fd()).context(what)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::hierarchy;
    use super::*;

    /// A group of its own, removed when the test ends, whatever way.
    struct Group(std::path::PathBuf);

    impl Drop for Group {
        fn drop(&mut self) {
            fs::remove_dir(&self.0).unwrap();
        }
    }

    #[test]
    fn a_v2_group_lets_through_what_the_rules_allow_and_nothing_else() {
        let unified =
            hierarchy::mounted().unwrap().into_iter().find(|one| one.version == super::super::Version::V2);
        let Some(unified) = unified else {
            eprintln!("skip: a_v2_group_lets_through: no cgroup2 hierarchy is mounted");
            return;
        };
        let group = Group(unified.mountpoint.join(format!("mica-devices-{}", std::process::id())));
        fs::create_dir(&group.0).unwrap();
        let list = serde_json::json!([
            {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"},
        ]);
        let list: Vec<LinuxDeviceCgroup> = serde_json::from_value(list).unwrap();
        apply_v2(&group.0, &rules(&list).unwrap()).unwrap();
        let script = "echo $$ > \"$1/cgroup.procs\" || exit 9; d=$(mktemp -d); cd $d; mknod kmsg c 1 11; mknod zero c 1 5
            mknod tun c 10 200; head -c 1 zero | wc -c; (: < kmsg) || echo no; (: < tun) 2>&1 | grep -c permitted
            (: > tun) 2>&1 | grep -c permitted; rm -r $d";
        let output = Command::new("sh").args(["-c", script, "sh"]).arg(&group.0).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1\nno\n0\n1\n", "{output:?}");
    }

    #[test]
    fn rules_become_the_lines_that_v1_takes() {
        let list =
            serde_json::json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "major": 8}]);
        let list: Vec<LinuxDeviceCgroup> = serde_json::from_value(list).unwrap();
        let lines: Vec<String> = rules(&list).unwrap().iter().map(Rule::line).take(3).collect();
        assert_eq!(lines, ["a *:* rwm", "b 8:* rwm", "c *:* m"]);
    }

    #[test]
    fn letters_that_are_no_access_are_refused() {
        assert!(access("rx").is_err() && access("").is_err() && access("mwr").is_ok());
    }
}
