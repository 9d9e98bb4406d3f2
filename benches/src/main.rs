//! Measures whole commands: Mica's beside the floor (`tar`, one system call) and beside bare OCI runtimes.
//!
//! The contenders of a row take turns, so that what else the machine does hits all of them. A sample is the CPU time
//! and the wall time of a command with everything that it started, also in the background, and the largest memory of
//! one process. What is printed are medians with their spread, and ratios within the row; a bound that is missed is
//! said, and is no failure of the program. Nothing here is a test.
//!
//! Everything happens in a mount and a network namespace of its own, by default on an ext4 file system in memory, so that
//! a slow disk is not what is measured.

mod client;
mod images;
mod measure;
mod mounted;
mod network;
mod report;
mod rows;
mod stage;
mod sys;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use report::Report;
use stage::Stage;

/// A failure is one line for a person.
type Result<T> = std::result::Result<T, String>;

/// Measure what Mica's commands cost
#[derive(Debug, Parser)]
struct Options {
    /// How often each contender of a row takes its turn
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Only the rows whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// The mica program
    #[arg(long)]
    mica: PathBuf,
    /// A Debian root file system as an uncompressed tar
    #[arg(long)]
    rootfs: PathBuf,
    /// Work in this directory, not in memory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write every sample to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    // What takes memory is done by a process of its own: the largest resident set of a child begins with that of the
    // process that it was forked from (getrusage(2)).
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "hash", file] => return done(images::hash(file.as_ref())),
        [_, "client", words @ ..] => return done(client::run(words)),
        [_, "image", file, layers, files] => return done(images::write(file.as_ref(), layers, files)),
        _ => {}
    }
    done(run(&Options::parse()))
}

fn done(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("mica-bench: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // Where there is no room for them is known before anything is measured, and the stage works in another directory.
    let create = |path: &PathBuf| File::create(path).map_err(|e| format!("write '{}': {e}", path.display()));
    let samples = options.json.as_ref().map(create).transpose()?;
    let stage = Stage::new(options.dir.as_deref(), &options.mica, &options.rootfs)?;
    let mut report = Report::new(options.rounds);
    for group in rows::GROUPS {
        if group.rows.iter().any(|name| name.contains(&options.only)) {
            eprintln!("mica-bench: preparing {}", group.rows.join(", "));
            for row in (group.prepare)(&stage)? {
                if row.name.contains(&options.only) {
                    eprintln!("mica-bench: measuring {}", row.name);
                    report.add(measure::row(row, options.rounds * group.turns)?);
                }
            }
        }
    }
    print!("{report}");
    samples.map_or(Ok(()), |file| report.save(file))
}
