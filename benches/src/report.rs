//! The table, and the file with every sample.

use std::fmt;
use std::fs::File;

use serde::Serialize;

use crate::Result;
use crate::measure::{Measured, Sample};
use crate::rows::{Bound, What};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rounds: usize,
    kernel: String,
    rows: Vec<Measured>,
}

impl Report {
    pub(crate) fn new(rounds: usize) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { rounds, kernel: kernel.trim().to_owned(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Measured) {
        self.rows.push(row);
    }

    pub(crate) fn save(&self, file: File) -> Result<()> {
        serde_json::to_writer_pretty(file, self).map_err(|e| format!("write the samples: {e}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {}, medians of {} rounds, contenders in turns", self.kernel, self.rounds)?;
        for row in &self.rows {
            writeln!(
                f,
                "\n{:<30}{:>10}{:>18}{:>10}{:>18}{:>9}",
                row.name, "CPU ms", "min..max", "wall ms", "min..max", "MiB"
            )?;
            for (name, samples) in &row.contenders {
                let cpu = Spread::of(samples, |sample| sample.cpu);
                let wall = Spread::of(samples, |sample| sample.wall);
                let rss = samples.iter().map(|sample| sample.rss).max().unwrap_or_default() as f64 / 1024.0;
                writeln!(
                    f,
                    "  {name:<28}{:>10.1}{:>18}{:>10.1}{:>18}{rss:>9.1}",
                    cpu.median,
                    cpu.range(),
                    wall.median,
                    wall.range()
                )?;
            }
            for bound in &row.bounds {
                writeln!(f, "  {}", verdict(row, bound))?;
            }
        }
        Ok(())
    }
}

fn verdict(row: &Measured, bound: &Bound) -> String {
    let median = |name: &str| {
        let samples =
            row.contenders.iter().find(|(contender, _)| *contender == name).map(|(_, samples)| samples);
        samples.map_or(f64::NAN, |samples| bound.what.of(samples))
    };
    let value = median(bound.of) - bound.less.map_or(0.0, median);
    let (value, against) = match bound.against {
        Some(floor) => (value / median(floor), format!(" / {floor}")),
        None => (value, String::new()),
    };
    let less = bound.less.map(|less| format!(" - {less}")).unwrap_or_default();
    let kept = if value <= bound.most { "kept" } else { "MISSED" };
    let digits = if bound.most < 0.1 { 4 } else { 2 };
    format!("{} of {}{less}{against}: {value:.digits$}, bound {} {kept}", bound.what, bound.of, bound.most)
}

impl What {
    fn of(self, samples: &[Sample]) -> f64 {
        match self {
            Self::Cpu => Spread::of(samples, |sample| sample.cpu).median,
            Self::Wall => Spread::of(samples, |sample| sample.wall).median,
            Self::Memory => samples.iter().map(|sample| sample.rss).max().unwrap_or_default() as f64 / 1024.0,
        }
    }
}

/// Milliseconds.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> Self {
        let mut values: Vec<f64> = samples.iter().map(|sample| value(sample) as f64 / 1000.0).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (at((values.len().max(1) - 1) / 2), at(values.len() / 2));
        Self { least: at(0), median: f64::midpoint(low, high), most: at(values.len().max(1) - 1) }
    }

    fn range(&self) -> String {
        format!("{:.1}..{:.1}", self.least, self.most)
    }
}
