//! What is left when a command is killed between two of its steps.

use std::fs;

use crate::host::Host;

fn files(host: &Host) -> usize {
    fs::read_dir(host.root().join("networks")).unwrap().count()
}

#[test]
fn a_network_that_is_killed_on_its_way_is_there_whole_or_not_at_all() {
    let host = Host::new();
    for (point, left) in [("network.planned", 0), ("network.recorded", 1)] {
        let answer = host.with_failpoint(point, &["network", "create", "web"]);
        assert_eq!(answer.status, None, "{point}: {answer:?}");
        assert_eq!(host.names(&["-f", "type=custom"]).len(), left, "{point}");
        assert_eq!(host.ok(&["network", "check"]), "nothing to do\n", "{point}");
        host.ok(&["network", "rm", "-f", "web"]);
        assert_eq!((files(&host), host.links().lines().count()), (0, 1), "{point}");
    }
    // What was written aside goes with the next record.
    fs::write(host.root().join("networks/0123.json.new"), "{").unwrap();
    host.ok(&["network", "create", "web"]);
    assert_eq!(files(&host), 1);
}

#[test]
fn a_removal_that_is_killed_leaves_nothing_in_the_kernel() {
    let host = Host::new();
    for (point, left) in [("network.down", 1), ("network.removed", 0)] {
        host.ok(&["network", "create", "web"]);
        host.with(|networks| networks.up(&networks.get("web").unwrap()).unwrap());
        assert_eq!(host.links().lines().count(), 2);
        let answer = host.with_failpoint(point, &["network", "rm", "web"]);
        assert_eq!(answer.status, None, "{point}: {answer:?}");
        assert_eq!(host.links().lines().count(), 1, "{point}");
        assert_eq!(host.names(&["-f", "type=custom"]).len(), left, "{point}");
        assert_eq!(host.ok(&["network", "check"]), "nothing to do\n", "{point}");
        host.ok(&["network", "rm", "-f", "web"]);
        assert_eq!(files(&host), 0, "{point}");
    }
}
