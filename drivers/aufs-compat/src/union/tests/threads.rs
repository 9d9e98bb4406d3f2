//! Many threads in the same directories.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::io::Errno;

use super::Branches;

/// What may be answered to one of several who change the same names at the same time.
fn is_lost_race(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT
            | Errno::EXIST
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::NOTEMPTY
            | Errno::XDEV
            | Errno::INVAL
            | Errno::PERM
    )
}

#[test]
fn threads_in_the_same_directories_leave_what_the_branches_say() {
    let branches = Branches::new(3);
    for branch in [1, 2] {
        for dir in ["a", "b", "a/a", "b/a"] {
            for name in ["x", "y", "z"] {
                branches.write(branch, format!("{dir}/{name}"), "below");
            }
        }
    }
    let union = branches.open();
    let paths = ["a", "b", "a/a", "b/a", "a/x", "b/x", "a/a/y", "b/a/y", "c", "c/x", "a/c", "b/c/x"];
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..6_usize {
            let (union, done) = (&union, &done);
            scope.spawn(move || {
                let mut turn = thread * 7919 + 1;
                for _ in 0..2000 {
                    turn =
                        turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let (one, other) = (paths[(turn >> 33) % paths.len()], paths[(turn >> 41) % paths.len()]);
                    let result = match (turn >> 50) % 7 {
                        0 => union.make_dir(one),
                        1 => union.write_at(one, "above"),
                        2 => union.remove(one),
                        3 => union.link_to(one, other),
                        4 => union.move_to(one, other, 2),
                        _ => union.move_to(one, other, 0),
                    };
                    match result {
                        Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                        Err(errno) => assert!(is_lost_race(errno), "{one}, {other}: {errno:?}"),
                    }
                }
            });
        }
    });
    assert!(done.load(Ordering::Relaxed) > 50);
    let tree = union.tree();
    union.flush_pseudo_links().unwrap();
    drop(union);
    assert_eq!(branches.tree(), tree);
}
