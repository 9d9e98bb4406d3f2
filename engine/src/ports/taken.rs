//! Which process of the host has a port. It is asked when a port is taken and no container has it, and never before.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::{Port, Protocol};

use crate::error::shown;

/// The kernel's number for a socket that listens, in its tables.
const LISTENS: &str = "0A";
/// Those for what is left of a connection when no process has it any more (TIME_WAIT).
const LEFT: &str = "06";

/// Who has a port, as far as it can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// This process, with its name.
    Process(u32, String),
    /// One that cannot be seen from here.
    Hidden,
    /// Connections that were closed a moment ago.
    Closed,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid, name) => write!(f, "process {pid} ({name}) has it"),
            Self::Hidden => f.write_str("a process that cannot be seen from here has it"),
            Self::Closed => f.write_str("connections that were just closed have it for up to a minute"),
        }
    }
}

/// A line of the kernel's tables of sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    address: IpAddr,
    port: u16,
    state: String,
    inode: u64,
}

/// Who has the first number of this port, in the namespace of the calling thread.
pub(super) fn holder(port: &Port) -> Holder {
    let tables: &[&str] = match port.protocol() {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => &[],
    };
    let read =
        |table: &&str| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    let text: Vec<String> = tables.iter().map(read).collect();
    let mut lines: Vec<Line> = text.iter().flat_map(|text| text.lines().filter_map(parse)).collect();
    lines.retain(|line| line.port == port.host().first() && is_in_the_way(line.address, port.address()));
    // Whoever listens rather than whoever is connected from there.
    lines.sort_by_key(|line| (line.state == LEFT, line.state != LISTENS));
    match lines.first() {
        Some(line) if line.state == LEFT => Holder::Closed,
        Some(line) => process(line.inode).unwrap_or(Holder::Hidden),
        None => Holder::Hidden,
    }
}

/// A socket for all addresses of IPv6 has all of IPv4, too, unless it says otherwise, which the tables do not show.
fn is_in_the_way(has: IpAddr, wanted: Option<IpAddr>) -> bool {
    let Some(wanted) = wanted else { return true };
    has == wanted
        || has == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || (has.is_ipv4() == wanted.is_ipv4() && (has.is_unspecified() || wanted.is_unspecified()))
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12345 …` (kernel documentation,
/// proc_net_tcp). The address is words in the processor's order of bytes.
fn parse(line: &str) -> Option<Line> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (&local, &state, &inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (address, port) = local.split_once(':')?;
    let word =
        |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address: IpAddr = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let words = [word(0)?, word(1)?, word(2)?, word(3)?];
        let bytes: [u8; 16] = words.concat().try_into().ok()?;
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some(Line {
        address,
        port: u16::from_str_radix(port, 16).ok()?,
        state: state.to_owned(),
        inode: inode.parse().ok()?,
    })
}

/// The first process that has this socket open.
fn process(inode: u64) -> Option<Holder> {
    let wanted = format!("socket:[{inode}]");
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let has_it = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.as_os_str() == wanted.as_str())
    };
    let pid = pids.into_iter().find(has_it)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder::Process(pid, shown(name.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read() {
        let bytes = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let four = format!("   0: {}:1F90 00000000:0000 0A 0:0 00:0 0 0 0 777 1 0", bytes([127, 0, 0, 1]));
        let line =
            Line { address: "127.0.0.1".parse().unwrap(), port: 8080, state: LISTENS.to_owned(), inode: 777 };
        assert_eq!(parse(&four), Some(line));
        let words = [bytes([0xfd, 0, 0, 0]), bytes([0; 4]), bytes([0; 4]), bytes([0, 0, 0, 9])].concat();
        let six = format!("1: {words}:0050 {}:0000 07 0:0 00:0 0 0 0 778", "0".repeat(32));
        let line = parse(&six).unwrap();
        assert_eq!((line.address, line.port), ("fd00::9".parse().unwrap(), 80));
        for bad in [
            "",
            "sl local_address rem_address st",
            "0: zz:1F90 0:0 0A 0 0 0 0 0 7",
            "0: 7F:1 a b c d e f g 1",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_who_could_get_the_same_packet_is_in_the_way() {
        for (has, wanted, expected) in [
            ("0.0.0.0", Some("127.0.0.1"), true),
            ("127.0.0.1", Some("0.0.0.0"), true),
            ("127.0.0.1", Some("127.0.0.2"), false),
            ("127.0.0.1", None, true),
            ("::", Some("127.0.0.1"), true),
            ("fd00::1", Some("127.0.0.1"), false),
            ("::1", Some("::"), true),
        ] {
            let wanted = wanted.map(|ip| ip.parse().unwrap());
            assert_eq!(is_in_the_way(has.parse().unwrap(), wanted), expected, "{has} {wanted:?}");
        }
    }
}
