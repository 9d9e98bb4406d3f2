//! The verbs of the engine as a whole.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::storage::{self, DriversCommand, StorageCommand};
use super::table::Table;
use super::{Outcome, human, print};
use crate::volumes::{PrunedVolumes, Volume};
use crate::{Engine, Result};

/// What can be done with the engine as a whole.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// List the drivers of storage and networks, show their options, test them on this host
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
    /// Volumes without a name that no container uses, too
    #[arg(long)]
    volumes: bool,
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
        SystemCommand::Storage { command } => return storage::run(engine, command),
        SystemCommand::Info | SystemCommand::System { command: SystemVerb::Info } => {
            print::text(&engine.info()?)?;
        }
        SystemCommand::Prune(flags) | SystemCommand::System { command: SystemVerb::Prune(flags) } => {
            return prune(engine, &flags);
        }
        SystemCommand::System { command: SystemVerb::Df { format } } => usage(engine, format.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn prune(engine: &Engine, flags: &Prune) -> Outcome {
    let containers = engine.prune_containers()?;
    let volumes =
        if flags.volumes { engine.prune_volumes(Volume::is_anonymous)? } else { PrunedVolumes::default() };
    let images = engine.prune_images(flags.all)?;
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("Deleted {title}:\n{}\n\n", lines.join("\n")));
        }
    };
    section("Containers", containers.containers);
    section("Volumes", volumes.names);
    let untagged = images.untagged.iter().map(|name| format!("untagged: {name}"));
    section("Images", untagged.chain(images.deleted.iter().map(|id| format!("deleted: {id}"))).collect());
    let reclaimed = containers.bytes + volumes.bytes + images.reclaimed;
    text.push_str(&format!("Total reclaimed space: {}\n", human::size(reclaimed)));
    print::text(&text)?;
    Ok(print::failures(&[containers.failures, volumes.failures].concat()))
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
