//! Networks of a container that runs: they come and go, they are shared, and they are mended.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::bed::{Bed, either_runtime, eventually, kill, once};

/// Says hello to everyone who comes to port 80.
const GREETER: &str = "while true; do echo hello | busybox nc -l -p 80; done";

fn greeter(bed: &Bed, flags: &[&str]) {
    bed.ok(&[&["run", "-d", "--name", "c"], flags, &["busybox", "sh", "-c", GREETER]].concat());
}

fn greeting(at: &str) -> Option<String> {
    let address = at.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// It is reached in every way in which the host reaches a published port.
fn assert_reached(what: &str) {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        eventually(&format!("{what}: {at}"), || greeting(at).as_deref() == Some("hello\n"));
    }
}

fn inside(bed: &Bed, command: &str) -> String {
    bed.ok(&["exec", "c", "sh", "-c", command])
}

/// The interface of each default route.
fn gateways(bed: &Bed) -> [Vec<String>; 2] {
    ["-4", "-6"].map(|family| {
        let routes = inside(bed, &format!("busybox ip {family} route show default"));
        let words = routes.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let device =
            words.map(|words| words[words.iter().position(|word| *word == "dev").unwrap() + 1].to_owned());
        device.collect()
    })
}

fn on(interface: &str) -> [Vec<String>; 2] {
    [vec![interface.to_owned()], vec![interface.to_owned()]]
}

fn host(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success());
}

fn rules() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_container_is_on_its_network_under_every_runtime() {
    either_runtime(|bed| {
        greeter(bed, &["-p", "8080:80"]);
        assert_reached("a start");
        let settings = "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range";
        assert_eq!(inside(bed, settings), "0\n0\t2147483647\n");
        let joined = bed.sh(&["--network", "container:c"], "hostname; cat /etc/hosts; busybox ip -o addr");
        assert_eq!(joined, inside(bed, "hostname; cat /etc/hosts; busybox ip -o addr"));
        bed.ok(&["restart", "-t", "0", "c"]);
        assert_reached("a restart");
    });
}

#[test]
fn a_network_that_comes_takes_the_gateway_and_its_ports_and_gives_them_back_when_it_goes() {
    once(|bed| {
        bed.ok(&["network", "create", "back"]);
        greeter(bed, &["--network", "bridge", "-p", "8080:80"]);
        assert_eq!(gateways(bed), on("eth0"));
        assert_reached("one network");
        // Of two that could be the gateway it is the first by name.
        bed.ok(&["network", "connect", "back", "c"]);
        assert_eq!(gateways(bed), on("eth1"));
        assert_reached("two networks");
        assert!(
            bed.fails(1, &["network", "connect", "back", "c"]).contains("already exists in network back")
        );
        bed.ok(&["network", "disconnect", "bridge", "c"]);
        assert_eq!(gateways(bed), on("eth1"));
        assert!(!inside(bed, "busybox ip -o link").contains("eth0"));
        bed.ok(&["network", "connect", "bridge", "c"]);
        bed.ok(&["network", "disconnect", "back", "c"]);
        assert_eq!(gateways(bed), on("eth0"));
        assert_reached("the first again");
        assert!(bed.fails(1, &["network", "disconnect", "back", "c"]).contains("is not connected to"));
        bed.ok(&["network", "disconnect", "bridge", "c"]);
        assert_eq!(gateways(bed), [Vec::<String>::new(), Vec::new()]);
        assert_eq!(greeting("127.0.0.1:8080"), None);
        bed.ok(&["network", "connect", "back", "c"]);
        assert_reached("after none");
        // It is so whenever it runs.
        bed.ok(&["restart", "-t", "0", "c"]);
        assert_eq!(gateways(bed), on("eth0"));
        assert_reached("a restart");
        bed.ok(&["kill", "c"]);
        bed.ok(&["wait", "c"]);
        bed.ok(&["network", "connect", "bridge", "c"]);
        bed.ok(&["network", "disconnect", "back", "c"]);
        bed.ok(&["start", "c"]);
        assert_reached("another one while it was stopped");
        bed.ok(&["network", "rm", "back"]);
    });
}

#[test]
fn a_network_that_cannot_come_changes_nothing() {
    once(|bed| {
        bed.ok(&["network", "create", "--subnet", "10.77.0.0/24", "back"]);
        bed.ok(&[
            "run",
            "-d",
            "--name",
            "other",
            "--network",
            "back",
            "--ip",
            "10.77.0.9",
            "busybox",
            "sleep",
            "1000",
        ]);
        greeter(bed, &["-p", "8080:80"]);
        let before = inside(bed, "busybox ip addr; busybox ip route; cat /etc/hosts");
        let refused = bed.fails(1, &["network", "connect", "--ip", "10.77.0.9", "back", "c"]);
        assert!(refused.contains("10.77.0.9") && refused.contains("'other'"), "{refused}");
        assert_eq!(inside(bed, "busybox ip addr; busybox ip route; cat /etc/hosts"), before);
        assert_eq!(gateways(bed), on("eth0"));
        assert_reached("as before");
        assert!(!bed.ok(&["network", "inspect", "back"]).contains("\"c\""));
        bed.ok(&["network", "connect", "--ip", "10.77.0.10", "back", "c"]);
        assert!(inside(bed, "busybox ip -o addr show eth1").contains("10.77.0.10/24"));
    });
}

#[test]
fn what_is_killed_while_networks_come_and_go_leaves_nothing() {
    once(|bed| {
        bed.ok(&["network", "create", "back"]);
        for point in ["network.updating", "network.updated"] {
            let run = ["run", "-d", "--name", "c", "-p", "8080:80", "busybox", "sleep", "1000"];
            assert_eq!(bed.with_failpoint(point, &run).status, Some(0), "{point}");
            assert_ne!(bed.run(&["network", "connect", "back", "c"]).status, Some(0), "{point}");
            eventually(point, || bed.ok(&["ps", "-a"]).contains("Exited (137)"));
            assert!(!rules().contains("8080"), "{point}");
            bed.ok(&["start", "c"]);
            assert_eq!(bed.field("c", "{{json .NetworkSettings.Networks}}").matches("NetworkID").count(), 1);
            bed.ok(&["rm", "-f", "c"]);
            let failing = format!("{point}=error");
            assert_eq!(bed.with_failpoint(&failing, &run).status, Some(0), "{point}");
            assert!(bed.fails(1, &["network", "connect", "back", "c"]).contains("failpoint"), "{point}");
            assert!(bed.ok(&["ps"]).contains("Up"), "{point}");
            bed.ok(&["rm", "-f", "c"]);
        }
    });
}

#[test]
fn what_is_killed_while_it_is_disconnected_leaves_nothing_and_is_connected_still() {
    once(|bed| {
        for point in ["network.detaching", "network.detached", "network.forgotten", "network.released"] {
            let run = ["run", "-d", "--name", "c", "-p", "8080:80", "busybox", "sleep", "1000"];
            assert_eq!(bed.with_failpoint(point, &run).status, Some(0), "{point}");
            assert_ne!(bed.run(&["network", "disconnect", "bridge", "c"]).status, Some(0), "{point}");
            eventually(point, || bed.ok(&["ps", "-a"]).contains("Exited (137)"));
            assert!(!rules().contains("8080"), "{point}");
            bed.ok(&["start", "c"]);
            assert!(rules().contains("8080"), "{point}");
            bed.ok(&["rm", "-f", "c"]);
        }
    });
}

#[test]
fn what_cannot_be_disconnected_stays_unless_it_is_forced_and_is_found_by_a_check_then() {
    once(|bed| {
        let run = ["run", "-d", "--name", "c", "-p", "8080:80", "busybox", "sh", "-c", GREETER];
        assert_eq!(bed.with_failpoint("network.detaching=error", &run).status, Some(0));
        let failed = bed.fails(1, &["network", "disconnect", "bridge", "c"]);
        assert!(failed.contains("failpoint network.detaching"), "{failed}");
        assert_reached("as before");
        bed.ok(&["network", "disconnect", "-f", "bridge", "c"]);
        assert_eq!(bed.field("c", "{{json .NetworkSettings.Networks}}"), "{}");
        let found = bed.run(&["network", "check"]);
        assert!(found.status != Some(0) && format!("{found:?}").contains("which has no record"), "{found:?}");
        bed.ok(&["network", "check", "--repair"]);
        assert!(!rules().contains("8080"));
        bed.ok(&["rm", "-f", "c"]);
    });
}

#[test]
fn a_network_whose_driver_publishes_no_ports_keeps_none_on_the_host() {
    once(|bed| {
        host("ip", &["link", "add", "mothership", "type", "bridge"]);
        host("ip", &["link", "set", "mothership", "up"]);
        bed.ok(&[
            "network",
            "create",
            "-d",
            "macvlan",
            "-o",
            "parent=mothership",
            "--subnet",
            "10.78.0.0/24",
            "lan",
        ]);
        let told = |line: &str| {
            let answer = bed.run(&line.split(' ').collect::<Vec<_>>());
            assert_eq!(answer.status, Some(0), "{answer:?}");
            answer.err
        };
        let in_vain = "warning: not published: 8080:80/tcp: the container's way out is network 'lan', and driver \
                       'macvlan' publishes no ports";
        assert!(told("create --name c --network lan -p 8080:80 busybox sleep 1000").contains(in_vain));
        assert!(told("start c").contains(in_vain));
        assert!(inside(bed, "busybox ip -o addr show eth0").contains("10.78.0."));
        drop(TcpListener::bind("0.0.0.0:8080").unwrap());
        // From now on there is a network that does.
        assert_eq!(told("network connect --gw-priority 1 bridge c"), "");
        assert!(TcpListener::bind("0.0.0.0:8080").is_err());
        assert!(told("network disconnect bridge c").contains(in_vain));
        drop(TcpListener::bind("0.0.0.0:8080").unwrap());
        bed.ok(&["network", "create", "--internal", "inner"]);
        assert!(told("network connect inner c").contains(in_vain));
        assert!(
            told("network disconnect lan c")
                .contains("none of the container's networks leads out of the host")
        );
    });
}

#[test]
fn rules_that_were_flushed_come_back_with_the_next_look_the_next_container_and_a_repair() {
    once(|bed| {
        bed.ok(&["network", "create", "back"]);
        greeter(bed, &["-p", "8080:80"]);
        assert_reached("a start");
        assert_eq!(bed.run(&["network", "check"]).status, Some(0));
        for _ in 0..2 {
            host("nft", &["flush", "ruleset"]);
            assert_eq!(greeting("127.0.0.1:8080"), None);
            // Of another network of the same driver.
            bed.sh(&["--network", "back"], "true");
            assert_reached("the next container");
        }
        for look in [
            &["ps"][..],
            &["port", "c"],
            &["inspect", "c"],
            &["network", "ls"],
            &["network", "inspect", "back"],
        ] {
            host("nft", &["flush", "ruleset"]);
            if look[0] != "network" {
                bed.ok(look);
                assert_eq!(rules(), "", "they looked a moment ago");
                networks_were_looked_at_a_minute_ago(bed);
            }
            bed.ok(look);
            assert_reached(&look.join(" "));
        }
        host("nft", &["flush", "ruleset"]);
        let found = bed.run(&["network", "check"]);
        assert!(found.status != Some(0) && format!("{found:?}").contains("'c'"), "{found:?}");
        bed.ok(&["network", "check", "--repair"]);
        assert_reached("a repair");
        host("ip", &["addr", "flush", "dev", "mica0"]);
        let told = bed.ok(&["network", "check", "--repair"]);
        assert!(told.contains("mended for container 'c'") && told.contains("'mica0' lacks"), "{told}");
        assert_reached("a repair of the bridge");
        assert_eq!(bed.run(&["network", "check"]).status, Some(0));
    });
}

fn networks_were_looked_at_a_minute_ago(bed: &Bed) {
    let owner = std::fs::read_to_string(bed.root().join("owner")).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let note = format!("/run/mica/{}/{}/namespace", owner.trim(), boot.trim());
    let note = std::fs::File::options().write(true).open(note).unwrap();
    note.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
}

#[test]
fn who_looks_from_another_network_namespace_makes_nothing_there() {
    once(|bed| {
        greeter(bed, &[]);
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                bed.ok(&["network", "ls"]);
                assert_eq!(rules(), "");
                let links =
                    Command::new("ip").args(["-o", "link", "show", "type", "bridge"]).output().unwrap();
                assert_eq!(String::from_utf8(links.stdout).unwrap(), "");
            });
            elsewhere.join().unwrap();
        });
    });
}

#[test]
fn the_default_network_moves_where_its_place_was_taken_before_it_stood() {
    once(|bed| {
        for taken in ["interface", "subnet"] {
            let was = bed.ok(&["network", "inspect", "-f", "{{json .IPAM}}", "bridge"]);
            let gateway = was.split('"').find(|word| word.starts_with("172.")).unwrap();
            if taken == "interface" {
                host("ip", &["link", "add", "mica0", "type", "bridge"]);
            } else {
                bed.ok(&["network", "check", "--undo"]);
                host("ip", &["link", "add", "lan0", "type", "bridge"]);
                host("ip", &["addr", "add", &format!("{gateway}/24"), "dev", "lan0"]);
            }
            let answer =
                bed.run(&["run", "-d", "--name", "c", "-p", "8080:80", "busybox", "sh", "-c", GREETER]);
            assert!(answer.err.contains("moved network 'bridge' from"), "{answer:?}");
            assert_reached("elsewhere");
            let again = bed.run(&["run", "--rm", "busybox", "true"]);
            assert!(again.status == Some(0) && !again.err.contains("moved"), "{again:?}");
            bed.ok(&["rm", "-f", "c"]);
        }
    });
}

#[test]
fn the_network_of_a_container_that_does_not_run_cannot_be_joined() {
    once(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "true"]);
        let refused = bed.fails(125, &["run", "--name", "d", "--network", "container:c", "busybox", "true"]);
        assert!(refused.contains("container c: it is not running"), "{refused}");
        assert!(
            bed.fails(125, &["run", "--network", "container:nosuch", "busybox", "true"]).contains("nosuch")
        );
        assert!(bed.fails(1, &["network", "connect", "bridge", "d"]).contains("sharing network namespace"));
    });
}

#[test]
fn those_who_share_a_network_share_it_in_a_row_and_keep_what_its_owner_left() {
    once(|bed| {
        bed.ok(&["run", "-d", "--name", "a", "busybox", "sleep", "1000"]);
        bed.ok(&["run", "-d", "--name", "b", "--network", "container:a", "busybox", "sleep", "1000"]);
        bed.ok(&["run", "-d", "--name", "c", "--network", "container:b", "busybox", "sleep", "1000"]);
        let shown = "busybox ip -o addr; cat /etc/hosts";
        assert_eq!(inside(bed, shown), bed.ok(&["exec", "a", "sh", "-c", shown]));
        kill(bed.supervisor("a"));
        bed.ok(&["ps"]);
        eventually("its interface is gone", || !inside(bed, "busybox ip -o link").contains("eth0"));
        assert!(inside(bed, "busybox ip -o link").contains("lo"));
    });
}

#[test]
fn a_fixed_address_waits_for_the_container_that_has_it() {
    once(|bed| {
        bed.ok(&["network", "create", "--subnet", "10.77.0.0/29", "small"]);
        bed.ok(&["create", "--name", "fixed", "--network", "small", "--ip", "10.77.0.3", "busybox", "true"]);
        for _ in 0..6 {
            let address = bed.sh(&["--network", "small"], "busybox ip -o -4 addr show eth0");
            assert!(!address.contains("10.77.0.3/"), "{address}");
        }
        bed.ok(&["start", "-a", "fixed"]);
    });
}
