//! The verbs about a container's files, its output and its record.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mica_archive::diff::ChangeKind;

use super::super::output::Output;
use super::super::{Outcome, print};
use crate::container::{CommitOptions, CopyOptions, LogOptions, Stream, parse_time};
use crate::{Engine, Error, Reference, Result};

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on as long as the container runs
    #[arg(short, long)]
    follow: bool,
    /// Print the last lines only
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "all")]
    tail: String,
    /// Print when each line was printed
    #[arg(short, long)]
    timestamps: bool,
    /// Print nothing older: a time, or how long ago, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Print nothing newer
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The container, by name or id
    container: String,
}

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// Keep owners; else copies belong to root
    #[arg(short, long)]
    archive: bool,
    /// Follow a link as the source
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Print nothing; nothing is printed anyway
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path of the host, or '-' for a tarball on standard input
    source: String,
    /// CONTAINER:PATH, a path of the host, or '-' for a tarball on standard output
    target: String,
}

#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// Who made it
    #[arg(short, long)]
    author: Option<String>,
    /// What the history of the image says
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Change the image's config by a Dockerfile instruction: CMD, ENV, ENTRYPOINT, WORKDIR, USER, EXPOSE, LABEL, VOLUME
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Stop the container's processes a moment, so that the image holds one state
    #[arg(short, long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pause: bool,
    /// The container, by name or id
    container: String,
    /// The name of the image
    image: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Write to this file, not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The container, by name or id
    container: String,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// How much containers take on disk, too
    #[arg(short, long)]
    size: bool,
    /// Only 'container', 'image' or 'volume'
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<String>,
    /// Print a field of each, such as '{{.State.Status}}', or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Names or ids of containers or images, or names of volumes
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(super) fn logs(engine: &Engine, flags: &Logs) -> Outcome {
    let tail = match (flags.tail.as_str(), super::flags::whole(&flags.tail)) {
        ("all", _) => None,
        // Docker's: a negative number is all.
        (_, Ok(number)) => usize::try_from(number).ok(),
        (text, Err(_)) => {
            let why = format!("--tail '{text}': give a number of lines, or 'all'");
            return Err(Error::Invalid(why).into());
        }
    };
    let time = |text: &Option<String>| text.as_deref().map(parse_time).transpose();
    let options =
        LogOptions { follow: flags.follow, tail, since: time(&flags.since)?, until: time(&flags.until)? };
    let container = engine.container(&flags.container)?;
    engine.logs(&container, &options, &mut |line| {
        let time = if flags.timestamps { format!("{} ", line.time) } else { String::new() };
        let text = format!("{time}{}", line.log);
        let written = match line.stream() {
            Stream::Stdout => io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
            Stream::Stderr => io::stderr().write_all(text.as_bytes()),
        };
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            other => other.map(|()| true).map_err(Error::io(|| "print a log")),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn copy(engine: &Engine, flags: &Copy) -> Outcome {
    let options = CopyOptions { archive: flags.archive, follow: flags.follow_link };
    match (place(&flags.source), place(&flags.target)) {
        (Some((name, from)), None) if flags.target == "-" => {
            let out = stream_out()?;
            engine.copy_to_archive(&engine.container(name)?, from, options, out)?;
        }
        (None, Some((name, to))) if flags.source == "-" => {
            engine.copy_from_archive(&engine.container(name)?, to, io::stdin().lock())?;
        }
        (Some((name, from)), None) => {
            engine.copy_out(&engine.container(name)?, from, &flags.target, options)?;
        }
        (None, Some((name, to))) => engine.copy_in(&engine.container(name)?, &flags.source, to, options)?,
        (Some(_), Some(_)) => {
            return Err(Error::Invalid("copying between containers is not supported".to_owned()).into());
        }
        (None, None) => {
            return Err(Error::Invalid("one of the two must be CONTAINER:PATH".to_owned()).into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `CONTAINER:PATH`; a path of the host with a colon in it begins with '/' or '.'.
fn place(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['/', '.']) {
        return None;
    }
    text.split_once(':')
}

/// Standard output for bytes that no terminal should get.
fn stream_out() -> Result<impl Write> {
    if io::stdout().is_terminal() {
        return Err(Error::Invalid("refusing to write a tarball to a terminal; redirect it".to_owned()));
    }
    Ok(BufWriter::with_capacity(128 << 10, io::stdout().lock()))
}

pub(super) fn changes(engine: &Engine, name: &str) -> Outcome {
    let mut text = Vec::new();
    for change in engine.changes(&engine.container(name)?)? {
        let letter = match change.kind {
            ChangeKind::Modified => b'C',
            ChangeKind::Added => b'A',
            ChangeKind::Deleted => b'D',
        };
        text.extend_from_slice(&[letter, b' ', b'/']);
        text.extend_from_slice(&change.path);
        text.push(b'\n');
    }
    print::text(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn commit(engine: &Engine, flags: Commit) -> Outcome {
    let options = CommitOptions {
        name: flags.image.map(|name| name.parse::<Reference>()).transpose()?,
        message: flags.message,
        author: flags.author,
        changes: flags.changes,
        no_pause: !flags.pause,
    };
    let image = engine.commit(&engine.container(&flags.container)?, &options)?;
    print::line(&image.id().to_string())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn export(engine: &Engine, flags: &Export) -> Outcome {
    let container = engine.container(&flags.container)?;
    match &flags.output {
        None => {
            let mut out = stream_out()?;
            engine.export(&container, &mut out)?;
            out.flush().map_err(Error::io(|| "write to standard output"))?;
        }
        Some(path) => {
            let mut output = Output::create(path)?;
            engine.export(&container, &mut output)?;
            output.put_in_place()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn inspect(engine: &Engine, flags: &Inspect) -> Outcome {
    let mut status = ExitCode::SUCCESS;
    let mut found = Vec::new();
    for name in &flags.names {
        match look_up(engine, flags, name) {
            Ok(value) => found.push(value),
            Err(error) => {
                print::error(&error);
                status = ExitCode::FAILURE;
            }
        }
    }
    show(&found, flags.format.as_deref())?;
    Ok(status)
}

/// Prints what was inspected.
pub(in crate::cli) fn show(found: &[serde_json::Value], format: Option<&str>) -> Result<()> {
    let failed = |e: serde_json::Error| Error::Invalid(e.to_string());
    match format {
        None => {
            let mut text = Vec::new();
            let style = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut writer = serde_json::Serializer::with_formatter(&mut text, style);
            serde::Serialize::serialize(found, &mut writer).map_err(failed)?;
            print::line(&String::from_utf8_lossy(&text))
        }
        Some("json") => print::line(&serde_json::to_string(found).map_err(failed)?),
        Some(template) => {
            found.iter().try_for_each(|value| print::line(&super::template::fill(template, value)?))
        }
    }
}

fn look_up(engine: &Engine, flags: &Inspect, name: &str) -> Result<serde_json::Value> {
    let container = || engine.inspect_container(&engine.container(name)?, flags.size);
    let image = || engine.inspect_image(&engine.image(name)?);
    let network = || {
        let networks = engine.networks();
        networks.inspect(&networks.get(name)?)
    };
    let volume = || Ok(engine.volume(name)?.inspect());
    match flags.kind.as_deref() {
        None => {
            match container() {
                Err(Error::NoSuch { .. }) => {}
                other => return other,
            }
            match image() {
                Err(Error::NoSuch { .. } | Error::Invalid(_)) => {}
                other => return other,
            }
            match network() {
                Err(Error::NoSuch { .. } | Error::Invalid(_)) => {}
                other => return other,
            }
            match volume() {
                Err(Error::NoSuch { .. }) => Err(Error::no_such("object", name)),
                other => other,
            }
        }
        Some("container") => container(),
        Some("image") => image(),
        Some("network") => network(),
        Some("volume") => volume(),
        Some(kind) => Err(Error::Invalid(format!(
            "unknown type '{kind}'; those that exist are: container, image, network, volume"
        ))),
    }
}
