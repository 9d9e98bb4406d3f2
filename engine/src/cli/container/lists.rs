//! Lists of containers and of their processes.

use std::process::ExitCode;

use clap::Args;

use super::super::table::{Column, ListFlags, Table};
use super::super::{Outcome, human, print};
use super::filter::Filters;
use super::ports;
use crate::container::{Container, State, Status, seconds, short};
use crate::{Engine, Result};

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// How much each takes on disk
    #[arg(short, long)]
    size: bool,
    /// The newest one, whatever it does
    #[arg(short, long)]
    latest: bool,
    /// So many of the newest, whatever they do; -1 is all
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = super::flags::whole)]
    last: Option<i64>,
    /// Only those with this: ancestor=, exited=, expose=, id=, label=, name=, network=, publish=, status=
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    #[command(flatten)]
    list: ListFlags,
}

const COLUMNS: [Column; 12] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Driver", "DRIVER"),
];

/// The template of the list that is shown unless another is asked for.
const SHOWN: &str =
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

pub(super) fn ps(engine: &Engine, flags: &Ps) -> Outcome {
    let filters = Filters::parse(engine, &flags.filters)?;
    let last = if flags.latest { Some(1) } else { flags.last };
    let all = flags.all || last.is_some() || filters.want_all();
    let mut room = last.and_then(|last| usize::try_from(last).ok()).unwrap_or(usize::MAX);
    let mut table = Table::new(&COLUMNS, COLUMNS.len());
    let mut ids = String::new();
    let listing = engine.list_containers()?;
    print::damage(&listing);
    for (container, state) in listing.found {
        // One that removes itself may have gone meanwhile.
        let is_shown = room > 0 && (all || state.status.is_live()) && container.dir().exists();
        if !is_shown || !filters.take(engine, &container, &state)? {
            continue;
        }
        room -= 1;
        let id = if flags.list.no_trunc { container.id() } else { short(container.id()) };
        ids.push_str(id);
        ids.push('\n');
        if !flags.list.quiet {
            table.row(row(engine, flags, &container, &state)?);
        }
    }
    if flags.list.quiet && flags.list.format.is_none() {
        print::text(&ids)?;
    } else {
        let shown = if flags.size { format!("{SHOWN}\t{{{{.Size}}}}") } else { SHOWN.to_owned() };
        let format =
            flags.list.format.as_deref().filter(|format| !matches!(*format, "" | "table")).unwrap_or(&shown);
        print::text(&table.render(Some(format))?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(engine: &Engine, flags: &Ps, container: &Container, state: &State) -> Result<Vec<String>> {
    let record = container.record();
    let labels = record.settings.labels.iter().map(|(name, value)| format!("{name}={value}"));
    let wants_size = flags.size || flags.list.format.as_ref().is_some_and(|format| format.contains(".Size"));
    let id = if flags.list.no_trunc { container.id() } else { record.short_id() };
    Ok(vec![
        id.to_owned(),
        record.image_name.clone(),
        command(&record.settings.args(), flags.list.no_trunc),
        human::date(seconds(&record.created)),
        human::ago(seconds(&record.created)),
        state.status.word().to_owned(),
        status(state),
        published(engine, container, state),
        container.name().to_owned(),
        if wants_size { size(engine, container)? } else { String::new() },
        labels.collect::<Vec<_>>().join(","),
        record.driver.clone(),
    ])
}

/// Where they are published. What cannot be told of one container keeps no other from the list.
fn published(engine: &Engine, container: &Container, state: &State) -> String {
    if !state.status.is_live() {
        return String::new();
    }
    ports::column(engine, container).unwrap_or_else(|error| {
        print::warning(&error.to_string());
        String::new()
    })
}

/// The container's own files, and with those of its image.
fn size(engine: &Engine, container: &Container) -> Result<String> {
    let own = engine.layer_usage(container)?.bytes;
    let image = engine.image(&container.record().image.to_string()).and_then(|image| engine.size(&image));
    let below = image.unwrap_or_default();
    Ok(format!("{} (virtual {})", human::size(own), human::size(own + below)))
}

/// The command in quotes, cut where it is long.
fn command(args: &[String], whole: bool) -> String {
    const LONGEST: usize = 20;
    let text = args.join(" ");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if whole || text.chars().count() <= LONGEST {
        return format!("\"{text}\"");
    }
    format!("\"{}…\"", text.chars().take(LONGEST - 1).collect::<String>())
}

/// `Up 3 minutes (Paused)`, `Exited (0) 2 hours ago`.
fn status(state: &State) -> String {
    let since = |time: &str| human::duration(jiff::Timestamp::now().as_second() - seconds(time));
    match state.status {
        Status::Created | Status::Starting => "Created".to_owned(),
        Status::Running => format!("Up {}", since(&state.started)),
        Status::Paused => format!("Up {} (Paused)", since(&state.started)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(&state.finished)),
    }
}

/// The processes of a container, as the host's `/proc` tells them.
pub(super) fn top(engine: &Engine, name: &str) -> Outcome {
    const COLUMNS: [Column; 3] = [("PID", "PID"), ("UID", "UID"), ("Command", "COMMAND")];
    let mut table = Table::new(&COLUMNS, COLUMNS.len());
    for pid in engine.processes(&engine.container(name)?)? {
        // It may end at any time.
        let Ok(command) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
        let words: Vec<_> = command.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
        table.row(vec![pid.to_string(), uid.unwrap_or("?").to_owned(), words.join(" ").trim().to_owned()]);
    }
    print::text(&table.render(None)?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut_as_docker_cuts_it() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(command(&words("/bin/sh -c 'ping -c1 target'"), false), "\"/bin/sh -c 'ping -c…\"");
        assert_eq!(command(&words("sleep 1000"), false), "\"sleep 1000\"");
        assert_eq!(command(&["a\nb".to_owned()], true), "\"a b\"");
    }
}
