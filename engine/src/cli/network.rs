//! The verbs of networks.

mod connect;
mod create;
mod filter;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use mica_core::network::Family;

use super::container::show;
use super::table::{Column, ListFlags, Table};
use super::volume::each;
use super::{Outcome, human, print};
use crate::container::{seconds, short};
use crate::networks::{NetworkRecord, NetworkReport};
use crate::{Engine, Error, Result};
use filter::Filters;

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make, list, show and remove networks: what containers are connected to
    Network {
        #[command(subcommand)]
        command: NetworkVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Compare what is in the kernel with the records
    Check(Check),
    /// Connect a container to a network, now and whenever it runs
    Connect(connect::Connect),
    /// Make a network
    Create(create::Create),
    /// Disconnect a container from a network
    Disconnect(connect::Disconnect),
    /// Show everything about networks
    Inspect(Inspect),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Remove the networks that no container is connected to
    Prune(Prune),
    /// Remove networks that no container is connected to
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Remove what no record names, and make what is missing
    #[arg(long, conflicts_with = "undo")]
    repair: bool,
    /// Remove everything that networks have in the kernel, and put back the host's settings; the records stay
    #[arg(long)]
    undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Print a field of each, such as '{{.Driver}}', or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only those with dangling=BOOL, driver=, id=, label=NAME[=VALUE], name=PART, scope=local, type=builtin or custom
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    #[command(flatten)]
    list: ListFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Only those with label=NAME[=VALUE], or without by label!=NAME[=VALUE], made before until=TIME
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not ask; nothing is asked anyway
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Do not mind those that do not exist
    #[arg(short, long)]
    force: bool,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

/// Does it.
pub(crate) fn run(engine: &Engine, NetworkCommand::Network { command }: NetworkCommand) -> Outcome {
    // Whoever changes something hears of what is wrong by that.
    if matches!(command, NetworkVerb::Ls(_) | NetworkVerb::Inspect(_)) {
        mend_lost(engine, Duration::ZERO);
    }
    match command {
        NetworkVerb::Check(flags) => return check(engine, &flags),
        NetworkVerb::Connect(flags) => connect::connect(engine, &flags)?,
        NetworkVerb::Create(flags) => create::run(engine, flags)?,
        NetworkVerb::Disconnect(flags) => connect::disconnect(engine, &flags)?,
        NetworkVerb::Inspect(flags) => return inspect(engine, &flags),
        NetworkVerb::Ls(flags) => list(engine, &flags)?,
        NetworkVerb::Prune(flags) => return prune(engine, &flags),
        NetworkVerb::Rm(flags) => return remove(engine, &flags),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever looks at networks has them stand again after somebody flushed the host's rules. That it could not be done is no reason
/// not to look.
pub(crate) fn mend_lost(engine: &Engine, within: Duration) {
    match engine.networks().mend_lost(within) {
        Ok(changes) => changes.iter().for_each(|change| print::warning(&change.to_string())),
        Err(error) => print::warning(&format!("networks: {error}; see 'mica network check'")),
    }
}

fn list(engine: &Engine, flags: &Ls) -> Result<()> {
    const COLUMNS: [Column; 9] = [
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("CreatedAt", "CREATED AT"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
    ];
    let filters = Filters::for_list(&flags.filters)?;
    let networks = engine.networks();
    let listing = networks.all()?;
    print::damage(&listing);
    let mut table = Table::new(&COLUMNS, 4);
    let mut ids = String::new();
    for record in listing.found {
        let is_used = !filters.ask_for_use() || !networks.users(&record)?.is_empty();
        if filters.take(&record, is_used) {
            let id = record.id();
            let id = if flags.list.no_trunc { id.as_str() } else { short(&id) };
            ids.push_str(&format!("{id}\n"));
            table.row(row(&record, id));
        }
    }
    if flags.list.quiet && flags.list.format.is_none() {
        return print::text(&ids);
    }
    print::text(&table.render(flags.list.format.as_deref())?)
}

fn row(record: &NetworkRecord, id: &str) -> Vec<String> {
    let labels: Vec<String> = record.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    vec![
        id.to_owned(),
        record.name().to_owned(),
        record.driver.clone(),
        "local".to_owned(),
        human::date(seconds(&record.created)),
        record.has(Family::V4).to_string(),
        record.has(Family::V6).to_string(),
        record.network.internal.to_string(),
        labels.join(","),
    ]
}

fn inspect(engine: &Engine, flags: &Inspect) -> Outcome {
    let networks = engine.networks();
    let mut found = Vec::new();
    let status = each(&flags.names, |name| {
        found.push(networks.inspect(&networks.get(name)?)?);
        Ok(())
    });
    show(&found, flags.format.as_deref())?;
    Ok(status)
}

fn remove(engine: &Engine, flags: &Remove) -> Outcome {
    let networks = engine.networks();
    Ok(each(&flags.names, |name| match networks.remove(name) {
        Err(Error::NoSuch { .. }) if flags.force => print::line(name),
        removed => removed.and_then(|()| print::line(name)),
    }))
}

fn prune(engine: &Engine, flags: &Prune) -> Outcome {
    let filters = Filters::for_prune(&flags.filters)?;
    let pruned = engine.networks().prune(|record| filters.take(record, false))?;
    if !pruned.names.is_empty() {
        print::text(&format!("Deleted Networks:\n{}\n\n", pruned.names.join("\n")))?;
    }
    Ok(print::failures(&pruned.failures))
}

fn check(engine: &Engine, flags: &Check) -> Outcome {
    let networks = engine.networks();
    let NetworkReport { faults, done } =
        if flags.undo { networks.undo() } else { networks.check(flags.repair) }?;
    print::text(&done.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    if faults.is_empty() && done.is_empty() {
        print::line("nothing to do")?;
    }
    Ok(print::failures(&faults))
}
