//! The process dies between two steps of an operation, and the driver is opened again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};
use mica_core::{
    Access, Chain, GraphDriver, LayerId, LayerOptions, MountOptions, MountRequest, OptionMap, failpoint,
};
use mica_mount::Mounter;

/// The variables that tell the child what to do, and where.
const OPERATION: &str = "MICA_CRASH_OPERATION";
const ROOT: &str = "MICA_CRASH_ROOT";

/// An operation on a root that [`prepare`] made, a point in it, and what must be true afterwards.
struct Crash {
    point: &'static str,
    operation: &'static str,
    after: fn(&Root<'_>),
}

const CRASHES: &[Crash] = &[
    Crash {
        point: "shelf.create.filled",
        operation: "create",
        after: |root| root.holds(&["base", "detached", "top"]),
    },
    Crash {
        point: "shelf.create.published",
        operation: "create",
        after: |root| {
            root.holds(&["base", "detached", "new", "top"]);
            root.writes("new");
        },
    },
    Crash {
        point: "shelf.create.filled",
        operation: "duplicate",
        after: |root| root.holds(&["base", "detached", "top"]),
    },
    Crash {
        point: "shelf.create.published",
        operation: "duplicate",
        after: |root| {
            root.holds(&["base", "detached", "new", "top"]);
            assert_eq!(fs::read(root.path.join("layers/new/diff/file")).unwrap(), b"of top");
        },
    },
    Crash { point: "overlay2.mounts.work", operation: "write", after: |root| root.writes("top") },
    Crash {
        point: "overlay2.commit.inherited",
        operation: "commit",
        after: |root| {
            // Still without parents, so it is only filled, and committed again.
            root.driver.mounts(root.chain("detached"), &request(Access::Read)).unwrap_err();
            root.driver.mounts(root.chain("detached"), &request(Access::Apply)).unwrap();
            root.driver.commit(root.chain("detached")).unwrap();
            root.has_the_parents_root("detached");
        },
    },
    Crash {
        point: "overlay2.commit.marked",
        operation: "commit",
        after: |root| {
            root.driver.mounts(root.chain("detached"), &request(Access::Apply)).unwrap_err();
            root.has_the_parents_root("detached");
            root.driver.commit(root.chain("detached")).unwrap();
        },
    },
    Crash {
        point: "shelf.remove.renamed",
        operation: "remove",
        after: |root| {
            root.holds(&["base", "detached"]);
            root.driver.remove(&id("top")).unwrap();
        },
    },
    Crash {
        point: "overlay2.remove.removed",
        operation: "remove",
        after: |root| {
            root.holds(&["base", "detached"]);
            root.driver.remove(&id("top")).unwrap();
            perform("create", &*root.driver);
            root.writes("new");
        },
    },
];

fn main() -> ExitCode {
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
    for part in ["staging", "removing"] {
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
    let diff = root.join("layers/base/diff");
    fs::set_permissions(&diff, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    driver.commit(base).unwrap();
    let top = Chain { id: &id("top"), parents: &[id("base")] };
    driver.create(top, &LayerOptions::default()).unwrap();
    fs::write(root.join("layers/top/diff/file"), "of top").unwrap();
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
        "write" => driver.mounts(on_base(&top), &request(Access::Write)).map(drop),
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
    fn holds(&self, names: &[&str]) {
        let mut listed = self.driver.list().unwrap();
        listed.sort();
        assert_eq!(listed.iter().map(LayerId::as_str).collect::<Vec<_>>(), names);
    }

    /// The layer's chain; it lives as long as the process, which is one test.
    fn chain(&self, name: &str) -> Chain<'static> {
        Chain { id: Box::leak(Box::new(id(name))), parents: Box::leak(Box::new([id("base")])) }
    }

    fn writes(&self, name: &str) {
        let mounts = self.driver.mounts(self.chain(name), &request(Access::Write)).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let tree = Mounter::new(scratch.path()).open(&mounts).unwrap();
        fs::write(tree.path().join("written"), "").unwrap();
        tree.close().unwrap();
        self.driver.release(self.chain(name), Access::Write).unwrap();
        assert!(self.path.join("layers").join(name).join("diff/written").exists());
    }

    fn has_the_parents_root(&self, name: &str) {
        let root = fs::metadata(self.path.join("layers").join(name).join("diff")).unwrap();
        assert_eq!(root.mode() & 0o7777, 0o711);
    }
}

fn open(root: &Path) -> Box<dyn GraphDriver> {
    (mica_overlay2::DRIVER.open)(root, &OptionMap::new()).unwrap()
}

fn id(name: &str) -> LayerId {
    name.parse().unwrap()
}

fn request(access: Access) -> MountRequest {
    MountRequest { access, options: MountOptions::default() }
}
