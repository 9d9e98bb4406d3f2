//! A disk that is full to the last byte can be cleared by what makes room.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::archives::tar;
use crate::crash::drivers;
use crate::disk::SmallDisk;
use crate::home::Home;

#[test]
fn what_fills_the_disk_can_be_removed() {
    for driver in drivers() {
        for disk in
            [|home: &Home| SmallDisk::ext4(home, 24 << 20), |home: &Home| SmallDisk::tmpfs(home, "8m")]
        {
            let outside = Home::new();
            clears(&disk(&outside), &driver);
        }
    }
}

/// Each removal meets a full disk, also where the one before it made room.
fn clears(disk: &SmallDisk, driver: &str) {
    let home = Home::at(disk.path().join("root"));
    for name in ["a:1", "b:1"] {
        let file = home.file("a.tar", &tar(&[("name", name.as_bytes())]));
        home.ok(&["--storage-driver", driver, "import", &file, name]);
    }
    home.ok(&["create", "--name", "c", "a:1", "/name"]);
    disk.fill();
    home.ok(&["rm", "c"]);
    disk.fill();
    home.ok(&["rmi", "a:1"]);
    disk.fill();
    home.ok(&["prune", "-a"]);
    home.assert_empty();
}

#[test]
fn the_reserve_is_made_again_when_there_is_room() {
    let home = Home::new();
    home.ok(&["images"]);
    let blocks = home.root().join("reserve/blocks");
    let set_aside = || fs::metadata(&blocks).map_or(0, |meta| meta.blocks());
    assert!(set_aside() >= 512, "{}", set_aside());
    // As a removal leaves it that was killed.
    fs::remove_file(&blocks).unwrap();
    home.ok(&["images"]);
    assert!(set_aside() >= 512, "{}", set_aside());
    assert_eq!(home.names("reserve").len(), 16);
}
