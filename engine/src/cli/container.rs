//! The verbs of containers.

use std::process::ExitCode;

use clap::Subcommand;

use super::Outcome;
use crate::Engine;

/// What can be done with containers.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {}

/// Does it.
#[allow(clippy::needless_pass_by_value, reason = "each verb takes its flags apart")]
pub(crate) fn run(_engine: &Engine, command: ContainerCommand) -> Outcome {
    match command {}
}

/// What must not wait for a data root to be opened.
pub(crate) fn early(command: &ContainerCommand) -> Option<ExitCode> {
    match *command {}
}

/// The exit status when the command line of this verb cannot be understood.
pub(crate) fn usage_status(_verb: &str) -> u8 {
    1
}
