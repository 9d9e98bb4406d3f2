//! What images are for: they come, have names, are told about, and go.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use mica_archive::{Digest, Kind};

use crate::archives::{entry, gzip, tar, tar_of};
use crate::disk::SmallDisk;
use crate::home::Home;

#[test]
fn an_imported_image_is_listed_and_gone_without_a_trace() {
    let home = Home::new();
    let id = home.import("debian:12", &tar(&[("etc/", b""), ("etc/motd", b"hello\n")]));
    let listed = home.ok(&["images"]);
    let mut lines = listed.lines();
    assert_eq!(lines.next().unwrap().split_whitespace().next(), Some("REPOSITORY"));
    let line: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!((line[0], line[1], line[2], *line.last().unwrap()), ("debian", "12", &id[7..19], "6B"));
    assert_eq!(home.ok(&["images", "-q", "--no-trunc"]).trim(), id);
    assert_eq!(home.ok(&["images", "--format", "{{.Repository}}={{.Tag}}"]), "debian=12\n");
    assert_eq!(home.ok(&["rmi", "debian:12"]), format!("Untagged: debian:12\nDeleted: {id}\n"));
    home.assert_empty();
}

#[test]
fn the_config_is_changed_as_a_dockerfile_would() {
    let home = Home::new();
    let file = home.file("x.tar", &tar(&[("a", b"")]));
    home.ok(&["import", "-c", "CMD [\"/a\"]", "-c", "ENV X=1", "-m", "by hand", &file, "a"]);
    let blob = fs::read_to_string(home.root().join("images").join(&home.names("images")[0])).unwrap();
    assert!(blob.contains(r#""Cmd":["/a"]"#) && blob.contains(r#""Env":["X=1"]"#), "{blob}");
    let history = home.ok(&["history", "a"]);
    assert!(history.lines().nth(1).unwrap().ends_with("by hand"), "{history}");
}

#[test]
fn names_are_given_and_taken_and_the_image_goes_with_the_last() {
    let home = Home::new();
    let id = home.import("debian:12", &tar(&[("a", b"1")]));
    home.ok(&["tag", "debian:12", "base"]);
    home.ok(&["tag", &id[7..15], "registry.example:5000/base:2"]);
    assert_eq!(home.ok(&["rmi", "base"]), "Untagged: base:latest\n");
    let text = home.refused(&["rmi", &id[7..19]]);
    assert!(text.contains("more than one name") && text.contains("--force"), "{text}");
    let text = home.ok(&["rmi", "-f", &id[7..19]]);
    assert!(
        text.contains("Untagged: registry.example:5000/base:2\n") && text.contains(&format!("Deleted: {id}"))
    );
    home.assert_empty();
}

#[test]
fn a_name_that_moves_leaves_a_dangling_image_for_prune() {
    let home = Home::new();
    let old = home.import("a", &tar(&[("a", b"1")]));
    let new = home.import("a", &tar(&[("a", b"2")]));
    assert!(home.ok(&["images"]).contains("<none>       <none>"));
    let text = home.ok(&["prune"]);
    assert!(
        text.contains(&format!("deleted: {old}\n")) && text.ends_with("Total reclaimed space: 1B\n"),
        "{text}"
    );
    assert_eq!(home.ok(&["images", "-q", "--no-trunc"]).trim(), new);
    home.assert_consistent();
}

#[test]
fn layers_that_images_share_are_stored_once_and_stay_until_the_last_one_goes() {
    let home = Home::new();
    let layer = tar(&[("a", b"shared")]);
    home.import("one", &layer);
    home.ok(&["import", "-c", "USER x", &home.file("b.tar", &gzip(&layer)), "two"]);
    assert_eq!(home.names("layers").len(), 1);
    let usage = home.ok(&["system", "df"]);
    let images: Vec<&str> = usage.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(images, ["Images", "2", "0", "6B", "6B", "(100%)"], "{usage}");
    home.ok(&["rmi", "one"]);
    home.assert_consistent();
    assert_eq!(home.names("layers").len(), 1);
    home.ok(&["rmi", "two"]);
    home.assert_empty();
}

#[test]
fn a_layer_stays_while_another_image_stands_on_it() {
    let home = Home::new();
    home.import("lower", &tar(&[("a", b"lower")]));
    home.ok(&["create", "--name", "c", "lower", "/a"]);
    home.ok(&["cp", &home.file("b", b"upper"), "c:/b"]);
    home.ok(&["commit", "c", "upper"]);
    home.ok(&["rm", "c"]);
    home.ok(&["rmi", "lower"]);
    home.assert_consistent();
    home.ok(&["create", "--name", "c", "upper", "/a"]);
    for (file, content) in [("a", "lower"), ("b", "upper")] {
        let archive = home.run(&["cp", &format!("c:/{file}"), "-"]).out;
        assert!(archive.contains(content), "{file}");
    }
    home.ok(&["rm", "c"]);
    home.ok(&["rmi", "upper"]);
    home.assert_empty();
}

#[test]
fn a_tarball_is_saved_byte_for_byte_as_it_came() {
    let home = Home::new();
    // A path twice, './', and garbage behind the end.
    let mut odd = tar(&[("./a", b"first"), ("./b/", b""), ("./a", b"second"), ("b/.wh.x", b"")]);
    odd.extend_from_slice(&[0; 4096]);
    odd.extend_from_slice(b"garbage");
    home.import("odd", &odd);
    let path = home.dir.path().join("saved.tar");
    home.ok(&["save", "-o", path.to_str().unwrap(), "odd"]);
    let saved = fs::read(&path).unwrap();
    assert!(saved.windows(odd.len()).any(|window| window == odd));
    assert!(String::from_utf8_lossy(&saved).contains(&Digest::of(&odd).hex()));
}

#[test]
fn a_saved_image_loads_elsewhere_as_the_same_image() {
    let home = Home::new();
    let id = home.import("debian:12", &tar(&[("etc/", b""), ("etc/x", b"x")]));
    let other = home.import("b", &tar(&[("b", b"")]));
    let archive = home.run(&["save", "debian:12", &other]).out.into_bytes();
    let elsewhere = Home::new();
    let file = elsewhere.file("images.tar", &archive);
    let text = elsewhere.ok(&["load", "-i", &file]);
    assert_eq!(text, format!("Loaded image: debian:12\nLoaded image ID: {other}\n"));
    assert_eq!(elsewhere.ok(&["images", "-q", "--no-trunc", "debian"]).trim(), id);
    assert_eq!(elsewhere.run(&["save", "debian:12", &other]).out.into_bytes(), archive);
    elsewhere.assert_consistent();
}

/// What is removed in the middle of it would not be there for the rest of the archive.
#[test]
fn an_image_that_is_being_saved_is_not_removed() {
    let home = Home::new();
    let id = home.import("a", &tar(&[("a", &vec![7; 1 << 20])]));
    let mut save = home.command(&["save", "a"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut archive = vec![0; 512];
    let pipe = save.stdout.as_mut().unwrap();
    pipe.read_exact(&mut archive).unwrap();
    let text = home.refused(&["rmi", "a"]);
    assert!(text.contains("is used by a command that runs now"), "{text}");
    assert_eq!(home.ok(&["rmi", "-f", "a"]), "Untagged: a:latest\n");
    pipe.read_to_end(&mut archive).unwrap();
    assert!(save.wait().unwrap().success());
    home.ok(&["rmi", &id]);
    home.assert_empty();
    let file = home.file("saved.tar", &archive);
    assert_eq!(home.ok(&["load", "-i", &file]), "Loaded image: a:latest\n");
}

#[test]
fn a_save_that_fails_leaves_the_file_as_it_was() {
    let home = Home::new();
    home.import("a", &tar(&[("a", b"content")]));
    let file = home.file("saved.tar", b"before");
    // The content is not what was put there.
    let driver = fs::read_to_string(home.root().join("driver")).unwrap();
    damage(&home.root().join("storage").join(driver.trim()), b"content", b"CONTENT");
    let text = home.refused(&["save", "-o", &file, "a"]);
    assert!(text.contains("DiffID"), "{text}");
    assert_eq!(fs::read(&file).unwrap(), b"before");
    assert_eq!(fs::read_dir(home.dir.path()).unwrap().count(), 3, "the root, the tarball, the file");
}

#[test]
fn a_save_that_is_killed_leaves_nothing_and_one_that_ends_replaces_the_file() {
    let home = Home::new();
    home.import("a", &tar(&[("a", b"content")]));
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("saved.tar");
    let save = ["save", "-o", file.to_str().unwrap(), "a"];
    for before in [None, Some("before")] {
        before.inspect(|text| fs::write(&file, text).unwrap());
        assert_eq!(home.with_failpoint("output.written", &save).status, None);
        assert_eq!(fs::read_to_string(&file).ok().as_deref(), before);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), usize::from(before.is_some()));
        home.ok(&save);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        home.ok(&["load", "-i", save[2]]);
        fs::remove_file(&file).unwrap();
    }
    let text = home.refused(&["save", "-o", "/nosuch/x", "a"]);
    assert!(text.contains("'/nosuch/x'") && !text.contains(".mica"), "{text}");
    home.assert_consistent();
}

/// Overwrites the one file below `dir` that has this content, and keeps its time.
pub(crate) fn damage(dir: &std::path::Path, from: &[u8], to: &[u8]) {
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                pending.push(path);
            } else if meta.is_file() && fs::read(&path).unwrap() == from {
                return fs::write(&path, to).unwrap();
            }
        }
    }
    panic!("no such file in '{}'", dir.display());
}

#[test]
fn what_xfs_calls_an_acl_stays_on_xfs() {
    let place = Home::new();
    let disk = SmallDisk::xfs(&place);
    let home = Home::at(disk.path().join("root"));
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::r-- (linux/posix_acl_xattr.h).
    let rules = [(1, 6, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)];
    let rule = |(tag, rights, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let acl: Vec<u8> = 2u32.to_le_bytes().into_iter().chain(rules.into_iter().flat_map(rule)).collect();
    let mut file = entry("f", Kind::File { size: 0, sparse: None });
    file.xattrs.push((b"system.posix_acl_access".to_vec(), acl));
    let archive = home.file("acl.tar", &tar_of(&[(file, b"")]));
    for driver in home.drivers() {
        let on = |arguments: &[&str]| home.run(&[&["--storage-driver", &driver], arguments].concat());
        on(&["import", &archive, "a"]);
        on(&["create", "--name", &driver, "a", "/f"]);
        let exported = home.command(&["export", &driver]).output().unwrap().stdout;
        let has = |name: &[u8]| exported.windows(name.len()).any(|window| window == name);
        assert!(has(b"posix_acl_access") && !has(b"SGI_ACL"), "{driver}");
        home.ok(&["rm", &driver]);
    }
}

#[test]
fn a_root_that_holds_layers_keeps_its_driver() {
    let home = Home::new();
    let file = home.file("a.tar", &tar(&[("a", b"")]));
    home.ok(&["--storage-driver", "vfs", "import", &file, "a"]);
    assert!(home.ok(&["info"]).contains("Storage Driver: vfs\n"));
    home.ok(&["rmi", "a"]);
    let first = home.ok(&["drivers", "--format", "{{.Name}} {{.Status}}"]);
    let first = first.lines().find_map(|line| line.strip_suffix(" available")).unwrap();
    assert!(home.ok(&["info"]).contains(&format!("Storage Driver: {first}\n")));
}
