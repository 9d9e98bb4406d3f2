//! What cannot be: each gets one clear line, exit status 1, and leaves nothing half-made.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use mica_archive::Kind;

use crate::archives::{entry, gzip, tar, tar_of};
use crate::disk::SmallDisk;
use crate::home::{Home, MICA};

fn refused(tarball: &[u8]) -> String {
    let home = Home::new();
    let file = home.file("bad.tar", tarball);
    let text = home.refused(&["import", &file, "bad"]);
    home.assert_empty();
    text
}

#[test]
fn a_truncated_tarball_is_refused() {
    let whole = tar(&[("a", &[7; 3000]), ("b", &[8; 3000])]);
    for length in [0, 1, 511, 700, 3600, 4500, whole.len() - 1500] {
        refused(&whole[..length]);
    }
    let packed = gzip(&whole);
    assert!(refused(&packed[..packed.len() - 9]).contains("gzip"));
}

#[test]
fn a_corrupt_tarball_is_refused() {
    let mut bytes = tar(&[("a", b"a")]);
    bytes[150] ^= 1;
    assert!(refused(&bytes).contains("tar header"));
    let mut bytes = gzip(&tar(&[("a", &[7; 30_000])]));
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    assert!(refused(&bytes).contains("gzip"));
    refused(b"this is no tarball at all");
    refused(&vec![b'x'; 100_000]);
}

#[test]
fn what_is_no_archive_is_refused_by_its_name_and_with_the_formats_that_are() {
    let home = Home::new();
    let mut broken = tar(&[("a", b"a")]);
    broken[150] ^= 1;
    let dictionary = [0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 1, 1, 0, 0, b'x'];
    let formats = "a tar, plain or compressed with gzip, zstd, xz or bzip2";
    for content in [&broken[..], b"", b"a text that is no archive", &dictionary] {
        let file = home.file("other", content);
        let text = home.refused(&["import", &file]);
        assert!(text.starts_with(&format!("mica: import '{file}': ")) && text.contains(formats), "{text}");
        let text = home.refused(&["load", "-i", &file]);
        assert!(text.starts_with(&format!("mica: load '{file}': ")), "{text}");
        assert!(text.contains("what 'docker save' writes or an OCI layout, as ") && text.contains(formats));
        for verb in [&["import", "-"][..], &["load"]] {
            let text = home.with_input(verb, content).refusal();
            assert!(text.starts_with(&format!("mica: {} standard input: ", verb[0])), "{text}");
            assert!(text.contains(formats), "{text}");
        }
    }
    home.assert_empty();
}

#[test]
fn what_is_wrong_further_on_in_an_archive_is_told_with_its_name() {
    let home = Home::new();
    let whole = tar(&[("a", &[7; 3000])]);
    let mut endless = tar(&[("a", b"")]);
    // An extended header of 8 GiB, with its checksum.
    endless[156] = b'x';
    endless[124..136].copy_from_slice(b"100000000000");
    endless[148..156].fill(b' ');
    let sum: u32 = endless[..512].iter().map(|&byte| u32::from(byte)).sum();
    endless[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (content, why) in [(&whole[..700], "byte"), (&endless, "more than the limit of")] {
        let file = home.file("some.tar", content);
        let text = home.refused(&["import", &file]);
        assert!(text.starts_with(&format!("mica: import '{file}': ")) && text.contains(why), "{text}");
        assert!(!text.contains("gzip"), "{text}");
    }
    home.assert_empty();
}

#[test]
fn a_directory_is_refused_with_the_way_to_pack_it() {
    let home = Home::new();
    let directory = home.root().parent().unwrap().to_str().unwrap();
    for (verb, reader) in [(&["import"][..], "import -"), (&["load", "-i"], "load")] {
        let text = home.refused(&[verb, &[directory]].concat());
        assert_eq!(
            text,
            format!(
                "mica: '{directory}' is a directory; pack it: tar -C '{directory}' -c . | mica {reader}\n"
            )
        );
    }
}

#[test]
fn a_hostile_tarball_is_refused() {
    let mut smuggled = entry("a/", Kind::Directory);
    smuggled.xattrs.push((b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()));
    assert!(refused(&tar_of(&[(smuggled, b"")])).contains("overlay"));
    refused(&tar(&[(".wh..", b"")]));
}

#[test]
fn a_name_with_control_characters_does_not_reach_the_terminal() {
    let mut bytes = tar(&[("a\x1b[31m\n", b"")]);
    bytes.truncate(600);
    let text = refused(&bytes);
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_tarball_without_end_is_refused() {
    let home = Home::new();
    let text = home.refused(&["import", "/dev/zero", "endless"]);
    home.assert_empty();
    assert!(!text.is_empty());
}

#[test]
fn a_full_disk_is_told_and_what_was_begun_is_gone() {
    let outside = Home::new();
    let disk = SmallDisk::tmpfs(&outside, "4m");
    let home = Home::at(disk.path().join("root"));
    let large = home.file("large.tar", &tar(&[("a", &vec![7; 9 << 20])]));
    for arguments in [["import", &large, "large"], ["--storage-driver=vfs", "import", &large]] {
        let text = home.refused(&arguments);
        assert!(text.to_lowercase().contains("no space left"), "{text}");
        home.assert_empty();
    }
    home.import("small", &tar(&[("a", b"fits")]));
    home.assert_consistent();
}

/// A stream is unpacked to be read in any order, but only as long as it looks like an archive.
#[test]
fn an_endless_stream_that_is_no_image_archive_does_not_fill_the_disk() {
    let home = Home::new();
    for (source, why) in [("cat /dev/zero", "what follows the archive"), ("yes", "not a tar header")] {
        let script = format!("{source} | {MICA} --root {} load", home.root().display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let text = crate::home::Answer::from(output).refusal();
        assert!(text.contains(why), "{text}");
        home.assert_empty();
    }
}

#[test]
fn an_endless_stream_ends_with_the_disk() {
    let outside = Home::new();
    let disk = SmallDisk::tmpfs(&outside, "4m");
    let home = Home::at(disk.path().join("root"));
    let mut child = home
        .command(&["import", "-", "endless"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for index in 0.. {
        let name = format!("file-{index}");
        let mut member = tar(&[(&name, &[7; 50_000])]);
        member.truncate(member.len() - 1024);
        if pipe.write_all(&member).is_err() {
            break;
        }
    }
    let answer: crate::home::Answer = child.wait_with_output().unwrap().into();
    assert!(answer.refusal().to_lowercase().contains("no space left"));
    home.assert_empty();
}

#[test]
fn a_data_root_of_a_newer_version_is_left_alone() {
    let home = Home::new();
    home.ok(&["images"]);
    fs::write(home.root().join("version"), "99\n").unwrap();
    for arguments in [&["images"][..], &["prune"], &["storage", "check", "--repair"]] {
        let text = home.refused(arguments);
        assert!(text.contains("has format 99") && text.contains("newer mica"), "{text}");
    }
}

#[test]
fn a_data_root_whose_version_is_damaged_is_left_alone_and_says_what_to_write() {
    let home = Home::new();
    home.ok(&["images"]);
    fs::write(home.root().join("version"), "one\n").unwrap();
    for arguments in [&["images"][..], &["storage", "check", "--repair"]] {
        let text = home.refused(arguments);
        assert!(
            text.contains("'one' is no number; write back the format") && text.contains(", 1 if"),
            "{text}"
        );
    }
    fs::write(home.root().join("version"), "1\n").unwrap();
    home.assert_empty();
}

#[test]
fn unknown_drivers_and_options_are_refused_with_those_that_exist() {
    let home = Home::new();
    let text = home.refused(&["--storage-driver", "zfs9", "images"]);
    assert!(text.contains("unknown storage driver 'zfs9'; those that exist are: "), "{text}");
    let name = home.ok(&["drivers", "--format", "{{.Name}}"]).lines().next().unwrap().to_owned();
    let text = home.refused(&["--storage-opt", &format!("{name}.sise=1"), "images"]);
    assert!(
        text.contains(&format!("unknown storage option '{name}.sise'; those of this driver are: {name}.")),
        "{text}"
    );
    assert!(home.refused(&["--storage-opt", "size=1", "images"]).contains("DRIVER.NAME=VALUE"));
    assert!(home.refused(&["drivers", "show", "zfs9"]).contains("those that exist are"));
    assert!(home.refused(&["drivers", "test", "zfs9"]).contains("those that exist are"));
}

#[test]
fn unknown_verbs_flags_and_things_are_refused_in_one_line() {
    let home = Home::new();
    assert!(home.refused(&["imagse"]).contains("'images'"));
    assert!(home.refused(&["images", "--quite"]).contains("'--quiet'"));
    assert!(home.refused(&["rmi"]).contains("IMAGES"));
    assert!(home.refused(&["rmi", "nobody:1"]).contains("no such image: nobody:1"));
    assert!(home.refused(&["rmi", "sha256:00"]).contains("no such image"));
    assert!(home.refused(&["save", "nobody"]).contains("no such image"));
    assert!(home.refused(&["tag", "nobody", "x"]).contains("no such image"));
    assert!(home.refused(&["import", "/nonexistent/x.tar"]).contains("/nonexistent/x.tar"));
    assert!(home.refused(&["import", "/dev/null", "Upper:1"]).contains("invalid image name"));
    assert!(home.refused(&["import", "-c", "RUN x", "/dev/null"]).contains("those that exist are: CMD"));
    assert!(home.refused(&["images", "--format", "{{.Nme}}"]).contains(".Repository"));
    home.assert_empty();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::new();
    home.ok(&["images"]);
    let mut child = home
        .command(&["drivers", "show", "vfs"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let answer: crate::home::Answer = child.wait_with_output().unwrap().into();
    assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""));
}
