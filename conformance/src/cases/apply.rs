//! Layers that are filled from tarballs, with their parents and before these are known.

use std::path::Path;

use mica_core::{Access, Chain, LayerOptions, MountOptions, MountRequest, WhiteoutForm};

use super::errors::not_listed;
use super::list;
use crate::bench::{Bench, Holds, How, id};
use crate::files;
use crate::members::{Member, apply, device, directory, fifo, file, hard_link, opaque, symlink, whiteout};
use crate::outcome::{Doing, Verdict, ensure, refused};
use crate::tree::{Snapshot, Times};

list! {
    "apply" apply_all_kinds =
        "a layer shows what was extracted into its Apply tree: every kind of member, with its metadata";
    "apply-over-parent" apply_over_parent =
        "what was extracted adds to the parent's tree, and replaces what has the same path";
    "apply-whiteouts" apply_whiteouts =
        "a whiteout in the form that mounts names hides the parent's file or directory";
    "apply-opaque" apply_opaque =
        "an opaque directory in the form that mounts names hides all that the parent has below it";
    "apply-replaces-kinds" apply_replaces_kinds =
        "a member of another kind replaces what the parent has, with all below it";
    "apply-in-turns" apply_in_turns =
        "a layer can be filled in several turns, and be written to after that";
    "whiteout-form" whiteout_form =
        "whiteouts are Merged but for Apply, and an Apply tree that is Merged shows the parents";
    "detached-apply" detached_apply =
        "a layer can be filled without its parents and gets its chain at commit; else create answers Unsupported",
        DetachedApply else detached_is_refused;
    "detached-whiteouts" detached_whiteouts =
        "whiteouts and opaque directories that were extracted before the parents were known hide what these have",
        DetachedApply else detached_is_refused;
    "detached-in-parallel" detached_in_parallel =
        "the layers of one image are filled at once",
        DetachedApply else detached_is_refused;
}

/// A layer on top of `parent` that was filled so, compared with a plain directory that was made by `expect`.
fn filled(
    bench: &Bench<'_>,
    layers: &[&[Member]],
    times: Times,
    expect: impl FnOnce(&Path) -> Verdict,
) -> Verdict {
    let mut top = None;
    for (number, members) in layers.iter().enumerate() {
        let layer = bench.create(&format!("layer-{number}"), top.as_ref())?;
        apply(bench, &layer, members)?;
        top = Some(bench.commit(layer)?);
    }
    let Some(top) = top else { return Ok(()) };
    expected(bench, &top, times, expect)
}

fn expected(
    bench: &Bench<'_>,
    layer: &impl Holds,
    times: Times,
    expect: impl FnOnce(&Path) -> Verdict,
) -> Verdict {
    let plain = bench.room().plain().join("expected");
    files::mkdir(&plain)?;
    expect(&plain)?;
    bench.snapshot(layer)?.expect(&Snapshot::of(&plain)?, times)
}

fn apply_all_kinds(bench: Bench<'_>) -> Verdict {
    let members = [
        directory("dir").mode(0o1750).owner(1, 2).time(1_000_000_000, 5),
        file("dir/file", "content").mode(0o4711).owner(3, 4).time(1_600_000_000, 123_456_789),
        hard_link("linked", "dir/file"),
        symlink("link", "../up").owner(5, 6).time(-5, 0),
        device("null", 1, 3),
        fifo("fifo"),
        file("implied/by/path", "x").xattr("user.name", b"\0value"),
    ];
    filled(&bench, &[&members], Times::OfFiles, |tree| {
        files::mkdir(&tree.join("dir"))?;
        files::write(&tree.join("dir/file"), "content")?;
        files::chown(&tree.join("dir/file"), 3, 4)?;
        files::chmod(&tree.join("dir/file"), 0o4711)?;
        files::link(&tree.join("dir/file"), &tree.join("linked"))?;
        files::symlink("../up", &tree.join("link"))?;
        files::chown(&tree.join("link"), 5, 6)?;
        files::device(&tree.join("null"), rustix::fs::FileType::CharacterDevice, 1, 3)?;
        files::fifo(&tree.join("fifo"))?;
        files::mkdir(&tree.join("implied/by"))?;
        files::write(&tree.join("implied/by/path"), "x")?;
        files::set_xattr(&tree.join("implied/by/path"), "user.name", b"\0value")?;
        files::chown(&tree.join("dir"), 1, 2)?;
        files::chmod(&tree.join("dir"), 0o1750)?;
        for name in ["null", "fifo", "implied/by/path"] {
            files::set_time(&tree.join(name), 1_500_000_000, 0)?;
        }
        files::set_time(&tree.join("link"), -5, 0)?;
        files::set_time(&tree.join("dir/file"), 1_600_000_000, 123_456_789)
    })
}

fn base() -> Vec<Member> {
    vec![
        directory("etc"),
        file("etc/hosts", "base"),
        file("etc/passwd", "base"),
        directory("var"),
        directory("var/lib"),
        file("var/lib/one", "base"),
        file("var/lib/two", "base"),
        directory("var/lib/sub"),
        file("var/lib/sub/deep", "base"),
        symlink("link", "etc"),
    ]
}

fn plain_base(tree: &Path) -> Verdict {
    files::mkdir(&tree.join("etc"))?;
    files::mkdir(&tree.join("var/lib/sub"))?;
    for name in ["etc/hosts", "etc/passwd", "var/lib/one", "var/lib/two", "var/lib/sub/deep"] {
        files::write(&tree.join(name), "base")?;
    }
    files::symlink("etc", &tree.join("link"))
}

fn apply_over_parent(bench: Bench<'_>) -> Verdict {
    let upper = [
        directory("etc").mode(0o711),
        file("etc/hosts", "upper"),
        file("etc/new", "new"),
        file("top", "new"),
    ];
    filled(&bench, &[&base(), &upper], Times::Ignored, |tree| {
        plain_base(tree)?;
        files::chmod(&tree.join("etc"), 0o711)?;
        files::write(&tree.join("etc/hosts"), "upper")?;
        files::write(&tree.join("etc/new"), "new")?;
        files::write(&tree.join("top"), "new")
    })
}

/// Deletions of each kind, among them one of what no parent has.
fn deletions() -> Vec<Member> {
    vec![
        directory("etc"),
        whiteout("etc/passwd"),
        whiteout("etc/nothing"),
        whiteout("link"),
        directory("var"),
        directory("var/lib"),
        whiteout("var/lib/sub"),
    ]
}

fn without_deleted(tree: &Path) -> Verdict {
    plain_base(tree)?;
    ["etc/passwd", "link", "var/lib/sub"].iter().try_for_each(|name| files::remove(&tree.join(name)))
}

fn apply_whiteouts(bench: Bench<'_>) -> Verdict {
    let again = [file("var/lib/sub", "a file now"), file("link", "too")];
    filled(&bench, &[&base(), &deletions(), &[], &again], Times::Ignored, |tree| {
        without_deleted(tree)?;
        files::write(&tree.join("var/lib/sub"), "a file now")?;
        files::write(&tree.join("link"), "too")
    })
}

/// A directory that is emptied, one name of it before the mark and one after.
fn emptied() -> Vec<Member> {
    vec![
        directory("var"),
        directory("var/lib").mode(0o700),
        file("var/lib/one", "upper"),
        opaque("var/lib"),
        file("var/lib/three", "upper"),
    ]
}

fn without_emptied(tree: &Path) -> Verdict {
    files::remove(&tree.join("var/lib"))?;
    files::mkdir(&tree.join("var/lib"))?;
    files::chmod(&tree.join("var/lib"), 0o700)?;
    files::write(&tree.join("var/lib/one"), "upper")?;
    files::write(&tree.join("var/lib/three"), "upper")
}

fn apply_opaque(bench: Bench<'_>) -> Verdict {
    filled(&bench, &[&base(), &emptied(), &[file("top", "x")]], Times::Ignored, |tree| {
        plain_base(tree)?;
        without_emptied(tree)?;
        files::write(&tree.join("top"), "x")
    })
}

fn apply_replaces_kinds(bench: Bench<'_>) -> Verdict {
    let upper = [
        file("var/lib", "a file now"),
        directory("etc/hosts"),
        file("etc/hosts/inside", "x"),
        directory("link"),
        file("link/inside", "x"),
    ];
    filled(&bench, &[&base(), &upper], Times::Ignored, |tree| {
        plain_base(tree)?;
        ["var/lib", "etc/hosts", "link"].iter().try_for_each(|name| files::remove(&tree.join(name)))?;
        files::write(&tree.join("var/lib"), "a file now")?;
        files::mkdir(&tree.join("etc/hosts"))?;
        files::mkdir(&tree.join("link"))?;
        files::write(&tree.join("etc/hosts/inside"), "x")?;
        files::write(&tree.join("link/inside"), "x")
    })
}

fn apply_in_turns(bench: Bench<'_>) -> Verdict {
    let lower = bench.create("base", None)?;
    apply(&bench, &lower, &base())?;
    let lower = bench.commit(lower)?;
    let layer = bench.create("layer", Some(&lower))?;
    apply(&bench, &layer, &deletions())?;
    apply(&bench, &layer, &[file("etc/hosts", "second turn")])?;
    bench.edit(&layer, |tree| files::append(&tree.join("etc/hosts"), ", and written to"))?;
    let layer = bench.commit(layer)?;
    expected(&bench, &layer, Times::Ignored, |tree| {
        without_deleted(tree)?;
        files::write(&tree.join("etc/hosts"), "second turn, and written to")
    })
}

fn whiteout_form(bench: Bench<'_>) -> Verdict {
    let lower = bench.layer("base", None, |tree| files::write(&tree.join("file"), "x"))?;
    let layer = bench.create("layer", Some(&lower))?;
    for access in [Access::Read, Access::Write] {
        let request = MountRequest { access, options: MountOptions::default() };
        let form = bench
            .driver()
            .mounts(layer.chain(), &request)
            .doing(|| format!("mounts for {access:?}"))?
            .whiteouts;
        bench.driver().release(layer.chain(), access).doing(|| "release")?;
        ensure!(form == WhiteoutForm::Merged, "mounts for {access:?} names {form:?}, expected Merged");
    }
    bench.mount(&layer, How::Apply)?.visit(|tree| {
        let (merged, shows) = (tree.whiteouts() == WhiteoutForm::Merged, tree.path().join("file").exists());
        let form = tree.whiteouts();
        ensure!(
            merged == shows,
            "the Apply tree's form is {form:?}, and that it shows the parent's file is {shows}"
        );
        Ok(())
    })
}

/// Fills the layers from the top down, then commits them from the bottom up.
fn detached(bench: &Bench<'_>, layers: &[&[Member]], expect: impl FnOnce(&Path) -> Verdict) -> Verdict {
    let mut waiting = Vec::new();
    for (number, members) in layers.iter().enumerate().rev() {
        let name = id(&format!("layer-{number}"));
        let layer = bench.store().create_detached(name, &LayerOptions::default());
        let layer = layer.doing(|| format!("create layer {number} detached"))?;
        apply(bench, &layer, members)?;
        waiting.push(layer);
    }
    let mut top = None;
    while let Some(layer) = waiting.pop() {
        top = Some(bench.store().commit_onto(layer, top.as_ref()).doing(|| "commit onto the parents")?);
    }
    let Some(top) = top else { return Ok(()) };
    expected(bench, &top, Times::Ignored, expect)
}

fn detached_apply(bench: Bench<'_>) -> Verdict {
    let upper = [file("etc/hosts", "upper"), directory("etc"), file("etc/new", "new"), file("top", "new")];
    let empty: [Member; 0] = [];
    detached(&bench, &[&base(), &upper, &empty, &[file("last", "x")]], |tree| {
        plain_base(tree)?;
        files::write(&tree.join("etc/hosts"), "upper")?;
        files::write(&tree.join("etc/new"), "new")?;
        files::write(&tree.join("top"), "new")?;
        files::write(&tree.join("last"), "x")
    })
}

fn detached_whiteouts(bench: Bench<'_>) -> Verdict {
    // With its directories: what an archive does not list cannot be taken from parents that are not known.
    let last = [directory("var"), directory("var/lib").mode(0o700), file("var/lib/two", "again")];
    detached(&bench, &[&base(), &deletions(), &emptied(), &last], |tree| {
        without_deleted(tree)?;
        without_emptied(tree)?;
        files::write(&tree.join("var/lib/two"), "again")
    })
}

fn detached_in_parallel(bench: Bench<'_>) -> Verdict {
    let store = bench.store();
    let options = LayerOptions::default();
    let fill = |number: usize| {
        let layer =
            store.create_detached(id(&format!("layer-{number}")), &options).doing(|| "create detached")?;
        let members: Vec<Member> =
            (0..50).map(|n| file(&format!("dir/{}", n + number * 10), &number.to_string())).collect();
        apply(&bench, &layer, &members)?;
        Ok(layer)
    };
    let filled: Vec<Verdict<_>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..8).map(|number| scope.spawn(move || fill(number))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    ensure!(filled.len() == 8, "a thread that filled a layer panicked");
    let mut top = None;
    for layer in filled {
        top = Some(store.commit_onto(layer?, top.as_ref()).doing(|| "commit onto the parents")?);
    }
    let Some(top) = top else { return Ok(()) };
    expected(&bench, &top, Times::Ignored, |tree| {
        files::mkdir(&tree.join("dir"))?;
        (0..120).try_for_each(|n| {
            let last = (n / 10).min(7);
            files::write(&tree.join(format!("dir/{n}")), last.to_string())
        })
    })
}

fn detached_is_refused(bench: Bench<'_>) -> Verdict {
    let before = bench.leftovers()?;
    let options = LayerOptions { detached: true, ..LayerOptions::default() };
    let answer = bench.driver().create(Chain { id: &id("layer"), parents: &[] }, &options);
    refused!(answer, Unsupported, "create of a detached layer, which is not claimed,");
    not_listed(&bench, "layer")?;
    bench.leftovers()?.expect_none_since(&before)
}
