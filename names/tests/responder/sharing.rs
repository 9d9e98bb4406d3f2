//! Clients that are slow, many or hostile.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::client::{addresses, ask, ask_by_tcp, connect, framed, query, read, socket};
use crate::scene::{Served, on_a_host, view};
use crate::upstream::{self, Upstream};

const WEB: &[(&str, &str)] = &[("web", "172.30.0.2")];

#[test]
fn a_query_may_come_in_pieces_and_several_in_one() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            let mut stream = connect();
            stream.set_nodelay(true).unwrap();
            let bytes = framed(&query("web."));
            for byte in &bytes {
                stream.write_all(&[*byte]).unwrap();
            }
            assert_eq!(addresses(&read(&stream)), ["172.30.0.2"]);
            stream.write_all(&bytes.repeat(3)).unwrap();
            for _ in 0..3 {
                assert_eq!(addresses(&read(&stream)), ["172.30.0.2"]);
            }
        });
    });
}

#[test]
fn a_client_that_has_sent_all_still_gets_its_answers() {
    on_a_host(|container| {
        let _upstream = Upstream::start("127.0.0.53", |query| vec![upstream::address(query, 7)]);
        let _served = Served::start(container, view(WEB, &["127.0.0.53"]));
        container.enter(|| {
            let mut stream = connect();
            stream.write_all(&framed(&query("example.org."))).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(addresses(&read(&stream)), ["192.0.2.7"]);
            // And then the server closes, too.
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        });
    });
}

#[test]
fn clients_that_connect_and_keep_silent_keep_nobody_from_asking() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            let silent: Vec<_> = (0..100).map(|_| connect()).collect();
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            drop(silent);
            assert_eq!(addresses(&ask_by_tcp("web.")), ["172.30.0.2"]);
        });
    });
}

#[test]
fn a_client_that_reads_no_answers_is_cut_off() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            let mut stream = connect();
            let many = framed(&query("web.")).repeat(1000);
            // What the sockets of both sides hold is a few megabytes; then it must end.
            let sent = (0..10_000).take_while(|_| stream.write_all(&many).is_ok()).count();
            assert!(sent < 10_000);
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
        });
    });
}

#[test]
fn garbage_is_survived() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            let socket = socket();
            let good = query("web.").to_vec().unwrap();
            for length in 0..500u16 {
                let garbage: Vec<u8> = good.iter().cycle().take(usize::from(length)).copied().collect();
                socket.send(&garbage).unwrap();
                let mut stream = connect();
                stream.write_all(&garbage).unwrap();
            }
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            assert_eq!(addresses(&ask_by_tcp("web.")), ["172.30.0.2"]);
        });
    });
}
