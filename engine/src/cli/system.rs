//! The verbs of the engine as a whole.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::storage::{self, DriversCommand, StorageCommand};
use super::table::Table;
use super::{Outcome, human, print};
use crate::{Engine, Result};

/// What can be done with the engine as a whole.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// List the storage drivers, show their options, test them on this host
    Drivers(DriversCommand),
    /// Show what this engine works with
    Info,
    /// Remove what nobody needs: containers that ended, images without a name
    Prune(Prune),
    /// Look after what is on disk
    Storage {
        #[command(subcommand)]
        command: StorageCommand,
    },
    /// Show what takes how much space
    System {
        #[command(subcommand)]
        command: SystemVerb,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Images with a name that no container uses, too
    #[arg(short, long)]
    all: bool,
    /// Do not ask; nothing is asked anyway
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemVerb {
    /// Show what takes how much space
    Df {
        /// Print by a template, or as 'json'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Show what this engine works with
    Info,
    /// Remove what nobody needs
    Prune(Prune),
}

/// Does it.
pub(crate) fn run(engine: &Engine, command: SystemCommand) -> Outcome {
    match command {
        SystemCommand::Drivers(command) => return storage::drivers(engine, &command),
        SystemCommand::Storage { command } => return storage::run(engine, &command),
        SystemCommand::Info | SystemCommand::System { command: SystemVerb::Info } => {
            print::text(&engine.info()?)?;
        }
        SystemCommand::Prune(flags) | SystemCommand::System { command: SystemVerb::Prune(flags) } => {
            prune(engine, &flags)?;
        }
        SystemCommand::System { command: SystemVerb::Df { format } } => usage(engine, format.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn prune(engine: &Engine, flags: &Prune) -> Result<()> {
    let removed = engine.prune_images(flags.all)?;
    let mut text = String::new();
    if !removed.deleted.is_empty() {
        text.push_str("Deleted Images:\n");
        text.extend(removed.untagged.iter().map(|name| format!("untagged: {name}\n")));
        text.extend(removed.deleted.iter().map(|id| format!("deleted: {id}\n")));
        text.push('\n');
    }
    text.push_str(&format!("Total reclaimed space: {}\n", human::size(removed.reclaimed)));
    print::text(&text)
}

fn usage(engine: &Engine, format: Option<&str>) -> Result<()> {
    const COLUMNS: [super::table::Column; 5] = [
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ];
    let mut table = Table::new(&COLUMNS, 5);
    for row in engine.disk_usage()? {
        let percent = (row.reclaimable * 100).checked_div(row.size).map(|percent| format!(" ({percent}%)"));
        let percent = percent.unwrap_or_default();
        table.row(vec![
            row.kind.to_owned(),
            row.total.to_string(),
            row.active.to_string(),
            human::size(row.size),
            format!("{}{percent}", human::size(row.reclaimable)),
        ]);
    }
    print::text(&table.render(format)?)
}
