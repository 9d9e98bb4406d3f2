//! Names that the host's resolvers know.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use mica_names::Responder;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::client::{addresses, ask, ask_by_tcp, query, receive, socket};
use crate::scene::{Served, on_a_host, view};
use crate::upstream::{self, Upstream};

/// Where systemd-resolved is on a host: on its loopback, where no container gets to.
const STUB: &str = "127.0.0.53";

#[test]
fn a_resolver_on_the_hosts_loopback_is_asked_from_the_host() {
    on_a_host(|container| {
        let upstream = Upstream::start(STUB, |query| vec![upstream::address(query, 7)]);
        let _served = Served::start(container, view(&[("web", "172.30.0.2")], &[STUB]));
        container.enter(|| {
            assert_eq!(addresses(&ask("example.org.")), ["192.0.2.7"]);
            assert_eq!(addresses(&ask_by_tcp("example.org.")), ["192.0.2.7"]);
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            // The container itself has no way there.
            let direct = UdpSocket::bind("127.0.0.1:0").unwrap();
            direct.connect((STUB, 53)).unwrap();
            direct.send(&query("example.org.").to_vec().unwrap()).unwrap();
            assert!(direct.recv(&mut [0; 512]).is_err());
        });
        assert_eq!(upstream.asked(), 2);
    });
}

#[test]
fn no_query_leaves_a_container_of_internal_networks_alone() {
    on_a_host(|container| {
        let upstream = Upstream::start(STUB, |query| vec![upstream::address(query, 7)]);
        let mut served = Served::start(container, view(&[], &[]));
        container.enter(|| {
            for answer in [ask("stolen.attacker.example."), ask_by_tcp("stolen.attacker.example.")] {
                assert_eq!(answer.response_code, ResponseCode::NXDomain);
            }
        });
        assert_eq!(upstream.asked(), 0);
        // The same container, once it has a network with a way out.
        served.show(view(&[], &[STUB]));
        container.enter(|| assert_eq!(addresses(&ask("example.org.")), ["192.0.2.7"]));
        assert_eq!(upstream.asked(), 1);
        // And again without.
        served.show(view(&[], &[]));
        container.enter(|| assert_eq!(ask("example.org.").response_code, ResponseCode::NXDomain));
        assert_eq!(upstream.asked(), 1);
    });
}

#[test]
fn a_server_that_is_not_there_is_passed_over_at_once() {
    on_a_host(|container| {
        let _upstream = Upstream::start("127.0.0.2", |query| vec![upstream::address(query, 7)]);
        // Nobody is at the first, no route leads to the second, the third's link does not exist.
        let servers = ["127.0.0.1", "192.0.2.1", "fe80::1%nowhere", "127.0.0.2"];
        let _served = Served::start(container, view(&[], &servers));
        let start = Instant::now();
        container.enter(|| {
            assert_eq!(addresses(&ask("example.org.")), ["192.0.2.7"]);
            assert_eq!(addresses(&ask_by_tcp("example.org.")), ["192.0.2.7"]);
        });
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn a_server_that_keeps_silent_makes_room_for_the_next() {
    on_a_host(|container| {
        let silent = Upstream::start("127.0.0.1", |_| Vec::new());
        let _second = Upstream::start("127.0.0.2", |query| vec![upstream::address(query, 7)]);
        let _served = Served::start(container, view(&[], &["127.0.0.1", "127.0.0.2"]));
        assert_eq!(container.enter(|| addresses(&ask("example.org."))), ["192.0.2.7"]);
        assert_eq!(silent.asked(), 1);
    });
}

#[test]
fn a_server_that_fails_is_believed_only_when_all_do() {
    on_a_host(|container| {
        let _first = Upstream::start("127.0.0.1", |query| vec![upstream::code(query, ResponseCode::Refused)]);
        let second = Upstream::start("127.0.0.2", |query| vec![upstream::address(query, 7)]);
        let mut served = Served::start(container, view(&[], &["127.0.0.1", "127.0.0.2"]));
        assert_eq!(container.enter(|| addresses(&ask("example.org."))), ["192.0.2.7"]);
        served.show(view(&[], &["127.0.0.1"]));
        assert_eq!(container.enter(|| ask("example.org.").response_code), ResponseCode::Refused);
        // A name that does not exist is an answer.
        drop(second);
        let _third =
            Upstream::start("127.0.0.3", |query| vec![upstream::code(query, ResponseCode::NXDomain)]);
        served.show(view(&[], &["127.0.0.3", "127.0.0.1"]));
        assert_eq!(container.enter(|| ask("example.org.").response_code), ResponseCode::NXDomain);
    });
}

#[test]
fn when_nobody_answers_the_client_is_told_before_it_gives_up() {
    on_a_host(|container| {
        let _silent = Upstream::start("127.0.0.1", |_| Vec::new());
        let _served = Served::start(container, view(&[], &["127.0.0.1", "127.0.0.1", "127.0.0.1"]));
        let start = Instant::now();
        assert_eq!(container.enter(|| ask("example.org.").response_code), ResponseCode::ServFail);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[test]
fn when_there_is_nothing_to_do_it_sleeps() {
    on_a_host(|container| {
        let _silent = Upstream::start(STUB, |_| Vec::new());
        let servers = [STUB; 8];
        let mut responder = Responder::start(container.as_fd(), view(&[], &servers)).unwrap();
        let client = container.enter(socket);
        client.set_nonblocking(true).unwrap();
        client.send(&query("example.org.").to_vec().unwrap()).unwrap();
        let mut turns = 0;
        while client.peek(&mut [0; 512]).is_err() {
            responder.wait().unwrap();
            responder.turn().unwrap();
            turns += 1;
        }
        // The query, and the end of each server's time.
        assert!(turns <= 2 * servers.len(), "{turns} turns");
        let idle = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&responder, PollFlags::IN)], Some(&idle)).unwrap(), 0);
    });
}

#[test]
fn an_answer_to_another_question_is_not_taken() {
    on_a_host(|container| {
        let _upstream = Upstream::start(STUB, |query| {
            let mut wrong_number = upstream::address(query, 66);
            wrong_number.metadata.id ^= 1;
            let wrong_name = upstream::address(&crate::client::query("example.com."), 66);
            vec![wrong_number, wrong_name, upstream::address(query, 7)]
        });
        let _served = Served::start(container, view(&[], &[STUB]));
        assert_eq!(container.enter(|| addresses(&ask("example.org."))), ["192.0.2.7"]);
    });
}

#[test]
fn a_long_answer_is_fetched_by_tcp() {
    on_a_host(|container| {
        let _upstream = Upstream::start(STUB, |query| vec![upstream::addresses(query, 0..=255)]);
        let _served = Served::start(container, view(&[], &[STUB]));
        container.enter(|| {
            assert!(ask("example.org.").truncation);
            assert_eq!(ask_by_tcp("example.org.").answers.len(), 256);
        });
    });
}

#[test]
fn more_queries_than_there_is_room_for_are_answered_too() {
    on_a_host(|container| {
        // It answers nothing, so all that are sent are under way together.
        let _silent = Upstream::start(STUB, |_| Vec::new());
        let _served = Served::start(container, view(&[("web", "172.30.0.2")], &[STUB]));
        container.enter(|| {
            let socket = socket();
            let packet = query("example.org.").to_vec().unwrap();
            for _ in 0..3 {
                for _ in 0..100 {
                    socket.send(&packet).unwrap();
                }
                // Its socket holds no more than this many: one that is answered shows that all were read.
                assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            }
            for _ in 0..44 {
                assert_eq!(receive(&socket).response_code, ResponseCode::ServFail);
            }
            for _ in 0..256 {
                assert_eq!(receive(&socket).response_code, ResponseCode::ServFail);
            }
        });
    });
}
