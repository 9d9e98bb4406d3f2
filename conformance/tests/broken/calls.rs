//! Calls that answer or leave what they must not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use mica_core::{Chain, Created, Error, GraphDriver, LayerId, LayerOptions, OptionMap, Result, Usage};

use crate::fault::Fault;
use crate::plain::Plain;

#[derive(Debug, Default)]
struct LeaksDescriptors;

impl Fault for LeaksDescriptors {
    fn usage(&self, plain: &Plain, chain: Chain<'_>) -> Result<Usage> {
        let usage = plain.usage(chain)?;
        std::mem::forget(File::open(plain.layer(chain.id)));
        Ok(usage)
    }
}

#[derive(Debug, Default)]
struct RemovesOnce;

impl Fault for RemovesOnce {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        if plain.layer(id).exists() { plain.remove(id) } else { Err(Error::no_layer(id)) }
    }
}

#[derive(Debug, Default)]
struct ListsCommittedOnly;

impl Fault for ListsCommittedOnly {
    fn list(&self, plain: &Plain) -> Result<Vec<LayerId>> {
        Ok(plain.list()?.into_iter().filter(|id| plain.is_committed(id)).collect())
    }
}

/// A create that is refused has made a directory before.
#[derive(Debug, Default)]
struct LeavesDebris;

impl Fault for LeavesDebris {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let created = plain.create(chain, options);
        if matches!(created, Err(Error::NotFound { .. } | Error::State { .. })) {
            fs::create_dir(plain.layer(chain.id)).unwrap();
        }
        created
    }
}

#[derive(Debug, Default)]
struct StandsOnAnything;

impl Fault for StandsOnAnything {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let fake = chain.parent().map(|parent| plain.layer(parent).join("committed"));
        let fake = fake.filter(|mark| mark.parent().is_some_and(Path::exists) && !mark.exists());
        if let Some(mark) = &fake {
            File::create(mark).unwrap();
        }
        let created = plain.create(chain, options);
        fake.map(fs::remove_file);
        created
    }
}

#[derive(Debug, Default)]
struct SyncsAnything;

impl Fault for SyncsAnything {
    fn sync(&self, _: &Plain, _: &[LayerId]) -> Result<()> {
        Ok(())
    }
}

/// A removal that was cut short stays for ever.
#[derive(Debug, Default)]
struct CleansNothing;

impl Fault for CleansNothing {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if plain.layer(id).exists() {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let gone = format!("{id}.{}-{number}.gone", std::process::id());
            fs::rename(plain.layer(id), plain.layer(id).with_file_name(gone)).unwrap();
        }
        Ok(())
    }

    fn list(&self, plain: &Plain) -> Result<Vec<LayerId>> {
        Ok(plain.list()?.into_iter().filter(|id| !id.as_str().ends_with(".gone")).collect())
    }
}

/// A removal that is cut short leaves a layer of which a part is gone.
#[derive(Debug, Default)]
struct RemovesInPlace;

impl Fault for RemovesInPlace {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        if plain.layer(id).exists() {
            fs::remove_dir_all(plain.tree(id)).unwrap();
        }
        plain.remove(id)
    }
}

#[derive(Debug, Default)]
struct TellsNoUsage;

impl Fault for TellsNoUsage {
    fn usage(&self, plain: &Plain, chain: Chain<'_>) -> Result<Usage> {
        plain.usage(chain).map(|_| Usage::default())
    }
}

/// What is in motion looks wrong to it.
#[derive(Debug, Default)]
struct FindsFault;

impl Fault for FindsFault {
    fn check(&self, plain: &Plain) -> Result<Vec<String>> {
        let writable = plain.list()?.into_iter().filter(|id| !plain.is_committed(id));
        Ok(writable.map(|id| format!("layer '{id}' was never committed")).collect())
    }
}

/// Tells where a layer is by making it ready to be mounted.
#[derive(Debug, Default)]
struct ActivatesToTell;

impl Fault for ActivatesToTell {
    fn layer_status(&self, plain: &Plain, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        let rows = plain.layer_status(chain)?;
        File::create(plain.layer(chain.id).join("active")).unwrap();
        Ok(rows)
    }
}

#[derive(Debug, Default)]
struct TellsTwoPlaces;

impl Fault for TellsTwoPlaces {
    fn layer_status(&self, plain: &Plain, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        let row = plain.layer_status(chain)?;
        Ok([row.clone(), row].concat())
    }
}

#[derive(Debug, Default)]
struct TellsOfAnyLayer;

impl Fault for TellsOfAnyLayer {
    fn layer_status(&self, plain: &Plain, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        Ok(vec![("UpperDir".to_owned(), plain.tree(chain.id).display().to_string())])
    }
}

#[derive(Debug, Default)]
struct PanicsAtLongIds;

impl Fault for PanicsAtLongIds {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        assert!(chain.id.as_str().len() < 100, "no id is so long");
        plain.create(chain, options)
    }
}

#[derive(Debug, Default)]
struct CallsItselfOtherwise;

impl Fault for CallsItselfOtherwise {
    const NAME: &'static str = "other";
}

#[derive(Debug, Default)]
struct TakesAnyOption;

impl Fault for TakesAnyOption {
    fn understood(_: &OptionMap) -> OptionMap {
        OptionMap::new()
    }
}

/// A create of what is there already has nothing to do.
#[derive(Debug, Default)]
struct CreatesTwice;

impl Fault for CreatesTwice {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        if plain.layer(chain.id).exists() { Ok(Created::Fresh) } else { plain.create(chain, options) }
    }
}

/// No id is ever used again.
#[derive(Debug, Default)]
struct RemembersIds {
    removed: Mutex<BTreeSet<LayerId>>,
}

impl Fault for RemembersIds {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        if self.removed.lock().unwrap().contains(chain.id) {
            return Err(Error::layer_exists(chain.id));
        }
        plain.create(chain, options)
    }

    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        self.removed.lock().unwrap().insert(id.clone());
        plain.remove(id)
    }
}

#[derive(Debug, Default)]
struct RemovesCommittedOnly;

impl Fault for RemovesCommittedOnly {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        let refused = plain.layer(id).exists() && !plain.is_committed(id);
        if refused { Err(Error::writable(id)) } else { plain.remove(id) }
    }
}

#[derive(Debug, Default)]
struct SyncsSomething;

impl Fault for SyncsSomething {
    fn sync(&self, plain: &Plain, layers: &[LayerId]) -> Result<()> {
        if layers.is_empty() { Err(Error::driver("sync", "no layer is named")) } else { plain.sync(layers) }
    }
}

/// Leaves a loop device, which the kernel takes away once this is dropped.
#[derive(Debug, Default)]
struct LeaksDevices {
    device: OnceLock<File>,
}

impl Fault for LeaksDevices {
    fn opened(&self, _: &Plain, root: &Path) -> Result<()> {
        let disk = File::create(root.join("disk")).and_then(|file| file.set_len(1 << 20));
        disk.map_err(Error::io(|| "make a disk"))
    }

    fn usage(&self, plain: &Plain, chain: Chain<'_>) -> Result<Usage> {
        self.device.get_or_init(|| {
            let disk = plain.aside_dir().with_file_name("disk");
            let made = Command::new("losetup").args(["--find", "--show"]).arg(disk).output().unwrap();
            let name = String::from_utf8(made.stdout).unwrap();
            let device = File::open(name.trim()).unwrap();
            assert!(Command::new("losetup").args(["--detach", name.trim()]).status().unwrap().success());
            device
        });
        plain.usage(chain)
    }
}

caught! {
    leaked_descriptors: LeaksDescriptors => ["leaves-no-descriptors"];
    remove_that_is_not_idempotent: RemovesOnce => ["remove-is-idempotent"];
    list_without_writable_layers: ListsCommittedOnly => [
        "list-is-exact",
        "crash-between-create-and-commit",
        "crash-while-filling",
        "crash-among-removals",
        "ids-do-not-collide",
        "leaves-no-files",
    ];
    debris_of_a_create_that_failed: LeavesDebris => ["create-on-missing-parent", "create-on-writable-parent"];
    writable_layer_as_parent: StandsOnAnything => ["create-on-writable-parent"];
    sync_that_looks_at_nothing: SyncsAnything => ["missing-layers"];
    remove_that_only_renames: CleansNothing => ["leaves-no-files", "crash-among-removals"];
    remove_that_deletes_in_place: RemovesInPlace => ["crash-at-any-moment"];
    check_that_finds_fault_with_the_living: FindsFault => ["check-finds-nothing"];
    layer_status_that_activates: ActivatesToTell => ["layer-status"];
    layer_status_with_two_values: TellsTwoPlaces => ["layer-status"];
    layer_status_of_nothing: TellsOfAnyLayer => ["missing-layers"];
    usage_of_nothing: TellsNoUsage => ["usage", "usage-of-child"];
    panic_at_a_long_id: PanicsAtLongIds => ["ids-do-not-collide"];
    name_that_is_not_the_registered_one: CallsItselfOtherwise => ["name-and-capabilities"];
    options_that_nobody_reads: TakesAnyOption => ["unknown-option"];
    create_that_is_idempotent: CreatesTwice => ["create-twice"];
    ids_that_are_used_once: RemembersIds => [
        "remove-frees-the-id",
        "crash-between-create-and-commit",
        "crash-while-filling",
        "leaves-no-descriptors",
        "leaves-no-devices",
        "leaves-no-files",
        "leaves-no-mounts",
    ];
    remove_of_committed_layers_alone: RemovesCommittedOnly => [
        "remove-in-any-state",
        "crash-among-removals",
        "crash-between-create-and-commit",
        "crash-while-filling",
        "duplicates-are-apart",
        "ids-do-not-collide",
        "leaves-no-descriptors",
        "leaves-no-devices",
        "leaves-no-files",
        "leaves-no-mounts",
        "list-is-exact",
        "remove-frees-the-id",
    ];
    sync_of_nothing_that_fails: SyncsSomething => ["sync-answers"];
    leaked_devices: LeaksDevices => ["leaves-no-devices"];
}
