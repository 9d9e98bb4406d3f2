//! Samples: what one run of a command cost.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::time::ClockId;
use serde::Serialize;

use crate::Result;
use crate::rows::{Contender, Row, Work};
use crate::sys::{self, Used};

/// What one run cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// User and system time of everything that the command started, in microseconds.
    pub(crate) cpu: f64,
    /// Until the last of it ended, in microseconds.
    pub(crate) wall: f64,
    /// The largest resident set of one process, in KiB.
    pub(crate) rss: u64,
}

/// The samples of a row, by contender.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) bounds: Vec<crate::rows::Bound>,
    pub(crate) contenders: Vec<(String, Vec<Sample>)>,
}

/// Lets the contenders of a row take turns.
pub(crate) fn row(mut row: Row<'_>, turns: usize) -> Result<Measured> {
    let mut samples: Vec<_> =
        row.contenders.iter().map(|contender| (contender.name.clone(), Vec::new())).collect();
    // The first turn warms caches and is not counted.
    for turn in 0..=turns {
        let mut order: Vec<_> = row.contenders.iter_mut().zip(&mut samples).collect();
        // What one leaves behind is not always the same one's to find.
        if turn % 2 == 0 {
            order.reverse();
        }
        for (contender, (name, samples)) in order {
            let sample = sample(contender).map_err(|e| format!("{name} of {}: {e}", row.name))?;
            if turn > 0 {
                samples.push(sample);
            }
        }
    }
    Ok(Measured { name: row.name, bounds: row.bounds, contenders: samples })
}

fn sample(contender: &mut Contender<'_>) -> Result<Sample> {
    (contender.before)()?;
    let beside = (contender.beside)()?;
    let sample = match &mut contender.work {
        Work::Command(command) => run_with(&mut command(), &contender.input),
        Work::Call(work) => call(work),
    }?;
    let beside = (contender.beside)()? - beside;
    (contender.after)()?;
    Ok(Sample { cpu: sample.cpu + beside as f64, ..sample })
}

/// Runs a command to the end of everything that it started. This process inherits what loses its parent, so that a
/// supervisor in the background is counted.
pub(crate) fn run(command: &mut Command) -> Result<Sample> {
    run_with(command, "/dev/null".as_ref())
}

/// As [`run`], for a command that reads this file.
pub(crate) fn run_with(command: &mut Command, input: &Path) -> Result<Sample> {
    let input = File::open(input).map_err(|e| format!("read '{}': {e}", input.display()))?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| format!("become a subreaper: {e}"))?;
    let shown = Shown(command).to_string();
    let started = Instant::now();
    let child = command.stdin(input).stdout(Stdio::null()).spawn();
    let main = child.map_err(|e| format!("start {shown}: {e}"))?.id().cast_signed();
    let (mut total, mut failed) = (Used::default(), None);
    while let Some((pid, status, used)) = sys::wait().map_err(|e| format!("wait for {shown}: {e}"))? {
        total = Used { cpu: total.cpu + used.cpu, rss: total.rss.max(used.rss) };
        if pid == main && status != 0 {
            failed = Some(status);
        }
    }
    let wall = micros(started.elapsed());
    match failed {
        Some(status) => Err(format!("{shown} failed with wait status {status:#x}")),
        None => Ok(Sample { cpu: total.cpu as f64, wall, rss: total.rss }),
    }
}

/// Does something in this process, whose memory says nothing of it.
fn call(work: &mut impl FnMut() -> Result<()>) -> Result<Sample> {
    let cpu = || {
        let used = ClockId::CLOCK_PROCESS_CPUTIME_ID.now();
        used.map(Duration::from).map_err(|e| format!("ask for the time used: {e}"))
    };
    let (before, started) = (cpu()?, Instant::now());
    work()?;
    let wall = micros(started.elapsed());
    Ok(Sample { cpu: micros(cpu()? - before), wall, rss: 0 })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

struct Shown<'a>(&'a Command);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        write!(f, "'{}'", words.join(" "))
    }
}
