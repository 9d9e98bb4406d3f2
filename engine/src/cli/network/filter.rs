//! Which networks `network ls --filter` and `network prune --filter` let through.

use std::collections::BTreeMap;

use super::super::container::is_like;
use crate::container::{parse_time, seconds};
use crate::networks::NetworkRecord;
use crate::{Error, Result};

/// Filters of one kind are alternatives, but that every label is wanted; those of different kinds are all wanted.
#[derive(Debug, Default)]
pub(super) struct Filters(BTreeMap<&'static str, Vec<String>>);

impl Filters {
    /// Those of a list.
    pub(super) fn for_list(texts: &[String]) -> Result<Self> {
        Self::parse(texts, &["dangling", "driver", "id", "label", "name", "scope", "type"])
    }

    /// Those of what is removed.
    pub(super) fn for_prune(texts: &[String]) -> Result<Self> {
        Self::parse(texts, &["label", "label!", "until"])
    }

    fn parse(texts: &[String], known: &[&'static str]) -> Result<Self> {
        let mut filters: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for text in texts {
            let refuse =
                |why: String| Error::Invalid(format!("invalid filter '{}': {why}", text.escape_debug()));
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let Some(name) = known.iter().find(|known| **known == name && text.contains('=')) else {
                let known = known.join(", ");
                return Err(refuse(format!("write NAME=VALUE; the names that exist are: {known}")));
            };
            let value = match (*name, value) {
                ("dangling", _) => truth(value).ok_or_else(|| refuse("give true or false".to_owned()))?,
                ("type", "builtin" | "custom") => value.to_owned(),
                ("type", _) => return Err(refuse("give builtin or custom".to_owned())),
                ("until", _) => parse_time(value)?.to_string(),
                _ => value.to_owned(),
            };
            filters.entry(name).or_default().push(value);
        }
        Ok(Self(filters))
    }

    /// Whether it must be known which networks containers are connected to.
    pub(super) fn ask_for_use(&self) -> bool {
        self.0.contains_key("dangling")
    }

    /// Whether a network is meant.
    pub(super) fn take(&self, record: &NetworkRecord, is_used: bool) -> bool {
        let has = |text: &String| match text.split_once('=') {
            Some((name, value)) => record.labels.get(name).is_some_and(|found| found == value),
            None => record.labels.contains_key(text),
        };
        let is = |value: &String, found: &str| value == found;
        // One of the engine's own is never to be missed.
        let is_dangling = !is_used && !record.is_predefined();
        let kind = if record.is_predefined() { "builtin" } else { "custom" };
        self.0.iter().all(|(name, values)| match *name {
            "dangling" => values.iter().any(|value| is(value, &is_dangling.to_string())),
            "driver" => values.iter().any(|value| is(value, &record.driver)),
            "id" => values.iter().any(|value| record.id().starts_with(value.as_str())),
            "label" => values.iter().all(has),
            "label!" => !values.iter().any(has),
            "name" => values.iter().any(|value| is_like(record.name(), value)),
            "scope" => values.iter().any(|value| is(value, "local")),
            "type" => values.iter().any(|value| is(value, kind)),
            _ => values.iter().all(|until| seconds(&record.created) < seconds(until)),
        })
    }
}

fn truth(text: &str) -> Option<String> {
    match text {
        "true" | "1" => Some(true.to_string()),
        "false" | "0" => Some(false.to_string()),
        _ => None,
    }
}
