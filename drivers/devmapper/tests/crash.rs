//! The process dies between two steps of an operation, and the root is opened again, or gone on with by another process that
//! has had it open all the time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::{id, observed};
use libtest_mimic::{Arguments, Trial};
use mica_core::{
    Access, Chain, Committed, Layer, LayerOptions, MountOptions, MountRequest, Quota, Store, Trees, Writable,
    failpoint,
};
use mica_mount::{Held, LazyTrees, Mounter};

/// The variables that tell the child what to do, and where.
const OPERATION: &str = "MICA_CRASH_OPERATION";
const DIR: &str = "MICA_CRASH_DIR";

/// An operation, the points at which it is cut off, and the layers that there are afterwards beside those of
/// [`prepare`].
struct Crash {
    operation: &'static str,
    point: &'static str,
    leaves: &'static [&'static str],
}

const CRASHES: &[Crash] = &[
    // The first layer of a root makes the pool.
    crash("first", "devmapper.pool.recorded", &[]),
    crash("first", "devmapper.pool.attached", &[]),
    crash("first", "devmapper.device.made", &[]),
    crash("first", "devmapper.pool.active", &[]),
    crash("first", "devmapper.base.begun", &[]),
    crash("first", "devmapper.base.made", &[]),
    crash("first", "devmapper.base.filled", &[]),
    crash("first", "devmapper.base.recorded", &[]),
    crash("first", "devmapper.base.raised", &[]),
    crash("first", "devmapper.create.made", &[]),
    crash("create", "devmapper.create.intended", &["base", "top"]),
    crash("create", "devmapper.create.made", &["base", "top"]),
    crash("create", "devmapper.table.loaded", &["base", "top"]),
    crash("create", "devmapper.settle.enlarged", &["base", "top"]),
    crash("create", "devmapper.settle.limited", &["base", "top"]),
    crash("create", "devmapper.create.settled", &["base", "top"]),
    crash("create", "devmapper.create.raised", &["base", "new", "top"]),
    crash("write", "devmapper.device.made", &["base", "top"]),
    crash("write", "devmapper.mounts.activated", &["base", "top"]),
    crash("grow", "devmapper.grow.files", &["base", "new", "top"]),
    crash("grow", "devmapper.grow.devices", &["base", "new", "top"]),
    crash("commit", "devmapper.commit.checked", &["base", "top"]),
    crash("commit", "devmapper.commit.recorded", &["base", "top"]),
    crash("changes", "devmapper.changes.reserved", &["base", "top"]),
    crash("changes", "devmapper.changes.compared", &["base", "top"]),
    crash("changes-mounted", "devmapper.changes.copied", &["base", "top"]),
    crash("duplicate-mounted", "devmapper.snapshot.suspended", &["base", "top"]),
    crash("duplicate-mounted", "devmapper.create.made", &["base", "top"]),
    crash("remove", "devmapper.remove.taken", &["base"]),
    crash("remove", "devmapper.remove.deleted", &["base"]),
];

/// Those that a process mends that has had the root open all the time.
const SEEN: &[Crash] = &[
    crash("create", "devmapper.create.intended", &["base", "top"]),
    crash("create", "devmapper.create.made", &["base", "top"]),
    crash("create", "devmapper.settle.limited", &["base", "top"]),
    crash("create", "devmapper.create.raised", &["base", "new", "top"]),
    crash("changes-mounted", "devmapper.changes.copied", &["base", "top"]),
    crash("duplicate-mounted", "devmapper.snapshot.suspended", &["base", "top"]),
    crash("remove", "devmapper.remove.taken", &["base"]),
    crash("remove", "devmapper.remove.deleted", &["base"]),
];

const fn crash(operation: &'static str, point: &'static str, leaves: &'static [&'static str]) -> Crash {
    Crash { operation, point, leaves }
}

fn main() -> ExitCode {
    if let (Ok(operation), Ok(dir)) = (std::env::var(OPERATION), std::env::var(DIR)) {
        perform(&operation, dir.as_ref());
        return ExitCode::SUCCESS;
    }
    let trial = |crash: &'static Crash, how: &str, seen: bool| {
        Trial::test(format!("{}-dies-at-{}{how}", crash.operation, crash.point), move || {
            survive(crash, seen);
            Ok(())
        })
    };
    let mut trials: Vec<Trial> = CRASHES.iter().map(|crash| trial(crash, "", false)).collect();
    trials.extend(SEEN.iter().map(|crash| trial(crash, "-beside-another-process", true)));
    trials.push(Trial::test("two-processes-share-a-root", || {
        share();
        Ok(())
    }));
    trials.push(Trial::test("what-is-open-is-given-up-later", || {
        give_up_later();
        Ok(())
    }));
    trials.push(Trial::test("every-failpoint-of-the-source-has-a-case", || {
        let tested: BTreeSet<String> = CRASHES.iter().map(|crash| crash.point.to_owned()).collect();
        let mut points = BTreeSet::new();
        collect_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut points);
        assert_eq!(points, tested);
        Ok(())
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn collect_points(dir: &Path, points: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_points(&path, points);
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let hits = source.split("failpoint::hit(\"").skip(1);
        points.extend(hits.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
}

/// `seen`: by a driver that is open all the time.
fn survive(crash: &Crash, seen: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (dir, is_first) = (dir.path(), crash.operation == "first");
    fs::create_dir(dir.join("root")).unwrap();
    let options = options(crash.operation);
    if !is_first {
        prepare(&common::open(dir, options), dir);
    }
    let holder = crash.operation.ends_with("-mounted").then(|| {
        let store = common::open(dir, options);
        let held = mount(&store, dir, &top());
        fs::write(held.tree().path().join("held"), "before").unwrap();
        (held, store)
    });
    let seen = seen.then(|| common::open(dir, options));
    let died =
        child(crash.operation, dir).env(failpoint::VARIABLE, crash.point).stderr(Stdio::null()).status();
    let died = died.unwrap();
    assert_eq!(died.signal(), Some(libc::SIGABRT), "the point was not reached: {died}");
    let store = seen.unwrap_or_else(|| common::open(dir, options));
    store.driver().status().unwrap();
    if let Some((held, holder)) = holder {
        // It hangs here for as long as the volume is suspended.
        fs::File::create(held.tree().path().join("held")).and_then(|file| file.sync_all()).unwrap();
        held.close().unwrap();
        drop(holder);
    }
    observed::rests(dir);
    for part in ["pending", "removing"] {
        assert_eq!(observed::recorded(dir, part), BTreeSet::new(), "left in {part}");
    }
    assert_eq!(listed(&store), crash.leaves);
    if !is_first {
        assert_eq!(read(&store, dir, &base()), CONTENT);
        holds_what_is_recorded(dir);
    }
    works(&store, dir, "again", !is_first);
    for layer in store.driver().list().unwrap() {
        store.remove(&layer).unwrap();
    }
    assert_eq!(listed(&store), [""; 0]);
    holds_what_is_recorded(dir);
}

/// No volume is there that no layer has, and every layer has one; the first volume is the base of all.
fn holds_what_is_recorded(dir: &Path) {
    let mut recorded = observed::recorded(dir, "layers");
    recorded.insert(1);
    assert_eq!(observed::volumes(dir), recorded);
}

fn child(operation: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(OPERATION, operation).env(DIR, dir);
    command
}

/// Both make, mount and remove layers at the same time.
fn share() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("root")).unwrap();
    prepare(&common::open(dir, &[]), dir);
    let both = ["work-one", "work-two"].map(|operation| child(operation, dir).spawn().unwrap());
    for mut process in both {
        assert!(process.wait().unwrap().success());
    }
    let store = common::open(dir, &[]);
    assert_eq!(listed(&store), ["base", "top"]);
    assert_eq!(read(&store, dir, &base()), CONTENT);
    holds_what_is_recorded(dir);
}

/// The volume of a layer that was not finished is open when the root is opened again.
fn give_up_later() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("root")).unwrap();
    prepare(&common::open(dir, &[]), dir);
    let died = child("create", dir).env(failpoint::VARIABLE, "devmapper.settle.limited").status();
    assert_eq!(died.unwrap().signal(), Some(libc::SIGABRT));
    let volume = observed::recorded(dir, "pending").first().copied().unwrap();
    let device = fs::File::open(observed::device(dir, volume)).unwrap();
    let store = common::open(dir, &[]);
    assert_eq!(listed(&store), ["base", "top"]);
    works(&store, dir, "new", true);
    assert_eq!(observed::recorded(dir, "removing"), [volume].into());
    drop(device);
    // The kernel takes the device away in its own time, and the pool goes with the call that comes then.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !observed::devices(dir).is_empty() {
        assert!(Instant::now() < deadline, "left active: {:?}", observed::devices(dir));
        store.driver().status().unwrap();
    }
    assert_eq!(observed::recorded(dir, "removing"), BTreeSet::new());
    holds_what_is_recorded(dir);
}

/// A layer comes and goes as if nothing had happened.
fn works(store: &Store, dir: &Path, name: &str, is_on_base: bool) {
    let base = base();
    let parent = is_on_base.then_some(&base);
    store.create(id(name), parent, &LayerOptions::default()).unwrap();
    let parents: Vec<_> = parent.map(|parent| parent.id().clone()).into_iter().collect();
    let layer = Layer::<Writable>::recorded(id(name), parents);
    let held = mount(store, dir, &layer);
    fs::write(held.tree().path().join("file"), CONTENT).unwrap();
    held.close().unwrap();
    let layer = store.commit(layer).unwrap();
    assert_eq!(read(store, dir, &layer), CONTENT);
    store.remove(layer.id()).unwrap();
}

const CONTENT: &[u8] = &[7; 100_000];

/// A committed layer with a file, and a writable one on top of it with another.
fn prepare(store: &Store, dir: &Path) {
    store.create(id("base"), None, &LayerOptions::default()).unwrap();
    let layer = Layer::<Writable>::recorded(id("base"), Vec::new());
    let held = mount(store, dir, &layer);
    fs::write(held.tree().path().join("file"), CONTENT).unwrap();
    held.close().unwrap();
    let base = store.commit(layer).unwrap();
    store.sync([&base]).unwrap();
    store.create(id("top"), Some(&base), &LayerOptions::default()).unwrap();
    let held = mount(store, dir, &top());
    fs::write(held.tree().path().join("of top"), "").unwrap();
    held.close().unwrap();
}

/// What is a part of an operation that grows the pool needs volumes that do not fit.
fn options(operation: &str) -> &'static [(&'static str, &'static str)] {
    match operation {
        "grow" => &[("base_size", "300M")],
        _ => &[],
    }
}

fn perform(operation: &str, dir: &Path) {
    let store = common::open(dir, options(operation));
    if operation.starts_with("work-") {
        return (0..4).for_each(|_| works(&store, dir, operation, true));
    }
    let driver = store.driver();
    let (new, top) = (id("new"), id("top"));
    let base = [id("base")];
    let on_base = |id| Chain { id, parents: &base };
    let write = MountRequest { access: Access::Write, options: MountOptions::default() };
    let small = Quota { bytes: Some(100 << 20), inodes: Some(1000) };
    match operation {
        "first" => driver.create(Chain { id: &base[0], parents: &[] }, &LayerOptions::default()).map(drop),
        "create" => {
            driver.create(on_base(&new), &LayerOptions { quota: small, ..LayerOptions::default() }).map(drop)
        }
        "write" => driver.mounts(on_base(&top), &write).map(drop),
        "grow" => driver
            .create(on_base(&new), &LayerOptions::default())
            .and_then(|_| driver.mounts(on_base(&top), &write))
            .and_then(|_| driver.mounts(on_base(&new), &write))
            .map(drop),
        "commit" => driver.commit(on_base(&top)),
        "changes" | "changes-mounted" => {
            let trees = LazyTrees::new(|| -> mica_core::Result<Held> { unreachable!() }, || Ok(None));
            driver.changes(on_base(&top), &trees as &dyn Trees).map(drop)
        }
        "duplicate-mounted" => driver.duplicate(on_base(&top), &new),
        "remove" => driver.remove(&top),
        other => panic!("no operation {other}"),
    }
    .unwrap();
}

fn base() -> Layer<Committed> {
    Layer::recorded(id("base"), Vec::new())
}

fn top() -> Layer<Writable> {
    Layer::recorded(id("top"), vec![id("base")])
}

fn listed(store: &Store) -> Vec<String> {
    let mut names: Vec<String> = store.driver().list().unwrap().iter().map(ToString::to_string).collect();
    names.sort();
    names
}

fn mount(store: &Store, dir: &Path, layer: &Layer<Writable>) -> Held {
    Held::open(store.write(layer, &MountOptions::default()).unwrap(), &Mounter::new(dir)).unwrap()
}

fn read(store: &Store, dir: &Path, layer: &Layer<Committed>) -> Vec<u8> {
    let hold = store.read(layer, &MountOptions::default()).unwrap();
    let held = Held::open(hold, &Mounter::new(dir)).unwrap();
    let content = fs::read(held.tree().path().join("file")).unwrap();
    held.close().unwrap();
    content
}
