//! Who a process is: `USER[:GROUP]` looked up in the files of the container's image.

use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::User;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::{Error, Result};

/// The largest number of a user or a group, as in Docker. What is above is negative to some programs, and the very last is
/// "no change" to setresuid(2).
const LARGEST: u32 = i32::MAX as u32;

/// An image's list of users is not longer than this; the rest of a longer one is not read.
const MOST: u64 = 4 << 20;

/// Finds `USER[:GROUP]`, each a name or a number, in `/etc/passwd` and `/etc/group` below `root`. A number need not be
/// there; without a group the user's own counts, and those that list it as a member.
pub(crate) fn resolve(root: BorrowedFd<'_>, wanted: &str) -> Result<User> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let passwd = read(root, "etc/passwd")?;
    let groups = read(root, "etc/group")?;
    let user = if user.is_empty() { "0" } else { user };
    let entry = entry(&passwd, user);
    let listed = entry.as_ref().and_then(|fields| number(fields.get(2)?));
    let uid = listed.or_else(|| number(user)).ok_or_else(|| refuse("user", user, "passwd"))?;
    let own: Option<u32> = entry.as_ref().and_then(|fields| number(fields.get(3)?));
    let mut found = User::default();
    found.set_uid(uid);
    match group {
        Some(group) => {
            found.set_gid(group_id(&groups, group).ok_or_else(|| refuse("group", group, "group"))?);
        }
        None => {
            let name = entry.map(|fields| fields[0].clone()).unwrap_or_default();
            found.set_gid(own.unwrap_or(0)).set_additional_gids(Some(memberships(&groups, &name)));
        }
    }
    Ok(found)
}

fn refuse(kind: &str, name: &str, file: &str) -> Error {
    let text = match name.parse::<i64>() {
        Ok(_) => format!("invalid {kind} {name}: numbers of users and groups are from 0 to {LARGEST}"),
        Err(_) => {
            format!("unable to find {kind} {}: no matching entries in {file} file", name.escape_debug())
        }
    };
    Error::Runtime { status: 125, text }
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&number| number <= LARGEST)
}

/// The line of a user by name, else by number.
fn entry(passwd: &str, user: &str) -> Option<Vec<String>> {
    let lines = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let named = lines().find(|fields| fields[0] == user && fields.len() > 3);
    let found = named.or_else(|| lines().find(|fields| fields.get(2) == Some(&user)));
    found.map(|fields| fields.into_iter().map(str::to_owned).collect())
}

fn group_id(groups: &str, wanted: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let named = lines.find(|fields| fields[0] == wanted).and_then(|fields| number(fields.get(2)?));
    named.or_else(|| number(wanted))
}

fn memberships(groups: &str, user: &str) -> Vec<u32> {
    let member =
        |fields: &Vec<&str>| fields.get(3).is_some_and(|list| list.split(',').any(|name| name == user));
    let lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut ids: Vec<u32> = lines
        .filter(|fields| !user.is_empty() && member(fields))
        .filter_map(|fields| number(fields[2]))
        .collect();
    ids.dedup();
    ids
}

/// A text file of the image, as the container itself would find it; empty where it is missing.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let failed = || format!("read '/{path}' of the container");
    let Some(file) = open(root, path).map_err(|e| Error::io(failed)(e.into()))? else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    File::from(file).take(MOST).read_to_end(&mut bytes).map_err(Error::io(failed))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn open(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    // A pipe in its place must not hold the caller up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, Path::new(path), flags, Mode::empty(), resolve) {
        Ok(file) => {
            let stat = rustix::fs::fstat(&file)?;
            let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
            Ok(regular.then_some(file))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    fn look(wanted: &str) -> Result<User> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nbroken\n77:x:78:79::/:/bin/sh\n";
        std::fs::write(dir.path().join("passwd"), passwd).unwrap();
        symlink("/passwd", dir.path().join("etc/passwd")).unwrap();
        let group = "root:x:0:\nweb:x:34:\ntape:x:26:web,root\ndisk:x:6:web\n";
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = File::open(dir.path()).unwrap();
        resolve(root.as_fd(), wanted)
    }

    fn ids(wanted: &str) -> (u32, u32, Vec<u32>) {
        let user = look(wanted).unwrap();
        (user.uid(), user.gid(), user.additional_gids().clone().unwrap_or_default())
    }

    #[test]
    fn a_user_is_found_by_name_or_number_with_its_groups() {
        assert_eq!(ids("web"), (33, 34, vec![26, 6]));
        assert_eq!(ids("33"), (33, 34, vec![26, 6]));
        assert_eq!(ids(""), (0, 0, vec![26]));
        assert_eq!(ids("1234"), (1234, 0, vec![]));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        #[test]
        fn whatever_the_files_hold_a_user_has_numbers_or_is_refused(
            passwd in r"([a-z0-9:,\-\x00\n]|\PC){0,60}", groups in r"([a-z0-9:,\-\x00\n]|\PC){0,60}",
            user in "[a-c0-9:]{0,3}",
        ) {
            let found = entry(&passwd, &user);
            let ids = found.iter().filter_map(|fields| number(&fields[2])).chain(memberships(&groups, &user));
            for id in ids.chain(group_id(&groups, &user)) {
                assert!(id <= LARGEST);
            }
        }
    }

    #[test]
    fn cve_2026_47262_a_list_without_end_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        for name in ["passwd", "group"] {
            let file = File::create(dir.path().join("etc").join(name)).unwrap();
            // A hole of a tebibyte, for which no memory has room.
            file.set_len(1 << 40).unwrap();
        }
        let root = File::open(dir.path()).unwrap();
        assert_eq!(resolve(root.as_fd(), "7").unwrap().uid(), 7);
    }

    #[test]
    fn a_given_group_stands_alone() {
        assert_eq!(ids("web:disk"), (33, 6, vec![]));
        assert_eq!(ids("5:7"), (5, 7, vec![]));
    }

    #[test]
    fn a_name_comes_before_a_number() {
        assert_eq!(ids("77"), (78, 79, vec![]));
    }

    #[test]
    fn a_number_that_is_none_of_a_user_is_refused() {
        for wanted in ["-1", "2147483648", "4294967295", "99999999999"] {
            for wanted in [wanted.to_owned(), format!("0:{wanted}")] {
                let text = look(&wanted).unwrap_err().to_string();
                assert!(text.contains("are from 0 to 2147483647"), "{wanted}: {text}");
            }
        }
        assert_eq!(ids("2147483647").0, 2_147_483_647);
    }

    #[test]
    fn who_is_not_there_is_named() {
        for (wanted, named) in [("nobody", "user nobody"), ("web:staff", "group staff"), ("-1", "user -1")] {
            let text = look(wanted).unwrap_err().to_string();
            assert!(text.contains(named), "{text}");
        }
    }
}
