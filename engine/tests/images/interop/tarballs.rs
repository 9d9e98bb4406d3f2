//! GNU tar: each of its formats is imported as the tree that GNU tar itself extracts.

use mica_conformance::tree::Times;

use super::{ask, assert_same, directory, samples, text, tree};
use crate::home::Home;

#[test]
fn every_format_of_gnu_tar_is_imported_as_tar_extracts_it() {
    let home = Home::new();
    let file = home.file("everything.tar", &samples::everything());
    home.ok(&["--storage-driver", "vfs", "import", &file]);
    let source = tree(&home);
    let attributes = ["--xattrs", "--xattrs-include=*", "--numeric-owner"];
    // These have no room for long names, large numbers, or kinds that are younger.
    let ustar = [
        "--exclude=./nnn*",
        "--exclude=./hard",
        "--exclude=./soft",
        "--exclude=./block",
        "--exclude=./setuid",
    ];
    let v7 = [&ustar[..], &["--exclude=./null", "--exclude=./fifo"]].concat();
    for flags in [
        vec!["--format=posix"],
        vec!["--format=posix", "--sparse", "--sparse-version=0.0"],
        vec!["--format=posix", "--sparse", "--sparse-version=0.1"],
        vec!["--format=posix", "--sparse", "--sparse-version=1.0"],
        vec!["--format=gnu", "--blocking-factor=1"],
        vec!["--format=gnu", "--sparse"],
        vec!["--format=oldgnu"],
        [&["--format=ustar"], &ustar[..]].concat(),
        [&["--format=v7"], &v7[..]].concat(),
    ] {
        let home = Home::new();
        let archive = text(&home.dir.path().join("made.tar")).to_owned();
        let extracted = directory(&home, "extracted");
        let with = if flags[0] == "--format=posix" { &attributes[..] } else { &attributes[2..] };
        ask("tar", &[with, &flags, &["-C", text(&source), "-cf", &archive, "."]].concat());
        ask("tar", &[with, &["-C", text(&extracted), "-xpf", &archive]].concat());
        home.ok(&["--storage-driver", "vfs", "import", &archive]);
        // Told with a failure.
        println!("{flags:?}");
        assert_same(&tree(&home), &extracted, Times::OfAll);
        home.assert_consistent();
    }
}
