use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{Names, Server};

const ID: u16 = 0xbeef;

fn view(servers: &[&str], containers: u8) -> View {
    let mut names = Names::default();
    names.insert(&"web".parse().unwrap(), &["172.30.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
    for last in 1..=containers {
        names.insert(&"all".parse().unwrap(), &[IpAddr::from([172, 30, 1, last])]);
    }
    View { names, servers: servers.iter().map(|server| server.parse::<Server>().unwrap()).collect() }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answer(query: &Message, via: Via, view: &View) -> Message {
    match judge(&query.to_vec().unwrap(), via, view) {
        Verdict::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn pending(query: &Message) -> Pending {
    match judge(&query.to_vec().unwrap(), Via::Udp, &view(&["10.0.0.1"], 0)) {
        Verdict::Forward(pending) => pending,
        other => panic!("{other:?}"),
    }
}

fn with_edns(mut query: Message, version: u8, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_version(version).set_max_payload(payload);
    query.set_edns(edns);
    query
}

#[test]
fn a_containers_name_is_answered_with_authority_and_for_a_short_time() {
    let told = answer(&query("WEB.", RecordType::A), Via::Udp, &view(&["10.0.0.1"], 0));
    assert_eq!(
        (told.id, told.message_type, told.response_code),
        (ID, MessageType::Response, ResponseCode::NoError)
    );
    assert!(told.authoritative && told.recursion_desired && told.recursion_available);
    let [record] = &told.answers[..] else { panic!("{told:?}") };
    assert_eq!((record.data.to_string().as_str(), record.ttl), ("172.30.0.2", TTL));
    // A client that writes a name in its own way compares what comes back (draft-vixie-dnsext-dns0x20).
    assert_eq!(record.name.to_ascii(), "WEB.");
}

#[test]
fn a_name_without_an_address_of_the_family_exists() {
    let told = answer(&query("all.", RecordType::AAAA), Via::Udp, &view(&["10.0.0.1"], 1));
    assert_eq!((told.response_code, told.answers.len()), (ResponseCode::NoError, 0));
}

#[test]
fn nothing_is_forwarded_for_a_container_of_internal_networks_alone() {
    let asked = query("secret.attacker.example.", RecordType::TXT);
    let told = answer(&asked, Via::Udp, &view(&[], 0));
    assert_eq!(told.response_code, ResponseCode::NXDomain);
    let packet = asked.to_vec().unwrap();
    assert!(matches!(judge(&packet, Via::Udp, &view(&["10.0.0.1"], 0)), Verdict::Forward(_)));
}

#[test]
fn other_classes_than_the_internets_have_no_containers() {
    let mut asked = query("web.", RecordType::A);
    asked.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(answer(&asked, Via::Udp, &view(&[], 0)).response_code, ResponseCode::NXDomain);
}

#[test]
fn an_answer_that_is_too_long_for_a_datagram_is_cut_and_whole_by_tcp() {
    let (asked, view) = (query("all.", RecordType::A), view(&[], 200));
    let cut = judge(&asked.to_vec().unwrap(), Via::Udp, &view);
    assert!(matches!(&cut, Verdict::Answer(bytes) if bytes.len() <= 512), "{cut:?}");
    let told = answer(&asked, Via::Udp, &view);
    assert!(told.truncation && told.answers.is_empty());
    let whole = answer(&asked, Via::Tcp, &view);
    assert!(!whole.truncation);
    assert_eq!(whole.answers.len(), 200);
    let larger = answer(&with_edns(asked, 0, 4096), Via::Udp, &view);
    assert!(!larger.truncation && larger.edns.is_some());
    assert_eq!(larger.answers.len(), 200);
}

#[test]
fn each_of_the_containers_that_share_an_alias_is_first_at_times() {
    let view = view(&[], 3);
    let first = |id| {
        let mut asked = query("all.", RecordType::A);
        asked.metadata.id = id;
        answer(&asked, Via::Udp, &view).answers[0].data.to_string()
    };
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        ["172.30.1.1", "172.30.1.2", "172.30.1.3", "172.30.1.1"]
    );
}

#[test]
fn what_is_no_query_gets_no_answer() {
    let mut response = query("web.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    let packet = response.to_vec().unwrap();
    for packet in [&packet[..], &[], &[0; 11]] {
        assert!(matches!(judge(packet, Via::Udp, &view(&["10.0.0.1"], 0)), Verdict::Ignore), "{packet:?}");
    }
}

#[test]
fn a_broken_query_is_told_so() {
    let good = query("web.", RecordType::A);
    let packet = good.to_vec().unwrap();
    let code = |packet: &[u8]| match judge(packet, Via::Udp, &view(&["10.0.0.1"], 0)) {
        Verdict::Answer(bytes) => Message::from_vec(&bytes).unwrap().response_code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&packet[..packet.len() - 1]), ResponseCode::FormErr);
    let counts = |at: usize| {
        let mut packet = packet.clone();
        packet[at] = 0xff;
        packet
    };
    for at in [4, 6, 8, 10] {
        assert_eq!(code(&counts(at)), ResponseCode::FormErr, "count at {at}");
    }
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&update.to_vec().unwrap()), ResponseCode::NotImp);
    // A name that points at itself.
    let mut circle = packet[..12].to_vec();
    circle.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(code(&circle), ResponseCode::FormErr);
}

#[test]
fn an_extension_of_a_later_version_is_declined_with_ours() {
    let told = answer(&with_edns(query("web.", RecordType::A), 1, 4096), Via::Udp, &view(&[], 0));
    // The number has two names (RFC 6891, 9; RFC 8945, 3).
    assert_eq!(u16::from(told.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(told.edns.unwrap().version(), 0);
}

#[test]
fn only_the_answer_to_a_query_is_taken_for_it() {
    let asked = query("example.org.", RecordType::A);
    let pending = pending(&asked);
    let sent = Message::from_vec(&pending.numbered(7)).unwrap();
    assert_eq!((sent.id, &sent.queries), (7, &asked.queries));

    let response = sent.into_response();
    let told = pending.translate(&response.to_vec().unwrap(), 7).unwrap();
    assert_eq!(Message::from_vec(&told.message).unwrap().id, ID);
    assert!(!told.failed);

    let taken = |answer: &Message, id| pending.translate(&answer.to_vec().unwrap(), id).is_some();
    assert!(!taken(&response, 8));
    assert!(!taken(&asked, ID));
    let other = query("example.com.", RecordType::A).into_response();
    assert!(!taken(&other, ID));
    assert!(pending.translate(&[], 7).is_none());
}

#[test]
fn a_server_that_cannot_help_is_told_from_one_that_knows_there_is_nothing() {
    let pending = pending(&query("example.org.", RecordType::A));
    let failed = |code| {
        let mut response = Message::from_vec(&pending.numbered(7)).unwrap().into_response();
        response.metadata.response_code = code;
        pending.translate(&response.to_vec().unwrap(), 7).unwrap().failed
    };
    assert!(failed(ResponseCode::ServFail) && failed(ResponseCode::Refused));
    assert!(!failed(ResponseCode::NXDomain) && !failed(ResponseCode::NoError));
}

#[test]
fn a_servers_long_answer_is_cut_to_what_the_client_takes() {
    let pending = pending(&query("example.org.", RecordType::A));
    let mut response = Message::from_vec(&pending.numbered(7)).unwrap().into_response();
    let name = response.queries[0].name().clone();
    let address = |n| RData::A(Ipv4Addr::new(192, 0, 2, n).into());
    let record = |n| Record::from_rdata(name.clone(), 60, address(n));
    response.add_answers((0..100).map(record));
    let told = pending.translate(&response.to_vec().unwrap(), 7).unwrap().message;
    assert!(told.len() <= 512);
    let told = Message::from_vec(&told).unwrap();
    assert!(told.truncation && told.id == ID && told.answers.is_empty() && told.queries.len() == 1);
}

#[test]
fn a_query_that_nobody_answers_has_failed() {
    let pending = pending(&query("example.org.", RecordType::A));
    let told = Message::from_vec(&pending.failure().unwrap()).unwrap();
    assert_eq!((told.id, told.response_code), (ID, ResponseCode::ServFail));
    assert_eq!(told.queries[0].name().to_ascii(), "example.org.");
}

/// A query, and what damage does to it.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::ANY]);
    let names = prop::sample::select(vec!["web.", "all.", "example.org.", "2.0.30.172.in-addr.arpa.", "."]);
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (names, kinds, changes, any::<prop::sample::Index>()).prop_map(|(name, kind, changes, end)| {
        let mut packet = with_edns(query(name, kind), 0, 1400).to_vec().unwrap();
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        // Half of them stay whole.
        let end = end.index(2 * packet.len());
        packet.truncate(end.max(1));
        packet
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_arrives_is_answered_by_a_message_that_fits(
        packet in prop_oneof![vec(any::<u8>(), 0..600), damaged()],
        servers in prop::sample::select(vec![0usize, 1]),
    ) {
        let servers = &["10.0.0.1"][..servers];
        let view = view(servers, 100);
        for via in [Via::Udp, Via::Tcp] {
            match judge(&packet, via, &view) {
                Verdict::Answer(bytes) => {
                    let told = Message::from_vec(&bytes).unwrap();
                    prop_assert_eq!(told.message_type, MessageType::Response);
                    prop_assert_eq!(&bytes[..2], &packet[..2]);
                    prop_assert!(via == Via::Tcp || bytes.len() <= usize::from(LONGEST_DATAGRAM));
                }
                Verdict::Forward(pending) => {
                    prop_assert!(!servers.is_empty());
                    prop_assert_eq!(&pending.numbered(ID)[2..], &packet[2..]);
                    prop_assert!(pending.failure().is_some());
                }
                Verdict::Ignore => {}
            }
        }
    }

    #[test]
    fn whatever_a_server_sends_is_no_answer_unless_it_looks_like_one(
        answer in prop_oneof![vec(any::<u8>(), 0..600), damaged()],
        id in any::<u16>(),
    ) {
        let pending = pending(&query("example.org.", RecordType::A));
        if let Some(reply) = pending.translate(&answer, id) {
            prop_assert_eq!(&answer[..2], id.to_be_bytes());
            prop_assert_eq!(&reply.message[..2], ID.to_be_bytes());
            prop_assert!(reply.message.len() <= 512);
        }
    }
}
