//! The `volume` verbs: what they print, whom they obey, and what is left when they are killed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bed::{Bed, each, once};

const ANONYMOUS: &str = "com.docker.volume.anonymous";

fn mountpoint(bed: &Bed, name: &str) -> PathBuf {
    bed.ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", name]).trim().into()
}

fn names(bed: &Bed, filters: &[&str]) -> Vec<String> {
    let listed = bed.ok(&[&["volume", "ls", "-q"], filters].concat());
    listed.lines().map(str::to_owned).collect()
}

/// With a volume for `/srv`, as an image that a Dockerfile's `VOLUME` made.
fn image_with_a_volume(bed: &Bed) {
    bed.ok(&["create", "--name", "base", "busybox", "true"]);
    bed.ok(&["commit", "-c", "VOLUME /srv", "base", "busybox:volume"]);
    bed.ok(&["rm", "base"]);
}

#[test]
fn a_volume_is_made_shown_and_removed() {
    once(|bed| {
        assert_eq!(bed.ok(&["volume", "create", "--label", "a=1", "--label", "b", "data"]), "data\n");
        assert_eq!(bed.ok(&["volume", "create", "data"]), "data\n", "one that exists stays");
        assert_eq!(bed.ok(&["volume", "ls"]), "DRIVER    VOLUME NAME\nlocal     data\n");
        let shown: serde_json::Value = serde_json::from_str(&bed.ok(&["volume", "inspect", "data"])).unwrap();
        let created = shown[0]["CreatedAt"].clone();
        assert!(created.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{created}");
        let expected = serde_json::json!([{
            "CreatedAt": created,
            "Driver": "local",
            "Labels": { "a": "1", "b": "" },
            "Mountpoint": bed.root().canonicalize().unwrap().join("volumes/data/_data"),
            "Name": "data",
            "Options": null,
            "Scope": "local",
        }]);
        assert_eq!(shown, expected);
        assert_eq!(bed.ok(&["inspect", "-f", "{{.Name}}", "data"]), "data\n");
        assert_eq!(bed.ok(&["inspect", "--type", "volume", "-f", "{{.Scope}}", "data"]), "local\n");
        assert_eq!(bed.ok(&["volume", "rm", "data"]), "data\n");
        assert!(bed.fails(1, &["volume", "inspect", "data"]).contains("no such volume: data"));
        assert!(bed.fails(1, &["volume", "rm", "data"]).contains("no such volume: data"));
        assert_eq!(bed.ok(&["volume", "rm", "-f", "data"]), "data\n");
        assert!(names(bed, &[]).is_empty());
    });
}

#[test]
fn what_no_volume_can_be_is_refused_with_what_would_work() {
    once(|bed| {
        for (arguments, told) in [
            (&["--opt", "type=tmpfs", "x"][..], "mount it on the host and give its path to -v"),
            (&["--driver", "nfs", "x"], "there is only 'local'"),
            (&["../x"], "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        ] {
            let text = bed.fails(1, &[&["volume", "create"], arguments].concat());
            assert!(text.contains(told), "{text}");
        }
        for filter in ["size=1", "dangling=maybe", "label"] {
            assert!(bed.fails(1, &["volume", "ls", "-f", filter]).contains("invalid filter"), "{filter}");
        }
        assert!(bed.fails(1, &["volume", "ls", "--format", "{{.Size}}"]).contains("those of this list are"));
        assert!(names(bed, &[]).is_empty());
    });
}

#[test]
fn a_volume_of_a_container_is_there_from_its_creation_and_stays_while_it_does() {
    once(|bed| {
        let id = bed.ok(&["create", "--name", "c", "-v", "data:/srv", "busybox", "true"]);
        assert_eq!(names(bed, &[]), ["data"]);
        let text = bed.fails(1, &["volume", "rm", "-f", "data"]);
        assert!(text.contains(&format!("remove data: volume is in use - [{}]", id.trim())), "{text}");
        assert_eq!(bed.ok(&["volume", "prune", "-f", "--all"]), "Total reclaimed space: 0B\n");
        bed.ok(&["rm", "-v", "c"]);
        assert_eq!(bed.ok(&["volume", "rm", "data"]), "data\n", "a name outlives the container");
    });
}

#[test]
fn a_volume_made_beforehand_is_filled_at_first_use_unless_somebody_put_something_there() {
    each(|bed| {
        bed.ok(&["volume", "create", "new"]);
        bed.ok(&["volume", "create", "mine"]);
        fs::write(mountpoint(bed, "mine").join("file"), "mine\n").unwrap();
        for point in ["volume.filled", "volume.filled=error"] {
            bed.with_failpoint(
                point,
                &["run", "--rm", "-v", "new:/srv", "-v", "mine:/two", "busybox", "true"],
            );
            assert_eq!(fs::read_dir(mountpoint(bed, "new")).unwrap().count(), 0, "{point}");
        }
        let script = "cat /srv/page; ls /two; rm /srv/page";
        assert_eq!(bed.sh(&["-v", "new:/srv", "-v", "mine:/two"], script), "from the image\nfile\n");
        assert_eq!(
            bed.sh(&["-v", "new:/srv", "-v", "mine:/srv/two"], "ls /srv"),
            "two\n",
            "once and for all"
        );
        assert_eq!(bed.sh(&["-v", "mine:/srv"], "ls /srv"), "file\n");
        bed.ok(&["volume", "rm", "new", "mine"]);
    });
}

#[test]
fn files_are_copied_to_and_from_a_volume_before_its_container_was_started() {
    each(|bed| {
        bed.ok(&["create", "--name", "c", "-v", "data:/srv", "busybox", "cat", "/srv/page", "/srv/note"]);
        let note = bed.file("note", b"by cp\n");
        bed.ok(&["cp", &note, "c:/srv"]);
        assert_eq!(fs::read_to_string(mountpoint(bed, "data").join("note")).unwrap(), "by cp\n");
        assert_eq!(bed.ok(&["start", "-a", "c"]), "from the image\nby cp\n");
        bed.ok(&["rm", "c"]);
        bed.ok(&["volume", "rm", "data"]);
    });
}

#[test]
fn lists_are_filtered_as_dockers() {
    once(|bed| {
        bed.ok(&["volume", "create", "--label", "tier=db", "one"]);
        bed.ok(&["volume", "create", "--label", "tier=web", "--label", "x", "two"]);
        bed.ok(&["create", "--name", "c", "-v", "two:/a", "-v", "three:/b", "busybox", "true"]);
        for (filters, expected) in [
            (&["dangling=true"][..], &["one"][..]),
            (&["dangling=0"], &["three", "two"]),
            (&["label=tier"], &["one", "two"]),
            (&["label=tier=web", "label=x"], &["two"]),
            (&["name=one", "name=^t"], &["one", "three", "two"]),
            (&["name=t", "dangling=true"], &[]),
            (&["driver=nfs"], &[]),
        ] {
            let flags: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
            assert_eq!(names(bed, &flags), expected, "{filters:?}");
        }
        let format = "{{.Name}} {{.Labels}}";
        assert_eq!(bed.ok(&["volume", "ls", "-f", "name=two", "--format", format]), "two tier=web,x=\n");
        bed.ok(&["rm", "c"]);
        bed.ok(&["volume", "rm", "one", "two", "three"]);
    });
}

#[test]
fn volumes_without_a_name_go_with_a_container_that_removes_itself_or_is_removed_with_v() {
    each(|bed| {
        image_with_a_volume(bed);
        let run =
            |flags: &[&str]| {
                let script = ["busybox:volume", "sh", "-c", "cat /srv/page; touch /srv/x /two/x"];
                let answer =
                    bed.ok(&[&["run", "--name", "c", "-v", "/two", "-v", "kept:/three"], flags, &script]
                        .concat());
                assert_eq!(answer, "from the image\n");
            };
        run(&["--rm"]);
        assert_eq!(names(bed, &[]), ["kept"]);
        run(&[]);
        assert_eq!(names(bed, &["-f", &format!("label={ANONYMOUS}")]).len(), 2);
        bed.ok(&["rm", "-v", "c"]);
        assert_eq!(names(bed, &[]), ["kept"]);
        run(&[]);
        bed.ok(&["rm", "c"]);
        assert_eq!(names(bed, &[]).len(), 3, "without -v they stay");
        bed.ok(&["volume", "prune", "-f", "-a"]);
        bed.ok(&["rmi", "busybox:volume"]);
    });
}

#[test]
fn a_volume_without_a_name_that_another_container_took_stays_with_that_one() {
    once(|bed| {
        bed.ok(&["create", "--name", "c", "-v", "/srv", "busybox", "true"]);
        let [name] = &names(bed, &[])[..] else { panic!("one volume") };
        bed.ok(&["create", "--name", "d", "-v", &format!("{name}:/srv"), "busybox", "cat", "/srv/page"]);
        bed.ok(&["rm", "-v", "c"]);
        assert_eq!(bed.ok(&["start", "-a", "d"]), "from the image\n");
        bed.ok(&["rm", "-v", "d"]);
        assert_eq!(names(bed, &[]), std::slice::from_ref(name), "it is d's by name");
        bed.ok(&["volume", "rm", name]);
    });
}

#[test]
fn pruning_takes_those_without_a_name_and_with_all_the_others_too() {
    once(|bed| {
        let unnamed = bed.ok(&["volume", "create"]);
        let unnamed = unnamed.trim();
        assert_eq!(unnamed.len(), 64);
        fs::write(mountpoint(bed, unnamed).join("file"), vec![1; 100_000]).unwrap();
        bed.ok(&["volume", "create", "named"]);
        bed.ok(&["volume", "create", "--label", "keep", "labelled"]);
        bed.ok(&["create", "--name", "c", "-v", "used:/a", "-v", "/b", "busybox", "true"]);
        let pruned = bed.ok(&["volume", "prune", "-f"]);
        assert!(
            pruned.starts_with(&format!("Deleted Volumes:\n{unnamed}\n\nTotal reclaimed space: 1")),
            "{pruned}"
        );
        assert_eq!(bed.ok(&["volume", "prune"]), "Total reclaimed space: 0B\n");
        let pruned = bed.ok(&["volume", "prune", "-a", "--filter", "label!=keep"]);
        assert!(pruned.starts_with("Deleted Volumes:\nnamed\n\n"), "{pruned}");
        let pruned = bed.ok(&["volume", "prune", "--filter", "all=1", "--filter", "label=keep"]);
        assert!(pruned.starts_with("Deleted Volumes:\nlabelled\n\n"), "{pruned}");
        bed.ok(&["rm", "c"]);
        let pruned = bed.ok(&["prune", "--volumes"]);
        assert!(pruned.contains("Deleted Volumes:\n"), "{pruned}");
        assert_eq!(names(bed, &[]), ["used"]);
        bed.ok(&["volume", "rm", "used"]);
    });
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_volume_verb_that_is_killed_leaves_all_or_nothing() {
    once(|bed| {
        let volumes = bed.root().join("volumes");
        for (point, left) in [("volume.staged", 0), ("transaction.working", 1), ("settle.removed", 1)] {
            assert_eq!(bed.with_failpoint(point, &["volume", "create", "x"]).status, None, "{point}");
            bed.assert_consistent();
            assert_eq!(count(&volumes), left, "{point}");
            bed.ok(&["volume", "rm", "-f", "x"]);
        }
        for point in ["volume.removed", "settle.condemned", "settle.removed"] {
            bed.ok(&["volume", "create", "x"]);
            assert_eq!(bed.with_failpoint(point, &["volume", "rm", "x"]).status, None, "{point}");
            bed.assert_consistent();
            assert_eq!(count(&volumes), 0, "{point}");
        }
    });
}

#[test]
fn a_container_that_is_killed_on_its_way_leaves_its_volume_to_itself_or_to_nobody() {
    each(|bed| {
        let volumes = bed.root().join("volumes");
        let create = ["create", "--name", "c", "-v", "/srv", "busybox", "true"];
        for (point, left) in [("create.volumes", 0), ("create.volumes=error", 0), ("create.placed", 1)] {
            assert_ne!(bed.with_failpoint(point, &create).status, Some(0), "{point}");
            bed.assert_consistent();
            assert_eq!((count(&volumes), bed.ok(&["ps", "-aq"]).lines().count()), (left, left), "{point}");
            bed.clear();
        }
        for (point, left) in [("remove.announced", 1), ("remove.renamed", 0), ("settle.condemned", 0)] {
            bed.ok(&create);
            assert_eq!(bed.with_failpoint(point, &["rm", "-v", "c"]).status, None, "{point}");
            bed.assert_consistent();
            assert_eq!((count(&volumes), bed.ok(&["ps", "-aq"]).lines().count()), (left, left), "{point}");
            bed.clear();
        }
    });
}

#[test]
fn a_volume_without_its_record_is_still_a_volume() {
    once(|bed| {
        bed.ok(&["volume", "create", "--label", "x", "data"]);
        let place = mountpoint(bed, "data");
        fs::write(place.join("file"), "mine\n").unwrap();
        for torn in [None, Some("{\"created\":\"20")] {
            let record = place.with_file_name("volume.json");
            fs::remove_file(&record).unwrap();
            torn.into_iter().for_each(|text| fs::write(&record, text).unwrap());
            assert_eq!(names(bed, &[]), ["data"]);
            assert_eq!(bed.sh(&["-v", "data:/srv"], "cat /srv/file"), "mine\n");
            fs::write(&record, "").unwrap();
        }
        bed.ok(&["volume", "rm", "data"]);
    });
}

#[test]
fn containers_that_come_to_a_new_volume_at_once_all_see_it_filled() {
    each(|bed| {
        let script = ["run", "--rm", "-v", "data:/srv", "busybox", "cat", "/srv/page"];
        let running: Vec<_> = (0..6).map(|_| bed.spawn(&mut bed.command(&script))).collect();
        for child in running {
            let output = child.wait_with_output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), "from the image\n");
        }
        bed.ok(&["volume", "rm", "data"]);
    });
}

#[test]
fn no_volume_goes_while_a_container_that_may_use_it_cannot_be_read() {
    once(|bed| {
        let id = bed.ok(&["create", "-v", "data:/srv", "busybox", "true"]);
        let record = bed.root().join("containers").join(id.trim()).join("config.json");
        let text = fs::read(&record).unwrap();
        fs::write(&record, "{").unwrap();
        for verb in [&["rm", "data"][..], &["prune", "-a"]] {
            assert!(bed.fails(1, &[&["volume"], verb].concat()).contains("is damaged"), "{verb:?}");
        }
        assert_eq!(names(bed, &[]), ["data"]);
        fs::write(&record, text).unwrap();
        bed.clear();
        bed.ok(&["volume", "rm", "data"]);
    });
}
