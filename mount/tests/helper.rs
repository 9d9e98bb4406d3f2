//! A file system that a process serves: this very program, when it is called with `serve`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use mica_core::mount::Helper;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Calls, Mounter, Tree, table};
use tempfile::TempDir;

/// A name, and what to do with one way of mounting.
type Test = (&'static str, fn(Calls));

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    let ways = [("detached", Calls::best()), ("classic", Calls::Classic)];
    let tests: [Test; 6] = [
        ("a-tree-is-served-until-it-is-closed", is_served_until_it_is_closed),
        ("an-attached-tree-is-served-by-its-name", is_served_by_its_name),
        ("a-tree-that-cannot-be-attached-is-served-no-more", ends_when_it_cannot_be_attached),
        ("a-read-only-tree-refuses-writes", read_only_refuses_writes),
        ("a-helper-that-does-not-start-leaves-no-mount", does_not_start),
        ("a-helper-that-fails-is-reported", fails),
    ];
    let trials = ways.iter().flat_map(|&(way, calls)| {
        tests.iter().map(move |&(name, test)| {
            Trial::test(format!("{name}-{way}"), move || {
                test(calls);
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn open(
    dir: &TempDir,
    calls: Calls,
    program: OsString,
    read_only: bool,
    how: &str,
) -> mica_core::Result<Tree> {
    let helper = Helper { driver: "test".to_owned(), args: vec![how.into()], read_only };
    let mounts = Mounts { specs: vec![MountSpec::Helper(helper)], whiteouts: WhiteoutForm::Merged };
    Mounter::new(dir.path()).with_calls(calls).with_helper([program, "serve".into()]).open(&mounts)
}

fn this_program() -> OsString {
    std::env::current_exe().unwrap().into()
}

fn is_running(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

fn is_served_until_it_is_closed(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let tree = open(&dir, calls, this_program(), false, "well").unwrap();
    assert_eq!(fs::read(tree.path().join("hello")).unwrap(), CONTENT);
    let pid = tree.helper_pid().unwrap();
    assert!(is_running(pid));
    tree.close().unwrap();
    assert!(!is_running(pid), "it ended and was reaped");
    assert!(table::below(dir.path()).unwrap().is_empty());
}

fn is_served_by_its_name(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("at");
    fs::create_dir(&at).unwrap();
    let attached = open(&dir, calls, this_program(), false, "well").unwrap().attach(&at).unwrap();
    let busy = File::open(at.join("hello")).unwrap();
    let pid = attached.helper_pid().unwrap();
    assert_eq!(std::io::read_to_string(&busy).unwrap().as_bytes(), CONTENT);
    drop(busy);
    attached.close().unwrap();
    assert!(!is_running(pid) && !at.join("hello").exists());
}

fn ends_when_it_cannot_be_attached(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let tree = open(&dir, calls, this_program(), false, "well").unwrap();
    let pid = tree.helper_pid().unwrap();
    tree.attach(&dir.path().join("nowhere")).unwrap_err();
    assert!(!is_running(pid));
}

fn read_only_refuses_writes(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let tree = open(&dir, calls, this_program(), true, "well").unwrap();
    let refused = File::create(tree.path().join("hello")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

fn does_not_start(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let text = open(&dir, calls, "/no/such/program".into(), false, "well").unwrap_err().to_string();
    assert!(text.contains("/no/such/program"), "{text}");
    assert!(table::below(dir.path()).unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn fails(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let tree = open(&dir, calls, this_program(), false, "badly").unwrap();
    let text = tree.close().unwrap_err().to_string();
    assert!(text.contains("exit status: 1"), "{text}");
}

const CONTENT: &[u8] = b"served";

/// Serves a directory with one file, as `linux/fuse.h` says.
fn serve() -> ExitCode {
    let [driver, how] = [2, 3].map(|n| std::env::args().nth(n).unwrap());
    assert_eq!(driver, "test");
    if how == "badly" {
        return ExitCode::FAILURE;
    }
    // A safe way to own what was inherited as descriptor 3.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let channel = rustix::process::pidfd_getfd(own.unwrap(), 3, rustix::process::PidfdGetfdFlags::empty());
    let mut channel = File::from(channel.unwrap());
    let mut request = vec![0; 1 << 17];
    loop {
        match channel.read(&mut request) {
            Ok(length) => {
                if let Some(reply) = answer(&request[..length]) {
                    channel.write_all(&reply).unwrap();
                }
            }
            // The mount is gone.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return ExitCode::SUCCESS,
            Err(e) => panic!("{e}"),
        }
    }
}

const ROOT: u64 = 1;
const FILE: u64 = 2;

fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
    let node = long(16);
    let body: Result<Vec<u8>, i32> = match word(4) {
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return None,
        // LOOKUP
        1 if request[40..].starts_with(b"hello\0") => {
            Ok([longs(&[FILE, 0, 0, 0, 0]), attributes(FILE)].concat())
        }
        1 => Err(libc::ENOENT),
        // GETATTR
        3 => Ok([longs(&[0, 0]), attributes(node)].concat()),
        // OPEN, OPENDIR
        14 | 27 => Ok(longs(&[0, 0])),
        // READ
        15 => Ok(CONTENT[(long(48) as usize).min(CONTENT.len())..].to_vec()),
        // RELEASE, FLUSH, RELEASEDIR, DESTROY
        18 | 25 | 29 | 38 => Ok(Vec::new()),
        // INIT: version 7.31, no flags, writes of a page
        26 => Ok([7u32, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect()),
        _ => Err(libc::ENOSYS),
    };
    let (error, body) = body.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
    let length = (16 + body.len()) as u32;
    let head = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &long(8).to_ne_bytes()].concat();
    Some([head, body].concat())
}

fn attributes(node: u64) -> Vec<u8> {
    let (mode, links, size) = if node == ROOT {
        (libc::S_IFDIR | 0o755, 2, 0)
    } else {
        (libc::S_IFREG | 0o644, 1, CONTENT.len() as u64)
    };
    let times = [0u32; 3];
    let rest = [mode, links, 0, 0, 0, 4096, 0];
    let words = times.iter().chain(&rest).flat_map(|word| word.to_ne_bytes());
    [longs(&[node, size, 0, 0, 0, 0]), words.collect()].concat()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}
