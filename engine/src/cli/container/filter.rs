//! Which containers `ps --filter` lets through.

use mica_archive::Digest;
use mica_core::network::{PortRange, Protocol, Publish};

use crate::container::{Container, NetworkMode, State, Status};
use crate::{Engine, Error, Result, networks};

const NAMES: &str = "ancestor, exited, expose, id, label, name, network, publish, status";

/// Docker's states. Some of them no container of this engine is ever in.
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

/// Filters of one kind are alternatives, but that every label is wanted; those of different kinds are all wanted.
#[derive(Debug, Default)]
pub(super) struct Filters(Vec<Filter>);

#[derive(Debug)]
enum Filter {
    Ancestor(String, Option<Digest>),
    Exited(u8),
    Expose(Publish),
    Id(String),
    Label(String, Option<String>),
    Name(String),
    Network(String),
    Publish(Publish),
    Status(String),
}

impl Filters {
    /// Reads what stands behind each `--filter`.
    pub(super) fn parse(engine: &Engine, texts: &[String]) -> Result<Self> {
        texts.iter().map(|text| Filter::parse(engine, text)).collect::<Result<_>>().map(Self)
    }

    /// Whether they ask for containers that do not run, which are else not shown.
    pub(super) fn want_all(&self) -> bool {
        self.0.iter().any(|filter| matches!(filter, Filter::Status(_) | Filter::Exited(_)))
    }

    /// Whether a container is to be shown.
    pub(super) fn take(&self, engine: &Engine, container: &Container, state: &State) -> Result<bool> {
        let taken: Vec<bool> =
            self.0.iter().map(|filter| filter.takes(engine, container, state)).collect::<Result<_>>()?;
        let with_answers = || self.0.iter().zip(&taken);
        let is_let_through = |(filter, taken): (&Filter, &bool)| {
            let is_alternative = |other: &Filter| {
                std::mem::discriminant(other) == std::mem::discriminant(filter)
                    && !matches!(filter, Filter::Label(..))
            };
            *taken || with_answers().any(|(other, taken)| *taken && is_alternative(other))
        };
        Ok(with_answers().all(is_let_through))
    }
}

impl Filter {
    fn parse(engine: &Engine, text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::Invalid(format!("invalid filter '{}'{why}", text.escape_debug()));
        let Some((name, value)) = text.split_once('=') else {
            return Err(refuse(&format!(": write NAME=VALUE; the names that exist are: {NAMES}")));
        };
        let value = value.to_owned();
        Ok(match name {
            "ancestor" => {
                let image = engine.image(&value).ok().map(|image| *image.id());
                Self::Ancestor(value, image)
            }
            "exited" => {
                Self::Exited(value.parse().map_err(|_| refuse(": give an exit status from 0 to 255"))?)
            }
            "expose" => Self::Expose(ports(&value)?),
            "id" => Self::Id(value),
            "label" => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value, None),
            },
            "name" => Self::Name(value),
            "network" => Self::Network(value),
            "publish" => Self::Publish(ports(&value)?),
            "status" if STATES.contains(&value.as_str()) => Self::Status(value),
            "status" => return Err(refuse(&format!("; those that exist are: {}", STATES.join(", ")))),
            _ => return Err(refuse(&format!("; those that exist are: {NAMES}"))),
        })
    }

    fn takes(&self, engine: &Engine, container: &Container, state: &State) -> Result<bool> {
        let record = container.record();
        Ok(match self {
            Self::Ancestor(name, image) => record.image_name == *name || Some(record.image) == *image,
            Self::Exited(code) => state.status == Status::Exited && state.exit_code == *code,
            Self::Expose(port) => {
                let networking = &record.settings.networking;
                networking
                    .exposed
                    .iter()
                    .chain(&networking.publish)
                    .any(|other| share(port, other.container(), other.protocol()))
            }
            Self::Id(beginning) => record.id.starts_with(beginning),
            Self::Label(name, value) => {
                let label = record.settings.labels.get(name);
                label.is_some() && value.as_ref().is_none_or(|value| label == Some(value))
            }
            Self::Name(pattern) => is_like(&record.name, pattern),
            Self::Network(name) => is_connected(container, name)?,
            Self::Publish(port) => {
                let published = engine.published(container)?;
                published.iter().any(|other| share(port, other.host, other.protocol))
            }
            Self::Status(word) => state.status.word() == word,
        })
    }
}

/// `PORT[/PROTOCOL]`, or a range of them.
fn ports(text: &str) -> Result<Publish> {
    match text.parse::<Publish>()? {
        ports if ports.address().is_none() && ports.host().is_none() => Ok(ports),
        _ => Err(Error::Invalid(format!(
            "invalid filter for ports '{}': write PORT[/PROTOCOL] or FIRST-LAST[/PROTOCOL]",
            text.escape_debug()
        ))),
    }
}

fn share(wanted: &Publish, ports: PortRange, protocol: Protocol) -> bool {
    let wanted_ports = wanted.container();
    wanted.protocol() == protocol
        && wanted_ports.first() <= ports.last()
        && ports.first() <= wanted_ports.last()
}

/// Whether the container is in the network of this name, or of an id that begins so.
fn is_connected(container: &Container, name: &str) -> Result<bool> {
    Ok(match container.record().settings.networking.mode {
        NetworkMode::None => name == networks::NONE,
        NetworkMode::Host => name == networks::HOST,
        NetworkMode::Container(_) => false,
        NetworkMode::Connected => container.connections()?.iter().any(|connection| {
            connection.name == name || (!name.is_empty() && connection.network.to_string().starts_with(name))
        }),
    })
}

/// Whether a name has this in it. Of Docker's patterns `^` and `$` are known, and the `/` that its names begin with.
pub(in crate::cli) fn is_like(name: &str, pattern: &str) -> bool {
    let (pattern, from_start) = pattern.strip_prefix('^').map_or((pattern, false), |rest| (rest, true));
    let (pattern, to_end) = pattern.strip_suffix('$').map_or((pattern, false), |rest| (rest, true));
    let text = pattern.strip_prefix('/').unwrap_or(pattern);
    match (from_start, to_end) {
        (true, true) => name == text,
        (true, false) => name.starts_with(text),
        (false, true) => name.ends_with(text),
        (false, false) => name.contains(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_in_part_or_where_it_is_anchored_as_a_whole() {
        for pattern in ["web", "b-1", "^web", "^/web", "1$", "^web-1$", ""] {
            assert!(is_like("web-1", pattern), "{pattern}");
        }
        for pattern in ["^eb", "web$", "^web-1x$", "db"] {
            assert!(!is_like("web-1", pattern), "{pattern}");
        }
    }
}
