//! A host that forwards for containers alone, and what others have on it: bridges of virtual machines, further networks.

use crate::lift::{Guard, lift};
use crate::namespace::Namespace;
use crate::scene::{Backend, HOST, HOST6, OWNER, Scene};
use crate::traffic::Server;
use crate::under_both;

/// A bridge of somebody else, and machines on it.
struct Bridge {
    name: String,
    number: u8,
    machines: Vec<Namespace>,
}

impl Bridge {
    /// With two machines, which have its addresses .2 and .3.
    fn new(host: &Namespace, number: u8) -> Self {
        let name = format!("virbr{number}");
        host.ip(&format!("link add {name} type bridge"));
        host.ip(&format!("link set {name} up"));
        let mut bridge = Self { name, number, machines: Vec::new() };
        for n in 0..2 {
            let (machine, port) = (Namespace::new(), format!("vnet{number}{n}"));
            host.ip(&format!("link add {port} type veth peer name eth0 netns {}", machine.path()));
            host.ip(&format!("link set {port} master {} up", bridge.name));
            machine.ip("link set eth0 up");
            bridge.give(&machine, "eth0", n + 2);
            bridge.machines.push(machine);
        }
        bridge
    }

    /// The addresses of what has this number on it.
    fn of(&self, n: u8) -> [String; 2] {
        [format!("10.80.{}.{n}", self.number), format!("2001:db8:80:{}::{n}", self.number)]
    }

    fn give(&self, machine: &Namespace, link: &str, n: u8) {
        let [v4, v6] = self.of(n);
        machine.ip(&format!("addr add {v4}/24 dev {link}"));
        machine.ip(&format!("addr add {v6}/64 dev {link} nodad"));
    }

    /// Makes the host a router of its machines.
    fn route(&self, host: &Namespace) {
        self.give(host, &self.name, 1);
        for machine in &self.machines {
            for router in self.of(1) {
                machine.ip(&format!("route add default via {router}"));
            }
        }
    }
}

/// Takes the exception away that the drop makes for bridges.
fn except_nothing(scene: &Scene) {
    match scene.backend {
        Backend::Nft => {
            let table = format!("mica_{OWNER}");
            let chain = scene.host.program("nft", &["-a", "list", "chain", "inet", &table, "transit"]);
            let rule = chain.lines().find(|line| line.contains("update @same")).unwrap();
            let handle = rule.rsplit(' ').next().unwrap();
            scene.host.program("nft", &["delete", "rule", "inet", &table, "transit", "handle", handle]);
            scene.host.program("nft", &["flush", "set", "inet", &table, "same"]);
        }
        Backend::Iptables => {
            for program in ["iptables", "ip6tables"] {
                let listing = scene.host.program(program, &["-S"]);
                let rule = listing.lines().find(|line| line.contains("--physdev-is-bridged")).unwrap();
                let chain = rule.split(' ').nth(1).unwrap();
                let drop = "! -i mica+ ! -o mica+ -j DROP".split(' ');
                let words: Vec<_> = ["-A", chain].into_iter().chain(drop).collect();
                scene.host.program(program, &words);
            }
        }
    }
}

fn reach_each_other_by_the_exception(scene: &Scene, bridge: &Bridge) {
    for setting in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
        scene.host.set(setting, "1");
    }
    let server = Server::new(&bridge.machines[1], 80);
    for to in &bridge.of(3) {
        assert!(server.tcp(&bridge.machines[0], (to, 80)).is_some(), "{to}");
        assert!(server.udp(&bridge.machines[0], (to, 80)).is_some(), "{to}");
    }
    except_nothing(scene);
    for to in &bridge.of(3) {
        assert!(server.keeps_out(&bridge.machines[0], (to, 80)), "{to}");
    }
}

under_both! {
    fn machines_on_a_bridge_of_others_reach_each_other_still(scene: Scene) {
        scene.network(&[]);
        // One that comes later, without an address of the host's.
        let bridge = Bridge::new(&scene.host, 1);
        reach_each_other_by_the_exception(&scene, &bridge);
    }

    fn machines_behind_a_router_of_others_reach_each_other_still(scene: Scene) {
        let bridge = Bridge::new(&scene.host, 1);
        bridge.route(&scene.host);
        scene.network(&[]);
        reach_each_other_by_the_exception(&scene, &bridge);
    }

    fn bridges_of_others_do_not_reach_each_other(scene: Scene) {
        let (one, two) = (Bridge::new(&scene.host, 1), Bridge::new(&scene.host, 2));
        one.route(&scene.host);
        two.route(&scene.host);
        scene.network(&[]);
        let server = Server::new(&two.machines[0], 80);
        let near = Server::new(&one.machines[1], 80);
        // What passes within each is no reason for anything between them.
        assert!(near.tcp(&one.machines[0], (&one.of(3)[0], 80)).is_some());
        assert!(server.tcp(&two.machines[1], (&two.of(2)[0], 80)).is_some());
        for to in &two.of(2) {
            assert!(server.keeps_out(&one.machines[0], (to, 80)), "{to}");
        }
        lift(&scene, &[Guard::Transit]);
        for to in &two.of(2) {
            assert!(server.tcp(&one.machines[0], (to, 80)).is_some(), "{to}");
        }
    }

    fn a_bridge_of_others_is_not_reached_from_outside(scene: Scene) {
        let bridge = Bridge::new(&scene.host, 1);
        bridge.route(&scene.host);
        scene.outside.ip(&format!("route add 10.80.1.0/24 via {HOST}"));
        scene.outside.ip(&format!("route add 2001:db8:80:1::/64 via {HOST6}"));
        scene.network(&[]);
        let server = Server::new(&bridge.machines[0], 80);
        for to in &bridge.of(2) {
            assert!(server.keeps_out(&scene.outside, (to, 80)), "{to}");
        }
        lift(&scene, &[Guard::Transit]);
        for to in &bridge.of(2) {
            assert!(server.tcp(&scene.outside, (to, 80)).is_some(), "{to}");
        }
    }

    /// Where a flag of its ports keeps them apart, or a switch between them does.
    fn machines_that_a_bridge_keeps_apart_do_not_meet_by_way_of_the_host(scene: Scene) {
        let bridge = Bridge::new(&scene.host, 1);
        bridge.route(&scene.host);
        for port in ["vnet10", "vnet11"] {
            scene.host.program("bridge", &["link", "set", "dev", port, "isolated", "on"]);
        }
        for (machine, other) in [(0, 3), (1, 2)] {
            let [v4, v6] = bridge.of(other);
            let [by4, by6] = bridge.of(1);
            bridge.machines[machine].ip(&format!("route add {v4}/32 via {by4}"));
            bridge.machines[machine].ip(&format!("route add {v6}/128 via {by6}"));
        }
        scene.network(&[]);
        let server = Server::new(&bridge.machines[1], 80);
        for to in &bridge.of(3) {
            assert!(server.keeps_out(&bridge.machines[0], (to, 80)), "{to}");
        }
        lift(&scene, &[Guard::Transit]);
        for to in &bridge.of(3) {
            assert!(server.tcp(&bridge.machines[0], (to, 80)).is_some(), "{to}");
        }
    }
}
