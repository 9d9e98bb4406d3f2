//! What the command line says of a container's networks, and what it shows of them.

use serde_json::{Value, json};

use crate::bed::{Bed, once};

fn inspect(bed: &Bed, name: &str) -> Value {
    let shown: Value = serde_json::from_str(&bed.ok(&["inspect", name])).unwrap();
    shown[0].clone()
}

fn names(bed: &Bed, filter: &str) -> String {
    bed.ok(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"])
}

const SLEEP: [&str; 3] = ["busybox", "sleep", "1000"];

#[test]
fn a_container_is_on_the_default_network_unless_it_is_said_to_be_elsewhere() {
    once(|bed| {
        let links = "ls /sys/class/net 2>/dev/null || cat /proc/net/dev | grep -o '[a-z0-9]*:'";
        assert_eq!(bed.sh(&["--network", "none"], links).matches("eth").count(), 0);
        assert_eq!(bed.sh(&[], links).matches("eth").count(), 1);
        bed.ok(&[&["run", "-d", "--name", "c"], &SLEEP[..]].concat());
        let shown = inspect(bed, "c");
        assert_eq!(shown["HostConfig"]["NetworkMode"], "bridge");
        let place = &shown["NetworkSettings"]["Networks"]["bridge"];
        let inside = bed.ok(&["exec", "c", "cat", "/proc/net/fib_trie"]);
        let address = place["IPAddress"].as_str().unwrap();
        assert!(!address.is_empty() && inside.contains(address), "{place} {inside}");
        let mac = bed.ok(&["exec", "c", "cat", "/sys/class/net/eth0/address"]);
        assert_eq!(place["MacAddress"], mac.trim());
        assert_eq!(shown["NetworkSettings"]["IPAddress"], address);
        let network: Value = serde_json::from_str(&bed.ok(&["network", "inspect", "bridge"])).unwrap();
        let member = &network[0]["Containers"][shown["Id"].as_str().unwrap()];
        assert_eq!(member["Name"], "c");
        assert_eq!(member["EndpointID"], place["EndpointID"]);
        assert_eq!(member["IPv4Address"], format!("{address}/{}", place["IPPrefixLen"]));
        assert_eq!(place["NetworkID"], network[0]["Id"]);
        bed.ok(&["kill", "c"]);
        bed.ok(&["wait", "c"]);
        let place = inspect(bed, "c")["NetworkSettings"]["Networks"]["bridge"].clone();
        assert_eq!((&place["IPAddress"], &place["EndpointID"]), (&json!(""), &json!("")), "it has ended");
    });
}

#[test]
fn a_container_that_is_in_no_network_touches_nothing_of_networks() {
    once(|bed| {
        for mode in ["none", "host"] {
            bed.ok(&[&["run", "-d", "--name", mode, "--network", mode], &SLEEP[..]].concat());
            bed.ok(&["exec", mode, "true"]);
            bed.ok(&[&["run", "--rm", "--network", &format!("container:{mode}")], &["busybox", "true"][..]]
                .concat());
            bed.ok(&["ps", "-a"]);
            bed.ok(&["rm", "-f", mode]);
        }
        let made = ["owner", "networks"].map(|name| bed.root().join(name).exists());
        assert_eq!(made, [false, false], "without an owner there is nothing below /run/mica either");
    });
}

#[test]
fn published_ports_are_shown_as_docker_shows_them() {
    once(|bed| {
        let flags = "run -d --name c -p 8080:80 -p 127.0.0.1:9090:90/udp -p [::1]:9091:91 -p 3000-3001:3000-3001 --expose 7";
        bed.ok(&[&flags.split(' ').collect::<Vec<_>>()[..], &SLEEP].concat());
        let column = "7/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 127.0.0.1:9090->90/udp, [::1]:9091->91/tcp, \
                      0.0.0.0:3000-3001->3000-3001/tcp, [::]:3000-3001->3000-3001/tcp\n";
        assert_eq!(bed.ok(&["ps", "--format", "{{.Ports}}"]), column);
        let all = "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n90/udp -> 127.0.0.1:9090\n91/tcp -> [::1]:9091\n\
                   3000/tcp -> 0.0.0.0:3000\n3000/tcp -> [::]:3000\n3001/tcp -> 0.0.0.0:3001\n3001/tcp -> [::]:3001\n";
        assert_eq!(bed.ok(&["port", "c"]), all);
        assert_eq!(bed.ok(&["port", "c", "80"]), "0.0.0.0:8080\n[::]:8080\n");
        assert_eq!(bed.ok(&["port", "c", "90/udp"]), "127.0.0.1:9090\n");
        assert!(bed.fails(1, &["port", "c", "90"]).contains("no public port '90/tcp' published for c"));
        let shown = inspect(bed, "c");
        assert_eq!(
            shown["NetworkSettings"]["Ports"]["80/tcp"],
            json!([{ "HostIp": "0.0.0.0", "HostPort": "8080" }, { "HostIp": "::", "HostPort": "8080" }])
        );
        assert_eq!(shown["NetworkSettings"]["Ports"]["7/tcp"], Value::Null);
        let wished = json!([{ "HostIp": "127.0.0.1", "HostPort": "9090" }]);
        assert_eq!(shown["HostConfig"]["PortBindings"]["90/udp"], wished);
        assert_eq!(shown["Config"]["ExposedPorts"]["3001/tcp"], json!({}));
        for (filter, found) in [
            ("publish=8080", true),
            ("publish=80", false),
            ("publish=9000-9090/udp", true),
            ("publish=9090", false),
            ("expose=80", true),
            ("expose=7", true),
            ("expose=8", false),
        ] {
            assert_eq!(names(bed, filter), if found { "c\n" } else { "" }, "{filter}");
        }
        bed.ok(&["stop", "-t", "0", "c"]);
        assert_eq!(bed.ok(&["port", "c"]), "");
        assert_eq!(bed.ok(&["ps", "-a", "--format", "{{.Ports}}"]), "\n");
        assert_eq!(inspect(bed, "c")["HostConfig"]["PortBindings"]["90/udp"], wished);
    });
}

#[test]
fn what_is_wished_for_in_a_network_is_granted_and_shown() {
    once(|bed| {
        bed.ok(&["network", "create", "--subnet", "10.9.0.0/24,fd09::/64", "web"]);
        let flags = "run -d --name c --network web --ip 10.9.0.9 --ip6 fd09::9 --mac-address 02:00:00:00:00:09 \
                     --network-alias store -h shop";
        bed.ok(&[&flags.split(' ').collect::<Vec<_>>()[..], &SLEEP].concat());
        let shown = inspect(bed, "c");
        let place = &shown["NetworkSettings"]["Networks"]["web"];
        let wished = json!({ "IPv4Address": "10.9.0.9", "IPv6Address": "fd09::9" });
        assert_eq!(place["IPAMConfig"], wished);
        let standing = [&place["IPAddress"], &place["GlobalIPv6Address"], &place["MacAddress"]];
        assert_eq!(standing, ["10.9.0.9", "fd09::9", "02:00:00:00:00:09"]);
        assert_eq!((&place["Gateway"], &place["Aliases"]), (&json!("10.9.0.1"), &json!(["store"])));
        let called = place["DNSNames"].as_array().unwrap();
        assert!(["c", "store", "shop"].iter().all(|name| called.contains(&json!(name))), "{called:?}");
        assert_eq!(shown["HostConfig"]["NetworkMode"], "web");
        assert_eq!(names(bed, "network=web"), "c\n");
        assert_eq!(names(bed, &format!("network={}", place["NetworkID"].as_str().unwrap())), "c\n");
        assert_eq!(names(bed, "network=bridge"), "");
        assert!(bed.fails(1, &["network", "rm", "web"]).contains("in use by 'c'"));
        bed.ok(&["rm", "-f", "c"]);
        bed.ok(&["network", "rm", "web"]);
    });
}

#[test]
fn what_no_network_grants_is_refused_before_anything_is_made() {
    once(|bed| {
        bed.ok(&["network", "create", "--subnet", "10.9.0.0/24", "--ipv6=false", "web"]);
        bed.ok(&[&["run", "-d", "--name", "c"], &SLEEP[..]].concat());
        for (flags, why) in [
            ("--network nosuch", "no such network: nosuch"),
            ("--network web --ip 10.8.0.9", "no configured subnet contains IP address 10.8.0.9"),
            ("--network web --ip6 fd09::9", "network 'web' has no subnet of IPv6"),
            ("--ip 172.16.0.9", "user specified IP address is supported on user defined networks only"),
            ("--network-alias x", "network-scoped aliases are supported only for containers in user defined"),
            ("--network web --network none", "cannot attach both user-defined and non-user-defined"),
            ("--network container:nosuch", "no such container: nosuch"),
            ("--network container:c -p 80:80", "port publishing and the container type network mode"),
            ("--network container:c -h x", "conflicting options: hostname and the network mode"),
            ("--network container:c --dns 10.0.0.1", "conflicting options: dns and the network mode"),
            ("--network host --mac-address 02:00:00:00:00:09", "mac-address and the network mode"),
            ("-p 80-81:80-82", "2 of the host cannot stand for 3 of the container"),
            ("--ip x", "invalid value 'x' for '--ip <ADDRESS>'"),
        ] {
            for verb in ["run", "create"] {
                let arguments = [&[verb][..], &flags.split(' ').collect::<Vec<_>>(), &SLEEP].concat();
                let text = bed.fails(125, &arguments);
                assert!(text.contains(why), "{flags}: {text}");
            }
        }
        assert_eq!(bed.ok(&["ps", "-aq"]).lines().count(), 1);
        bed.ok(&["rm", "-f", "c"]);
        bed.ok(&["network", "rm", "web"]);
    });
}

#[test]
fn ports_that_cannot_be_published_are_discarded_aloud() {
    once(|bed| {
        for mode in ["host", "none"] {
            let answer = bed.run(&["run", "--rm", "--network", mode, "-p", "80:80", "busybox", "true"]);
            let said =
                format!("mica: warning: published ports are discarded when using {mode} network mode\n");
            assert_eq!((answer.status, answer.err), (Some(0), said));
        }
        bed.ok(&[&["create", "--name", "c", "--network", "host"], &SLEEP[..]].concat());
        assert_eq!(names(bed, "network=host"), "c\n");
        let shown = inspect(bed, "c");
        assert!(shown["NetworkSettings"]["Networks"]["host"]["NetworkID"].is_string(), "{shown}");
        assert_eq!(shown["HostConfig"]["NetworkMode"], "host");
    });
}

#[test]
fn a_container_that_shares_anothers_network_says_whose() {
    once(|bed| {
        bed.ok(&[&["run", "-d", "--name", "c"], &SLEEP[..]].concat());
        let id = bed.field("c", "{{.Id}}");
        bed.ok(&[&["run", "-d", "--name", "d", "--network", "container:c"], &SLEEP[..]].concat());
        let namespace = |name: &str| bed.ok(&["exec", name, "readlink", "/proc/self/ns/net"]);
        assert_eq!(namespace("c"), namespace("d"));
        let shown = inspect(bed, "d");
        assert_eq!(shown["HostConfig"]["NetworkMode"], format!("container:{id}"));
        assert_eq!(shown["NetworkSettings"]["Networks"], json!({}));
    });
}

#[test]
fn a_container_is_connected_and_disconnected_while_it_runs_and_while_it_does_not() {
    once(|bed| {
        bed.ok(&["network", "create", "--subnet", "10.9.0.0/24,fd09::/64", "web"]);
        bed.ok(&[&["run", "-d", "--name", "c"], &SLEEP[..]].concat());
        let links = || bed.ok(&["exec", "c", "ls", "/sys/class/net"]);
        let connect =
            ["network", "connect", "--ip", "10.9.0.9", "--alias", "store", "--gw-priority", "-1", "web"];
        for is_live in [true, false] {
            assert_eq!(bed.ok(&[&connect[..], &["c"]].concat()), "");
            let text = bed.fails(1, &["network", "connect", "web", "c"]);
            assert!(text.contains("already exists in network web"), "{text}");
            if !is_live {
                bed.ok(&["start", "c"]);
            }
            assert_eq!(links(), "eth0\neth1\nlo\n");
            let shown = inspect(bed, "c");
            let (first, place) =
                (&shown["HostConfig"]["NetworkMode"], &shown["NetworkSettings"]["Networks"]["web"]);
            assert_eq!((first, &place["IPAddress"]), (&json!("bridge"), &json!("10.9.0.9")));
            assert_eq!((&place["GwPriority"], &place["Aliases"]), (&json!(-1), &json!(["store"])));
            assert_eq!(names(bed, "network=web"), "c\n");
            assert_eq!(bed.ok(&["network", "disconnect", "web", "c"]), "");
            assert_eq!(links(), "eth0\nlo\n");
            let text = bed.fails(1, &["network", "disconnect", "web", "c"]);
            assert!(text.contains("c is not connected to network web"), "{text}");
            bed.ok(&["stop", "-t", "0", "c"]);
        }
        assert!(bed.fails(1, &["network", "connect", "host", "c"]).contains("network host"));
        assert!(bed.fails(1, &["network", "connect", "--ip", "10.8.0.9", "web", "c"]).contains("10.8.0.9"));
        bed.ok(&["network", "rm", "web"]);
    });
}
