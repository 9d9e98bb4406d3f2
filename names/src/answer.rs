//! What becomes of one query: pure, from bytes to bytes. All of it was written by whoever is in the container.

use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use crate::View;
use crate::names::Found;

/// How long an answer may be kept, in seconds: a container can be replaced at any moment.
const TTL: u32 = 5;
/// The longest answer that a client must take in a datagram (RFC 1035, 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;
/// The longest datagram that a client is asked to send: one that no link cuts into pieces (DNS flag day 2020).
const DATAGRAM: u16 = 1232;
/// The longest datagram that is sent, to a client that takes it: it crosses no link but the loopback.
const LONGEST_DATAGRAM: u16 = 4096;
/// How long a header is.
const HEADER: usize = 12;

/// How a query came, and so how its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
}

/// What becomes of a query.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is answered with this message.
    Answer(Vec<u8>),
    /// Others are asked.
    Forward(Pending),
    /// It is no query; to answer an answer would start a loop.
    Ignore,
}

/// A query that others are asked.
#[derive(Debug)]
pub(crate) struct Pending {
    /// It, as it came.
    query: Vec<u8>,
    id: u16,
    question: Query,
    limit: u16,
}

/// Judges one message that came from the container.
pub(crate) fn judge(packet: &[u8], via: Via, view: &View) -> Verdict {
    let Ok(header) = Header::read(&mut BinDecoder::new(packet)) else { return Verdict::Ignore };
    if header.metadata.message_type != MessageType::Query {
        return Verdict::Ignore;
    }
    if header.metadata.op_code != OpCode::Query {
        return refuse(&header.metadata, ResponseCode::NotImp);
    }
    // The numbers are looked at before anything is set aside for as many things.
    let HeaderCounts { queries, answers, authorities, .. } = header.counts;
    if (queries, answers, authorities) != (1, 0, 0) {
        return refuse(&header.metadata, ResponseCode::FormErr);
    }
    let Ok(query) = Message::from_vec(packet) else {
        return refuse(&header.metadata, ResponseCode::FormErr);
    };
    let limit = match via {
        Via::Udp => query.max_payload().clamp(PLAIN_DATAGRAM, LONGEST_DATAGRAM),
        Via::Tcp => u16::MAX,
    };
    resolve(packet, &query, limit, view)
}

fn resolve(packet: &[u8], query: &Message, limit: u16, view: &View) -> Verdict {
    let [question] = &query.queries[..] else { return Verdict::Ignore };
    if query.version() != 0 {
        return finish(&reply(query, ResponseCode::BADVERS), limit);
    }
    let mut response = match view.names.find(question) {
        Some(Found::Data(data)) => {
            let mut response = reply(query, ResponseCode::NoError);
            let records = data.into_iter().map(|data| Record::from_rdata(question.name().clone(), TTL, data));
            response.add_answers(records);
            response
        }
        None if !view.servers.is_empty() => {
            let question = question.clone();
            return Verdict::Forward(Pending { query: packet.to_vec(), id: query.id, question, limit });
        }
        // A C library that hears "refused" or "failure" asks again for seconds; in this container's world there
        // is no such name.
        None | Some(Found::NoSuchName) => reply(query, ResponseCode::NXDomain),
    };
    // Clients take the first one; who it is changes from query to query.
    if let Some(turns) = usize::from(query.id).checked_rem(response.answers.len()) {
        response.answers.rotate_left(turns);
    }
    response.metadata.authoritative = true;
    finish(&response, limit)
}

/// An empty answer to a query.
fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(query.id, OpCode::Query);
    response.metadata = Metadata::response_from_request(&query.metadata);
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries.clone_from(&query.queries);
    response.edns = query.edns.as_ref().map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM);
        edns
    });
    response
}

fn finish(response: &Message, limit: u16) -> Verdict {
    match fitting(response, limit) {
        Some(bytes) => Verdict::Answer(bytes),
        None => Verdict::Ignore,
    }
}

/// The message in bytes; where it is longer than the limit, without its records and with the mark that makes a
/// client ask by TCP.
fn fitting(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let fits = |bytes: &Vec<u8>| bytes.len() <= usize::from(limit);
    message.to_vec().ok().filter(fits).or_else(|| message.truncate().to_vec().ok())
}

/// Answers a message of which only the header is good.
fn refuse(request: &Metadata, code: ResponseCode) -> Verdict {
    let mut metadata = Metadata::response_from_request(request);
    metadata.response_code = code;
    let mut bytes = Vec::with_capacity(HEADER);
    match (Header { metadata, counts: HeaderCounts::default() }).emit(&mut BinEncoder::new(&mut bytes)) {
        Ok(()) => Verdict::Answer(bytes),
        Err(_) => Verdict::Ignore,
    }
}

impl Pending {
    /// The query with another number, to be sent on.
    pub(crate) fn numbered(&self, id: u16) -> Vec<u8> {
        renumbered(self.query.clone(), id)
    }

    /// What the client is told when a server answered this; `None` where it is no answer to this query under that
    /// number.
    pub(crate) fn translate(&self, answer: &[u8], id: u16) -> Option<Reply> {
        let mut decoder = BinDecoder::new(answer);
        let header = Header::read(&mut decoder).ok()?;
        let fits = header.metadata.id == id
            && header.metadata.message_type == MessageType::Response
            && header.counts.queries == 1
            && Query::read(&mut decoder).ok()? == self.question;
        if !fits {
            return None;
        }
        let code = header.metadata.response_code;
        let failed = matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp);
        let message = if answer.len() <= usize::from(self.limit) {
            renumbered(answer.to_vec(), self.id)
        } else {
            let mut metadata = header.metadata;
            metadata.id = self.id;
            metadata.truncation = true;
            self.empty(metadata)?
        };
        Some(Reply { message, failed })
    }

    /// What the client is told when nobody answered.
    pub(crate) fn failure(&self) -> Option<Vec<u8>> {
        let mut metadata = Metadata::new(self.id, MessageType::Response, OpCode::Query);
        metadata.recursion_desired = true;
        metadata.recursion_available = true;
        metadata.response_code = ResponseCode::ServFail;
        self.empty(metadata)
    }

    fn empty(&self, metadata: Metadata) -> Option<Vec<u8>> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata = metadata;
        message.add_query(self.question.clone());
        message.to_vec().ok()
    }
}

/// A server's answer, as the client gets it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Vec<u8>,
    /// The server could not help; another one may.
    pub(crate) failed: bool,
}

/// A message with another number, which is what it begins with.
fn renumbered(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    message.splice(..message.len().min(2), id.to_be_bytes());
    message
}

#[cfg(test)]
mod tests;
