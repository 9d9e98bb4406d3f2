//! Any bytes as a split: assembled or refused.

#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use libfuzzer_sys::fuzz_target;
use mica_archive::{Digest, split};

fuzz_target!(|bytes: &[u8]| {
    let tree = tempfile::tempdir().expect("a directory");
    let root = File::open(tree.path()).expect("the directory");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"MicaSpl1").and_then(|()| file.write_all(bytes)).expect("a split");
    let _ = split::assemble(&file, root.as_fd(), &Digest::of(b""), std::io::sink());
});
