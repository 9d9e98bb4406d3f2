//! A session on real mounts, with a tiny file system: this very program serves it when it is called with `serve`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "session/tiny.rs"]
mod tiny;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use mica_core::mount::Helper;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Mounter, Tree};
use rustix::process::{Pid, Signal};

use tiny::{ANSWERED, BACKED, COPIED};

/// A name, and the test.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return tiny::serve();
    }
    let tests: [Test; 14] = [
        ("a-session-ends-well-when-it-is-unmounted", ends_when_it_is_unmounted),
        ("a-session-outlives-the-name-of-its-mount-while-a-file-is-open", outlives_its_name),
        ("a-server-that-is-killed-gives-enotconn", killed),
        ("a-session-that-is-aborted-ends-with-an-error", aborted),
        ("a-panic-ends-the-server-and-hangs-nobody", panics),
        ("a-session-ends-when-it-is-unmounted-before-anything-was-asked", unasked),
        ("many-threads-get-their-own-answers", many_threads),
        ("what-is-opened-is-closed", leaks_nothing),
        ("a-signal-does-not-cut-a-request-short", signal),
        ("the-kernel-reads-files-by-itself-where-it-may", passes_through),
        ("without-passthrough-the-server-is-asked", asks),
        ("without-the-right-to-pass-through-the-server-is-asked", unprivileged),
        ("files-without-a-name-and-copies-in-the-server", beyond_the_library),
        ("the-kernel-forgets-a-name-when-it-is-told-to", forgets),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn mount(how: &str) -> Tree {
    let helper = Helper { driver: "tiny".to_owned(), args: vec![how.into()], ..Helper::default() };
    let mounts = Mounts { specs: vec![MountSpec::Helper(helper)], whiteouts: WhiteoutForm::Merged };
    let program = std::env::current_exe().unwrap().into_os_string();
    Mounter::new(std::env::temp_dir()).with_helper([program, "serve".into()]).open(&mounts).unwrap()
}

fn read(tree: &Tree, name: &str) -> Vec<u8> {
    fs::read(tree.path().join(name)).unwrap()
}

fn is_running(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

fn ends_when_it_is_unmounted() {
    let tree = mount("cached");
    let pid = tree.helper_pid().unwrap();
    assert_eq!(read(&tree, "file"), ANSWERED);
    tree.close().unwrap();
    assert!(!is_running(pid));
}

fn outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let attached = mount("cached").attach(dir.path()).unwrap();
    let pid = attached.helper_pid().unwrap();
    let mut file = File::open(dir.path().join("file")).unwrap();
    let closing = thread::spawn(|| attached.close());
    wait_until(|| !dir.path().join("file").exists());
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert!(content == ANSWERED && is_running(pid));
    drop(file);
    closing.join().unwrap().unwrap();
    assert!(!is_running(pid));
}

fn killed() {
    let tree = mount("cached");
    let pid = Pid::from_raw(tree.helper_pid().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    let asked = || fs::read(tree.path().join("file")).map_err(|e| e.raw_os_error());
    wait_until(|| asked() == Err(Some(libc::ENOTCONN)));
    let text = tree.close().unwrap_err().to_string();
    assert!(text.contains("SIGKILL"), "{text}");
}

/// The file system by which the kernel shows its FUSE connections, mounted for a while.
struct Connections(tempfile::TempDir);

impl Connections {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount("none", dir.path(), "fusectl", rustix::mount::MountFlags::empty(), None)
            .unwrap();
        Self(dir)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn aborted() {
    let tree = mount("cached");
    let connections = Connections::mount();
    let device = rustix::fs::minor(fs::metadata(tree.path()).unwrap().dev());
    fs::write(connections.0.path().join(format!("{device}/abort")), "1").unwrap();
    let text = tree.close().unwrap_err().to_string();
    assert!(text.contains("abort"), "{text}");
}

fn panics() {
    let tree = mount("cached");
    let busy = thread::spawn({
        let path = tree.path().join("slow");
        // Another thread's request, which nobody will ever answer.
        move || fs::read(path).map_err(|e| e.raw_os_error())
    });
    wait_until(|| fs::exists(tree.path().join("is-read")).unwrap());
    let asked = fs::read(tree.path().join("panic")).unwrap_err().raw_os_error();
    assert!(matches!(asked, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{asked:?}");
    assert!(matches!(busy.join().unwrap(), Err(Some(libc::ENOTCONN | libc::ECONNABORTED))));
    let text = tree.close().unwrap_err().to_string();
    assert!(text.contains("the tiny file system panics"), "{text}");
}

fn unasked() {
    mount("cached").close().unwrap();
}

fn many_threads() {
    let tree = mount("uncached");
    thread::scope(|scope| {
        for thread in 0..8u64 {
            let tree = &tree;
            scope.spawn(move || {
                for turn in 0..500 {
                    let number = 1000 + thread * 1000 + turn;
                    let path = tree.path().join(format!("n{number}"));
                    assert_eq!(fs::metadata(&path).unwrap().ino(), number);
                    let file = File::open(&path).unwrap();
                    let mut content = [0; 8];
                    file.read_exact_at(&mut content, 0).unwrap();
                    assert_eq!(u64::from_ne_bytes(content), number);
                    let none = fs::metadata(tree.path().join(format!("x{number}")));
                    assert_eq!(none.unwrap_err().raw_os_error(), Some(libc::ENOENT));
                }
            });
        }
    });
    tree.close().unwrap();
}

fn leaks_nothing() {
    let tree = mount("passthrough");
    let count = |process: &str| fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    let pid = tree.helper_pid().unwrap().to_string();
    let all = || {
        for _ in 0..300 {
            assert_eq!(read(&tree, "file"), BACKED);
            assert_eq!(read(&tree, "n5"), 5u64.to_ne_bytes());
        }
    };
    all();
    wait_until(|| tiny::open_files(&tree) == 0);
    let (own, server) = (count("self"), count(&pid));
    all();
    wait_until(|| tiny::open_files(&tree) == 0);
    assert_eq!((count("self"), count(&pid)), (own, server));
    tree.close().unwrap();
}

fn signal() {
    let tree = mount("cached");
    let slow = File::open(tree.path().join("slow")).unwrap();
    // It has a handler for this signal, which otherwise would not wake it.
    let mut reader = start(Command::new("dd").arg("status=noxfer"), slow);
    wait_until(|| fs::exists(tree.path().join("is-read")).unwrap());
    rustix::process::kill_process(Pid::from_child(&reader), Signal::USR1).unwrap();
    fs::read(tree.path().join("go")).unwrap();
    let mut said = Vec::new();
    reader.stdout.take().unwrap().read_to_end(&mut said).unwrap();
    assert!(said == ANSWERED && reader.wait().unwrap().success());
    tree.close().unwrap();
}

fn start(command: &mut Command, input: File) -> Child {
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Otherwise the command keeps the file open.
    command.stdin(Stdio::null());
    child
}

fn passes_through() {
    let tree = mount("passthrough");
    if !fs::exists(tree.path().join("is-passed-through")).unwrap() {
        eprintln!("skip: the-kernel-reads-files-by-itself-where-it-may: this kernel has no FUSE passthrough");
        return;
    }
    assert_eq!(read(&tree, "file"), BACKED);
    tree.close().unwrap();
}

fn asks() {
    let tree = mount("cached");
    assert!(!fs::exists(tree.path().join("is-passed-through")).unwrap());
    assert_eq!(read(&tree, "file"), ANSWERED);
    tree.close().unwrap();
}

fn unprivileged() {
    let tree = mount("unprivileged");
    assert_eq!(read(&tree, "file"), ANSWERED);
    tree.close().unwrap();
}

fn beyond_the_library() {
    let tree = mount("cached");
    let mut nameless =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(tree.path()).unwrap();
    nameless.write_all(b"tmp").unwrap();
    let from = File::open(tree.path().join("file")).unwrap();
    let copied = rustix::fs::copy_file_range(&from, Some(&mut 5), &nameless, Some(&mut 7), 4).unwrap();
    assert_eq!(copied, COPIED);
    drop((from, nameless));
    tree.close().unwrap();
}

fn forgets() {
    let tree = mount("cached");
    let number = || fs::metadata(tree.path().join("changes")).unwrap().ino();
    let before = number();
    assert_eq!(number(), before, "the kernel keeps it");
    fs::read(tree.path().join("change")).unwrap();
    wait_until(|| number() != before);
    tree.close().unwrap();
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came true");
        thread::yield_now();
    }
}
