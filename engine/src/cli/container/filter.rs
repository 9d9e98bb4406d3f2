//! Which containers `ps --filter` lets through.

use mica_archive::Digest;

use crate::container::{Container, State, Status};
use crate::{Engine, Error, Result};

const NAMES: &str = "ancestor, exited, id, label, name, status";

/// Docker's states. Some of them no container of this engine is ever in.
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

/// Filters of one kind are alternatives, but that every label is wanted; those of different kinds are all wanted.
#[derive(Debug, Default)]
pub(super) struct Filters(Vec<Filter>);

#[derive(Debug)]
enum Filter {
    Ancestor(String, Option<Digest>),
    Exited(u8),
    Id(String),
    Label(String, Option<String>),
    Name(String),
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
    pub(super) fn take(&self, container: &Container, state: &State) -> bool {
        self.0.iter().all(|filter| {
            let is_alternative = |other: &&Filter| {
                std::mem::discriminant(*other) == std::mem::discriminant(filter)
                    && !matches!(filter, Filter::Label(..))
            };
            filter.takes(container, state)
                || self.0.iter().filter(is_alternative).any(|other| other.takes(container, state))
        })
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
            "id" => Self::Id(value),
            "label" => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value, None),
            },
            "name" => Self::Name(value),
            "status" if STATES.contains(&value.as_str()) => Self::Status(value),
            "status" => return Err(refuse(&format!("; those that exist are: {}", STATES.join(", ")))),
            _ => return Err(refuse(&format!("; those that exist are: {NAMES}"))),
        })
    }

    fn takes(&self, container: &Container, state: &State) -> bool {
        let record = container.record();
        match self {
            Self::Ancestor(name, image) => record.image_name == *name || Some(record.image) == *image,
            Self::Exited(code) => state.status == Status::Exited && state.exit_code == *code,
            Self::Id(beginning) => record.id.starts_with(beginning),
            Self::Label(name, value) => {
                let label = record.settings.labels.get(name);
                label.is_some() && value.as_ref().is_none_or(|value| label == Some(value))
            }
            Self::Name(pattern) => is_like(&record.name, pattern),
            Self::Status(word) => state.status.word() == word,
        }
    }
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
