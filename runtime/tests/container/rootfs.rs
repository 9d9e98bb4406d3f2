//! What a container sees of file systems, and what it cannot reach.

use std::fs;
use std::os::unix::fs::symlink;

use crate::bed::Bed;
use crate::cases;

cases![
    masked_paths_are_empty_and_readonly_paths_refuse_writes,
    the_hosts_file_systems_are_gone,
    a_readonly_root_refuses_writes_and_its_volumes_do_not,
    a_recursive_readonly_bind_covers_the_mounts_below,
    a_plain_readonly_bind_leaves_the_mounts_below,
    a_file_is_bound_onto_a_file_that_was_missing,
    an_image_whose_dev_is_a_link_gets_no_node_outside,
    an_image_whose_proc_is_a_link_is_refused,
    a_mount_target_behind_links_stays_inside,
    nothing_is_mounted_over_the_kernels_files,
    devices_of_the_bundle_are_made_and_usable,
    a_device_that_is_not_allowed_cannot_be_opened,
    sysctls_of_the_container_are_set_inside_only,
    loopback_works_and_nothing_else_is_there,
    names_are_the_containers_own,
    no_mount_is_left_in_the_supervisor,
];

fn add_mount(bed: &mut Bed, mount: serde_json::Value) {
    bed.spec.mounts_mut().as_mut().unwrap().push(serde_json::from_value(mount).unwrap());
}

fn masked_paths_are_empty_and_readonly_paths_refuse_writes() {
    let mut bed = Bed::new(
        "wc -c < /proc/keys; ls /proc/acpi /sys/firmware | grep -v : | grep . ; touch /sys/firmware/x && echo bad;
         echo 1 > /proc/sys/kernel/panic && echo bad; echo b > /proc/sysrq-trigger && echo bad;
         mount -o remount,rw /proc/sys && echo bad; umount /proc/keys && echo bad; touch /sys/x && echo bad; true",
    );
    let ran = bed.run();
    assert!(ran.output.starts_with("0\n"), "{}", ran.output);
    assert!(!ran.output.contains("bad"), "{}", ran.output);
}

fn the_hosts_file_systems_are_gone() {
    let mut bed =
        Bed::new("ls /; wc -l < /proc/1/mounts; test -e /proc/1/root/var/lib && echo bad; ls /.. | wc -l");
    let output = bed.run().output;
    assert!(output.starts_with("bin\ndev\netc\nproc\nsys\ntmp\n"), "{output}");
    assert!(!output.contains("bad"), "{output}");
}

fn a_readonly_root_refuses_writes_and_its_volumes_do_not() {
    let mut bed = Bed::new("touch /x && echo bad; touch /data/x && touch /dev/shm/x && echo good");
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    add_mount(
        &mut bed,
        serde_json::json!({"destination": "/data", "source": volume, "options": ["rbind", "rprivate"]}),
    );
    bed.spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
    let ran = bed.run();
    assert!(ran.output.ends_with("good\n") && !ran.output.contains("bad"), "{}", ran.output);
    assert!(volume.join("x").exists());
}

/// Binds the host's `/dev`, which has mounts below, on `/data`: which of the two may be written?
fn bound(option: &str) -> String {
    let mut bed =
        Bed::new("grep -E ' /data(/shm)? ' /proc/self/mountinfo | cut -d' ' -f5,6 | cut -d, -f1 | sort -u");
    add_mount(
        &mut bed,
        serde_json::json!({"destination": "/data", "source": "/dev", "options": ["rbind", option]}),
    );
    bed.run().output
}

fn a_recursive_readonly_bind_covers_the_mounts_below() {
    assert_eq!(bound("rro"), "/data ro\n/data/shm ro\n");
}

fn a_plain_readonly_bind_leaves_the_mounts_below() {
    assert_eq!(bound("ro"), "/data ro\n/data/shm rw\n");
    assert_eq!(bound("rw"), "/data rw\n/data/shm rw\n");
}

fn a_file_is_bound_onto_a_file_that_was_missing() {
    let mut bed = Bed::new("cat /run/deep/name; echo more > /run/deep/name || echo refused");
    let file = bed.path("file");
    fs::write(&file, "text\n").unwrap();
    add_mount(
        &mut bed,
        serde_json::json!({"destination": "/run/deep/name", "source": file, "options": ["bind", "ro"]}),
    );
    let output = bed.run().output;
    assert!(output.starts_with("text\n") && output.ends_with("refused\n"), "{output}");
    assert!(bed.root().join("run/deep/name").is_file());
}

fn an_image_whose_dev_is_a_link_gets_no_node_outside() {
    let mut bed = Bed::new("test -c /dev/null && echo inside");
    let trap = bed.path("trap");
    fs::create_dir(&trap).unwrap();
    fs::remove_dir(bed.root().join("dev")).unwrap();
    symlink(&trap, bed.root().join("dev")).unwrap();
    assert_eq!(bed.run().output, "inside\n");
    assert_eq!(fs::read_dir(&trap).unwrap().count(), 0);
}

fn an_image_whose_proc_is_a_link_is_refused() {
    let mut bed = Bed::new("true");
    fs::remove_dir(bed.root().join("proc")).unwrap();
    symlink("/tmp", bed.root().join("proc")).unwrap();
    let failure = bed.create().unwrap_err();
    assert!(failure.text.starts_with("mounting proc on /proc"), "{}", failure.text);
    assert!(bed.cgroups().is_empty());
}

fn a_mount_target_behind_links_stays_inside() {
    let mut bed = Bed::new("cat /up/secret /abs/secret");
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("secret"), "s").unwrap();
    symlink("../../../../../../../../escape", bed.root().join("up")).unwrap();
    symlink("/escape2/deep", bed.root().join("abs")).unwrap();
    for target in ["/up", "/abs"] {
        add_mount(
            &mut bed,
            serde_json::json!({"destination": target, "source": volume, "options": ["rbind"]}),
        );
    }
    assert_eq!(bed.run().output, "ss");
    assert!(bed.root().join("escape").is_dir() && bed.root().join("escape2/deep").is_dir());
}

fn nothing_is_mounted_over_the_kernels_files() {
    let mut bed = Bed::new("true");
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    for target in ["/proc/self/attr", "/proc/sys", "/proc"] {
        let mut spec = bed.spec.clone();
        add_mount(
            &mut bed,
            serde_json::json!({"destination": target, "source": volume, "options": ["bind"]}),
        );
        let failure = bed.create().unwrap_err();
        assert!(failure.text.contains("the kernel's"), "{}", failure.text);
        std::mem::swap(&mut spec, &mut bed.spec);
    }
}

fn devices_of_the_bundle_are_made_and_usable() {
    let mut bed = Bed::new(
        "stat -c '%a %t:%T' /dev/deep/zero; head -c 3 /dev/deep/zero | wc -c; ls -l /dev/deep | cut -c1 | tail -1",
    );
    let devices = serde_json::json!([{
        "path": "/dev/deep/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4,
    }]);
    bed.linux().set_devices(Some(serde_json::from_value(devices).unwrap()));
    assert_eq!(bed.run().output, "640 1:5\n3\nc\n");
}

fn a_device_that_is_not_allowed_cannot_be_opened() {
    // 1:11 is /dev/kmsg.
    let mut bed = Bed::new(
        "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg && echo bad; \
         mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero | wc -c",
    );
    let output = bed.run().output;
    assert!(output.ends_with("1\n") && !output.contains("bad"), "{output}");
}

fn sysctls_of_the_container_are_set_inside_only() {
    let host = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    let mut bed =
        Bed::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced");
    let sysctl = bed.linux().sysctl_mut().as_mut().unwrap();
    sysctl.insert("kernel.shm_rmid_forced".into(), "1".into());
    assert_eq!(bed.run().output, "0\n1\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), host);
}

fn loopback_works_and_nothing_else_is_there() {
    let ran =
        Bed::new("ls /sys/class/net | tr '\\n' ' '; ip addr show lo | grep -o 'inet 127.0.0.1/8'").run();
    assert!(ran.output.contains("lo "), "{}", ran.output);
    assert!(ran.output.ends_with("inet 127.0.0.1/8\n"), "{}", ran.output);
}

fn names_are_the_containers_own() {
    let mut bed = Bed::new("hostname; cat /proc/sys/kernel/domainname");
    bed.spec.set_hostname(Some("box".into())).set_domainname(Some("example".into()));
    let host = rustix::system::uname().nodename().to_owned();
    assert_eq!(bed.run().output, "box\nexample\n");
    assert_eq!(rustix::system::uname().nodename(), host.as_c_str());
}

fn no_mount_is_left_in_the_supervisor() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let mounts = |bed: &Bed| fs::read_to_string(format!("/proc/{}/mountinfo", bed.supervisor.pid())).unwrap();
    bed.create().unwrap();
    let before = mounts(&bed);
    bed.supervisor.start().unwrap();
    bed.supervisor.delete().unwrap();
    assert_eq!(mounts(&bed), before);
    assert!(!before.contains(bed.root().to_str().unwrap()), "{before}");
}
