use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mica_core::network::InterfaceName;
use netlink_packet_route::link::{BridgePortState, InfoBridgePort, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::io::Errno;

use super::*;
use crate::played::{machine, on};

fn bridge(name: &str) -> LinkMessage {
    LinkMessageBuilder::<LinkBridge>::new(name).build()
}

fn create(name: &str) -> Request {
    Request::create(RouteNetlinkMessage::NewLink(bridge(name)), format!("make '{name}'"))
}

#[test]
fn each_request_of_a_batch_has_its_own_answer() {
    on(&machine(), || {
        let mut netlink = Netlink::open()?;
        let names = ["a", "a", "b"];
        let answers = netlink.ask(names.map(create).into())?;
        let errors: Vec<_> = answers.into_iter().map(|answer| answer.err().map(|e| e.errno)).collect();
        assert_eq!(errors, [None, Some(Errno::EXIST), None]);
        assert!(link::by_name(&mut netlink, "b")?.is_some());
        assert!(link::by_name(&mut netlink, "c")?.is_none());
        Ok(())
    })
    .unwrap();
}

#[test]
fn more_requests_than_fit_one_batch_are_all_answered() {
    on(&machine(), || {
        let mut netlink = Netlink::open()?;
        let loopback = |_| link::request_by_name("lo");
        let answers = netlink.ask((0..3 * BATCH + 1).map(loopback).collect())?;
        assert_eq!(answers.len(), 3 * BATCH + 1);
        for answer in answers {
            assert_eq!(link::found(answer)?.unwrap().name, "lo");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_refusal_says_what_was_asked_and_what_the_kernel_said() {
    on(&machine(), || {
        let mut netlink = Netlink::open()?;
        let message = LinkUnspec::new_with_name("lo").controller(4242).build();
        let request = Request::new(RouteNetlinkMessage::NewLink(message), "make 'lo' a port");
        let text = mica_core::Error::from(netlink.tell(vec![request]).unwrap_err()).to_string();
        assert!(text.starts_with("make 'lo' a port: "), "{text}");
        let message = LinkUnspec::new_with_name("a").mtu(1).build();
        let request = Request::create(RouteNetlinkMessage::NewLink(message), "make nothing");
        let refused = netlink.tell(vec![request]).unwrap_err();
        assert!(refused.hint.is_some(), "{refused:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_socket_belongs_to_the_namespace_in_which_it_was_opened() {
    let (one, other) = (machine(), machine());
    on(&one, || Ok(Netlink::open()?.tell(vec![create("a")])?)).unwrap();
    on(&other, || {
        let mut there = Netlink::open_in(one.as_fd())?;
        assert!(link::by_name(&mut there, "a")?.is_some());
        assert!(link::by_name(&mut Netlink::open()?, "a")?.is_none());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_port_that_has_settled_passes_frames_on_and_one_without_a_carrier_is_not_waited_for() {
    on(&machine(), || {
        let mut netlink = Netlink::open()?;
        let [bridge, port, peer]: [InterfaceName; 3] =
            ["bridge", "port", "peer"].map(|name| name.parse().unwrap());
        let pair = LinkVeth::new(port.as_str(), peer.as_str()).build();
        netlink.tell(vec![
            create("bridge"),
            Request::create(RouteNetlinkMessage::NewLink(pair), "make a pair"),
        ])?;
        let index = link::index(&netlink, "bridge")?.unwrap();
        let up = |name: &InterfaceName| LinkUnspec::new_with_name(name.as_str()).up();
        netlink.tell(vec![
            link::change(up(&bridge).build(), &bridge),
            link::change(up(&port).controller(index).build(), &port),
        ])?;
        let forwards = |netlink: &mut Netlink| {
            let port = link::by_name(netlink, "port")?.unwrap().port;
            Ok::<_, Refused>(port.contains(&InfoBridgePort::State(BridgePortState::Forwarding)))
        };
        let before = Instant::now();
        link::settle(&netlink, &port)?;
        assert!(before.elapsed() < Duration::from_secs(1) && !forwards(&mut netlink)?);
        netlink.tell(vec![link::change(up(&peer).build(), &peer)])?;
        link::settle(&netlink, &port)?;
        assert!(link::is_running(&netlink, &port).unwrap() && forwards(&mut netlink)?);
        Ok(())
    })
    .unwrap();
}
