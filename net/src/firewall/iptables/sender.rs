//! Who an endpoint may say it is: a filter on the host's end of its link.
//!
//! The filter is a program of the kernel's classic packet filter, run by `cls_bpf` on each frame that the endpoint sends, before
//! the bridge sees it. It needs no table, sees ARP and bridged packets whatever `bridge-nf-call-iptables` says, and goes with
//! the link.

mod program;

use mica_core::network::{EndpointId, Families, InterfaceName, Mac, Mark, OwnerId, Scope};
use mica_core::{Error, Result};
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use rustix::io::Errno;

use self::program::{Instruction, program};
use crate::firewall::Guarded;
use crate::namespace;
use crate::netlink::{Netlink, Request, link};

const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
/// The filter's place among those of the link, of which it is the only one.
const PLACE: u32 = 1;
/// `ETH_P_ALL`: frames of every protocol.
const EVERY_PROTOCOL: u16 = 3;

/// Tries such a filter in a namespace that goes with the thread that made it.
pub(super) fn probe() -> Result<()> {
    let nobody = Guarded {
        mark: Mark { owner: OwnerId::from_bytes([0; 8]), scope: Scope::Driver },
        interface: "lo".parse()?,
        mac: Mac::of_endpoint(&EndpointId::from_bytes([0; 16])),
        addresses: Vec::new(),
        ports: Vec::new(),
        published: Families::NONE,
    };
    let tried = namespace::in_new(|| guard(&nobody));
    tried.map_err(|error| Error::Unavailable {
        reason: format!(
            "senders cannot be guarded: {error}; take a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, or \
             choose another firewall"
        ),
    })
}

/// Lets the endpoint send as itself only. Idempotent.
pub(super) fn guard(endpoint: &Guarded) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let name = &endpoint.interface;
    let index = index(&mut netlink, name)?;
    let hook = Request::create(
        RouteNetlinkMessage::NewQueueDiscipline(hook(index)),
        format!("make a place for filters on link '{name}'"),
    );
    let filter = Request::replace(
        RouteNetlinkMessage::NewTrafficFilter(filter(index, &program(endpoint))),
        format!("guard what link '{name}' sends"),
    );
    let mut answers = netlink.ask(vec![hook, filter])?.into_iter();
    match answers.next() {
        Some(Err(refused)) if refused.errno != Errno::EXIST => return Err(refused.into()),
        _ => {}
    }
    Ok(answers.try_for_each(|answer| answer.map(drop))?)
}

/// Whether that filter is in its place, as it ought to be.
pub(super) fn stands(endpoint: &Guarded) -> Result<bool> {
    let mut netlink = Netlink::open()?;
    let Some(link) = link::by_name(&mut netlink, endpoint.interface.as_str())? else {
        return Ok(false);
    };
    let wanted = bytes(&program(endpoint));
    let message = at(i32::try_from(link.index).unwrap_or_default(), ingress());
    let request = RouteNetlinkMessage::GetTrafficFilter(message);
    let found = netlink.dump(&request, &format!("list the filters of link '{}'", endpoint.interface))?;
    let runs = |message| match message {
        RouteNetlinkMessage::NewTrafficFilter(filter) => runs(&filter, &wanted),
        _ => false,
    };
    Ok(found.into_iter().any(runs))
}

fn index(netlink: &mut Netlink, name: &InterfaceName) -> Result<i32> {
    let link = link::by_name(netlink, name.as_str())?;
    let index = link.and_then(|link| i32::try_from(link.index).ok());
    index.ok_or_else(|| Error::NotFound { what: format!("link '{name}'") })
}

/// Whether this filter runs this program.
fn runs(filter: &TcMessage, wanted: &[u8]) -> bool {
    let program = |option: &TcOption| {
        matches!(option, TcOption::Bpf(TcFilterBpfOption::Other(ops))
            if ops.kind() == TCA_BPF_OPS && value(ops) == wanted)
    };
    filter.attributes.iter().any(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().any(program),
        _ => false,
    })
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

const fn ingress() -> TcHandle {
    TcHandle { major: TcHandle::CLSACT.major, minor: TcHandle::MIN_INGRESS }
}

fn at(index: i32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index);
    message.header.parent = parent;
    message
}

/// The discipline that gives a link places for filters, and does nothing else.
fn hook(index: i32) -> TcMessage {
    let mut message = at(index, TcHandle::CLSACT);
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn filter(index: i32, program: &[Instruction]) -> TcMessage {
    let mut message = at(index, ingress());
    message.header.handle = TcHandle { major: 0, minor: 1 };
    message.header.info = PLACE << 16 | u32::from(EVERY_PROTOCOL.to_be());
    let other = |kind, value| TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(kind, value)));
    let count = u16::try_from(program.len()).unwrap_or(u16::MAX);
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(vec![
        other(TCA_BPF_OPS_LEN, count.to_ne_bytes().to_vec()),
        other(TCA_BPF_OPS, bytes(program)),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    message
}

/// The program as the kernel takes it (`struct sock_filter`).
fn bytes(program: &[Instruction]) -> Vec<u8> {
    let one = |op: &Instruction| {
        let mut bytes = op.code.to_ne_bytes().to_vec();
        bytes.extend([op.yes, op.no]);
        bytes.extend(op.value.to_ne_bytes());
        bytes
    };
    program.iter().flat_map(one).collect()
}
