//! Containers in thin volumes. These need device mapper, and are run where it is: by `cargo xtask test`, which has a
//! kernel with it on any host.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::bed::{self, Bed};
use crate::{concurrency, crash, limits, transcript};

const OPTIONS: &[&str] = &["--storage-opt", "devmapper.base_size=64M"];

/// Runs a test on a small pool of its own; afterwards no device is left.
fn on_a_pool(test: impl Fn(&Bed)) {
    bed::on("devmapper", OPTIONS, |bed| {
        test(bed);
        bed.clear();
        assert_eq!(loop_devices(&bed.root()), Vec::<String>::new(), "the pool rests");
    });
}

/// The loop devices on files below a directory, which a pool in use has two of.
fn loop_devices(dir: &Path) -> Vec<String> {
    let blocks = fs::read_dir("/sys/block").unwrap().flatten();
    let files = blocks.filter_map(|block| fs::read_to_string(block.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(dir.to_str().unwrap())).collect()
}

/// The output of a command on the same root, with another driver.
fn with_driver(bed: &Bed, driver: &str, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(bed::MICA);
    command.arg("--root").arg(bed.root()).args(OPTIONS).args(["--storage-driver", driver]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{driver}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_container_is_run_changed_committed_and_removed() {
    on_a_pool(transcript::from_run_to_rm);
}

#[test]
fn a_detached_container_is_entered_followed_stopped_and_removed() {
    on_a_pool(transcript::detached);
}

#[test]
fn a_container_dies_with_its_supervisor_and_the_next_command_says_so() {
    on_a_pool(crash::killed_supervisors);
}

#[test]
fn a_commit_that_is_killed_lets_the_container_go_on() {
    on_a_pool(crash::killed_commits);
}

#[test]
fn many_run_at_once_and_nothing_is_left() {
    on_a_pool(concurrency::many_at_once);
}

#[test]
fn a_layer_keeps_to_its_size() {
    on_a_pool(limits::limited_in_size);
}

/// Changes of every kind, at times that do not depend on when they are made.
const CHANGES: &str = "echo new > /etc/new; echo more >> /srv/page; rm /bin/stat; rm -r /root; mkdir /root; ln /srv/page /srv/link; \
     ln -s nowhere /tmp/s; mkfifo /tmp/p; chmod 4755 /etc/new; chown 33:34 /tmp; mkdir -p /a/b; echo x > /a/b/c; \
     touch -h -d @1700000001 /etc/new /srv/page /tmp/s /tmp/p /a/b/c; \
     touch -d @1700000002 /a/b /a /root /srv /tmp /bin /etc /";

#[test]
fn what_a_container_changed_is_what_it_is_on_any_driver() {
    on_a_pool(|bed| {
        let on = |driver: &str| {
            with_driver(
                bed,
                driver,
                &["run", "--network=none", "--name", driver, "busybox", "sh", "-c", CHANGES],
            );
            let changes = with_driver(bed, driver, &["diff", driver]);
            let image = with_driver(bed, driver, &["commit", driver]);
            let image = String::from_utf8(image).unwrap();
            let layers = ["inspect", "-f", "{{json .RootFS.Layers}}", image.trim()];
            let layers = with_driver(bed, driver, &layers);
            (String::from_utf8(changes).unwrap(), String::from_utf8(layers).unwrap())
        };
        assert_eq!(on("devmapper"), on("vfs"));
    });
}

#[test]
fn an_image_goes_from_driver_to_driver_and_comes_out_as_it_went_in() {
    on_a_pool(|bed| {
        // Made in one, run in another, and back from that when the first has lost it.
        bed.ok(&["run", "--name", "c", "busybox", "sh", "-c", "echo hi > /new; rm /srv/page"]);
        bed.ok(&["commit", "c", "two"]);
        let saved = with_driver(bed, "devmapper", &["save", "two"]);
        for driver in ["vfs", "devmapper"] {
            assert_eq!(
                with_driver(bed, driver, &["run", "--rm", "--network=none", "two", "cat", "/new"]),
                b"hi\n",
                "{driver}"
            );
        }
        bed.assert_consistent();
        let file = bed.file("two.tar", &saved);
        let root = bed.path("other");
        let other = |arguments: &[&str]| {
            let mut command = Command::new(bed::MICA);
            command.arg("--root").arg(&root).args(["--storage-driver", "vfs"]).args(arguments);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        other(&["load", "-i", &file]);
        assert_eq!(other(&["save", "two"]), saved);
    });
}

#[test]
fn a_container_tells_its_device_and_the_engine_its_pool() {
    on_a_pool(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
        let field = |name: &str| bed.field("c", &format!("{{{{.GraphDriver.Data.{name}}}}}"));
        let name = field("DeviceName");
        assert_eq!(field("DeviceSize"), (64 << 20).to_string());
        let device = Path::new("/sys/block").join(field("Device").strip_prefix("/dev/").unwrap());
        assert_eq!(fs::read_to_string(device.join("dm/name")).unwrap().trim(), name);
        let info = bed.ok(&["info"]);
        for row in [" Pool Name: mica-", " Pool State: good", " Base Size: 64 MiB", " Transaction Id: "] {
            assert!(info.lines().any(|line| line.starts_with(row)), "{row} in {info}");
        }
        bed.ok(&["stop", "-t", "0", "c"]);
        let data = bed.field("c", "{{json .GraphDriver.Data}}");
        assert!(data.contains(&name) && !data.contains("\"Device\""), "{data}");
    });
}

#[test]
fn a_container_cannot_reach_the_device_of_its_own_file_system() {
    on_a_pool(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
        let device = bed.field("c", "{{.GraphDriver.Data.Device}}");
        let device = Path::new("/sys/block").join(device.strip_prefix("/dev/").unwrap());
        let number = fs::read_to_string(device.join("dev")).unwrap().trim().replace(':', " ");
        let script = format!("busybox mknod /d b {number}; dd if=/d of=/dev/null count=1 2>&1");
        let answer = bed.run(&["exec", "c", "sh", "-c", &script]);
        assert!(answer.status != Some(0) && answer.out.contains("Operation not permitted"), "{answer:?}");
    });
}

#[test]
fn a_pool_that_the_kernel_wants_checked_is_told_of_and_is_well_once_it_is() {
    on_a_pool(|bed| {
        let metadata = bed.root().join("storage/devmapper/metadata");
        ask_for_a_check(&metadata);
        let answer = bed.run(&["storage", "check"]);
        assert_eq!(answer.status, Some(1), "{answer:?}");
        let advice = format!("thin_check --clear-needs-check-flag {}", metadata.display());
        assert!(answer.out.contains(&format!("'{advice}'")), "{answer:?}");
        assert!(bed.ok(&["info"]).contains("Pool State: in need of a check"));
        let refused = bed.fails(125, &["run", "--rm", "busybox", "true"]);
        assert!(refused.contains("thin_check"), "{refused}");
        assert!(Command::new("sh").args(["-c", &advice]).output().unwrap().status.success());
        bed.assert_consistent();
        assert_eq!(bed.ok(&["run", "--rm", "busybox", "echo", "well"]), "well\n");
    });
}

/// Sets the mark that the kernel sets after it could not write a pool's metadata: bit 0 of the flags in the superblock,
/// whose checksum is a CRC-32C that begins with a number of its own (`drivers/md/dm-thin-metadata.c`).
fn ask_for_a_check(metadata: &Path) {
    const SUPERBLOCK_CSUM_XOR: u32 = 160_774;
    let file = File::options().read(true).write(true).open(metadata).unwrap();
    let mut block = [0; 4096];
    file.read_exact_at(&mut block, 0).unwrap();
    assert_eq!(block[..4], (crc32c(&block[4..]) ^ SUPERBLOCK_CSUM_XOR).to_le_bytes());
    block[4] |= 1;
    let sum = crc32c(&block[4..]) ^ SUPERBLOCK_CSUM_XOR;
    block[..4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&block, 0).unwrap();
    file.sync_all().unwrap();
}

fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}
