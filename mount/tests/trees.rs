//! Real mounts, by every set of calls that the running kernel has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use mica_core::mount::{Bind, Fs, IdMap, IdRange, Overlay, Upper};
use mica_core::{Error, MountSpec, Mounts, Trees, WhiteoutForm};
use mica_mount::{Calls, LazyTrees, Mounter, Tree, table};
use tempfile::TempDir;

/// A directory for one test, and a mounter that uses it.
struct Place {
    dir: TempDir,
    mounter: Mounter,
    calls: Calls,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn open(&self, spec: impl Into<MountSpec>) -> mica_core::Result<Tree> {
        self.mounter.open(&mounts([spec.into()]))
    }

    /// `count` lower directories, each with a file of its own number and one that all have.
    fn lowers(&self, count: usize) -> Vec<PathBuf> {
        (0..count)
            .map(|number| {
                let lower = self.make_dir(&format!("lower/{number}"));
                fs::write(lower.join(number.to_string()), "").unwrap();
                fs::write(lower.join("all"), number.to_string()).unwrap();
                lower
            })
            .collect()
    }

    fn upper(&self) -> Option<Upper> {
        Some(Upper { dir: self.make_dir("upper"), work: self.make_dir("work") })
    }

    fn mounted(&self) -> Vec<table::Entry> {
        table::below(self.dir.path()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.mounted();
        for entry in left.iter().rev() {
            rustix::mount::unmount(&entry.at, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        let scratch = fs::read_dir(self.path("scratch")).unwrap().count();
        if !std::thread::panicking() {
            assert!(left.is_empty() && scratch == 0, "{:?} left {left:?}, {scratch} directories", self.calls);
        }
    }
}

/// Runs a test once for each set of calls.
fn each(test: impl Fn(&Place)) {
    for calls in [Calls::Classic, Calls::Trees, Calls::Strings, Calls::Descriptors] {
        if calls > Calls::best() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        test(&Place { mounter: Mounter::new(scratch).with_calls(calls), dir, calls });
    }
}

fn mounts(specs: impl Into<Vec<MountSpec>>) -> Mounts {
    Mounts { specs: specs.into(), whiteouts: WhiteoutForm::Merged }
}

fn bind(source: &Path) -> Bind {
    Bind { source: source.to_owned(), ..Bind::default() }
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn an_overlay_of_any_number_of_layers_shows_them_all_and_writes_to_the_upper_one() {
    for count in [1, 2, 128, 500] {
        each(|place| {
            let tree = place
                .open(MountSpec::Overlay(Overlay {
                    lowers: place.lowers(count),
                    upper: place.upper(),
                    ..Overlay::default()
                }))
                .unwrap();
            for number in 0..count {
                assert!(
                    tree.path().join(number.to_string()).exists(),
                    "{number} of {count}, {:?}",
                    place.calls
                );
            }
            assert_eq!(fs::read(tree.path().join("all")).unwrap(), b"0", "the topmost hides the others");
            fs::write(tree.path().join("new"), "written").unwrap();
            tree.close().unwrap();
            assert_eq!(fs::read(place.path("upper/new")).unwrap(), b"written");
        });
    }
}

#[test]
fn an_overlay_without_an_upper_layer_is_read_only() {
    each(|place| {
        let tree = place
            .open(MountSpec::Overlay(Overlay { lowers: place.lowers(2), ..Overlay::default() }))
            .unwrap();
        assert_eq!(errno(fs::write(tree.path().join("x"), "")), Some(libc::EROFS));
    });
}

#[test]
fn long_paths_and_characters_that_mount_options_split_at_are_taken_as_they_are() {
    let long = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    for name in ["a,b:c\\d", "ü ,\\:=x\n", &long] {
        each(|place| {
            let lowers: Vec<PathBuf> = (0..128)
                .map(|n| {
                    let lower = place.make_dir(&format!("{name}/{n}"));
                    fs::write(lower.join(n.to_string()), "").unwrap();
                    lower
                })
                .collect();
            let upper = Upper {
                dir: place.make_dir(&format!("{name}/upper")),
                work: place.make_dir(&format!("{name}/work")),
            };
            let overlay = Overlay { lowers, upper: Some(upper), ..Overlay::default() };
            let tree = place.open(MountSpec::Overlay(overlay)).unwrap();
            assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 128, "{name} {:?}", place.calls);
            fs::write(tree.path().join("new"), "").unwrap();
            assert!(place.path(name).join("upper/new").exists());
        });
    }
}

#[test]
fn a_tree_has_no_name_until_it_is_attached() {
    each(|place| {
        let tree = place.open(MountSpec::Bind(bind(&place.make_dir("source")))).unwrap();
        let classic = place.calls == Calls::Classic;
        assert_eq!(place.mounted().len(), usize::from(classic), "{:?}", place.calls);
        let at = place.make_dir("at");
        let attached = tree.attach(&at).unwrap();
        assert_eq!(place.mounted().iter().map(|entry| &entry.at).collect::<Vec<_>>(), [&at]);
        fs::write(at.join("file"), "").unwrap();
        assert!(table::is_mount_point(&at).unwrap());
        attached.close().unwrap();
        assert!(!table::is_mount_point(&at).unwrap() && !at.join("file").exists());
        assert!(place.path("source/file").exists());
    });
}

#[test]
fn an_attached_tree_that_is_busy_is_detached_and_stays_for_its_user() {
    each(|place| {
        let source = place.make_dir("source");
        fs::write(source.join("file"), "content").unwrap();
        let at = place.make_dir("at");
        let attached = place.open(MountSpec::Bind(bind(&source))).unwrap().attach(&at).unwrap();
        let busy = fs::File::open(at.join("file")).unwrap();
        drop(attached);
        assert!(place.mounted().is_empty(), "{:?}", place.calls);
        assert_eq!(io::read_to_string(busy).unwrap(), "content");
    });
}

#[test]
fn a_tree_that_is_covered_by_another_mount_is_the_one_that_is_detached() {
    each(|place| {
        let at = place.make_dir("at");
        let lower = place.open(MountSpec::Bind(bind(&place.make_dir("a")))).unwrap().attach(&at).unwrap();
        let upper = place.open(MountSpec::Bind(bind(&place.make_dir("b")))).unwrap().attach(&at).unwrap();
        fs::write(place.path("a/below"), "").unwrap();
        upper.close().unwrap();
        assert!(at.join("below").exists());
        lower.close().unwrap();
        assert!(!at.join("below").exists());
    });
}

#[test]
fn a_tree_that_is_left_lives_on() {
    each(|place| {
        let at = place.make_dir("at");
        place.open(MountSpec::Bind(bind(&place.make_dir("source")))).unwrap().attach(&at).unwrap().leave();
        assert!(table::is_mount_point(&at).unwrap());
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn what_is_mounted_in_a_tree_does_not_spread() {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
    each(|place| {
        let shared = place.make_dir("shared");
        mount_bind(&shared, &shared).unwrap();
        mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
        let (source, at) = (place.make_dir("shared/source/inner"), place.make_dir("shared/at"));
        let attached =
            place.open(MountSpec::Bind(bind(source.parent().unwrap()))).unwrap().attach(&at).unwrap();
        mount_bind(place.make_dir("other"), at.join("inner")).unwrap();
        assert!(!table::is_mount_point(&source).unwrap(), "{:?}: the source got the mount too", place.calls);
        attached.close().unwrap();
        unmount(&shared, UnmountFlags::DETACH).unwrap();
    });
}

#[test]
fn a_read_only_bind_refuses_writes_and_a_plain_one_does_not_bring_what_is_below() {
    each(|place| {
        let source = place.make_dir("source");
        let below = place.make_dir("source/below");
        fs::write(place.make_dir("other").join("file"), "").unwrap();
        rustix::mount::mount_bind(place.path("other"), &below).unwrap();
        let plain = place.open(MountSpec::Bind(bind(&source))).unwrap();
        assert!(!plain.path().join("below/file").exists());
        let frozen = place.open(MountSpec::Bind(Bind { read_only: true, ..bind(&source) })).unwrap();
        assert_eq!(errno(fs::write(frozen.path().join("x"), "")), Some(libc::EROFS), "{:?}", place.calls);
        fs::write(plain.path().join("x"), "").unwrap();
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn a_second_mount_goes_below_the_first_and_both_move_together() {
    each(|place| {
        let base = place.make_dir("base");
        place.make_dir("base/inner/deep");
        fs::write(place.make_dir("other").join("file"), "").unwrap();
        let inner = Bind { target: "inner/deep".into(), read_only: true, ..bind(&place.path("other")) };
        let tree =
            place.mounter.open(&mounts([MountSpec::Bind(bind(&base)), MountSpec::Bind(inner)])).unwrap();
        assert!(tree.path().join("inner/deep/file").exists(), "{:?}", place.calls);
        let at = place.make_dir("at");
        let attached = tree.attach(&at).unwrap();
        assert!(at.join("inner/deep/file").exists());
        assert_eq!(errno(fs::write(at.join("inner/deep/x"), "")), Some(libc::EROFS));
        attached.close().unwrap();
    });
}

#[test]
fn a_target_that_leads_out_of_the_tree_is_refused() {
    each(|place| {
        let base = place.make_dir("base");
        std::os::unix::fs::symlink("/etc", base.join("link")).unwrap();
        for target in ["link", "../other", "/etc", ""] {
            let second = Bind { target: target.into(), ..bind(&place.make_dir("other")) };
            let specs = [MountSpec::Bind(bind(&base)), MountSpec::Bind(second)];
            place.mounter.open(&mounts(specs)).unwrap_err();
        }
    });
}

#[test]
fn a_mount_that_fails_half_way_leaves_nothing_and_says_why() {
    each(|place| {
        let missing = Bind { target: "nowhere".into(), ..bind(&place.make_dir("other")) };
        let specs = [MountSpec::Bind(bind(&place.make_dir("base"))), MountSpec::Bind(missing)];
        let text = place.mounter.open(&mounts(specs)).unwrap_err().to_string();
        assert!(text.contains("nowhere"), "{text}");
        let mut lowers = place.lowers(3);
        lowers.push(place.path("gone"));
        let overlay = Overlay { lowers, upper: place.upper(), ..Overlay::default() };
        let text = place.open(MountSpec::Overlay(overlay)).unwrap_err().to_string();
        assert!(text.contains("overlay of 5 layers") || text.contains("gone"), "{text}");
        assert!(place.mounted().is_empty());
        let at = place.path("no such directory");
        let tree = place.open(MountSpec::Bind(bind(&place.path("other")))).unwrap();
        let text = tree.attach(&at).unwrap_err().to_string();
        assert!(text.contains("no such directory"), "{text}");
    });
}

#[test]
fn the_kernels_own_words_are_in_the_error() {
    each(|place| {
        let options = vec![("no-such-option".to_owned(), None)];
        let spec = Fs { fstype: "tmpfs".to_owned(), source: "none".into(), options, ..Fs::default() };
        let text = place.open(MountSpec::Fs(spec)).unwrap_err().to_string();
        let words =
            if place.calls == Calls::Classic { "os error 22" } else { "Unknown parameter 'no-such-option'" };
        assert!(text.contains("mount 'none' as tmpfs") && text.contains(words), "{text}");
    });
}

#[test]
fn more_layers_than_the_kernel_takes_are_refused_before_it_is_asked() {
    each(|place| {
        let lowers = vec![place.make_dir("lower"); 501];
        let error = place.open(MountSpec::Overlay(Overlay { lowers, ..Overlay::default() })).unwrap_err();
        assert!(matches!(&error, Error::Options(text) if text.contains("500")), "{error}");
    });
}

#[test]
fn too_few_descriptors_for_old_calls_are_named_in_the_error() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    each(|place| {
        if place.calls != Calls::Classic {
            return;
        }
        let long = "x".repeat(200);
        let lowers = (0..300).map(|n| place.make_dir(&format!("{long}/{n}"))).collect();
        setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..limit }).unwrap();
        let result = place.open(MountSpec::Overlay(Overlay { lowers, ..Overlay::default() }));
        setrlimit(Resource::Nofile, limit).unwrap();
        let text = result.unwrap_err().to_string();
        assert!(text.contains("200 open files") && text.contains("300"), "{text}");
    });
}

#[test]
fn owners_are_shifted_by_an_id_map_in_both_directions() {
    let ranges = || vec![IdRange { disk: 0, tree: 100_000, count: 65_536 }];
    let map = IdMap { uids: ranges(), gids: ranges() };
    each(|place| {
        let lowers = place.lowers(2);
        chown(lowers[0].join("all"), Some(7), Some(8)).unwrap();
        let overlay =
            Overlay { lowers, upper: place.upper(), id_map: Some(map.clone()), ..Overlay::default() };
        let bound = Bind { id_map: Some(map.clone()), ..bind(&place.path("lower/0")) };
        for spec in [MountSpec::Overlay(overlay), MountSpec::Bind(bound)] {
            if place.calls == Calls::Classic {
                assert!(matches!(place.open(spec), Err(Error::Unavailable { .. })));
                return;
            }
            let tree = place.open(spec).unwrap();
            let all = fs::metadata(tree.path().join("all")).unwrap();
            assert_eq!((all.uid(), all.gid()), (100_007, 100_008), "{:?}", place.calls);
            chown(tree.path().join("all"), Some(100_001), Some(100_002)).unwrap();
        }
        for written in ["upper/all", "lower/0/all"] {
            let all = fs::metadata(place.path(written)).unwrap();
            assert_eq!((all.uid(), all.gid()), (1, 2), "{written}");
        }
    });
}

#[test]
fn a_file_system_of_the_kernel_is_mounted_with_its_options() {
    each(|place| {
        let spec = Fs {
            fstype: "tmpfs".to_owned(),
            source: "none".into(),
            options: vec![("mode".to_owned(), Some("0711".to_owned()))],
            ..Fs::default()
        };
        let tree = place.open(MountSpec::Fs(spec.clone())).unwrap();
        assert_eq!(fs::metadata(tree.path()).unwrap().mode() & 0o7777, 0o711);
        let tree = place.open(MountSpec::Fs(Fs { read_only: true, ..spec.clone() })).unwrap();
        assert_eq!(errno(fs::write(tree.path().join("x"), "")), Some(libc::EROFS));
        let unknown = Fs { fstype: "no-such-fs".to_owned(), ..spec };
        assert!(matches!(place.open(MountSpec::Fs(unknown)), Err(Error::Unavailable { .. })));
    });
}

#[test]
fn a_copy_of_a_live_tree_shows_the_same_files() {
    if Calls::best() < Calls::Trees {
        eprintln!("skip: mount/a_copy_of_a_live_tree_shows_the_same_files: needs Linux 5.12");
        return;
    }
    each(|place| {
        let at = place.make_dir("at");
        let overlay = Overlay { lowers: place.lowers(1), upper: place.upper(), ..Overlay::default() };
        let attached = place.open(MountSpec::Overlay(overlay)).unwrap().attach(&at).unwrap();
        let copy = Tree::copy_of(&at).unwrap();
        fs::write(at.join("late"), "").unwrap();
        attached.close().unwrap();
        assert!(copy.path().join("late").exists());
    });
}

#[test]
fn trees_are_mounted_only_when_they_are_looked_at() {
    each(|place| {
        let source = place.make_dir("source");
        let open = || place.open(MountSpec::Bind(bind(&source))).map(Into::into);
        let trees = LazyTrees::new(open, || panic!("nobody asked for it"));
        assert!(trees.layer().unwrap().is_dir());
        assert_eq!(trees.layer().unwrap(), trees.layer().unwrap());
        trees.close().unwrap();
        let trees = LazyTrees::new(open, || Ok(None));
        assert_eq!(trees.parent().unwrap(), None);
    });
}
