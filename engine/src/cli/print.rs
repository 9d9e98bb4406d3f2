//! Writing to the terminal, or to whatever stdout is.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use crate::listing::Listing;
use crate::{Error, Result};

/// Writes a text to stdout. A reader that went away, as `head` does, is no error.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io(|| "write to standard output")(e)),
        _ => Ok(()),
    }
}

/// Writes a line to stdout.
pub(crate) fn line(line: &str) -> Result<()> {
    text(&format!("{line}\n"))
}

/// Says on stderr, in one line, what went wrong.
pub(crate) fn error(error: &Error) {
    say(&error.to_string());
}

/// Says on stderr, in one line, what is not as it should be although the command goes on.
pub(crate) fn warning(text: &str) {
    say(&format!("warning: {text}"));
}

/// Says on stderr what a list lacks, in a line for each.
pub(crate) fn damage<T>(listing: &Listing<T>) {
    listing.damaged.iter().for_each(|error| warning(&error.to_string()));
}

/// Says on stderr what could not be done besides what could, and how the command ends.
pub(crate) fn failures(failures: &[String]) -> ExitCode {
    failures.iter().for_each(|failure| say(failure));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(text: &str) {
    let text: Vec<&str> = text.split_whitespace().collect();
    // Nobody is left to be told that stderr is gone.
    let _ = writeln!(io::stderr(), "mica: {}", text.join(" "));
}
