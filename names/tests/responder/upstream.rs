//! A resolver of the host.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};

use crate::client::{framed, read};

/// What it sends for a query, one after the other.
type Answers = dyn Fn(&Message) -> Vec<Message> + Send + Sync;

/// A server by UDP and TCP at port 53 of an address, in the namespace of the thread that starts it.
pub(crate) struct Upstream {
    address: Ipv4Addr,
    asked: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn start(
        address: &str,
        answers: impl Fn(&Message) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        let address: Ipv4Addr = address.parse().unwrap();
        let answers: Arc<Answers> = Arc::new(answers);
        let udp = UdpSocket::bind((address, 53)).unwrap();
        let tcp = TcpListener::bind((address, 53)).unwrap();
        let (asked, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end, by_udp) = (asked.clone(), ended.clone(), answers.clone());
        let datagrams = thread::spawn(move || {
            let mut buffer = vec![0; 65535];
            while let Ok((length, client)) = udp.recv_from(&mut buffer)
                && !end.load(Ordering::SeqCst)
            {
                count.fetch_add(1, Ordering::SeqCst);
                for answer in by_udp(&Message::from_vec(&buffer[..length]).unwrap()) {
                    udp.send_to(&answer.to_vec().unwrap(), client).unwrap();
                }
            }
        });
        let (count, end) = (asked.clone(), ended.clone());
        let streams = thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept()
                && !end.load(Ordering::SeqCst)
            {
                count.fetch_add(1, Ordering::SeqCst);
                for answer in answers(&read(&stream)) {
                    stream.write_all(&framed(&answer)).unwrap();
                }
            }
        });
        Self { address, asked, ended, threads: vec![datagrams, streams] }
    }

    /// How many queries have arrived.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let poke = UdpSocket::bind("127.0.0.1:0").and_then(|any| any.send_to(&[], (self.address, 53)));
        let knock = TcpStream::connect((self.address, 53));
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(thread::panicking() || (poke.is_ok() && knock.is_ok() && ended.is_ok()));
        }
    }
}

/// An answer with this address.
pub(crate) fn address(query: &Message, last: u8) -> Message {
    addresses(query, [last])
}

/// An answer with these addresses.
pub(crate) fn addresses(query: &Message, last: impl IntoIterator<Item = u8>) -> Message {
    let mut response = query.clone().into_response();
    let name = query.queries[0].name().clone();
    for last in last {
        let data = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
        response.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
    response
}

/// An answer without records.
pub(crate) fn code(query: &Message, code: ResponseCode) -> Message {
    let mut response = query.clone().into_response();
    response.metadata.response_code = code;
    response
}
