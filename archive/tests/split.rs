//! What was applied is reproduced to the byte: odd archives, those of the real `tar`, and those that contradict
//! themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use common::{END, archive, block, entry, extended, file, members, padded, record};
use mica_archive::apply::{ApplyOptions, WhiteoutForm};
use mica_archive::ingest::Expected;
use mica_archive::tap::Tap;
use mica_archive::writer::Writer;
use mica_archive::{Digest, Entry, Error, Kind, layer, split};
use tempfile::{TempDir, tempdir};

/// A layer that was applied: its tree, its split, and its DiffID.
struct Layer {
    tree: TempDir,
    split: File,
    diff_id: Digest,
}

impl Layer {
    fn of(archive: &[u8]) -> Self {
        Self::in_form(archive, WhiteoutForm::Merged)
    }

    fn in_form(archive: &[u8], form: WhiteoutForm) -> Self {
        let layer = Self::of_blob(archive, form).unwrap();
        assert_eq!(layer.diff_id, Digest::of(archive));
        layer
    }

    fn of_blob(blob: &[u8], form: WhiteoutForm) -> Result<Self, Error> {
        let tree = tempdir().unwrap();
        let root = OwnedFd::from(File::open(tree.path()).unwrap());
        let split = tempfile::tempfile().unwrap();
        let (ingested, _, split) =
            layer::apply_and_record(blob, root, ApplyOptions::new(form), &Expected::default(), split)?;
        Ok(Self { tree, split, diff_id: ingested.diff_id })
    }

    fn assemble(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let tree = File::open(self.tree.path()).unwrap();
        let length = split::assemble(&self.split, tree.as_fd(), &self.diff_id, &mut out)?;
        assert_eq!(length, out.len() as u64);
        Ok(out)
    }

    fn split_size(&self) -> u64 {
        self.split.metadata().unwrap().len()
    }
}

#[track_caller]
fn assert_reproduced(archive: &[u8]) {
    let assembled = Layer::of(archive).assemble().unwrap();
    assert!(
        assembled == archive,
        "differs from byte {:?} on",
        assembled.iter().zip(archive).position(|(a, b)| a != b)
    );
}

fn link(path: &str, kind: fn(Vec<u8>) -> Kind, target: &str) -> (Entry, Vec<u8>) {
    (entry(path, kind(target.into())), Vec::new())
}

fn directory(path: &str) -> (Entry, Vec<u8>) {
    (entry(path, Kind::Directory), Vec::new())
}

#[test]
fn a_plain_layer() {
    assert_reproduced(&archive(&[
        directory("etc/"),
        file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
        file("etc/empty", b""),
        file("big", &vec![0x5a; 3_000_000]),
        link("etc/link", Kind::Symlink, "passwd"),
        link("etc/hard", Kind::Hardlink, "etc/passwd"),
        (entry("pipe", Kind::Fifo), Vec::new()),
    ]));
}

#[test]
fn a_path_twice() {
    assert_reproduced(&archive(&[file("a", b"first"), file("b", b"other"), file("a", b"second, longer")]));
}

#[test]
fn a_path_a_hundred_times_and_once_empty() {
    let mut members: Vec<_> =
        (0..100).map(|number| file("a", format!("version {number}").as_bytes())).collect();
    members.insert(50, file("a", b""));
    assert_reproduced(&archive(&members));
}

#[test]
fn one_path_in_different_spellings() {
    assert_reproduced(&archive(&[
        file("./dir/a", b"1"),
        file("dir//a", b"22"),
        file("/dir/./a", b"333"),
        file("dir/b/../a", b"4444"),
    ]));
}

#[test]
fn a_file_that_a_whiteout_removes_again() {
    assert_reproduced(&archive(&[file("dir/a", b"gone"), file("dir/.wh.a", b""), file("dir/b", b"stays")]));
}

#[test]
fn a_directory_of_files_that_a_file_replaces() {
    let members = [directory("d/"), file("d/a", b"1"), file("d/e/b", b"2"), file("d", b"now a file")];
    assert_reproduced(&archive(&members));
}

#[test]
fn a_directory_of_files_that_an_opaque_mark_spares() {
    assert_reproduced(&archive(&[file("d/a", b"1"), file("d/.wh..wh..opq", b""), file("d/b", b"2")]));
}

#[test]
fn a_hard_link_whose_first_name_is_replaced() {
    assert_reproduced(&archive(&[
        file("a", b"shared"),
        link("b", Kind::Hardlink, "a"),
        file("a", b"own"),
        file("b", b"own too"),
    ]));
}

#[test]
fn a_file_below_a_link_in_the_same_layer() {
    assert_reproduced(&archive(&[
        directory("usr/lib"),
        link("lib", Kind::Symlink, "usr/lib"),
        file("lib/a", b"through the link"),
        file("usr/lib/a", b"straight"),
        file("lib/b", b"stays"),
        file("lib", b"the link is gone"),
    ]));
}

#[test]
fn whiteouts_with_content() {
    for form in [WhiteoutForm::Merged, WhiteoutForm::Aufs] {
        let archive = archive(&[
            file(".wh.a", b"odd"),
            file("d/.wh..wh..opq", b"odder"),
            file(".wh..wh.plnk/1.2", b"oddest"),
        ]);
        assert_eq!(Layer::in_form(&archive, form).assemble().unwrap(), archive);
    }
}

#[test]
fn a_file_where_the_root_is() {
    assert_reproduced(&archive(&[file("a", b"1"), file("./.", b"nowhere")]));
}

#[test]
fn padding_that_is_not_zero() {
    let mut archive = archive(&[file("a", b"abc"), file("b", b"def")]);
    archive[512 + 3..1024].fill(0xee);
    archive[1536 + 3..2048].copy_from_slice(&[0xdd; 509]);
    assert_reproduced(&archive);
}

#[test]
fn anything_after_the_end() {
    let whole = archive(&[file("a", b"abc")]);
    assert_reproduced(&[&whole[..], b"trailing garbage"].concat());
    assert_reproduced(&[&whole[..], &[0; 20_000], &whole].concat());
}

#[test]
fn members_after_two_blocks_of_zeros_are_no_members_but_come_back() {
    let (one, two) = (archive(&[file("a", b"abc")]), archive(&[file("b", b"def")]));
    let layer = Layer::of(&[&one[..], &two].concat());
    assert!(!layer.tree.path().join("b").exists());
    assert_eq!(layer.assemble().unwrap(), [one, two].concat());
}

#[test]
fn a_missing_end_where_the_digest_is_known() {
    let whole = archive(&[file("a", b"abc")]);
    let cut = &whole[..whole.len() - 1024];
    let tree = tempdir().unwrap();
    let root = || File::open(tree.path()).unwrap();
    let expected = Expected { diff_id: Some(Digest::of(cut)), ..Expected::default() };
    let options = ApplyOptions::new(WhiteoutForm::Merged);
    let split = tempfile::tempfile().unwrap();
    let (_, _, split) = layer::apply_and_record(cut, root().into(), options, &expected, split).unwrap();
    let mut out = Vec::new();
    split::assemble(&split, root().as_fd(), &Digest::of(cut), &mut out).unwrap();
    assert_eq!(out, cut);
}

#[test]
fn odd_headers_of_every_dialect() {
    let v7 = block(0, b"v7", 3, |block| block[257..265].fill(0));
    let gnu = block(b'0', b"short", 3, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\x03");
        block[345..356].copy_from_slice(b"14524566200");
        block[500..512].fill(0xaa);
    });
    let parts = [
        extended(b'g', &record("comment", b"of all")),
        extended(b'L', b"a/long/name\0\0"),
        gnu.to_vec(),
        padded(b"abc"),
        v7.to_vec(),
        padded(b"def"),
        extended(
            b'x',
            &[record("path", b"renamed"), record("size", b"3"), record("VENDOR.x", b"\0")].concat(),
        ),
        block(b'7', b"ignored", 999, |_| {}).to_vec(),
        padded(b"ghi"),
        END.to_vec(),
    ];
    assert_reproduced(&parts.concat());
}

/// A sparse file in the PAX 1.0 form: data at both ends of 1 GiB.
fn sparse(path: &str, data: &[u8; 8]) -> Vec<u8> {
    let size = 1_u64 << 30;
    let map = format!("3\n0\n4\n{}\n4\n{size}\n0\n", size - 4);
    let records = [
        record("GNU.sparse.major", b"1"),
        record("GNU.sparse.minor", b"0"),
        record("GNU.sparse.name", path.as_bytes()),
        record("GNU.sparse.realsize", size.to_string().as_bytes()),
    ];
    [
        extended(b'x', &records.concat()),
        block(b'0', b"GNUSparseFile.1/x", 512 + 8, |_| {}).to_vec(),
        padded(map.as_bytes()),
        padded(data),
    ]
    .concat()
}

#[test]
fn sparse_files_also_when_they_are_replaced() {
    let archive = [&sparse("s", b"headtail")[..], &sparse("s", b"HEADTAIL"), &END].concat();
    let layer = Layer::of(&archive);
    assert!(layer.split_size() < 4096, "the holes were saved");
    assert_eq!(layer.assemble().unwrap(), archive);
}

#[test]
fn a_replaced_file_keeps_its_large_content_with_holes_in_it() {
    let mut content = vec![0; 2_000_000];
    content[..4].copy_from_slice(b"head");
    content[999_999..1_000_100].fill(7);
    assert_reproduced(&archive(&[file("a", &content), file("a", b"")]));
}

#[test]
fn a_thousand_files_in_a_split_of_a_few_kilobytes() {
    let members: Vec<_> =
        (0..1000).map(|number| file(&format!("some/directory/file{number}"), &[b'x'; 5000])).collect();
    let layer = Layer::of(&archive(&members));
    assert!(layer.split_size() < 32 * 1024, "{} bytes", layer.split_size());
    layer.assemble().unwrap();
}

/// An archive with this many MiB of zeros after it, compressed a thousandfold.
fn bomb(mebibytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&archive(&[file("a", b"abc")])).unwrap();
    for _ in 0..mebibytes {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn cve_2017_14992_padding_takes_no_memory_and_has_a_limit() {
    let before = peak_memory();
    let layer = Layer::of_blob(&bomb(63), WhiteoutForm::Merged).unwrap();
    assert!(peak_memory() - before < 16 << 20, "{} bytes more", peak_memory() - before);
    assert!(layer.split_size() < 1 << 20);

    let error = Layer::of_blob(&bomb(65), WhiteoutForm::Merged).err().unwrap();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_tree_that_was_changed_is_found_out() {
    let layer = Layer::of(&archive(&[file("a", b"abc"), file("b", b"def")]));
    std::fs::write(layer.tree.path().join("a"), b"abd").unwrap();
    assert!(matches!(layer.assemble().unwrap_err(), Error::Digest { what: "the layer's DiffID", .. }));

    std::fs::write(layer.tree.path().join("a"), b"ab").unwrap();
    let error = layer.assemble().unwrap_err().to_string();
    assert_eq!(error, "read 'a': it ends 1 bytes early: it became shorter meanwhile");

    std::fs::remove_file(layer.tree.path().join("a")).unwrap();
    std::os::unix::fs::symlink("b", layer.tree.path().join("a")).unwrap();
    let error = layer.assemble().unwrap_err().to_string();
    assert!(error.starts_with("take 'a' from the layer's tree: "), "{error}");
}

#[test]
fn a_split_that_was_cut_off_or_changed_is_found_out() {
    let layer = Layer::of(&archive(&[file("a", b"abc"), file("a", b"def"), file("b", &[1; 10_000])]));
    let mut bytes = Vec::new();
    std::io::copy(&mut std::io::BufReader::new(&mut reopened(&layer.split)), &mut bytes).unwrap();
    let tree = File::open(layer.tree.path()).unwrap();
    let assemble = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        split::assemble(&file, tree.as_fd(), &layer.diff_id, &mut std::io::sink())
    };
    assert!(assemble(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(assemble(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        // A bit that does not count is possible; what is not allowed is another archive, or a panic.
        let _ = assemble(&changed);
    }
}

fn reopened(file: &File) -> File {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

#[test]
fn an_archive_that_the_writer_makes_is_recorded_on_the_way() {
    let tree = tempdir().unwrap();
    std::fs::write(tree.path().join("a"), b"abc").unwrap();
    std::fs::write(tree.path().join("b"), vec![7; 200_000]).unwrap();
    let (recorder, keeper) = split::record(tempfile::tempfile().unwrap()).unwrap();
    drop(keeper);
    let mut writer = Writer::with_tap(Vec::new(), recorder);
    for (entry, content) in [file("a", b"abc"), directory("d"), file("b", &[7; 200_000]), file(".wh.c", b"")]
    {
        writer.append(&entry, &mut &content[..]).unwrap();
    }
    let (archive, recorder) = writer.finish_with_tap().unwrap();
    let split = recorder.finish().unwrap();
    let mut out = Vec::new();
    let root = File::open(tree.path()).unwrap();
    split::assemble(&split, root.as_fd(), &Digest::of(&archive), &mut out).unwrap();
    assert_eq!(out, archive);
}

#[test]
fn a_finished_split_takes_nothing_more() {
    let (mut recorder, keeper) = split::record(Vec::new()).unwrap();
    let (entry, _) = file("a", b"abc");
    recorder.member(&entry, 3).unwrap();
    recorder.finish().unwrap();
    assert!(keeper.placed(Some(b"elsewhere")).is_err());
}

/// A tree with what the formats of tar differ in.
fn make_tree(root: &Path, is_old: bool) {
    let sh = |script: &str| {
        let done = Command::new("sh").args(["-ec", script]).current_dir(root).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    sh("mkdir -p sub/dir; printf hello >sub/dir/file; ln sub/dir/file hard; ln -s sub/dir/file soft; : >empty
        mkfifo pipe; chmod 4755 sub/dir/file; mkdir sticky; chmod 1777 sticky; touch -d '1969-12-31 23:59:58.25' old
        printf x >\"$(printf 'bytes\\377')\"; seq 1 50000 >numbers");
    if !is_old {
        sh("d=$(printf 'a%.0s' $(seq 120)); mkdir -p $d/$d; printf deep >$d/$d/$d; ln $d/$d/$d longhard
            ln -s $d/$d/$d longsoft
            truncate -s 40M sparse; printf data | dd of=sparse bs=1M seek=3 conv=notrunc status=none
            for i in $(seq 1 2 60); do printf data | dd of=holes bs=64k seek=$i conv=notrunc status=none; done");
    }
}

fn tar(root: &Path, arguments: &[&str]) -> Vec<u8> {
    let done =
        Command::new("tar").args(arguments).args(["-cf", "-", "."]).current_dir(root).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

#[test]
fn everything_that_gnu_tar_makes() {
    for (format, options) in [
        ("gnu", &[][..]),
        ("gnu", &["--sparse"]),
        ("oldgnu", &["--sparse"]),
        ("pax", &["--xattrs", "--sparse"]),
        ("pax", &["--sparse", "--sparse-version=0.0"]),
        ("pax", &["--sparse", "--sparse-version=0.1"]),
        (
            "pax",
            &["--label=volume", "--pax-option=globexthdr.name=/tmp/g,comment=text", "--blocking-factor=1"],
        ),
        ("ustar", &[]),
        ("v7", &[]),
    ] {
        let tree = tempdir().unwrap();
        let is_old = matches!(format, "ustar" | "v7");
        make_tree(tree.path(), is_old);
        if format == "v7" {
            std::fs::remove_file(tree.path().join("pipe")).unwrap();
        }
        if options.contains(&"--xattrs") {
            rustix::fs::setxattr(
                tree.path().join("numbers"),
                "user.mica",
                b"\0\n=",
                rustix::fs::XattrFlags::empty(),
            )
            .unwrap();
        }
        if is_old || !options.contains(&"--xattrs") {
            std::fs::remove_file(tree.path().join("old")).unwrap();
        }
        let format = format!("--format={format}");
        let archive = tar(tree.path(), &[&[&format[..]], options].concat());
        let layer = Layer::of(&archive);
        assert!(layer.assemble().unwrap() == archive, "{format} {options:?}");
        assert_same_content(tree.path(), layer.tree.path());
        assert_rewritten(&archive);
    }
}

fn assert_same_content(expected: &Path, found: &Path) {
    let done =
        Command::new("diff").args(["-r", "--no-dereference"]).args([expected, found]).output().unwrap();
    assert!(
        done.stdout.iter().chain(&done.stderr).all(|_| false) || only_special(&done.stdout),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
}

/// diff says of two pipes that they are pipes.
fn only_special(output: &[u8]) -> bool {
    String::from_utf8_lossy(output).lines().all(|line| line.contains(" is a fifo while "))
}

/// What the reader finds in an archive of another's making survives our writer.
fn assert_rewritten(archive: &[u8]) {
    let found = members(archive).unwrap();
    let again = members(&common::archive(&found)).unwrap();
    assert_eq!(found.len(), again.len());
    for ((before, _), (after, content)) in found.iter().zip(&again) {
        let mut before = before.clone();
        if let Kind::File { size, sparse } = &mut before.kind {
            *sparse = None;
            assert_eq!(content.len() as u64, *size);
        }
        assert_eq!(before, *after);
    }
}
