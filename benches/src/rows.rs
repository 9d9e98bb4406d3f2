//! What is compared with what.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;

use crate::Result;
use crate::stage::Stage;

mod apply;
mod change;
mod layer;
mod network;
mod run;
mod union;

/// One comparison.
pub(crate) struct Row<'a> {
    pub(crate) name: &'static str,
    pub(crate) contenders: Vec<Contender<'a>>,
    pub(crate) bounds: Vec<Bound>,
}

type Step<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// One piece of work of a row. Only the work is measured.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    pub(crate) before: Step<'a>,
    pub(crate) work: Work<'a>,
    /// What a command reads.
    pub(crate) input: PathBuf,
    /// CPU time that others have used for it so far, in microseconds, such as the process that serves a file system.
    pub(crate) beside: Box<dyn FnMut() -> Result<u64> + 'a>,
    pub(crate) after: Step<'a>,
}

/// What is measured.
pub(crate) enum Work<'a> {
    /// A command, with everything that it starts.
    Command(Box<dyn FnMut() -> Command + 'a>),
    /// Something that takes less than the start of a command does.
    Call(Step<'a>),
}

impl<'a> Contender<'a> {
    fn new(name: impl Into<String>, command: impl FnMut() -> Command + 'a) -> Self {
        Self::of(name.into(), Work::Command(Box::new(command)))
    }

    fn call(name: impl Into<String>, call: impl FnMut() -> Result<()> + 'a) -> Self {
        Self::of(name.into(), Work::Call(Box::new(call)))
    }

    fn of(name: String, work: Work<'a>) -> Self {
        let nothing = || Ok(());
        let (before, after) = (Box::new(nothing), Box::new(nothing));
        Self { name, before, work, input: "/dev/null".into(), beside: Box::new(|| Ok(0)), after }
    }

    fn before(self, step: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { before: Box::new(step), ..self }
    }

    fn input(self, input: PathBuf) -> Self {
        Self { input, ..self }
    }

    fn beside(self, used: impl FnMut() -> Result<u64> + 'a) -> Self {
        Self { beside: Box::new(used), ..self }
    }

    fn after(self, step: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { after: Box::new(step), ..self }
    }
}

/// What is promised of a contender.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Bound {
    /// What it may cost: (`of` - `less`) / `against` is at most `most`.
    Cost {
        what: What,
        of: &'static str,
        less: Option<&'static str>,
        against: Option<&'static str>,
        most: f64,
    },
    /// How fast it is, beside another in the same turn, by CPU time: the interval in which the median of the ratios is,
    /// with 95 %, reaches `least`. One that is wider than `width` says nothing.
    Speed { of: &'static str, against: &'static str, least: f64, width: f64 },
}

impl Bound {
    /// `of` costs at most `most` times what `against` does.
    fn ratio(what: What, of: &'static str, against: &'static str, most: f64) -> Self {
        Self::Cost { what, of, less: None, against: Some(against), most }
    }

    /// As `ratio`, where what `of` costs is counted without what `less` does.
    fn ratio_without(
        what: What,
        of: &'static str,
        less: &'static str,
        against: &'static str,
        most: f64,
    ) -> Self {
        Self::Cost { what, of, less: Some(less), against: Some(against), most }
    }

    /// `of` costs at most so much, in milliseconds or MiB.
    fn most(what: What, of: &'static str, most: f64) -> Self {
        Self::Cost { what, of, less: None, against: None, most }
    }

    /// `of` is as fast as `against`, but for 3 %.
    fn as_fast(of: &'static str, against: &'static str) -> Self {
        Self::Speed { of, against, least: 0.97, width: 0.06 }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum What {
    Cpu,
    Wall,
    /// The most that any sample took, in MiB.
    Memory,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU",
            Self::Wall => "wall time",
            Self::Memory => "memory (MiB)",
        })
    }
}

/// Rows that are prepared together, with the names that they will have.
pub(crate) struct Group {
    pub(crate) rows: &'static [&'static str],
    /// How many turns a round has: more than one where a turn takes little time and says little.
    pub(crate) turns: usize,
    pub(crate) prepare: fn(&Stage) -> Result<Vec<Row<'_>>>,
}

pub(crate) const GROUPS: &[Group] = &[
    Group { rows: &["apply.debian", "barrier"], turns: 1, prepare: apply::debian },
    Group {
        rows: &["apply.ten-layers", "apply.ten-layers.no-barrier"],
        turns: 1,
        prepare: apply::ten_layers,
    },
    Group { rows: &["save.debian"], turns: 1, prepare: apply::save },
    Group { rows: &["run.none", "run.bridge"], turns: 1, prepare: run::each },
    Group {
        rows: &["diff.one-file", "commit.one-file", "commit.no-barrier"],
        turns: 1,
        prepare: change::one_file,
    },
    Group {
        rows: &["layer.create", "layer.first-byte", "layer.diff", "layer.commit", "layer.remove"],
        turns: 1,
        prepare: layer::each_driver,
    },
    Group {
        rows: &[
            "union.read.lower",
            "union.read.upper",
            "union.read.read-only",
            "union.write",
            "union.copy-up",
            "union.walk.cold",
            "union.walk.warm",
            "union.lstat.cold",
            "union.lstat.warm",
            "union.create-unlink",
            "union.untar",
        ],
        turns: 1,
        prepare: union::each_way,
    },
    Group {
        rows: &["union.branches", "union.branches.dense", "union.one-directory"],
        turns: 1,
        prepare: union::large,
    },
    Group { rows: &["net.attach", "net.up"], turns: 5, prepare: network::attach },
    Group { rows: &["net.publish", "net.publish.range"], turns: 5, prepare: network::publish },
    Group { rows: &["net.record"], turns: 5, prepare: network::record },
    Group {
        rows: &["net.hundred.attach", "net.hundred.detach", "net.hundred.drained"],
        turns: 1,
        prepare: network::hundred,
    },
    Group { rows: &["net.throughput", "net.latency", "net.connect"], turns: 20, prepare: network::traffic },
    Group { rows: &["net.guards"], turns: 20, prepare: network::guards },
    Group {
        rows: &["net.plugin.add", "net.plugin.add.port", "net.plugin.delete"],
        turns: 1,
        prepare: network::plugin,
    },
    // It raises the limit of open files of this process, and so of those that it starts.
    Group { rows: &["net.reserve"], turns: 5, prepare: network::reserve },
];

pub(crate) fn make(path: &std::path::Path) -> Result<()> {
    std::fs::create_dir(path).map_err(|e| format!("create '{}': {e}", path.display()))
}

fn clear(path: &std::path::Path) -> Result<()> {
    crate::measure::run(Command::new("rm").arg("-rf").arg(path)).map(drop)
}

fn shell(script: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command
}
