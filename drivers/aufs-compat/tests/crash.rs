//! The process dies between two steps of an operation, and the driver is opened again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};
use mica_aufs_compat::DRIVER;
use mica_core::{
    Access, Chain, GraphDriver, LayerId, LayerOptions, MountOptions, MountRequest, OptionMap, failpoint,
};
use mica_mount::Mounter;

/// The variables that tell the child what to do, and where.
const OPERATION: &str = "MICA_CRASH_OPERATION";
const ROOT: &str = "MICA_CRASH_ROOT";

/// The first argument of this program when it serves a mount.
const HELPER: &str = "helper";

/// An operation on a root that [`prepare`] made, a point in it, and what must be true afterwards.
struct Crash {
    point: &'static str,
    operation: &'static str,
    after: fn(&Root<'_>),
}

const BEFORE: &[&str] = &["base", "detached", "top"];
const WITH_NEW: &[&str] = &["base", "detached", "new", "top"];

const CRASHES: &[Crash] = &[
    Crash { point: "aufs-compat.create.recorded", operation: "create", after: |root| root.holds(BEFORE) },
    Crash { point: "shelf.create.filled", operation: "create", after: |root| root.holds(BEFORE) },
    Crash {
        point: "shelf.create.published",
        operation: "create",
        after: |root| {
            root.holds(WITH_NEW);
            root.writes("new");
        },
    },
    Crash { point: "aufs-compat.create.recorded", operation: "duplicate", after: |root| root.holds(BEFORE) },
    Crash {
        point: "shelf.create.published",
        operation: "duplicate",
        after: |root| {
            root.holds(WITH_NEW);
            assert_eq!(fs::read(root.diff("new").join("file")).unwrap(), b"of top");
        },
    },
    Crash {
        point: "aufs-compat.commit.inherited",
        operation: "commit",
        after: |root| {
            // Still without parents, so it is only filled, and committed again.
            root.driver.mounts(root.chain("detached"), &request(Access::Read)).unwrap_err();
            root.driver.mounts(root.chain("detached"), &request(Access::Apply)).unwrap();
            root.driver.commit(root.chain("detached")).unwrap();
            root.stands_on_base("detached");
        },
    },
    Crash {
        point: "aufs-compat.commit.marked",
        operation: "commit",
        after: |root| {
            root.driver.mounts(root.chain("detached"), &request(Access::Apply)).unwrap_err();
            root.stands_on_base("detached");
            root.driver.commit(root.chain("detached")).unwrap();
        },
    },
    Crash { point: "shelf.remove.renamed", operation: "remove", after: is_removed },
    Crash { point: "aufs-compat.remove.removed", operation: "remove", after: is_removed },
];

fn is_removed(root: &Root<'_>) {
    root.holds(&["base", "detached"]);
    root.driver.remove(&id("top")).unwrap();
    perform("create", &*root.driver);
    root.writes("new");
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [verb, driver, arguments @ ..] = &arguments[..]
        && verb == HELPER
    {
        assert_eq!(driver, DRIVER.name);
        return DRIVER.helper.unwrap()(arguments);
    }
    if let (Ok(operation), Ok(root)) = (std::env::var(OPERATION), std::env::var(ROOT)) {
        perform(&operation, &*open(root.as_ref()));
        return ExitCode::SUCCESS;
    }
    let trials = CRASHES.iter().map(|crash| {
        Trial::test(format!("{}-dies-at-{}", crash.operation, crash.point), || {
            survive(crash);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn survive(crash: &Crash) {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let died = Command::new(std::env::current_exe().unwrap())
        .env(OPERATION, crash.operation)
        .env(ROOT, dir.path())
        .env(failpoint::VARIABLE, crash.point)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(died.signal(), Some(libc::SIGABRT), "the point was not reached: {died}");
    let root = Root { path: dir.path(), driver: open(dir.path()) };
    for part in ["staging", "removing", "mnt"] {
        assert_eq!(fs::read_dir(dir.path().join(part)).unwrap().count(), 0, "left in {part}");
    }
    (crash.after)(&root);
    for layer in root.driver.list().unwrap() {
        root.driver.remove(&layer).unwrap();
    }
    root.holds(&[]);
}

/// A committed base layer, a writable one on top of it with a file, and a detached one.
fn prepare(root: &Path) {
    let driver = open(root);
    let base = Chain { id: &id("base"), parents: &[] };
    driver.create(base, &LayerOptions::default()).unwrap();
    fs::set_permissions(root.join("diff/base"), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    driver.commit(base).unwrap();
    let top = Chain { id: &id("top"), parents: &[id("base")] };
    driver.create(top, &LayerOptions::default()).unwrap();
    fs::write(root.join("diff/top/file"), "of top").unwrap();
    let detached = LayerOptions { detached: true, ..LayerOptions::default() };
    driver.create(Chain { id: &id("detached"), parents: &[] }, &detached).unwrap();
}

fn perform(operation: &str, driver: &dyn GraphDriver) {
    let base = [id("base")];
    let (top, new, detached) = (id("top"), id("new"), id("detached"));
    let on_base = |id| Chain { id, parents: &base };
    match operation {
        "create" => driver.create(on_base(&new), &LayerOptions::default()).map(drop),
        "duplicate" => driver.duplicate(on_base(&top), &new),
        "commit" => driver.commit(on_base(&detached)),
        "remove" => driver.remove(&top),
        other => panic!("no operation {other}"),
    }
    .unwrap();
}

struct Root<'a> {
    path: &'a Path,
    driver: Box<dyn GraphDriver>,
}

impl Root<'_> {
    /// These layers are there, each with what it stands on, and nothing else is.
    fn holds(&self, names: &[&str]) {
        let mut listed = self.driver.list().unwrap();
        listed.sort();
        assert_eq!(listed.iter().map(LayerId::as_str).collect::<Vec<_>>(), names);
        let mut recorded: Vec<_> = fs::read_dir(self.path.join("layers"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        recorded.sort();
        assert_eq!(recorded, names);
    }

    fn diff(&self, name: &str) -> PathBuf {
        self.path.join("diff").join(name)
    }

    /// The layer's chain; it lives as long as the process, which is one test.
    fn chain(&self, name: &str) -> Chain<'static> {
        Chain { id: Box::leak(Box::new(id(name))), parents: Box::leak(Box::new([id("base")])) }
    }

    fn writes(&self, name: &str) {
        let mounts = self.driver.mounts(self.chain(name), &request(Access::Write)).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap().into_os_string();
        let mounter = Mounter::new(scratch.path()).with_helper([program, HELPER.into()]);
        let tree = mounter.open(&mounts).unwrap();
        fs::write(tree.path().join("written"), "").unwrap();
        tree.close().unwrap();
        self.driver.release(self.chain(name), Access::Write).unwrap();
        assert!(self.diff(name).join("written").exists());
    }

    fn stands_on_base(&self, name: &str) {
        assert_eq!(fs::metadata(self.diff(name)).unwrap().mode() & 0o7777, 0o711);
        assert_eq!(fs::read_to_string(self.path.join("layers").join(name)).unwrap(), "base\n");
    }
}

fn open(root: &Path) -> Box<dyn GraphDriver> {
    (DRIVER.open)(root, &OptionMap::new()).unwrap()
}

fn id(name: &str) -> LayerId {
    name.parse().unwrap()
}

fn request(access: Access) -> MountRequest {
    MountRequest { access, options: MountOptions::default() }
}
