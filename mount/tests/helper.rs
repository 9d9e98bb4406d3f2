//! A file system that a process serves: this very program, when it is called with `serve`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};
use mica_core::mount::Helper;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Calls, Mounter, Tree, table};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};
use tempfile::TempDir;

/// A name, and what to do with one way of mounting.
type Test = (&'static str, fn(Calls));

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    let ways = [("detached", Calls::best()), ("classic", Calls::Classic)];
    if let [_, first, way, dir] = &std::env::args().collect::<Vec<_>>()[..]
        && first == "inside"
    {
        inside(way, dir);
    }
    let tests: [Test; 10] = [
        ("a-tree-is-served-until-it-is-closed", is_served_until_it_is_closed),
        ("an-attached-tree-is-served-by-its-name", is_served_by_its_name),
        ("a-tree-is-of-the-drivers-type-and-forbids-nothing", is_of_its_type_and_forbids_nothing),
        ("a-tree-is-read-ahead-further-than-others", is_read_ahead_further),
        ("a-tree-that-cannot-be-attached-is-served-no-more", ends_when_it_cannot_be_attached),
        ("a-read-only-tree-refuses-writes", read_only_refuses_writes),
        ("a-helper-that-does-not-start-leaves-no-mount", does_not_start),
        ("a-helper-that-refuses-leaves-no-mount-and-says-why", refuses),
        ("a-helper-that-fails-is-reported", fails),
        ("a-helper-ends-with-the-mount-namespace-of-its-mount", ends_with_its_mount_namespace),
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
    let helper = Helper { driver: "test".to_owned(), args: vec![how.into()], read_only, label: None };
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

fn is_of_its_type_and_forbids_nothing(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("at");
    fs::create_dir(&at).unwrap();
    let attached = open(&dir, calls, this_program(), false, "well").unwrap().attach(&at).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let entry = mounts.lines().find(|line| line.contains(at.to_str().unwrap())).unwrap();
    assert!(entry.contains(" fuse.test "), "{entry}");
    assert!(entry.contains("default_permissions,allow_other,max_read=1048576"), "{entry}");
    assert!(!entry.contains("nosuid") && !entry.contains("nodev") && !entry.contains("noexec"), "{entry}");
    attached.close().unwrap();
}

fn is_read_ahead_further(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let tree = open(&dir, calls, this_program(), false, "well").unwrap();
    let device = fs::metadata(tree.path()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let kib = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    assert_eq!(kib, "512\n");
    tree.close().unwrap();
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

fn refuses(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let text = open(&dir, calls, this_program(), false, "badly").unwrap_err().to_string();
    assert!(text.contains("of driver 'test'") && text.contains("no such branch"), "{text}");
    assert!(table::below(dir.path()).unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn fails(calls: Calls) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("at");
    fs::create_dir(&at).unwrap();
    let attached = open(&dir, calls, this_program(), false, "for a while").unwrap().attach(&at).unwrap();
    let lost = fs::read(at.join("hello")).unwrap_err();
    assert!(matches!(lost.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)), "{lost}");
    let mut ended = [PollFd::from_borrowed_fd(attached.helper_pidfd().unwrap(), PollFlags::IN)];
    poll(&mut ended, None).unwrap();
    assert_eq!(attached.helper_said(), "enough served");
    let text = attached.close().unwrap_err().to_string();
    assert!(text.contains("enough served") && text.contains("exit status: 1"), "{text}");
}

/// Whoever mounted is killed with its mount namespace, as a supervisor may be: the file system ends, and so does its helper.
fn ends_with_its_mount_namespace(calls: Calls) {
    const INSIDE: &str = "inside";
    let dir = tempfile::tempdir().unwrap();
    let way = if calls == Calls::Classic { "classic" } else { "detached" };
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "slave"])
        .arg(this_program())
        .args([INSIDE, way])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut ended, Some(&patience)).unwrap(), 1, "the helper lives on");
}

/// Mounts and attaches, says who serves, and waits to be killed.
fn inside(way: &str, dir: &str) -> ! {
    let calls = if way == "classic" { Calls::Classic } else { Calls::best() };
    let helper = Helper { driver: "test".to_owned(), args: vec!["well".into()], ..Helper::default() };
    let mounts = Mounts { specs: vec![MountSpec::Helper(helper)], whiteouts: WhiteoutForm::Merged };
    let mounter = Mounter::new(dir).with_calls(calls).with_helper([this_program(), "serve".into()]);
    let mounter = mounter.with_helper_apart();
    let at = Path::new(dir).join("at");
    fs::create_dir(&at).unwrap();
    let attached = mounter.open(&mounts).unwrap().attach(&at).unwrap();
    println!("{}", attached.helper_pid().unwrap());
    loop {
        std::thread::park();
    }
}

const CONTENT: &[u8] = b"served";

/// Serves a directory with one file, as `linux/fuse.h` says.
fn serve() -> ExitCode {
    let [driver, how] = [2, 3].map(|n| std::env::args().nth(n).unwrap());
    assert_eq!(driver, "test");
    if how == "badly" {
        eprintln!("no such branch");
        return ExitCode::FAILURE;
    }
    // A safe way to own what was inherited as descriptor 3.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let channel = rustix::process::pidfd_getfd(own.unwrap(), 3, rustix::process::PidfdGetfdFlags::empty());
    let mut channel = File::from(channel.unwrap());
    let mut request = vec![0; 1 << 17];
    loop {
        match channel.read(&mut request) {
            // LOOKUP
            Ok(40..) if how == "for a while" && request[4..8] == 1u32.to_ne_bytes() => {
                eprintln!("enough served");
                return ExitCode::FAILURE;
            }
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
