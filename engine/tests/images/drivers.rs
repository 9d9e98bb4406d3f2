//! The drivers of a host, and choosing one.

use std::process::Command;

use crate::home::{Answer, Home, MICA};

/// `mica` where the kernel has no device mapper to be seen.
fn without_device_mapper(home: &Home, arguments: &[&str]) -> Answer {
    let hide = "[ ! -d /dev/mapper ] || mount -t tmpfs none /dev/mapper; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hide, "sh", MICA, "--root"]).arg(home.root()).args(arguments);
    command.env_remove("MICA_ROOT").output().unwrap().into()
}

#[test]
fn a_driver_that_the_host_lacks_is_refused_with_the_reason_and_where_to_find_others() {
    let home = Home::new();
    for arguments in [&["info"][..], &["import", "/dev/null"], &["drivers", "test", "devmapper"]] {
        let arguments = [&["--storage-driver", "devmapper"], arguments].concat();
        let text = without_device_mapper(&home, &arguments).refusal();
        assert!(text.contains("storage driver 'devmapper' is not available on this host: "), "{text}");
        assert!(text.contains("/dev/mapper/control"), "{text}");
        assert!(text.contains("'mica drivers' lists those that are"), "{text}");
    }
    assert_eq!(home.names("storage"), Vec::<String>::new());
}

#[test]
fn reasons_stand_below_the_list_of_drivers_and_not_in_it() {
    let answer = without_device_mapper(&Home::new(), &["drivers"]).out;
    let (table, reasons) = answer.split_once("\n\n").unwrap();
    let row = table.lines().find(|line| line.starts_with("devmapper")).unwrap();
    assert_eq!(row.split_whitespace().nth(1), Some("unavailable"));
    assert!(table.lines().next().unwrap().find("CAN").unwrap() < 30, "{table}");
    assert!(reasons.contains("devmapper is unavailable: no device mapper: "), "{reasons}");
}

#[test]
fn what_must_be_set_up_before_it_is_good_is_no_automatic_choice() {
    let names = Home::new().ok(&["drivers", "--format", "{{.Name}}"]);
    let place = |name| names.lines().position(|line| line == name).unwrap();
    // The first that opens is taken, and vfs opens everywhere.
    assert!(place("vfs") < place("devmapper"), "{names}");
}

#[test]
fn network_drivers_stand_in_a_list_of_their_own() {
    let home = Home::new();
    let storage = home.ok(&["drivers", "--format", "{{.Name}}"]);
    let network = home.ok(&["drivers", "--network", "--format", "{{.Name}}"]);
    assert!(network.lines().count() > 1 && network.lines().all(|name| !storage.lines().any(|s| s == name)));
    let both = home.ok(&["drivers"]);
    assert!(storage.lines().chain(network.lines()).all(|name| both.contains(name)), "{both}");
}

#[test]
fn a_network_driver_is_shown_and_tested_as_a_storage_driver_is() {
    let home = Home::new();
    for name in home.ok(&["drivers", "--network", "--format", "{{.Name}}"]).lines() {
        let text = home.ok(&["drivers", "show", name]);
        assert!(text.contains("Options of a network:") && text.contains("published ports: "), "{text}");
    }
    let text = home.ok(&["drivers", "test", "none"]);
    assert!(text.starts_with("none: ") && text.contains(" 0 failed, 0 skipped"), "{text}");
}
