//! The verbs of volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::container::{is_like, show};
use super::table::{Column, Table};
use super::{Outcome, human, print};
use crate::volumes::Volume;
use crate::{Engine, Error, Result};

/// The one kind of volumes, as Docker calls it.
const DRIVER: &str = "local";

/// What can be done with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make, list, show and remove volumes: directories that outlive containers
    Volume {
        #[command(subcommand)]
        command: VolumeVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume
    Create(Create),
    /// Show everything about volumes
    Inspect(Inspect),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Remove the volumes without a name that no container uses
    Prune(Prune),
    /// Remove volumes that no container uses
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The driver; there is only 'local'
    #[arg(short, long, default_value = DRIVER, hide_default_value = true)]
    driver: String,
    /// Give it a label
    #[arg(long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// An option of the driver, which has none
    #[arg(short, long = "opt", value_name = "NAME=VALUE")]
    options: Vec<String>,
    /// Its name; without one it is made up
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Print a field of each, such as '{{.Mountpoint}}', or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only those with dangling=BOOL, driver=local, label=NAME[=VALUE], name=PART
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Print by a template, such as '{{.Name}}: {{.Labels}}', or as 'json'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Those with a name, too
    #[arg(short, long)]
    all: bool,
    /// Only those with label=NAME[=VALUE], or without by label!=NAME[=VALUE]
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
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

/// Does it.
pub(crate) fn run(engine: &Engine, VolumeCommand::Volume { command }: VolumeCommand) -> Outcome {
    match command {
        VolumeVerb::Create(flags) => create(engine, &flags)?,
        VolumeVerb::Inspect(flags) => return inspect(engine, &flags),
        VolumeVerb::Ls(flags) => list(engine, &flags)?,
        VolumeVerb::Prune(flags) => return prune(engine, &flags),
        VolumeVerb::Rm(flags) => return remove(engine, &flags),
    }
    Ok(ExitCode::SUCCESS)
}

fn create(engine: &Engine, flags: &Create) -> Result<()> {
    if flags.driver != DRIVER {
        return Err(Error::Invalid(format!("no volume driver '{}'; there is only '{DRIVER}'", flags.driver)));
    }
    if let Some(option) = flags.options.first() {
        return Err(Error::Invalid(format!(
            "volume option '{option}': a volume is a plain directory and has no options; to show another file system in a \
             container, mount it on the host and give its path to -v"
        )));
    }
    let labels = flags.labels.iter().map(|text| text.split_once('=').unwrap_or((text, "")));
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let name = flags.name.as_deref().filter(|name| !name.is_empty());
    print::line(engine.create_volume(name, &labels)?.name())
}

fn list(engine: &Engine, flags: &Ls) -> Result<()> {
    const COLUMNS: [Column; 5] = [
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Labels", "LABELS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Scope", "SCOPE"),
    ];
    let filters = Filters::parse(&flags.filters, &["dangling", "driver", "label", "name"])?;
    let used: BTreeSet<String> =
        if filters.ask_for_use() { engine.volume_users()?.into_keys().collect() } else { BTreeSet::new() };
    let volumes = engine.volumes()?.into_iter().filter(|volume| filters.take(volume, &used));
    if flags.quiet && flags.format.is_none() {
        return print::text(&volumes.map(|volume| volume.name().to_owned() + "\n").collect::<String>());
    }
    let mut table = Table::new(&COLUMNS, 2);
    for volume in volumes {
        let labels: Vec<String> =
            volume.labels().iter().map(|(name, value)| format!("{name}={value}")).collect();
        table.row(vec![
            DRIVER.to_owned(),
            volume.name().to_owned(),
            labels.join(","),
            volume.data().display().to_string(),
            "local".to_owned(),
        ]);
    }
    print::text(&table.render(flags.format.as_deref())?)
}

fn inspect(engine: &Engine, flags: &Inspect) -> Outcome {
    let mut found = Vec::new();
    let status = each(&flags.names, |name| {
        found.push(engine.volume(name)?.inspect());
        Ok(())
    });
    show(&found, flags.format.as_deref())?;
    Ok(status)
}

fn remove(engine: &Engine, flags: &Remove) -> Outcome {
    Ok(each(&flags.names, |name| match engine.remove_volume(name) {
        Err(Error::NoSuch { .. }) if flags.force => print::line(name),
        removed => removed.and_then(|()| print::line(name)),
    }))
}

/// Does the same to several volumes, and goes on after a failure.
pub(super) fn each(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        if let Err(error) = act(name) {
            print::error(&error);
            status = ExitCode::FAILURE;
        }
    }
    status
}

fn prune(engine: &Engine, flags: &Prune) -> Outcome {
    let filters = Filters::parse(&flags.filters, &["all", "label", "label!"])?;
    let all = flags.all || filters.ask_for_all();
    let wanted = |volume: &Volume| (all || volume.is_anonymous()) && filters.take(volume, &BTreeSet::new());
    let pruned = engine.prune_volumes(wanted)?;
    let mut text = String::new();
    if !pruned.names.is_empty() {
        text.push_str(&format!("Deleted Volumes:\n{}\n\n", pruned.names.join("\n")));
    }
    print::text(&format!("{text}Total reclaimed space: {}\n", human::size(pruned.bytes)))?;
    Ok(print::failures(&pruned.failures))
}

/// Filters of one kind are alternatives, but that every label is wanted; those of different kinds are all wanted.
#[derive(Debug, Default)]
struct Filters(BTreeMap<&'static str, Vec<String>>);

impl Filters {
    /// Reads what stands behind each `--filter`; those of `known` there are.
    fn parse(texts: &[String], known: &[&'static str]) -> Result<Self> {
        let mut filters: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for text in texts {
            let name = text.split_once('=').map(|(name, _)| name);
            let Some(name) = known.iter().find(|known| Some(**known) == name) else {
                return Err(Error::Invalid(format!(
                    "invalid filter '{}': write NAME=VALUE; the names that exist are: {}",
                    text.escape_debug(),
                    known.join(", ")
                )));
            };
            let value = text[name.len() + 1..].to_owned();
            if matches!(*name, "all" | "dangling") && truth(&value).is_none() {
                return Err(Error::Invalid(format!("invalid filter '{text}': give true or false")));
            }
            filters.entry(name).or_default().push(value);
        }
        Ok(Self(filters))
    }

    /// Whether volumes with a name are meant, too: what Docker has besides `--all`.
    fn ask_for_all(&self) -> bool {
        self.0.get("all").is_some_and(|values| values.iter().any(|value| truth(value) == Some(true)))
    }

    /// Whether it must be known which volumes containers use.
    fn ask_for_use(&self) -> bool {
        self.0.contains_key("dangling")
    }

    /// Whether a volume is to be shown.
    fn take(&self, volume: &Volume, used: &BTreeSet<String>) -> bool {
        let has = |text: &String| match text.split_once('=') {
            Some((name, value)) => volume.labels().get(name).is_some_and(|found| found == value),
            None => volume.labels().contains_key(text),
        };
        self.0.iter().all(|(name, values)| match *name {
            "dangling" => values.iter().any(|value| truth(value) != Some(used.contains(volume.name()))),
            "driver" => values.iter().any(|value| value == DRIVER),
            "label" => values.iter().all(has),
            "label!" => !values.iter().any(has),
            "name" => values.iter().any(|value| is_like(volume.name(), value)),
            _ => true,
        })
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}
