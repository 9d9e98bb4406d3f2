//! A client in a container.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use mica_names::ADDRESS;

/// Longer than any answer takes, so that a lost one is a failure and not a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn query(name: &str) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

/// A socket at which the name server's answers arrive.
pub(crate) fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((ADDRESS, 53)).unwrap();
    socket
}

pub(crate) fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65535];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// Asks by UDP for the addresses of a name.
pub(crate) fn ask(name: &str) -> Message {
    let (socket, query) = (socket(), query(name));
    socket.send(&query.to_vec().unwrap()).unwrap();
    let answer = receive(&socket);
    assert_eq!((answer.id, &answer.queries), (query.id, &query.queries));
    answer
}

pub(crate) fn connect() -> TcpStream {
    let stream = TcpStream::connect_timeout(&(ADDRESS, 53).into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(bytes);
    framed
}

pub(crate) fn read(mut stream: &TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// Asks by TCP.
pub(crate) fn ask_by_tcp(name: &str) -> Message {
    let mut stream = connect();
    stream.write_all(&framed(&query(name))).unwrap();
    read(&stream)
}

/// The addresses in an answer.
pub(crate) fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}
