//! What holds for a connection that is there already, too.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::lift::{Guard, lift};
use crate::namespace::Namespace;
use crate::scene::{Backend, HOST, OUTSIDE, OWNER, Scene};
use crate::traffic::{BRIEF, PATIENCE, exchange, ready};
use crate::under_both;

/// A connection over UDP.
struct Talk {
    client: UdpSocket,
    server: UdpSocket,
    to: SocketAddr,
}

impl Talk {
    /// To what listens at port 80 there, by way of this address.
    fn new(from: &Namespace, there: &Namespace, to: &str) -> Self {
        let bind = |address| UdpSocket::bind(address).unwrap();
        let server = there.run(|| bind("0.0.0.0:80"));
        let talk = Self { client: from.run(|| bind("0.0.0.0:0")), server, to: to.parse().unwrap() };
        assert!(talk.goes_on(PATIENCE), "to {to}");
        talk
    }

    fn goes_on(&self, patience: Duration) -> bool {
        exchange(&self.client, self.to, &self.server, patience).is_some()
    }

    /// Whether another answer to what was asked last is heard.
    fn is_answered_again(&self) -> bool {
        self.server.send_to(b"?", self.client.local_addr().unwrap()).unwrap();
        ready(&self.client, BRIEF) && self.client.recv(&mut [0]).is_ok()
    }

    /// Whether what is asked is not heard, or the answer is not.
    fn ends(&self) -> bool {
        !self.goes_on(BRIEF)
    }
}

under_both! {
    fn the_hosts_owner_is_asked_about_every_packet_from_and_to_a_network(scene: Scene) {
        let net = scene.network(&[]);
        let (one, two) = (scene.container(&net, 2, &["8080:80/udp"]), scene.container(&net, 3, &[]));
        let entering = Talk::new(&scene.outside, &one.machine, &format!("{HOST}:8080"));
        let leaving = Talk::new(&two.machine, &scene.outside, &format!("{OUTSIDE}:80"));
        let table = format!("mica_{OWNER}");
        let (program, rule) = match scene.backend {
            Backend::Nft => ("nft", ["add", "rule", "inet", &table, "user", "iifname", "uplink0", "drop"]),
            Backend::Iptables => ("iptables", ["-w", "5", "-A", "MICA-USER", "-i", "uplink0", "-j", "DROP"]),
        };
        scene.host.program(program, &rule);
        assert!(entering.ends());
        assert!(leaving.ends());
    }

    fn an_internal_network_is_closed_to_connections_from_before(scene: Scene) {
        let (net, other) = (scene.internal(), scene.network(&[]));
        let (inside, neighbour) = (scene.container(&net, 2, &[]), scene.container(&other, 2, &[]));
        inside.machine.ip(&format!("route add default via {}", net.gateway().0));
        scene.outside.ip(&format!("route add {} via {HOST}", net.subnets().0));
        lift(&scene, &[Guard::Entering, Guard::Leaving]);
        let leaving = Talk::new(&inside.machine, &scene.outside, &format!("{OUTSIDE}:80"));
        let entering = Talk::new(&neighbour.machine, &inside.machine, &format!("{}:80", inside.v4));
        let crossing = Talk::new(&inside.machine, &neighbour.machine, &format!("{}:80", neighbour.v4));
        assert!(leaving.goes_on(PATIENCE) && entering.goes_on(PATIENCE) && crossing.is_answered_again());
        scene.driver(|driver| driver.up(&net.record)).unwrap();
        assert!(leaving.ends());
        assert!(entering.ends());
        assert!(!crossing.is_answered_again());
    }
}
