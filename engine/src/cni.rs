//! The plugin side of the Container Network Interface: other container runtimes connect their containers to networks of this
//! engine by executing `mica cni`.
//!
//! A runtime says in the environment [what it asks for](call::Call), writes a [configuration](config::Config) to standard input
//! and reads a [result](answer::success) or a [refusal](refusal::Refusal) from standard output. Nothing runs between two calls: what is known
//! of an attachment is its endpoint's record, which says by [`Outside`](crate::networks::Outside) in which namespace it is.
//!
//! The configuration names a network. Where there is none of that name it is made, as `network create` does, so it is listed,
//! shown and removed like any other, and containers of this engine and of another runtime can meet in it.

mod add;
mod answer;
mod call;
mod check;
mod config;
mod refusal;
mod remove;
mod version;
mod wishes;

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;

use mica_core::Registry;
use serde_json::Value;

use crate::Root;
use crate::networks::Networks;
use call::Call;
use config::{Config, Fields};
use refusal::{Code, Refusal};
use version::Version;

/// The longest configuration that is read, in bytes.
const MAX_INPUT: u64 = 4 << 20;

/// What holds where the configuration does not say otherwise.
#[derive(Debug)]
pub(crate) struct Base {
    /// The drivers.
    pub(crate) registry: Registry,
    /// The data root.
    pub(crate) root: PathBuf,
    /// The firewall that network drivers write to.
    pub(crate) firewall: Option<String>,
}

/// What the plugin says to its runtime.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What belongs on standard output.
    pub(crate) text: String,
    /// What people should know.
    pub(crate) notes: Vec<String>,
    /// Whether it did what it was asked for.
    pub(crate) is_success: bool,
}

/// Does what the environment, of which `variable` knows the values, asks for.
pub(crate) fn run(base: Base, variable: &dyn Fn(&str) -> Option<OsString>, input: &mut dyn Read) -> Answer {
    let mut version = Version::NEWEST;
    let mut notes = Vec::new();
    let called = Call::read(variable).and_then(|call| {
        let mut fields = Fields::read(&content(input)?)?;
        if let Call::Version = call {
            return Ok(Some(version::answer(&fields)));
        }
        version = fields.version()?;
        call.check_version(version)?;
        let config = Config::read(&mut fields, &call)?;
        serve(base, &call, version, &config, &mut notes)
    });
    let (text, is_success) = match called {
        Ok(answer) => (answer.map(|answer| format!("{answer}\n")).unwrap_or_default(), true),
        Err(refusal) => (format!("{}\n", refusal.answer(version)), false),
    };
    Answer { text, notes, is_success }
}

fn serve(
    base: Base,
    call: &Call,
    version: Version,
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<Option<Value>, Refusal> {
    let root = config.root.clone().unwrap_or(base.root);
    // Where no data root is nothing is connected, and taking that away makes none.
    if matches!(call, Call::Del { .. } | Call::Gc) && !root.join("version").exists() {
        return Ok(None);
    }
    let firewall = config.firewall.clone().or(base.firewall);
    let networks = Networks::open(Root::open(&root)?, base.registry, firewall);
    match call {
        Call::Add { place, namespace, .. } => {
            let (network, record) = add::add(&networks, config, place, namespace, notes)?;
            Ok(Some(answer::success(version, config, &network, &record)))
        }
        Call::Del { place, namespace } => {
            remove::remove(&networks, config, place, namespace.as_deref()).map(|()| None)
        }
        Call::Check { place, namespace } => check::check(&networks, config, place, namespace).map(|()| None),
        Call::Gc => remove::collect(&networks, config).map(|()| None),
        Call::Status => check::status(&networks, config).map(|()| None),
        Call::Version => Ok(None),
    }
}

fn content(input: &mut dyn Read) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::new();
    let read = input.take(MAX_INPUT + 1).read_to_end(&mut content);
    read.map_err(|e| Refusal::new(Code::Io, format!("read the configuration from standard input: {e}")))?;
    if content.len() as u64 > MAX_INPUT {
        return Err(Refusal::new(
            Code::Decode,
            format!("the configuration is longer than {MAX_INPUT} bytes"),
        ));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
