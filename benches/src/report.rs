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
                    "  {name:<28}{:>10}{:>18}{:>10}{:>18}{rss:>9.1}",
                    shown(cpu.median),
                    cpu.range(),
                    shown(wall.median),
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
    match *bound {
        Bound::Cost { what, of, less, against, most } => {
            let cost = |name: &str| what.of(samples(row, name));
            let value = cost(of) - less.map_or(0.0, cost);
            let (value, beside) = match against {
                Some(floor) => (value / cost(floor), format!(" / {floor}")),
                None => (value, String::new()),
            };
            let less = less.map(|less| format!(" - {less}")).unwrap_or_default();
            let kept = if value <= most { "kept" } else { "MISSED" };
            let digits = if most < 0.1 { 4 } else { 2 };
            format!("{what} of {of}{less}{beside}: {value:.digits$}, bound {most} {kept}")
        }
        Bound::Speed { of, against, least, width } => {
            let pairs = samples(row, of).iter().zip(samples(row, against));
            let median = Median::of(pairs.map(|(one, other)| other.cpu / one.cpu).collect());
            let verdict = match median.interval {
                Some((low, high)) if high - low > width => format!("{low:.3}..{high:.3}, not resolved"),
                Some((low, high)) if high < least => format!("{low:.3}..{high:.3}, MISSED"),
                Some((low, high)) => format!("{low:.3}..{high:.3}, kept"),
                None => "not resolved by so few rounds".to_owned(),
            };
            format!("speed of {of} / {against}: {:.3}, bound {least}; 95 % in {verdict}", median.value)
        }
    }
}

fn samples<'a>(row: &'a Measured, name: &str) -> &'a [Sample] {
    let found = row.contenders.iter().find(|(contender, _)| contender == name);
    found.map(|(_, samples)| samples.as_slice()).unwrap_or_default()
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

/// The median of values, and between which two of them the median of all that could have been drawn is, with 95 %:
/// so far from the middle that as many coins seldom fall so unevenly. That needs no normal distribution.
struct Median {
    value: f64,
    interval: Option<(f64, f64)>,
}

impl Median {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let outside = (count.midpoint(1.0) - 0.98 * count.sqrt()).floor();
        let interval = (outside >= 1.0).then(|| {
            let outside = outside as usize;
            (values[outside - 1], values[values.len() - outside])
        });
        Self { value: middle(&values), interval }
    }
}

/// Of sorted values.
fn middle(values: &[f64]) -> f64 {
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at((values.len().max(1) - 1) / 2), at(values.len() / 2))
}

/// Milliseconds.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> Self {
        let mut values: Vec<f64> = samples.iter().map(|sample| value(sample) / 1000.0).collect();
        values.sort_by(f64::total_cmp);
        let or_none = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self { least: or_none(values.first()), median: middle(&values), most: or_none(values.last()) }
    }

    fn range(&self) -> String {
        format!("{}..{}", shown(self.least), shown(self.most))
    }
}

/// With as many digits as say something.
fn shown(milliseconds: f64) -> String {
    let digits = match milliseconds {
        ..1.0 => 3,
        ..10.0 => 2,
        _ => 1,
    };
    format!("{milliseconds:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a contender that took so long in each turn, beside one that took 100.
    fn speed(times: &[f64]) -> String {
        let samples = |times: &[f64]| times.iter().map(|&cpu| Sample { cpu, wall: 0.0, rss: 0 }).collect();
        let bound = Bound::Speed { of: "one", against: "other", least: 0.97, width: 0.06 };
        let other = vec![100.0; times.len()];
        let contenders = vec![("one".to_owned(), samples(times)), ("other".to_owned(), samples(&other))];
        verdict(&Measured { name: "row", bounds: Vec::new(), contenders }, &bound)
    }

    #[test]
    fn a_speed_is_judged_by_where_the_median_of_all_turns_can_be() {
        let ends = |times: &[f64], end: &str| {
            let verdict = speed(times);
            assert!(verdict.ends_with(end), "{verdict}");
        };
        let around =
            |middle: f64| -> Vec<f64> { (0..41).map(|n| middle + f64::from(n - 20) / 10.0).collect() };
        ends(&around(100.0), "kept");
        ends(&around(103.0), "kept");
        ends(&around(110.0), "MISSED");
        ends(&around(90.0), "kept");
        let wild: Vec<f64> = (0..41).map(|n| if n % 2 == 0 { 80.0 } else { 120.0 }).collect();
        ends(&wild, "not resolved");
        ends(&[100.0; 5], "not resolved by so few rounds");
        // One turn in which the machine did something else says nothing.
        ends(&[&around(100.0)[..], &[9000.0]].concat(), "kept");
    }

    #[test]
    fn the_interval_of_a_median_is_that_of_the_sign_test() {
        let values: Vec<f64> = (1..=25).map(f64::from).collect();
        // A table of order statistics has the 8th and the 18th of 25 values.
        assert_eq!(Median::of(values).interval, Some((8.0, 18.0)));
        assert!(Median::of(vec![1.0; 5]).interval.is_none());
    }

    #[test]
    fn short_times_are_shown_with_more_digits() {
        assert_eq!([0.0432, 1.234, 56.78].map(shown), ["0.043", "1.23", "56.8"]);
    }
}
