//! Servers that are killed in the middle of a change.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::common::files::{exists, mkdir, names, noise, write};
use crate::common::{Branches, Mode, Union};

/// How many files are changed, one after the other.
const FILES: usize = 48;

fn content(number: usize) -> Vec<u8> {
    noise(30_000 + number, number as u64)
}

/// What is done to a file of a lower branch.
#[derive(Clone, Copy, Debug)]
enum Change {
    Mode,
    Delete,
    Rename,
    Replace,
}

impl Change {
    fn of(number: usize) -> Self {
        [Self::Mode, Self::Delete, Self::Rename, Self::Replace][number % 4]
    }

    fn make(self, dir: &Path, number: usize) -> io::Result<()> {
        let (file, other) = (dir.join(number.to_string()), dir.join(format!("other-{number}")));
        match self {
            Self::Mode => fs::set_permissions(file, fs::Permissions::from_mode(0o600)),
            Self::Delete => fs::remove_file(file),
            Self::Rename => fs::rename(file, other),
            Self::Replace => {
                fs::write(&other, content(number + 1))?;
                fs::rename(other, file)
            }
        }
    }

    /// Whether a file is as it was before, and whether it is as it is after.
    fn seen(self, dir: &Path, number: usize) -> (bool, bool) {
        let (file, other) = (dir.join(number.to_string()), dir.join(format!("other-{number}")));
        let holds = |path: &Path, number| exists(path) && fs::read(path).unwrap() == content(number);
        match self {
            Self::Mode => {
                let has =
                    |mode| fs::metadata(&file).is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode);
                let whole = holds(&file, number);
                (whole && has(0o644), whole && has(0o600))
            }
            Self::Delete => (holds(&file, number), !exists(&file)),
            Self::Rename => (holds(&file, number), holds(&other, number) && !exists(&file)),
            Self::Replace => (holds(&file, number), holds(&file, number + 1) && !exists(&other)),
        }
    }
}

/// Changes one file after the other until the server is killed, once so many are done. Says how many were.
fn change_until_killed(union: &Union, most: usize) -> usize {
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = union.at("dir");
            for number in 0..FILES {
                if Change::of(number).make(&dir, number).is_err() {
                    break;
                }
                done.store(number + 1, SeqCst);
            }
        });
        while done.load(SeqCst) < most {
            std::hint::spin_loop();
        }
        union.kill();
    });
    done.into_inner()
}

/// What has no name in the union, below a directory of a branch.
fn unfinished(dir: &Path) -> Vec<String> {
    let of_aufs = |name: &String| name.starts_with(".wh..wh.") && name != ".wh..wh..opq";
    let made = if exists(dir.join("dir")) { names(dir.join("dir")) } else { Vec::new() };
    let mut found: Vec<String> = made.into_iter().filter(of_aufs).collect();
    found.extend(names(dir.join(".wh..wh.orph")));
    found
}

pub(crate) fn at_any_moment_every_file_is_as_before_or_as_after(mode: Mode) {
    for most in (0..FILES).step_by(5) {
        let branches = Branches::two(mode);
        mkdir(&branches.lower("dir"));
        (0..FILES).for_each(|number| write(branches.lower(format!("dir/{number}")), content(number)));
        let union = branches.mount();
        let done = change_until_killed(&union, most);
        drop(union);
        let union = branches.mount();
        for number in 0..FILES {
            let change = Change::of(number);
            let (before, after) = change.seen(&union.at("dir"), number);
            let right = match number {
                _ if number < done => after,
                _ if number == done => before || after,
                _ => before,
            };
            assert!(right, "{change:?} of {number}, killed after {done}: before {before}, after {after}");
        }
        assert_eq!(unfinished(&branches.path(0)), Vec::<String>::new(), "killed after {done}");
        fs::remove_dir_all(union.at("dir")).unwrap();
        union.unmount();
    }
}
