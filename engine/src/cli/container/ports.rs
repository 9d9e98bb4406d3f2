//! Published ports as `port` and `ps` print them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;
use mica_core::network::{Protocol, Publish};

use super::super::{Outcome, print};
use crate::container::{Container, Published};
use crate::{Engine, Error, Result};

#[derive(Debug, Args)]
pub(crate) struct Port {
    /// Its name or id
    container: String,
    /// Where this port of it is published
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

/// Prints where the ports of a container are published, a line for each.
pub(super) fn port(engine: &Engine, flags: &Port) -> Outcome {
    let container = engine.container(&flags.container)?;
    let published = engine.published(&container)?;
    let text: String = match &flags.port {
        None => pairs(&published).iter().map(|(port, at)| format!("{port} -> {at}\n")).collect(),
        Some(port) => {
            let wanted = wanted(port)?;
            let found = pairs(&published).into_iter().filter(|(port, _)| *port == wanted);
            found.map(|(_, at)| format!("{at}\n")).collect()
        }
    };
    match &flags.port {
        Some(port) if text.is_empty() => Err(Error::Invalid(format!(
            "no public port '{}' published for {}",
            wanted(port)?,
            container.name()
        ))
        .into()),
        _ => {
            print::text(&text)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// As the list of ports calls it: `80/tcp`.
fn wanted(text: &str) -> Result<String> {
    let port: Publish = text.parse()?;
    match port {
        port if port.host().is_none() && port.address().is_none() && port.container().count() == 1 => {
            Ok(port.to_string())
        }
        _ => Err(Error::Invalid(format!("'{}' is not one port; write PORT[/PROTOCOL]", text.escape_debug()))),
    }
}

/// Each port of the container, with the host's that leads there.
fn pairs(published: &[Published]) -> Vec<(String, String)> {
    let of = |port: &Published| {
        let Published { container, protocol, address, host } = *port;
        container.ports().zip(host.ports()).map(move |(port, host)| ((port, protocol), at(address, &host)))
    };
    let mut pairs: Vec<_> = published.iter().flat_map(of).collect();
    pairs.sort_by_key(|(port, _)| *port);
    pairs.into_iter().map(|((port, protocol), at)| (format!("{port}/{protocol}"), at)).collect()
}

fn at(address: IpAddr, port: &dyn std::fmt::Display) -> String {
    if address.is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The ports of a container that runs, as `ps` shows them: where they are published, and what it exposes besides.
pub(super) fn column(engine: &Engine, container: &Container) -> Result<String> {
    let exposed = &container.record().settings.networking.exposed;
    Ok(line(&engine.published(container)?, exposed))
}

fn line(published: &[Published], exposed: &[Publish]) -> String {
    let mut cells: Vec<((u16, Protocol), String)> = Vec::new();
    for Published { container, protocol, address, host } in published {
        let text = format!("{}->{container}/{protocol}", at(*address, host));
        cells.push(((container.first(), *protocol), text));
    }
    let leads_to = |protocol: Protocol, port: u16| {
        published.iter().any(|cell| cell.protocol == protocol && cell.container.ports().contains(&port))
    };
    let said =
        exposed.iter().flat_map(|range| range.container().ports().map(|port| (range.protocol(), port)));
    let left: BTreeSet<_> = said.filter(|&(protocol, port)| !leads_to(protocol, port)).collect();
    for (protocol, first, last) in rows(&left) {
        let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
        cells.push(((first, protocol), format!("{ports}/{protocol}")));
    }
    cells.sort_by_key(|(place, _)| *place);
    cells.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

/// Ports that follow each other, from the first to the last.
fn rows(ports: &BTreeSet<(Protocol, u16)>) -> Vec<(Protocol, u16, u16)> {
    let mut rows: Vec<(Protocol, u16, u16)> = Vec::new();
    for &(protocol, port) in ports {
        match rows.last_mut() {
            Some((known, _, last)) if *known == protocol && *last + 1 == port => *last = port,
            _ => rows.push((protocol, port, port)),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(container: &str, address: &str, host: &str) -> Published {
        Published {
            container: container.parse().unwrap(),
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            host: host.parse().unwrap(),
        }
    }

    #[test]
    fn ports_stand_in_a_line_as_docker_has_them() {
        let ports = [
            published("80", "0.0.0.0", "8080"),
            published("80", "::", "8080"),
            published("90-92", "::1", "1-3"),
        ];
        let exposed: Vec<Publish> =
            ["80", "53/udp", "7000-7003", "92-93"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(
            line(&ports, &exposed),
            "53/udp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, [::1]:1-3->90-92/tcp, 93/tcp, 7000-7003/tcp"
        );
        assert_eq!(line(&[], &[]), "");
    }

    #[test]
    fn each_port_of_a_range_is_told() {
        let told = pairs(&[published("90-91", "0.0.0.0", "1-2"), published("90-91", "::", "1-2")]);
        let expected =
            [("90/tcp", "0.0.0.0:1"), ("90/tcp", "[::]:1"), ("91/tcp", "0.0.0.0:2"), ("91/tcp", "[::]:2")];
        assert_eq!(told, expected.map(|(port, at)| (port.to_owned(), at.to_owned())));
    }

    #[test]
    fn one_port_is_asked_for() {
        assert_eq!(wanted("80").unwrap(), "80/tcp");
        assert_eq!(wanted("53/udp").unwrap(), "53/udp");
        for bad in ["80-90", "80:80", "x"] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}
