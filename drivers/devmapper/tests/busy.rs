//! Somebody has the device of a layer open that is to go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, id, observed, open};
use mica_core::{Error, Layer, MountSpec, Writable};

/// Ends the process when it is dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A layer with a file, and a process that has its device open. The layer is not mounted.
fn held(place: &Place) -> (Layer<Writable>, Holder) {
    let layer = place.create("layer", None);
    let hold = place.store.write(&layer, &Default::default()).unwrap();
    let [MountSpec::Fs(spec)] = hold.mounts().specs.as_slice() else { panic!("{:?}", hold.mounts()) };
    let device = File::open(&spec.source).unwrap();
    let process = Command::new("sleep").arg("1000").stdin(Stdio::from(device)).spawn().unwrap();
    let mounted = place.mount(hold);
    fs::write(mounted.tree().path().join("file"), "content").unwrap();
    mounted.close().unwrap();
    (layer, Holder(process))
}

#[test]
fn removing_what_is_open_names_the_process_and_works_when_that_is_gone() {
    let place = Place::new(&[]);
    let (layer, holder) = held(&place);
    let begun = Instant::now();
    let error = place.store.remove(layer.id()).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("process {} (sleep)", holder.0.id())), "{error}");
    assert_eq!(place.store.driver().list().unwrap(), [id("layer")]);
    place.edit(&layer, |tree| assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "content"));
    drop(holder);
    place.store.remove(layer.id()).unwrap();
    assert_eq!(place.store.driver().list().unwrap(), []);
    assert_eq!(observed::volumes(place.dir.path()), [1].into());
}

#[test]
fn others_work_while_a_removal_waits() {
    let place = Place::new(&[]);
    let (layer, _holder) = held(&place);
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| place.store.remove(layer.id()));
        let other = open(place.dir.path(), &[]);
        other.create(id("other"), None, &Default::default()).unwrap();
        other.remove(&id("other")).unwrap();
        assert!(!removal.is_finished(), "{:?}", removal.join());
        removal.join().unwrap().unwrap_err();
    });
}

#[test]
fn a_device_that_is_let_go_of_goes() {
    let place = Place::new(&[]);
    let (_, holder) = held(&place);
    drop(holder);
    // The kernel removes it in its own time, and the pool under it goes with the call that comes then.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !observed::devices(place.dir.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", observed::devices(place.dir.path()));
        place.store.driver().status().unwrap();
    }
}
