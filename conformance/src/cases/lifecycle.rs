//! From `create` to `remove`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mica_core::{Access, Chain, Layer, MountOptions, Writable};
use rustix::io::Errno;

use super::list;
use crate::bench::{Bench, How, id};
use crate::files::{append, chmod, chown, mkdir, read, remove, write};
use crate::outcome::{Doing, Verdict, ensure};
use crate::tree::{Snapshot, Times};

list! {
    "create-empty" create_empty =
        "a base layer is an empty directory of mode 0755 owned by root";
    "create-keeps-content" create_keeps_content =
        "what was written into a layer is there, exactly, each time that it is mounted";
    "child-shows-parent" child_shows_parent =
        "a layer shows its parent's tree";
    "root-is-inherited" root_is_inherited =
        "the tree's root directory has the mode, the owner and the extended attributes of the parent's";
    "parent-is-frozen" parent_is_frozen =
        "whatever a layer stands on never changes under it";
    "siblings-are-apart" siblings_are_apart =
        "what a layer shows is its parent's tree with its own changes";
    "read-is-read-only" read_is_read_only =
        "Read shows the whole tree; every write answers EROFS";
    "read-of-writable" read_of_writable =
        "Read shows the whole tree of a writable layer, too";
    "umask-does-not-matter" umask_does_not_matter =
        "modes are those of the contract and of the parent, whatever the umask of the process";
    "volatile-mounts" volatile_mounts =
        "a layer that was mounted with permission to sync nothing shows what was written, and can be mounted again";
    "commit-is-idempotent" commit_is_idempotent =
        "commit is idempotent, and what it froze stays as it was";
    "release-is-idempotent" release_is_idempotent =
        "release is idempotent; a layer that was never active, or does not exist, is no error";
    "remove-is-idempotent" remove_is_idempotent =
        "a layer that does not exist is removed already";
    "remove-frees-the-id" remove_frees_the_id =
        "the id is free when remove returns";
    "remove-in-any-state" remove_in_any_state =
        "remove removes a layer in any state, finished or not";
    "list-is-exact" list_is_exact =
        "list names every layer on disk, writable and committed, and nothing else";
    "ids-do-not-collide" ids_do_not_collide =
        "ids are safe as file names, and two ids are two layers";
    "sync-answers" sync_answers =
        "sync returns for committed layers, for many and for none, and changes nothing that they show";
    "check-finds-nothing" check_finds_nothing =
        "check is empty where all is well, with layers and without";
    "layer-status" layer_status =
        "layer_status has a value for each of its names, in any state of the layer, and makes nothing ready";
    "name-and-capabilities" name_and_capabilities =
        "the name is the registered one, and the capabilities never change while the driver is open";
}

fn create_empty(bench: Bench<'_>) -> Verdict {
    let layer = bench.create("empty", None)?;
    let check = |tree: &Path| {
        let snapshot = Snapshot::of(tree)?;
        let names: Vec<_> = snapshot.nodes.keys().filter(|path| !path.as_os_str().is_empty()).collect();
        ensure!(names.is_empty(), "the empty layer holds {names:?}");
        let root = &snapshot.nodes[Path::new("")];
        ensure!(root.mode == 0o755, "the root's mode is {:04o}, expected 0755", root.mode);
        ensure!(root.owner == (0, 0), "the root's owner is {:?}, expected (0, 0)", root.owner);
        Ok(())
    };
    bench.edit(&layer, check).map_err(|stop| stop.within("mounted for writing"))?;
    let layer = bench.commit(layer)?;
    bench.look(&layer, check).map_err(|stop| stop.within("committed"))
}

/// Modes and owners that a careless copy or a umask would lose.
fn odd_modes(tree: &Path) -> Verdict {
    mkdir(&tree.join("a subdir"))?;
    chown(&tree.join("a subdir"), 1, 2)?;
    chmod(&tree.join("a subdir"), 0o1705)?;
    write(&tree.join("a file"), "Some data")?;
    chown(&tree.join("a file"), 3, 4)?;
    chmod(&tree.join("a file"), 0o4222)?;
    write(&tree.join("a subdir/group file"), "")?;
    chmod(&tree.join("a subdir/group file"), 0o2070)
}

fn create_keeps_content(bench: Bench<'_>) -> Verdict {
    let layer = bench.create("base", None)?;
    let before = bench.edit(&layer, |tree| {
        odd_modes(tree)?;
        Snapshot::of(tree)
    })?;
    let again = bench.edit(&layer, Snapshot::of)?;
    again.expect(&before, Times::OfAll).map_err(|stop| stop.within("mounted again"))?;
    let layer = bench.commit(layer)?;
    bench.snapshot(&layer)?.expect(&before, Times::OfAll).map_err(|stop| stop.within("committed"))
}

fn child_shows_parent(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, odd_modes)?;
    let shown = bench.snapshot(&base)?;
    let child = bench.create("child", Some(&base))?;
    let written = bench.edit(&child, Snapshot::of)?;
    written.expect(&shown, Times::Ignored).map_err(|stop| stop.within("mounted for writing"))?;
    let grandchild = bench.create("grandchild", Some(&bench.commit(child)?))?;
    bench
        .snapshot(&grandchild)?
        .expect(&shown, Times::Ignored)
        .map_err(|stop| stop.within("two layers above"))
}

fn root_is_inherited(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("root")?;
    twin.layer(|tree| {
        chown(tree, 5, 6)?;
        chmod(tree, 0o1770)
    })?;
    twin.layer(|_| Ok(()))?;
    twin.layer(|tree| chmod(tree, 0o705))?;
    twin.layer(|tree| write(&tree.join("file"), "x"))?;
    twin.layer(|_| Ok(())).map(drop)
}

fn parent_is_frozen(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| {
        mkdir(&tree.join("dir"))?;
        write(&tree.join("dir/file"), "old")?;
        write(&tree.join("gone"), "old")
    })?;
    let before = bench.snapshot(&base)?;
    let child = bench.create("child", Some(&base))?;
    bench.edit(&child, |tree| {
        append(&tree.join("dir/file"), " and new")?;
        remove(&tree.join("gone"))?;
        chmod(&tree.join("dir"), 0o700)?;
        chmod(tree, 0o700)?;
        let now = bench.snapshot(&base)?;
        now.expect(&before, Times::OfAll).map_err(|stop| stop.within("while the child is written"))
    })?;
    bench.commit(child)?;
    bench.snapshot(&base)?.expect(&before, Times::OfAll)
}

fn siblings_are_apart(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "base"))?;
    let (one, two) = (bench.create("one", Some(&base))?, bench.create("two", Some(&base))?);
    let trees = (bench.mount(&one, How::Write)?, bench.mount(&two, How::Write)?);
    write(&trees.0.path().join("file"), "one")?;
    remove(&trees.1.path().join("file"))?;
    write(&trees.1.path().join("other"), "two")?;
    trees.0.close()?;
    trees.1.close()?;
    bench.look(&one, |tree| {
        let text = read(&tree.join("file"))?;
        ensure!(text == "one", "one shows '{text}' in the file that it wrote");
        ensure!(!tree.join("other").exists(), "one shows the file that its sibling made");
        Ok(())
    })?;
    bench.look(&two, |tree| {
        ensure!(!tree.join("file").exists(), "two shows the file that it removed");
        Ok(())
    })
}

fn refuses_writes(tree: &Path) -> Verdict {
    let answers = [
        ("write to a file", fs::OpenOptions::new().append(true).open(tree.join("file")).map(drop)),
        ("make a file", fs::File::create(tree.join("new")).map(drop)),
        ("make a directory", fs::create_dir(tree.join("new"))),
        ("remove a file", fs::remove_file(tree.join("file"))),
        ("rename a file", fs::rename(tree.join("file"), tree.join("other"))),
    ];
    for (what, answer) in answers {
        let answer = answer.map_err(|error| error.raw_os_error());
        ensure!(
            answer == Err(Some(Errno::ROFS.raw_os_error())),
            "to {what} answered {answer:?}, expected EROFS"
        );
    }
    ensure!(read(&tree.join("file"))? == "text", "the file lost its content");
    Ok(())
}

fn read_is_read_only(bench: Bench<'_>) -> Verdict {
    let layer = bench.create("layer", None)?;
    bench.edit(&layer, |tree| write(&tree.join("file"), "text"))?;
    bench.look(&layer, refuses_writes).map_err(|stop| stop.within("a writable layer"))?;
    let base = bench.commit(layer)?;
    bench.look(&base, refuses_writes).map_err(|stop| stop.within("a committed layer"))?;
    let child = bench.create("child", Some(&base))?;
    bench.look(&child, refuses_writes).map_err(|stop| stop.within("a writable child"))
}

fn read_of_writable(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("below"), "below"))?;
    let child = bench.create("child", Some(&base))?;
    let written = bench.edit(&child, |tree| {
        write(&tree.join("above"), "above")?;
        Snapshot::of(tree)
    })?;
    bench.snapshot(&child)?.expect(&written, Times::OfAll)?;
    bench.edit(&child, |tree| append(&tree.join("below"), " and on"))?;
    let text = bench.look(&child, |tree| read(&tree.join("below")))?;
    ensure!(text == "below and on", "what was written after a look shows as '{text}'");
    Ok(())
}

/// A umask for as long as the value lives.
struct Umask(rustix::fs::Mode);

impl Umask {
    fn set(mask: u32) -> Self {
        Self(rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask)))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}

fn umask_does_not_matter(bench: Bench<'_>) -> Verdict {
    let open = |tree: &Path| {
        write(&tree.join("file"), "x")?;
        chmod(&tree.join("file"), 0o666)?;
        mkdir(&tree.join("dir"))?;
        chmod(&tree.join("dir"), 0o777)
    };
    let _umask = Umask::set(0o077);
    let bench = bench.restart()?;
    let mut twin = bench.twin("umask")?;
    twin.layer(open)?;
    twin.layer(|tree| append(&tree.join("file"), "y"))?;
    twin.layer(|tree| write(&tree.join("dir/file"), "x")).map(drop)
}

fn volatile_mounts(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "base"))?;
    let layer = bench.create("layer", Some(&base))?;
    let options = MountOptions { volatile: true, ..MountOptions::default() };
    for round in 1..=3 {
        let hold =
            bench.store().write(&layer, &options).doing(|| format!("mount volatile, round {round}"))?;
        bench.mounted(hold)?.visit(|tree| append(&tree.path().join("file"), &format!(" {round}")))?;
    }
    bench.edit(&layer, |tree| append(&tree.join("file"), " and not volatile"))?;
    let text = bench.look(&layer, |tree| read(&tree.join("file")))?;
    ensure!(text == "base 1 2 3 and not volatile", "the file holds '{text}'");
    bench.commit(layer).map(drop)
}

fn commit_is_idempotent(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "text"))?;
    let before = bench.snapshot(&base)?;
    bench.driver().commit(base.chain()).doing(|| "commit again")?;
    bench.snapshot(&base)?.expect(&before, Times::OfAll)?;
    let child = bench.layer("child", Some(&base), |_| Ok(()))?;
    bench.driver().commit(child.chain()).doing(|| "commit a child again")?;
    bench.snapshot(&child)?.expect(&before, Times::Ignored)
}

fn release_is_idempotent(bench: Bench<'_>) -> Verdict {
    let nobody = id("nobody");
    let layer = bench.create("layer", None)?;
    for access in [Access::Read, Access::Write, Access::Apply] {
        let chain = Chain { id: &nobody, parents: &[] };
        bench.driver().release(chain, access).doing(|| format!("release a missing layer for {access:?}"))?;
        let unused = bench.driver().release(layer.chain(), access);
        unused.doing(|| format!("release an unused layer for {access:?}"))?;
    }
    bench.edit(&layer, |tree| write(&tree.join("file"), "text"))?;
    for _ in 0..2 {
        bench.driver().release(layer.chain(), Access::Write).doing(|| "release again")?;
    }
    let text = bench.look(&layer, |tree| read(&tree.join("file")))?;
    ensure!(text == "text", "after two more releases the file holds '{text}'");
    Ok(())
}

fn remove_is_idempotent(bench: Bench<'_>) -> Verdict {
    bench.driver().remove(&id("nobody")).doing(|| "remove what never was")?;
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "text"))?;
    for time in ["once", "twice"] {
        bench.driver().remove(base.id()).doing(|| format!("remove {time}"))?;
    }
    Ok(())
}

fn remove_frees_the_id(bench: Bench<'_>) -> Verdict {
    for round in 0..3 {
        let layer = bench.create("phoenix", None)?;
        bench.edit(&layer, |tree| {
            let left = fs::read_dir(tree).doing(|| "list the tree")?.count();
            ensure!(left == 0, "round {round}: the new layer holds {left} names of the removed one");
            mkdir(&tree.join("dir"))?;
            write(&tree.join("dir/file"), "text")
        })?;
        if round == 1 {
            bench.commit(layer)?;
        }
        bench.store().remove(&id("phoenix"))?;
    }
    Ok(())
}

fn remove_in_any_state(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, odd_modes)?;
    bench.create("untouched", Some(&base))?;
    let written = bench.create("written", Some(&base))?;
    bench.edit(&written, |tree| {
        mkdir(&tree.join("closed"))?;
        write(&tree.join("closed/file"), "")?;
        chmod(&tree.join("closed"), 0o000)
    })?;
    let applied = bench.create("applied", Some(&base))?;
    bench.mount(&applied, How::Apply)?.visit(|tree| write(&tree.path().join("new"), "x"))?;
    bench.layer("committed", Some(&base), |tree| write(&tree.join("file"), ""))?;
    for name in ["untouched", "written", "applied", "committed", "base"] {
        bench.store().remove(&id(name)).doing(|| format!("remove '{name}'"))?;
        let left = bench.listed()?;
        ensure!(!left.iter().any(|id| id == name), "'{name}' was removed, and is listed");
    }
    Ok(())
}

fn list_is_exact(bench: Bench<'_>) -> Verdict {
    let expect = |bench: &Bench<'_>, when: &str, names: &[&str]| {
        let listed = bench.listed()?;
        ensure!(listed == names, "{when} the list is {listed:?}, expected {names:?}");
        Ok(())
    };
    expect(&bench, "in an empty root", &[])?;
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    expect(&bench, "after a commit", &["base"])?;
    let mid = bench.layer("mid", Some(&base), |tree| write(&tree.join("file"), "y"))?;
    let top = bench.create("top", Some(&mid))?;
    expect(&bench, "with a writable layer", &["base", "mid", "top"])?;
    bench.edit(&top, |_| expect(&bench, "while one is mounted", &["base", "mid", "top"]))?;
    let bench = bench.restart()?;
    expect(&bench, "after a restart", &["base", "mid", "top"])?;
    bench.store().remove(&id("top"))?;
    expect(&bench, "after a removal", &["base", "mid"])
}

fn ids_do_not_collide(bench: Bench<'_>) -> Verdict {
    let long = "x".repeat(128);
    let almost = format!("{}y", "x".repeat(127));
    let names = [
        "a",
        "a.new",
        "a.tmp",
        "a-removing",
        "a-init",
        "a_1",
        "0",
        "l",
        "work",
        "tmp",
        "trash",
        "layers",
        "lock",
        &long,
        &almost,
    ];
    for name in names {
        let layer = bench.create(name, None)?;
        bench.edit(&layer, |tree| write(&tree.join("name"), name))?;
    }
    let mut sorted: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    sorted.sort();
    let bench = bench.restart()?;
    let listed = bench.listed()?;
    ensure!(listed == sorted, "the list is {listed:?}, expected {sorted:?}");
    for name in names {
        let layer = Layer::<Writable>::recorded(id(name), Vec::new());
        let text = bench.look(&layer, |tree| read(&tree.join("name")))?;
        ensure!(text == name, "layer '{name}' holds what '{text}' was given");
    }
    bench.store().remove(&id("a"))?;
    ensure!(bench.listed()?.len() == names.len() - 1, "the removal of 'a' took others with it");
    Ok(())
}

fn sync_answers(bench: Bench<'_>) -> Verdict {
    bench.store().sync([]).doing(|| "sync nothing")?;
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let top = bench.layer("top", Some(&base), |tree| write(&tree.join("other"), "y"))?;
    let before = bench.snapshot(&top)?;
    bench.store().sync([&base, &top]).doing(|| "sync two layers")?;
    bench.store().sync([&base]).doing(|| "sync one again")?;
    let bench = bench.restart()?;
    bench.snapshot(&top)?.expect(&before, Times::OfAll)
}

fn check_finds_nothing(bench: Bench<'_>) -> Verdict {
    let nothing_wrong = |bench: &Bench<'_>, when: &str| {
        let wrong = bench.driver().check().doing(|| format!("check {when}"))?;
        ensure!(wrong.is_empty(), "{when}, check finds: {}", wrong.join("; "));
        Ok(())
    };
    nothing_wrong(&bench, "in an empty root")?;
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let layer = bench.create("layer", Some(&base))?;
    bench.edit(&layer, |_| nothing_wrong(&bench, "while a layer is mounted"))?;
    nothing_wrong(&bench, "with layers")?;
    nothing_wrong(&bench.restart()?, "after a restart")
}

fn layer_status(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let layer = bench.create("layer", Some(&base))?;
    let told = |chain: Chain<'_>, when: &str| {
        let rows = bench.driver().layer_status(chain).doing(|| format!("ask of '{}' {when}", chain.id))?;
        let names: BTreeSet<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        let is_named = names.len() == rows.len() && !names.contains("");
        ensure!(is_named, "{when}, the layer_status of '{}' is not a value a name: {rows:?}", chain.id);
        Ok(())
    };
    let before = bench.leftovers()?;
    told(base.chain(), "once it is committed")?;
    told(layer.chain(), "while it is writable")?;
    bench.leftovers()?.expect_none_since(&before)?;
    bench.edit(&layer, |_| told(layer.chain(), "while it is mounted"))
}

fn name_and_capabilities(bench: Bench<'_>) -> Verdict {
    let (name, registered) = (bench.driver().name().to_owned(), bench.room().driver_name());
    ensure!(name == registered, "the driver calls itself '{name}' and is registered as '{registered}'");
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    ensure!(name.bytes().all(plain), "the name '{name}' is not made of a-z, 0-9 and '-'");
    let before = bench.capabilities().clone();
    for (key, _) in bench.driver().status()? {
        ensure!(!key.is_empty(), "a status has no name");
    }
    bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    ensure!(*bench.capabilities() == before, "the capabilities changed while the driver was open");
    let bench = bench.restart()?;
    ensure!(
        *bench.capabilities() == before,
        "the same root and options gave other capabilities after a restart"
    );
    Ok(())
}
