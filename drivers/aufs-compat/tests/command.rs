//! The command `mica-aufs`, by hand and as mount(8) calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mica-aufs");

/// Two branches and a place to mount them at, which nothing is mounted at when the test is over.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["upper", "lower", "at", "work", "bin"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        fs::write(place.path("lower/below"), "below").unwrap();
        fs::write(place.path("lower/.wh.gone"), "").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn branches(&self) -> String {
        format!("br:{}=rw:{}=ro+wh", self.text("upper"), self.text("lower"))
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(PROGRAM).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    /// Mounts by these arguments and the place to mount at.
    fn mount(&self, args: &[&str]) {
        let done = self.run(&[args, &["at"]].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// The line of the mount table, by its fields.
    fn mounted(&self) -> Option<Vec<String>> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        table.lines().map(fields).find(|fields| fields[1] == self.text("at"))
    }

    /// The process that serves.
    fn server(&self) -> u32 {
        let own = format!("{}=", self.text("upper"));
        let is_server = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|arg| arg.starts_with(own.as_bytes()))
                && line.windows(7).any(|part| part == b"--serve")
        };
        processes().find(is_server).unwrap()
    }

    fn unmount(&self) {
        let server = self.server();
        rustix::mount::unmount(self.path("at"), UnmountFlags::empty()).unwrap();
        wait_until(|| !is_running(server));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.mounted().is_some() {
            let _ = rustix::mount::unmount(self.path("at"), UnmountFlags::DETACH);
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

fn is_running(pid: u32) -> bool {
    // A zombie is nobody's hold on anything.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came true");
        std::thread::yield_now();
    }
}

#[test]
fn a_union_is_mounted_by_hand_and_its_server_ends_with_it() {
    let place = Place::new();
    place.mount(&[&place.branches()]);
    assert_eq!(fs::read(place.path("at/below")).unwrap(), b"below");
    fs::write(place.path("at/new"), "new").unwrap();
    assert_eq!(fs::read(place.path("upper/new")).unwrap(), b"new");
    let line = place.mounted().unwrap();
    assert_eq!(line[2], "fuse.mica-aufs");
    assert!(!line[3].contains("nosuid") && !line[3].contains("nodev"), "{line:?}");
    place.unmount();
}

#[test]
fn branches_can_be_written_as_overlays_are_and_as_options() {
    let place = Place::new();
    let overlay = format!("lowerdir={},upperdir={},workdir=work", place.text("lower"), place.text("upper"));
    for args in
        [&["-o", &overlay][..], &["-o", &place.branches(), "none"], &["-o", "br:upper=rw:lower=ro+wh"]]
    {
        place.mount(args);
        assert_eq!(fs::read(place.path("at/below")).unwrap(), b"below", "{args:?}");
        place.unmount();
    }
}

#[test]
fn devices_and_setuid_programs_work_unless_they_are_forbidden() {
    let place = Place::new();
    place.mount(&[&place.branches()]);
    let null = place.path("at/null");
    let device = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &null, rustix::fs::FileType::CharacterDevice, mode, device).unwrap();
    fs::write(&null, "x").unwrap();
    let id = place.path("at/id");
    fs::copy("/usr/bin/id", &id).unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
    let own = fs::metadata(&id).unwrap();
    assert_eq!((own.uid(), own.mode() & 0o7777), (0, 0o4755));
    let effective = || {
        let mut command = Command::new(&id);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        String::from_utf8(command.arg("-u").output().unwrap().stdout).unwrap()
    };
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(effective(), "0\n");
    place.unmount();

    place.mount(&["-o", "nosuid,nodev", &place.branches()]);
    assert_eq!(effective(), "65534\n");
    assert_eq!(fs::write(&null, "x").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    place.unmount();
}

#[test]
fn a_read_only_mount_writes_to_no_branch() {
    let place = Place::new();
    place.mount(&["-r", &place.branches()]);
    let refused = File::create(place.path("at/new")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    place.unmount();
    assert_eq!(fs::read_dir(place.path("upper")).unwrap().count(), 0);
}

#[test]
fn the_branches_are_shown_as_aufs_shows_them_while_it_is_mounted() {
    let place = Place::new();
    place.mount(&[&place.branches()]);
    let source = &place.mounted().unwrap()[0];
    let id = source.strip_prefix("si=").unwrap();
    let shown = PathBuf::from(format!("/run/mica-aufs/si_{id}"));
    let device = fs::metadata(place.path("at")).unwrap().dev();
    let by_device = Path::new("/run/mica-aufs").join(format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    ));
    for dir in [&shown, &by_device] {
        assert_eq!(fs::read_to_string(dir.join("br0")).unwrap(), format!("{}=rw\n", place.text("upper")));
        assert_eq!(fs::read_to_string(dir.join("br1")).unwrap(), format!("{}=ro+wh\n", place.text("lower")));
    }
    place.unmount();
    assert!(!shown.exists() && fs::symlink_metadata(by_device).is_err());
}

#[test]
fn a_server_has_no_more_rights_than_it_needs_and_no_terminal() {
    let place = Place::new();
    place.mount(&[&place.branches()]);
    let server = place.server();
    let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    const SYS_RESOURCE: u32 = 24;
    const SYS_PTRACE: u32 = 19;
    let effective = u64::from_str_radix(&field("CapEff"), 16).unwrap();
    assert_eq!(effective & (1 << SYS_RESOURCE | 1 << SYS_PTRACE), 0);
    assert_eq!(
        (field("Name"), field("CapBnd"), field("NoNewPrivs")),
        ("mica-aufs".into(), field("CapEff"), "1".into())
    );
    let pid = Pid::from_raw(server as i32).unwrap();
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid, "a session of its own");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    assert_eq!(fs::read(place.path("at/below")).unwrap(), b"below");
    place.unmount();
}

#[test]
fn a_server_that_is_killed_gives_enotconn() {
    let place = Place::new();
    place.mount(&[&place.branches()]);
    rustix::process::kill_process(Pid::from_raw(place.server() as i32).unwrap(), Signal::KILL).unwrap();
    wait_until(|| fs::read(place.path("at/below")).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)));
    rustix::mount::unmount(place.path("at"), UnmountFlags::empty()).unwrap();
    // What was written before is in its branch, and the branch can be mounted again.
    place.mount(&[&place.branches()]);
    place.unmount();
}

#[test]
fn in_the_foreground_a_signal_unmounts() {
    let place = Place::new();
    let start =
        || Command::new(PROGRAM).args(["-f", &place.branches()]).arg(place.path("at")).spawn().unwrap();
    let wait = |mut child: Child| {
        let status = child.wait().unwrap();
        assert!(status.success() && place.mounted().is_none(), "{status}");
    };
    let by_signal = start();
    wait_until(|| place.mounted().is_some());
    rustix::process::kill_process(Pid::from_child(&by_signal), Signal::TERM).unwrap();
    wait(by_signal);
    let by_unmounting = start();
    wait_until(|| place.mounted().is_some());
    // It may still be looking at what it mounted.
    wait_until(|| rustix::mount::unmount(place.path("at"), UnmountFlags::empty()).is_ok());
    wait(by_unmounting);
}

/// The kernel tells a server that reads a request while the mount ends that the connection was aborted.
#[test]
fn requests_that_meet_the_end_of_the_mount_are_no_failure() {
    let place = Place::new();
    let names: Vec<PathBuf> = (0..200).map(|number| place.path(&format!("upper/{number}"))).collect();
    names.iter().for_each(|name| fs::write(name, "").unwrap());
    let serve = || {
        let mut command = Command::new(PROGRAM);
        let mut server = command.args(["-f", &place.branches()]).arg(place.path("at")).spawn().unwrap();
        wait_until(|| place.mounted().is_some());
        let open: Vec<_> = (0..200).map(|n| File::open(place.path(&format!("at/{n}"))).unwrap()).collect();
        drop(open);
        wait_until(|| rustix::mount::unmount(place.path("at"), UnmountFlags::empty()).is_ok());
        server.wait().unwrap().success()
    };
    let busy_until = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        // It takes processors that are busy.
        for _ in 0..4 {
            scope.spawn(|| while Instant::now() < busy_until {});
        }
        while Instant::now() < busy_until {
            assert!(serve());
        }
    });
}

#[test]
fn what_many_threads_open_leaves_no_descriptor_in_the_server() {
    for options in ["passthrough", "nopassthrough"] {
        let place = Place::new();
        place.mount(&["-o", options, &place.branches()]);
        let server = place.server();
        let descriptors = || fs::read_dir(format!("/proc/{server}/fd")).unwrap().count();
        let work = || {
            std::thread::scope(|scope| {
                for thread in 0..6 {
                    let place = &place;
                    scope.spawn(move || change_many_files(place, thread));
                }
            });
        };
        work();
        let before = descriptors();
        work();
        // The kernel tells of a file's last close when it is over.
        wait_until(|| descriptors() <= before);
        assert_eq!(fs::read_dir(place.path("at")).unwrap().count(), 1, "{options}");
        place.unmount();
    }
}

fn change_many_files(place: &Place, thread: u32) {
    for turn in 0..200 {
        let file = place.path(&format!("at/{thread}-{turn}"));
        fs::write(&file, file.as_os_str().as_bytes()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), file.as_os_str().as_bytes());
        assert_eq!(fs::read(place.path("at/below")).unwrap(), b"below");
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn six_hundred_branches_are_a_union() {
    let place = Place::new();
    let branches: Vec<String> = (0..600).map(|number| place.text(&format!("branch-{number}"))).collect();
    for (number, branch) in branches.iter().enumerate() {
        fs::create_dir(branch).unwrap();
        fs::write(format!("{branch}/file-{number}"), branch).unwrap();
    }
    let lower = branches.iter().map(|branch| format!(":{branch}=ro+wh")).collect::<String>();
    place.mount(&[&format!("br:{}=rw{lower}", place.text("upper"))]);
    assert_eq!(fs::read_dir(place.path("at")).unwrap().count(), 600);
    assert_eq!(fs::read_to_string(place.path("at/file-599")).unwrap(), branches[599]);
    place.unmount();
}

#[test]
fn what_cannot_be_mounted_is_refused_and_leaves_nothing() {
    let place = Place::new();
    fs::create_dir(place.path("upper/inside")).unwrap();
    for (args, words) in [
        (&["br:upper=rw:lower=ro+wh", "-o", "nosuch", "at"][..], "'nosuch' is unknown"),
        (&["br:upper=rw:nowhere=ro", "at"], "nowhere'"),
        (&["br:upper=rw:lower/below=ro", "at"], "below'"),
        (&["br:upper=rw:upper/inside=ro", "at"], "is inside branch"),
        (&["br:upper=rw", "nowhere"], "nowhere'"),
        (&["at"], "there is no branch"),
        (&["--serve", "mica-aufs", "/a=rw"], "descriptor 3"),
    ] {
        let done = place.run(args);
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && said.contains(words), "{args:?}: {said}");
        assert!(place.mounted().is_none());
    }
}

#[test]
fn a_branch_that_is_written_cannot_be_mounted_a_second_time() {
    let place = Place::new();
    place.mount(&[&place.branches()]);
    let again = place.run(&[&place.branches(), "work"]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && said.contains("in use by another mount"), "{said}");
    place.unmount();
}

/// In a mount namespace of its own, in which the command is installed.
#[test]
fn mount_finds_the_command_and_mounts_an_entry_of_fstab_once() {
    if !["/sbin/mount.fuse3", "/sbin/mount.fuse"].iter().any(|helper| Path::new(helper).exists()) {
        eprintln!("skip: mount_finds_the_command_and_mounts_an_entry_of_fstab_once: there is no mount.fuse");
        return;
    }
    let place = Place::new();
    symlink(PROGRAM, place.path("bin/mica-aufs")).unwrap();
    let entry = format!("{} {} fuse.mica-aufs x-test=1,nodev 0 0\n", place.branches(), place.text("at"));
    fs::write(place.path("fstab"), entry).unwrap();
    let script = "mount --bind bin /usr/local/sbin && mount -T fstab -a && mount -T fstab -a && cat at/below && \
                  echo && grep -F \"$PWD/at\" /proc/self/mounts && umount at";
    let mut unshare = Command::new("unshare");
    let done = unshare.args(["-m", "sh", "-c", script]).current_dir(place.dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines[0] == "below", "mounted once: {said}");
    let fields: Vec<&str> = lines[1].split(' ').collect();
    assert_eq!((fields[0], fields[2]), (&*place.branches(), "fuse.mica-aufs"));
    assert!(fields[3].contains("nodev") && !fields[3].contains("nosuid"), "{said}");
}

#[test]
fn a_name_that_is_not_unicode_is_a_branch_like_any_other() {
    let place = Place::new();
    let name = std::ffi::OsStr::from_bytes(b"low\xff:er,");
    fs::create_dir(place.dir.path().join(name)).unwrap();
    fs::write(place.dir.path().join(name).join("odd"), "odd").unwrap();
    let escaped = std::ffi::OsStr::from_bytes(b"br:upper=rw:low\xff\\:er\\,=ro");
    let done = Command::new(PROGRAM).arg(escaped).arg("at").current_dir(place.dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(fs::read(place.path("at/odd")).unwrap(), b"odd");
    place.unmount();
}
