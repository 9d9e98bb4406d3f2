//! The verbs of drivers, and of what those of storage hold.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::adopt::{self, Adopt};
use super::table::Table;
use super::{Outcome, print};
use crate::about::DriverInfo;
use crate::check::Depth;
use crate::{Engine, Result};

/// What can be done with drivers.
#[derive(Debug, Args)]
pub(crate) struct DriversCommand {
    #[command(subcommand)]
    command: Option<DriversVerb>,
    /// Print by a template, or as 'json'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// List the network drivers alone; with a template the storage drivers are meant else
    #[arg(long)]
    network: bool,
}

#[derive(Debug, Subcommand)]
enum DriversVerb {
    /// List them with what they can do here
    Ls,
    /// Show the options of one, with their meaning
    Show {
        /// Its name
        name: String,
    },
    /// Check on this host that one keeps its contract
    Test {
        /// Its name
        name: String,
        /// Check it in this directory, on the file system that it will be used on [default: the data root's]
        #[arg(long = "dir", value_name = "DIR")]
        directory: Option<PathBuf>,
        /// Print the cases that pass, too
        #[arg(short, long)]
        verbose: bool,
    },
}

/// What can be done with what is on disk.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Compare records with what the drivers hold; exits with 1 when something is wrong
    Check(Check),
    /// Take the images and containers of an old Docker from its data root, which stays as it is
    Adopt(Adopt),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Mend what can be mended, and remove what is of no use any more
    #[arg(long)]
    repair: bool,
    /// Read every layer, and compare it with its digest
    #[arg(long)]
    full: bool,
}

/// Does it.
pub(crate) fn drivers(engine: &Engine, command: &DriversCommand) -> Outcome {
    match &command.command {
        None | Some(DriversVerb::Ls) => list(engine, command.format.as_deref(), command.network)?,
        Some(DriversVerb::Show { name }) => print::text(&engine.describe_driver(name)?)?,
        Some(DriversVerb::Test { name, directory, verbose }) => {
            return test(engine, name, directory.as_ref(), *verbose);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does it.
pub(crate) fn run(engine: &Engine, command: StorageCommand) -> Outcome {
    match command {
        StorageCommand::Check(flags) => check(engine, &flags),
        StorageCommand::Adopt(flags) => adopt::run(engine, flags),
    }
}

fn check(engine: &Engine, flags: &Check) -> Outcome {
    let depth = if flags.full { Depth::Content } else { Depth::Records };
    let report = engine.check(depth, flags.repair)?;
    let mut text: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
    text.push_str(&report.summary());
    text.push('\n');
    print::text(&text)?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(engine: &Engine, format: Option<&str>, network: bool) -> Result<()> {
    let mut reasons = String::new();
    if !network {
        print::text(&table(engine.drivers()?, &mut reasons).render(format)?)?;
    }
    if network || format.is_none() {
        let separator = if network { "" } else { "\n" };
        let table = table(engine.network_drivers()?, &mut reasons).render(format)?;
        print::text(&format!("{separator}{table}"))?;
    }
    if format.is_none() { print::text(&reasons) } else { Ok(()) }
}

/// Sentences are too long for a column: why a driver is unavailable stands below.
fn table(drivers: Vec<DriverInfo>, reasons: &mut String) -> Table {
    const COLUMNS: [super::table::Column; 5] = [
        ("Name", "NAME"),
        ("Status", "STATUS"),
        ("Can", "CAN"),
        ("About", "GOOD FOR"),
        ("Lacking", "LACKING"),
    ];
    let mut table = Table::new(&COLUMNS, 4);
    for DriverInfo { name, lacking, can, about } in drivers {
        let status = if lacking.is_none() { "available" } else { "unavailable" };
        reasons.extend(lacking.iter().map(|why| format!("\n{name} is unavailable: {why}\n")));
        let lacking = lacking.unwrap_or_default();
        table.row(vec![name.to_owned(), status.to_owned(), can, about.to_owned(), lacking]);
    }
    table
}

fn test(engine: &Engine, name: &str, directory: Option<&PathBuf>, is_verbose: bool) -> Outcome {
    let summary = engine.test_driver(name, directory.map(PathBuf::as_path), &mut |line, passed| {
        if is_verbose || !passed { print::line(line) } else { Ok(()) }
    })?;
    print::line(&summary.text)?;
    Ok(if summary.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
