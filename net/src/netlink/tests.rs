use netlink_packet_route::link::LinkMessage;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};
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
        use std::os::fd::AsFd;
        let mut there = Netlink::open_in(one.as_fd())?;
        assert!(link::by_name(&mut there, "a")?.is_some());
        assert!(link::by_name(&mut Netlink::open()?, "a")?.is_none());
        Ok(())
    })
    .unwrap();
}
