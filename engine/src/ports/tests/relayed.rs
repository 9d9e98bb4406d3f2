//! What arrives at `::1` arrives in the container. Its address is one of the host's loopback here.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::ports::Relay;

const CONTAINER: &str = "127.9.9.9";

fn ips(to: &[&str]) -> Vec<IpAddr> {
    to.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// Runs it while what arrives at `::1` is handed on to these addresses.
fn relayed<T>(wishes: &[&str], to: &[&str], work: impl FnOnce() -> T) -> T {
    let reserved = reserve(wishes).unwrap();
    let relay = Relay::new(&reserved, &ips(to)).unwrap().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| serve(relay, &over));
        let _over = Over(&over);
        work()
    })
}

/// Ends the relay, after a panic, too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn serve(mut relay: Relay, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if is_ready(&relay.as_fd(), PollFlags::IN, Duration::from_millis(5)) {
            relay.turn().unwrap();
        }
    }
}

/// Has a relay do all that it has to do now.
fn until_idle(relay: &mut Relay) {
    while is_ready(&relay.as_fd(), PollFlags::IN, Duration::from_millis(5)) {
        relay.turn().unwrap();
    }
}

/// Has a relay work until this has heard of it.
fn until_ready(relay: &mut Relay, server: &impl AsFd) {
    while !is_ready(server, PollFlags::IN, Duration::from_millis(1)) {
        relay.turn().unwrap();
    }
}

fn is_ready(descriptor: &impl AsFd, flags: PollFlags, within: Duration) -> bool {
    let within = Timespec::try_from(within).unwrap();
    poll(&mut [PollFd::new(descriptor, flags)], Some(&within)).unwrap() > 0
}

fn client() -> TcpStream {
    let client = TcpStream::connect("[::1]:8080").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client
}

fn container(port: u16) -> TcpListener {
    TcpListener::bind((CONTAINER, port)).unwrap()
}

fn udp(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn said(mut stream: &TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    said
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    on_a_host(|| {
        relayed(&["8080:80"], &[CONTAINER], || {
            let server = container(80);
            let client = client();
            (&client).write_all(b"what?").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let (taken, _) = server.accept().unwrap();
            assert_eq!(said(&taken), b"what?");
            (&taken).write_all(b"that").unwrap();
            drop(taken);
            assert_eq!(said(&client), b"that");
        });
    });
}

#[test]
fn a_container_that_has_said_all_still_hears_its_client() {
    on_a_host(|| {
        relayed(&["[::1]:8080:80"], &[CONTAINER], || {
            let server = container(80);
            let client = client();
            let (taken, _) = server.accept().unwrap();
            taken.shutdown(Shutdown::Write).unwrap();
            assert_eq!(said(&client), b"");
            (&client).write_all(b"and now this").unwrap();
            drop(client);
            assert_eq!(said(&taken), b"and now this");
        });
    });
}

#[test]
fn the_last_words_of_a_container_that_ends_are_heard() {
    on_a_host(|| {
        let reserved = reserve(&["8080:80"]).unwrap();
        let mut relay = Relay::new(&reserved, &ips(&[CONTAINER])).unwrap().unwrap();
        let server = container(80);
        let client = client();
        until_ready(&mut relay, &server);
        let (mut taken, _) = server.accept().unwrap();
        until_idle(&mut relay);
        taken.write_all(&[7; 1 << 18]).unwrap();
        drop(taken);
        drop(relay);
        assert_eq!(said(&client), [7; 1 << 18]);
    });
}

#[test]
fn a_slow_reader_gets_all_and_holds_off_whoever_writes() {
    const ALL: usize = 32 << 20;
    on_a_host(|| {
        relayed(&["8080:80"], &[CONTAINER], || {
            let server = container(80);
            let client = client();
            let (taken, _) = server.accept().unwrap();
            taken.set_nonblocking(true).unwrap();
            let pattern: Vec<u8> = (0..=250).cycle().take(1 << 16).collect();
            let mut written = 0;
            // The kernel's buffers and the relay's take their part; then the server waits.
            while written < ALL && is_ready(&taken, PollFlags::OUT, Duration::from_millis(200)) {
                written += (&taken).write(&pattern[written % 251..]).unwrap();
            }
            assert!(written < ALL, "nobody held it off");
            drop(taken);
            let got = said(&client);
            assert_eq!(got.len(), written);
            assert!(got.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
        });
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whoever ends first, and however what is said is cut.
    #[test]
    fn each_side_hears_all_that_the_other_says(
        question in prop::collection::vec(1_usize..200_000, 0..6),
        answer in prop::collection::vec(1_usize..200_000, 0..6),
        client_waits: bool,
    ) {
        on_a_host(|| {
            relayed(&["8080:80"], &[CONTAINER], || {
                let server = container(80);
                let client = client();
                let (taken, _) = server.accept().unwrap();
                let (first, second) = if client_waits { (&taken, &client) } else { (&client, &taken) };
                let (heard, replied) = thread::scope(|scope| {
                    let talk = scope.spawn(|| say(first, &question));
                    let heard = scope.spawn(|| said(first));
                    // The second one says something only when the first has said all.
                    let question = said(second);
                    talk.join().unwrap();
                    say(second, &answer);
                    (question, heard.join().unwrap())
                });
                assert_eq!((heard.len(), replied.len()), (question.iter().sum(), answer.iter().sum()));
                assert!(heard.iter().chain(&replied).all(|byte| *byte == 7));
            });
        });
    }
}

/// Says this many bytes at a time, and then no more.
fn say(mut stream: &TcpStream, lengths: &[usize]) {
    lengths.iter().for_each(|length| stream.write_all(&vec![7; *length]).unwrap());
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn each_port_of_a_row_leads_to_its_own() {
    on_a_host(|| {
        relayed(&["8079-8081:90-92"], &[CONTAINER], || {
            let (server, other) = (container(91), container(90));
            other.set_nonblocking(true).unwrap();
            let client = client();
            let (taken, _) = server.accept().unwrap();
            drop(taken);
            assert_eq!(said(&client), b"");
            assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        });
    });
}

#[test]
fn where_one_family_refuses_the_other_is_tried() {
    on_a_host(|| {
        relayed(&["8080:8090"], &[CONTAINER, "::1"], || {
            let server = TcpListener::bind("[::1]:8090").unwrap();
            let client = client();
            let (taken, _) = server.accept().unwrap();
            drop(taken);
            assert_eq!(said(&client), b"");
        });
    });
}

#[test]
fn a_client_of_a_container_that_does_not_listen_is_not_left_to_wait() {
    on_a_host(|| {
        relayed(&["8080:80"], &[CONTAINER], || {
            let error = client().read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        });
    });
}

#[test]
fn a_connection_that_one_side_resets_is_reset_at_the_other() {
    on_a_host(|| {
        relayed(&["8080:80"], &[CONTAINER], || {
            let server = container(80);
            let client = client();
            let (taken, _) = server.accept().unwrap();
            rustix::net::sockopt::set_socket_linger(&taken, Some(Duration::ZERO)).unwrap();
            drop(taken);
            assert_eq!((&client).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        });
    });
}

#[test]
fn more_clients_than_are_served_wait_for_their_turn() {
    on_a_host(|| {
        let reserved = reserve(&["8080:80"]).unwrap();
        let mut relay = Relay::new(&reserved, &ips(&[CONTAINER])).unwrap().unwrap();
        let server = container(80);
        server.set_nonblocking(true).unwrap();
        let mut served = Vec::new();
        for _ in 0..256 {
            let client = client();
            until_ready(&mut relay, &server);
            served.push((client, server.accept().unwrap()));
        }
        let waiting = client();
        until_idle(&mut relay);
        assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(served.pop());
        until_idle(&mut relay);
        server.accept().unwrap();
        drop(waiting);
    });
}

#[test]
fn clients_of_udp_get_their_own_answers_and_the_latest_are_remembered() {
    on_a_host(|| {
        relayed(&["8080:80/udp"], &[CONTAINER], || {
            let server = udp(&format!("{CONTAINER}:80"));
            let mut buffer = [0; 64];
            let clients: Vec<UdpSocket> = (0..300).map(|_| udp("[::1]:0")).collect();
            let mut seen = Vec::new();
            for (number, client) in clients.iter().enumerate() {
                client.connect("[::1]:8080").unwrap();
                client.send(format!("{number}").as_bytes()).unwrap();
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], format!("{number}").as_bytes());
                seen.push(from);
            }
            for (number, client) in clients.iter().enumerate().skip(44) {
                server.send_to(format!("to {number}").as_bytes(), seen[number]).unwrap();
                let length = client.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], format!("to {number}").as_bytes());
            }
            // One that was forgotten is a new one when it says something again.
            clients[0].send(b"again").unwrap();
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from == seen[0]), (&b"again"[..], false));
        });
    });
}

#[test]
fn a_client_of_udp_that_was_silent_for_long_is_forgotten() {
    on_a_host(|| {
        let reserved = reserve(&["8080:80/udp"]).unwrap();
        let mut relay = Relay::at(&reserved, &ips(&[CONTAINER]), Duration::from_millis(20)).unwrap();
        let (server, client) = (udp(&format!("{CONTAINER}:80")), udp("[::1]:0"));
        let heard_from = |relay: &mut Relay| {
            client.send_to(b"x", "[::1]:8080").unwrap();
            until_ready(relay, &server);
            server.recv_from(&mut [0; 8]).unwrap().1
        };
        let first = heard_from(&mut relay);
        assert!(is_ready(&relay.as_fd(), PollFlags::IN, Duration::from_secs(20)), "nothing wakes it");
        relay.turn().unwrap();
        assert_ne!(heard_from(&mut relay), first);
    });
}

#[test]
fn the_largest_datagram_passes_whole() {
    on_a_host(|| {
        relayed(&["8080:80/udp"], &[CONTAINER], || {
            let (server, client) = (udp(&format!("{CONTAINER}:80")), udp("[::1]:0"));
            let datagram = vec![7; 65_507];
            client.send_to(&datagram, "[::1]:8080").unwrap();
            let mut buffer = vec![0; 1 << 16];
            let (length, _) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], datagram);
        });
    });
}

#[test]
fn a_container_that_moves_is_found_where_it_is() {
    on_a_host(|| {
        let reserved = reserve(&["8080:80"]).unwrap();
        let mut relay = Relay::new(&reserved, &ips(&[CONTAINER])).unwrap().unwrap();
        let (before, after) = (container(80), TcpListener::bind("127.8.8.8:80").unwrap());
        let old = client();
        until_idle(&mut relay);
        before.accept().unwrap();
        relay.lead_to(&ips(&["127.8.8.8"])).unwrap();
        assert_eq!((&old).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let _new = client();
        until_idle(&mut relay);
        after.accept().unwrap();
        relay.lead_to(&[]).unwrap();
        let nowhere = client();
        until_idle(&mut relay);
        assert_eq!((&nowhere).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn where_nothing_is_reserved_at_loopback_there_is_no_relay() {
    on_a_host(|| {
        let reserved = reserve(&["127.0.0.1:8080:80", "0.0.0.0:8081:81"]).unwrap();
        assert!(Relay::new(&reserved, &ips(&[CONTAINER])).unwrap().is_none());
    });
}

#[test]
fn closed_connections_of_a_relay_do_not_keep_the_port_from_the_next_container() {
    on_a_host(|| {
        relayed(&["8080:80"], &[CONTAINER], || {
            let server = container(80);
            let client = client();
            drop(server.accept().unwrap());
            assert_eq!(said(&client), b"");
        });
        reserve(&["8080:80"]).unwrap();
    });
}
