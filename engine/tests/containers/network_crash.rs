//! Whatever is killed while a container is being connected to networks, and whenever: the next command takes away what stands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bed::{Bed, eventually, kill, once};

/// What the host has of containers in its networks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Left {
    links: BTreeSet<String>,
    rules: String,
    leases: Vec<String>,
    endpoints: Vec<PathBuf>,
}

impl Left {
    fn now(bed: &Bed) -> Self {
        Self { links: links(), rules: rules(), leases: leases(bed), endpoints: endpoints(bed) }
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn links() -> BTreeSet<String> {
    let text = output("ip", &["-o", "link"]);
    text.lines().map(|line| line.split([':', '@']).nth(1).unwrap().trim().to_owned()).collect()
}

/// Those of either kind, which nft lists without what they counted.
fn rules() -> String {
    output("nft", &["--stateless", "list", "ruleset"])
}

/// What does not outlive the host's run.
fn run(bed: &Bed) -> PathBuf {
    let owner = fs::read_to_string(bed.root().join("owner")).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    Path::new("/run/mica").join(owner.trim()).join(boot.trim())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn endpoints(bed: &Bed) -> Vec<PathBuf> {
    files(&run(bed).join("endpoints"))
}

/// The addresses that somebody has.
fn leases(bed: &Bed) -> Vec<String> {
    let tables = files(&run(bed).join("leases")).into_iter().filter(|path| path.extension().is_some());
    let held = tables.flat_map(|path| {
        let table: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        table["held"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    });
    held.collect()
}

/// The networks stand, as after a container that was connected to them.
fn stand(bed: &Bed) -> Left {
    bed.ok(&["network", "create", "back"]);
    bed.sh(&["--network", "bridge", "--network", "back"], "true");
    eventually("the first container's links are gone", || {
        links().iter().all(|link| !link.starts_with("mive"))
    });
    let left = Left::now(bed);
    assert!(left.leases.is_empty() && left.endpoints.is_empty(), "{left:?}");
    left
}

/// The lock of a process that was killed is free a moment after its client knows, and the kernel takes a moment for a namespace
/// that nobody has any more.
fn assert_nothing_more(bed: &Bed, before: &Left, point: &str) {
    eventually(point, || {
        bed.ok(&["ps", "-a"]);
        Left::now(bed) == *before
    });
}

const CONNECTED: [&str; 8] = [
    "run",
    "--name",
    "c",
    "--network=bridge",
    "--network=back",
    "-p=8080:80",
    "-p=127.0.0.1::53/udp",
    "busybox",
];

/// Every moment of a start from the first thing of networks to the last.
const WAY_UP: [&str; 12] = [
    "network.namespace",
    "network.reserved",
    "network.leased",
    "network.aside",
    "network.recorded",
    "network.up",
    "bridge.attach.born",
    "bridge.attach.inside",
    "bridge.attach.guarded",
    "network.attached",
    "network.written",
    "network.named",
];

/// And of an end.
const WAY_DOWN: [&str; 4] =
    ["network.detaching", "network.detached", "network.forgotten", "network.released"];

#[test]
fn a_start_that_is_killed_leaves_nothing_in_networks() {
    once(|bed| {
        let before = stand(bed);
        for point in WAY_UP {
            let answer = bed.with_failpoint(point, &[&CONNECTED[..], &["true"]].concat());
            assert_ne!(answer.status, Some(0), "{point}");
            assert_nothing_more(bed, &before, point);
            bed.ok(&["start", "-a", "c"]);
            bed.ok(&["rm", "c"]);
            assert_nothing_more(bed, &before, point);
        }
    });
}

#[test]
fn a_start_that_fails_leaves_nothing_in_networks() {
    once(|bed| {
        let before = stand(bed);
        for point in WAY_UP {
            let answer = bed.with_failpoint(&format!("{point}=error"), &[&CONNECTED[..], &["true"]].concat());
            assert_eq!(answer.status, Some(125), "{point}: {answer:?}");
            assert!(answer.err.contains(&format!("failpoint {point}")), "{answer:?}");
            assert_nothing_more(bed, &before, point);
            bed.ok(&["rm", "c"]);
        }
    });
}

#[test]
fn an_end_that_is_killed_leaves_nothing_in_networks() {
    once(|bed| {
        let before = stand(bed);
        for point in WAY_DOWN {
            bed.with_failpoint(point, &[&CONNECTED[..], &["true"]].concat());
            assert_nothing_more(bed, &before, point);
            bed.ok(&["rm", "c"]);
        }
    });
}

#[test]
fn what_one_firewall_was_told_is_taken_out_of_the_same_one() {
    once(|bed| {
        let run = ["--firewall=iptables", "run", "-d", "--name=c", "-p=8080:80", "busybox", "sleep", "1000"];
        bed.ok(&run);
        bed.ok(&["rm", "-f", "c"]);
        eventually("its link is gone", || links().len() == 2);
        let before = Left::now(bed);
        assert!(before.leases.is_empty() && before.rules.contains("counter drop"), "{before:?}");
        bed.ok(&run);
        assert!(rules().contains("dport 8080"));
        kill(bed.supervisor("c"));
        assert_nothing_more(bed, &before, "kill");
        bed.ok(&["rm", "c"]);
        let refused = bed.fails(125, &["--firewall=nft", "run", "busybox", "true"]);
        assert!(refused.contains("'iptables' until 'mica network check --undo'"), "{refused}");
        bed.clear();
        bed.ok(&["network", "check", "--undo"]);
        bed.ok(&["--firewall=nft", "run", "--rm", "busybox", "true"]);
    });
}

#[test]
fn a_container_whose_supervisor_is_killed_leaves_nothing_in_networks() {
    once(|bed| {
        let before = stand(bed);
        bed.ok(&[&["run", "-d"], &CONNECTED[1..], &["sleep", "1000"]].concat());
        assert_eq!((leases(bed).len(), endpoints(bed).len()), (4, 2));
        kill(bed.supervisor("c"));
        assert!(bed.ok(&["ps", "-a"]).contains("Exited (137)"));
        assert_nothing_more(bed, &before, "kill");
        bed.ok(&["start", "c"]);
        kill(bed.supervisor("c"));
        // Nobody has looked at it since.
        bed.ok(&["network", "rm", "back"]);
        bed.ok(&["rm", "-f", "c"]);
    });
}

#[test]
fn a_container_that_is_killed_while_it_is_connected_to_a_network_that_is_not_its_own_yet_leaves_nothing() {
    once(|bed| {
        let before = stand(bed);
        bed.ok(&["create", "--name=c", "busybox", "sleep", "1000"]);
        bed.ok(&["network", "disconnect", "bridge", "c"]);
        for point in ["network.leased", "network.aside", "network.recorded", "network.attached"] {
            assert_eq!(bed.with_failpoint(point, &["start", "c"]).status, Some(0), "{point}");
            assert_ne!(bed.run(&["network", "connect", "back", "c"]).status, Some(0), "{point}");
            assert_nothing_more(bed, &before, point);
        }
    });
}

#[test]
fn taking_away_what_was_left_can_be_killed_too() {
    once(|bed| {
        let before = stand(bed);
        for point in WAY_DOWN.iter().chain(&["recover.released"]) {
            bed.ok(&[&["run", "-d"], &CONNECTED[1..], &["sleep", "1000"]].concat());
            kill(bed.supervisor("c"));
            assert_eq!(bed.with_failpoint(point, &["ps", "-a"]).status, None, "{point}");
            assert!(bed.ok(&["ps", "-a"]).contains("Exited (137)"));
            assert_nothing_more(bed, &before, point);
            bed.ok(&["rm", "c"]);
        }
    });
}

#[test]
fn what_cannot_be_taken_away_is_told_and_is_taken_away_later() {
    once(|bed| {
        let before = stand(bed);
        bed.ok(&[&["run", "-d"], &CONNECTED[1..], &["sleep", "1000"]].concat());
        kill(bed.supervisor("c"));
        bed.with_failpoint("network.detaching=error", &["ps", "-a"]);
        assert!(bed.field("c", "{{.State.Error}}").contains("failpoint network.detaching"));
        assert_eq!(endpoints(bed).len(), 2);
        bed.ok(&["start", "c"]);
        assert_eq!(endpoints(bed).len(), 2);
        bed.ok(&["rm", "-f", "c"]);
        assert_nothing_more(bed, &before, "later");
    });
}
