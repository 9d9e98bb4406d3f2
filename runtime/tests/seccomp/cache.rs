//! Compiled filters as files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use mica_runtime::seccomp::{cached, compile, default_profile};

use crate::usual_capabilities;

/// The one file of the cache.
fn only_file(dir: &tempfile::TempDir) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn a_profile_is_compiled_once_and_read_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let profile = default_profile(&usual_capabilities(), (6, 1));
    let first = cached(&profile, dir.path()).unwrap();
    let file = only_file(&dir);
    let inode = fs::metadata(&file).unwrap().ino();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);

    assert_eq!(cached(&profile, dir.path()).unwrap(), first);
    assert_eq!(first, compile(&profile).unwrap());
    assert_eq!(fs::metadata(only_file(&dir)).unwrap().ino(), inode, "not written again");

    cached(&default_profile(&usual_capabilities(), (4, 7)), dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "another profile is another file");
}

#[test]
fn a_damaged_file_is_replaced_and_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let profile = default_profile(&usual_capabilities(), (6, 1));
    let program = cached(&profile, dir.path()).unwrap();
    let file = only_file(&dir);
    let whole = fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged = [
        Vec::new(),
        whole[..whole.len() - 1].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        [&whole[..], &[0]].concat(),
        vec![0; whole.len()],
        vec![0; 1 << 20],
        flipped(0),
        flipped(8),
        flipped(100),
        flipped(whole.len() - 1),
    ];
    for bytes in damaged {
        fs::write(&file, &bytes).unwrap();
        assert_eq!(cached(&profile, dir.path()).unwrap(), program);
        assert_eq!(fs::read(only_file(&dir)).unwrap(), whole, "after {} bytes", bytes.len());
    }
}

#[test]
fn a_file_that_others_can_write_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let profile = default_profile(&usual_capabilities(), (6, 1));
    cached(&profile, dir.path()).unwrap();
    let file = only_file(&dir);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    cached(&profile, dir.path()).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_cache_that_cannot_be_written_costs_time_and_nothing_else() {
    let profile = default_profile(&usual_capabilities(), (6, 1));
    let program = cached(&profile, "/nonexistent/cache".as_ref()).unwrap();
    assert_eq!(program, compile(&profile).unwrap());
}
