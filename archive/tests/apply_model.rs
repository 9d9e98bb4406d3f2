//! Random layers: against a model of a tree in memory, and in overlay form against the merged one.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "support/mounted.rs"]
mod mounted;
#[path = "support/sandbox.rs"]
mod sandbox;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mica_archive::Kind;
use mica_archive::apply::WhiteoutForm::Merged;
use mica_archive::apply::adopt;
use mounted::Mounted;
use proptest::prelude::*;
use sandbox::{Member, OVERLAY, Sandbox, dir, file, member, open, symlink, walk};

/// A tree as the specification sees it.
#[derive(Debug)]
enum Node {
    Directory { mode: u32, listed: bool, made: bool, children: BTreeMap<String, Node> },
    File { content: Vec<u8>, made: bool },
    Link { target: String, made: bool },
}

impl Node {
    fn new_directory(mode: u32) -> Self {
        Self::Directory { mode, listed: false, made: true, children: BTreeMap::new() }
    }

    fn made(&mut self) -> &mut bool {
        match self {
            Self::Directory { made, .. } | Self::File { made, .. } | Self::Link { made, .. } => made,
        }
    }

    fn children(&mut self) -> &mut BTreeMap<String, Node> {
        match self {
            Self::Directory { children, .. } => children,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn at(&mut self, path: &[String]) -> &mut Node {
        path.iter().fold(self, |node, name| node.children().get_mut(name).unwrap())
    }

    /// The next layer begins.
    fn age(&mut self) {
        *self.made() = false;
        if let Self::Directory { children, listed, .. } = self {
            *listed = false;
            children.values_mut().for_each(Node::age);
        }
    }

    /// Removes what is older than this layer, and the metadata that it has not set.
    fn clear(&mut self) {
        self.children().retain(|_, child| *child.made());
        for child in self.children().values_mut() {
            if let Node::Directory { mode, listed, .. } = child {
                *mode = if *listed { *mode } else { 0o755 };
                child.clear();
            }
        }
    }

    fn list(&self, path: &str, out: &mut Vec<String>) {
        match self {
            Self::Directory { mode, children, .. } => {
                out.push(format!("{path} {mode:o}"));
                children.iter().for_each(|(name, child)| child.list(&format!("{path}/{name}"), out));
            }
            Self::File { content, .. } => out.push(format!("{path} = {content:?}")),
            Self::Link { target, .. } => out.push(format!("{path} -> {target}")),
        }
    }
}

/// Walks as a chroot would, makes what is missing; `None` for a cycle.
fn enter(root: &mut Node, path: &[String]) -> Option<Vec<String>> {
    let mut todo: Vec<String> = path.iter().rev().cloned().collect();
    let mut here: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                here.pop();
                continue;
            }
            _ => {}
        }
        let children = root.at(&here).children();
        match children.get_mut(&name) {
            Some(Node::Link { target, .. }) => {
                links += 1;
                if links > 40 {
                    return None;
                }
                if target.starts_with('/') {
                    here.clear();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
                continue;
            }
            Some(Node::Directory { made, .. }) => *made = true,
            _ => drop(children.insert(name.clone(), Node::new_directory(0o755))),
        }
        here.push(name);
    }
    Some(here)
}

/// Whether a file of this layer is on the way, be it through links.
fn is_hidden(root: &mut Node, path: &[String]) -> bool {
    let mut todo: Vec<String> = path.iter().rev().cloned().collect();
    let mut here: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                here.pop();
                continue;
            }
            _ => {}
        }
        match root.at(&here).children().get(&name) {
            Some(Node::File { made, .. }) => return *made,
            Some(Node::Directory { .. }) => here.push(name),
            Some(Node::Link { target, .. }) if links < 40 => {
                links += 1;
                if target.starts_with('/') {
                    here.clear();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
            }
            // What is not there is left again.
            None if todo.last().is_some_and(|next| next == "..") => drop(todo.pop()),
            _ => return false,
        }
    }
    false
}

/// `None` where the layer is refused.
fn model(root: &mut Node, member: &Member) -> Option<()> {
    let path = String::from_utf8(member.entry.path.clone()).unwrap();
    let mut path: Vec<String> = path.split('/').map(str::to_owned).collect();
    let name = path.pop().unwrap();
    let is_whiteout = name.starts_with(".wh.") && name != ".wh..wh..opq";
    if is_whiteout && is_hidden(root, &path) {
        return Some(());
    }
    let here = enter(root, &path)?;
    let parent = root.at(&here);
    if name == ".wh..wh..opq" {
        parent.clear();
    } else if let Some(hidden) = name.strip_prefix(".wh.") {
        parent.children().remove(hidden);
    } else {
        let new = match &member.entry.kind {
            Kind::Directory => {
                let children = match parent.children().remove(&name) {
                    Some(Node::Directory { children, .. }) => children,
                    _ => BTreeMap::new(),
                };
                Node::Directory { mode: member.entry.mode, listed: true, made: true, children }
            }
            Kind::Symlink(target) => {
                Node::Link { target: String::from_utf8(target.clone()).unwrap(), made: true }
            }
            _ => Node::File { content: member.content.clone(), made: true },
        };
        parent.children().insert(name, new);
    }
    Some(())
}

/// What [`Node::list`] says of a tree on disk.
fn listed(root: &Path) -> Vec<String> {
    let mut out = vec![format!(" {:o}", fs::metadata(root).unwrap().mode() & 0o7777)];
    for path in walk(root) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        out.push(if meta.is_dir() {
            format!("/{name} {:o}", meta.mode() & 0o7777)
        } else if meta.is_symlink() {
            format!("/{name} -> {}", fs::read_link(&path).unwrap().to_str().unwrap())
        } else {
            format!("/{name} = {:?}", fs::read(&path).unwrap())
        });
    }
    out.sort();
    out
}

fn path(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(names), 1..4).prop_map(|names| names.join("/"))
}

/// A member with a path of these names; links, if there are any, point among them.
fn any_member(
    names: &'static [&'static str],
    targets: &'static [&'static str],
) -> impl Strategy<Value = Member> {
    (path(names), 0..12_u8, any::<u8>(), prop::sample::select(targets)).prop_map(
        |(path, kind, byte, target)| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let parent = if parent.is_empty() { String::new() } else { format!("{parent}/") };
            match kind {
                0..4 => file(&path, [byte]),
                4..7 => dir(&path).mode(if byte % 2 == 0 { 0o755 } else { 0o500 }),
                7..9 => file(format!("{parent}.wh.{name}"), ""),
                9 => file(format!("{parent}.wh..wh..opq"), ""),
                _ => symlink(&path, target),
            }
        },
    )
}

const NAMES: &[&str] = &["a", "b", "c"];
const TARGETS: &[&str] = &["a", "b/c", "..", "../b", "/", "/c", "./a/../b", "/c/../../a"];

fn layers(
    names: &'static [&'static str],
    targets: &'static [&'static str],
) -> impl Strategy<Value = [Vec<Member>; 2]> {
    let layer = || prop::collection::vec(any_member(names, targets), 0..14);
    (layer(), layer()).prop_map(|(base, layer)| [base, layer])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merged_tree_is_what_the_model_says(layers in layers(NAMES, TARGETS)) {
        let sandbox = Sandbox::new();
        let mut root = Node::new_directory(0o755);
        sandbox.apply(Merged, &[dir(".")]).unwrap();
        for layer in &layers {
            root.age();
            let expected = layer.iter().try_for_each(|member| model(&mut root, member));
            let result = sandbox.apply(Merged, layer);
            prop_assert_eq!(expected.is_some(), result.is_ok(), "{:?}", result);
            sandbox.assert_unbroken();
            if result.is_err() {
                return Ok(());
            }
            let mut expected = Vec::new();
            root.list("", &mut expected);
            expected.sort();
            prop_assert_eq!(listed(&sandbox.root()), expected);
        }
    }
}

/// Mounts `upper` over `lower`.
fn overlay(lower: &Path, upper: &Path) -> (Mounted, tempfile::TempDir) {
    let work = tempfile::tempdir_in(upper.parent().unwrap()).unwrap();
    let [lower, upper, workdir] = [lower, upper, work.path()].map(|path| path.display().to_string());
    let options = "index=off,metacopy=off,redirect_dir=off";
    (Mounted::new("overlay", &format!("lowerdir={lower},upperdir={upper},workdir={workdir},{options}")), work)
}

/// As [`listed`], with what else a directory and a file have. The time of a directory that no archive lists is
/// when it was made.
fn metadata(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for path in walk(root) {
        let meta = fs::symlink_metadata(&path).unwrap();
        let made_now = meta.mtime() > 1_500_000_000;
        let mtime = if made_now { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        let name = path.strip_prefix(root).unwrap().display();
        out.push(format!("{name} {:o} {}:{} {mtime:?}", meta.mode(), meta.uid(), meta.gid()));
    }
    out.sort();
    out
}

/// Applies `base`, then `layer`: into the same tree, and beside it in overlay form under a mounted overlay.
fn assert_alike(base: &[Member], layer: &[Member]) {
    let (below, merged, upper) = (Sandbox::with(base), Sandbox::with(base), Sandbox::new());
    merged.apply(Merged, layer).unwrap();
    let applied = upper.apply(OVERLAY, layer).unwrap();
    // The overlay does not honour an opaque root; it is mounted without its parents.
    let nothing = Sandbox::new();
    let lower = if applied.opaque_root { &nothing } else { &below };
    adopt(open(&upper.root()), Some(open(&lower.root()).as_fd()), &applied).unwrap();
    let (overlay, _work) = overlay(&lower.root(), &upper.root());
    assert_eq!(listed(&overlay.root())[1..], listed(&merged.root())[1..]);
    assert_eq!(metadata(&overlay.root()), metadata(&merged.root()));
}

/// No member goes through a link: a layer alone does not know the links of those below it.
const LEAVES: &[&str] = &["a", "b", "c", "d"];

fn without_links_on_the_way() -> impl Strategy<Value = [Vec<Member>; 2]> {
    layers(LEAVES, TARGETS).prop_map(|layers| {
        layers.map(|mut layer| {
            for member in &mut layer {
                if let Kind::Symlink(_) = member.entry.kind {
                    member.entry.path.extend(b"-link");
                }
            }
            layer
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_in_overlay_form_looks_as_if_it_was_merged([base, layer] in without_links_on_the_way()) {
        assert_alike(&base, &layer);
    }
}

#[test]
fn overlay_form_equals_merged_for_the_traps() {
    let base = [
        dir("tmp").mode(0o1777).owner(1, 2).mtime(3, 4).xattr("user.x", b"1"),
        dir("d"),
        file("d/old", "1"),
        dir("d/e").mode(0o700),
        file("d/e/old", "1"),
        file("f", "1"),
    ];
    let traps: [&[Member]; 9] = [
        &[file("tmp/x", "")],
        &[file("d/e/new", "")],
        &[file(".wh.d", ""), dir("d"), file("d/e/new", "")],
        &[dir("d"), file("d", ""), dir("d")],
        &[file("f/g", "")],
        &[symlink("d", "f"), dir("d"), file("d/new", "")],
        &[file("d/e/.wh..wh..opq", ""), file("d/.wh.old", "")],
        &[file("new", "2"), file(".wh..wh..opq", "")],
        &[member("f", Kind::CharDevice(1, 3)), file("d/.wh.e", ""), file("d/e/f/g", "")],
    ];
    for layer in traps {
        assert_alike(&base, layer);
    }
}

#[test]
fn an_adopted_directory_has_everything_that_the_parent_gave_it() {
    let below = Sandbox::with(&[dir("tmp").mode(0o1777).owner(1, 2).mtime(3, 4).xattr("user.x", b"1")]);
    let upper = Sandbox::new();
    let applied = upper.apply(OVERLAY, &[file("tmp/x", ""), file("only/here/y", "")]).unwrap();
    adopt(open(&upper.root()), Some(open(&below.root()).as_fd()), &applied).unwrap();
    let meta = fs::metadata(upper.path("tmp")).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec()),
        (0o1777, 1, 2, 3, 4)
    );
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(upper.path("tmp"), "user.x", &mut value), Ok(1));
}
