//! What is refused, by which variant, and that nothing is left of it.

use mica_core::mount::{IdMap, IdRange};
use mica_core::{Access, Chain, LayerOptions, MountOptions, MountRequest, OptionMap, Result, Trees};

use super::list;
use crate::bench::{Bench, id};
use crate::files::write;
use crate::outcome::{Doing, Verdict, ensure, refused};
use crate::tree::{Snapshot, Times};

list! {
    "create-twice" create_twice =
        "create fails with AlreadyExists for an id that is in use by any layer, which stays as it is";
    "create-on-missing-parent" create_on_missing_parent =
        "create fails with NotFound for a missing nearest parent, and nothing is left";
    "create-on-writable-parent" create_on_writable_parent =
        "create fails with State for a writable parent, and nothing is left";
    "mounts-of-missing-layer" mounts_of_missing_layer =
        "mounts fails with NotFound for a layer that does not exist";
    "mounts-of-committed-layer" mounts_of_committed_layer =
        "mounts fails with State for Write or Apply on a committed layer, also after a restart";
    "missing-layers" missing_layers =
        "commit, sync, usage, layer_status and changes fail with NotFound for a layer that does not exist";
    "id-maps" id_maps =
        "owners are shifted by the id map; else mounts answers Unsupported",
        IdMaps else id_maps_are_refused;
    "unknown-option" unknown_option =
        "open fails with Options for an option that the driver does not take, and leaves the directory as it was";
}

fn create_twice(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("committed", None, |tree| write(&tree.join("file"), "x"))?;
    let writable = bench.create("writable", Some(&base))?;
    bench.edit(&writable, |tree| write(&tree.join("other"), "y"))?;
    let before = (bench.snapshot(&base)?, bench.snapshot(&writable)?, bench.leftovers()?);
    for name in ["committed", "writable"] {
        for parents in [&[][..], &[base.id().clone()]] {
            let again = bench.driver().create(Chain { id: &id(name), parents }, &LayerOptions::default());
            refused!(again, AlreadyExists, "create of the {name} layer again");
        }
    }
    bench.snapshot(&base)?.expect(&before.0, Times::OfAll)?;
    bench.snapshot(&writable)?.expect(&before.1, Times::OfAll)?;
    bench.leftovers()?.expect_none_since(&before.2)
}

/// Fails if a layer that was refused is listed.
pub(super) fn not_listed(bench: &Bench<'_>, name: &str) -> Verdict {
    ensure!(!bench.listed()?.iter().any(|id| id == name), "'{name}' was refused, and is listed");
    Ok(())
}

fn create_on_missing_parent(bench: Bench<'_>) -> Verdict {
    bench.layer("other", None, |_| Ok(()))?;
    let before = bench.leftovers()?;
    let chain = Chain { id: &id("child"), parents: &[id("nobody")] };
    refused!(bench.driver().create(chain, &LayerOptions::default()), NotFound, "create on a missing parent");
    not_listed(&bench, "child")?;
    bench.leftovers()?.expect_none_since(&before)
}

fn create_on_writable_parent(bench: Bench<'_>) -> Verdict {
    bench.create("parent", None)?;
    let before = bench.leftovers()?;
    let chain = Chain { id: &id("child"), parents: &[id("parent")] };
    refused!(bench.driver().create(chain, &LayerOptions::default()), State, "create on a writable parent");
    not_listed(&bench, "child")?;
    bench.leftovers()?.expect_none_since(&before)
}

fn request(access: Access) -> MountRequest {
    MountRequest { access, options: MountOptions::default() }
}

fn mounts_of_missing_layer(bench: Bench<'_>) -> Verdict {
    let before = bench.leftovers()?;
    for access in [Access::Read, Access::Write, Access::Apply] {
        let chain = Chain { id: &id("nobody"), parents: &[] };
        refused!(
            bench.driver().mounts(chain, &request(access)),
            NotFound,
            "mounts of a missing layer for {access:?}"
        );
    }
    bench.leftovers()?.expect_none_since(&before)
}

fn mounts_of_committed_layer(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let child = bench.layer("child", Some(&base), |tree| write(&tree.join("file"), "y"))?;
    let refuses = |bench: &Bench<'_>, when: &str| {
        for chain in [base.chain(), child.chain()] {
            for access in [Access::Write, Access::Apply] {
                let answer = bench.driver().mounts(chain, &request(access));
                refused!(answer, State, "mounts of committed '{}' for {access:?} {when}", chain.id);
            }
        }
        Ok(())
    };
    refuses(&bench, "at once")?;
    let bench = bench.restart()?;
    refuses(&bench, "after a restart")
}

/// Trees of a layer that does not exist.
struct NoTrees;

impl Trees for NoTrees {
    fn layer(&self) -> Result<&std::path::Path> {
        Err(mica_core::Error::no_layer(&id("nobody")))
    }

    fn parent(&self) -> Result<Option<&std::path::Path>> {
        Err(mica_core::Error::no_layer(&id("nobody")))
    }
}

fn missing_layers(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |_| Ok(()))?;
    let nobody = id("nobody");
    for parents in [&[][..], &[base.id().clone()]] {
        let chain = Chain { id: &nobody, parents };
        refused!(bench.driver().commit(chain), NotFound, "commit of a missing layer");
        refused!(bench.driver().usage(chain), NotFound, "usage of a missing layer");
        refused!(bench.driver().layer_status(chain), NotFound, "layer_status of a missing layer");
        refused!(bench.driver().changes(chain, &NoTrees), NotFound, "changes of a missing layer");
    }
    refused!(bench.driver().sync(std::slice::from_ref(&nobody)), NotFound, "sync of a missing layer");
    let with_another = bench.driver().sync(&[base.id().clone(), nobody]);
    refused!(with_another, NotFound, "sync of a missing layer beside one that exists");
    not_listed(&bench, "nobody")
}

/// The ids 0 to 65535 on disk are 100,000 and up in the tree.
fn shifted() -> MountOptions {
    let range = vec![IdRange { disk: 0, tree: 100_000, count: 65_536 }];
    MountOptions { id_map: Some(IdMap { uids: range.clone(), gids: range }), ..MountOptions::default() }
}

fn id_maps(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| {
        write(&tree.join("roots"), "x")?;
        write(&tree.join("users"), "x")?;
        crate::files::chown(&tree.join("users"), 1000, 1001)
    })?;
    let layer = bench.create("layer", Some(&base))?;
    let owners = |tree: &std::path::Path| {
        let shown = Snapshot::of(tree)?;
        Ok(shown
            .nodes
            .into_iter()
            .map(|(path, node)| (path.display().to_string(), node.owner))
            .collect::<Vec<_>>())
    };
    let expected = |shift: u32, users: (u32, u32)| {
        let names = [("", (0, 0)), ("roots", (0, 0)), ("users", users)];
        names.map(|(name, (uid, gid))| (name.to_owned(), (uid + shift, gid + shift))).to_vec()
    };
    let hold = bench.store().read(&base, &shifted()).doing(|| "hold for Read with an id map")?;
    let found = bench.mounted(hold)?.visit(|tree| owners(tree.path()))?;
    ensure!(found == expected(100_000, (1000, 1001)), "read with an id map, the owners are {found:?}");
    let hold = bench.store().write(&layer, &shifted()).doing(|| "hold for Write with an id map")?;
    bench.mounted(hold)?.visit(|tree| crate::files::chown(&tree.path().join("users"), 100_007, 100_008))?;
    let found = bench.look(&layer, owners)?;
    ensure!(found == expected(0, (7, 8)), "after a chown with an id map, the owners on disk are {found:?}");
    Ok(())
}

fn id_maps_are_refused(bench: Bench<'_>) -> Verdict {
    let layer = bench.create("layer", None)?;
    let before = bench.leftovers()?;
    for access in [Access::Read, Access::Write, Access::Apply] {
        let answer = bench.driver().mounts(layer.chain(), &MountRequest { access, options: shifted() });
        refused!(answer, Unsupported, "mounts for {access:?} with an id map, which is not claimed,");
    }
    bench.leftovers()?.expect_none_since(&before)
}

fn unknown_option(bench: Bench<'_>) -> Verdict {
    let before = bench.leftovers()?;
    let mut options: OptionMap = bench.room().options().clone();
    options.insert("no-such-option".to_owned(), "1".to_owned());
    match bench.room().open_driver_with(&options) {
        Err(mica_core::Error::Options(text)) => {
            ensure!(text.contains("no-such-option"), "the error does not name the option: '{text}'");
        }
        other => ensure!(false, "open with an unknown option answered {other:?}, expected Options"),
    }
    bench.leftovers()?.expect_none_since(&before)
}
