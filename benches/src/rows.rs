//! What is compared with what.

use std::fmt;
use std::process::Command;

use serde::Serialize;

use crate::Result;
use crate::stage::Stage;

mod apply;
mod change;
mod layer;
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
        Self { name, before: Box::new(nothing), work, beside: Box::new(|| Ok(0)), after: Box::new(nothing) }
    }

    fn before(self, step: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { before: Box::new(step), ..self }
    }

    fn beside(self, used: impl FnMut() -> Result<u64> + 'a) -> Self {
        Self { beside: Box::new(used), ..self }
    }

    fn after(self, step: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { after: Box::new(step), ..self }
    }
}

/// What a contender may cost: (`of` - `less`) / `against` is at most `most`.
#[derive(Debug, Serialize)]
pub(crate) struct Bound {
    pub(crate) what: What,
    pub(crate) of: &'static str,
    pub(crate) less: Option<&'static str>,
    pub(crate) against: Option<&'static str>,
    pub(crate) most: f64,
}

impl Bound {
    /// `of` costs at most `most` times what `against` does.
    fn ratio(what: What, of: &'static str, against: &'static str, most: f64) -> Self {
        Self { what, of, less: None, against: Some(against), most }
    }

    /// What `of` costs is counted without what `less` does.
    fn without(self, less: &'static str) -> Self {
        Self { less: Some(less), ..self }
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
    pub(crate) prepare: fn(&Stage) -> Result<Vec<Row<'_>>>,
}

pub(crate) const GROUPS: &[Group] = &[
    Group { rows: &["apply.debian", "barrier"], prepare: apply::debian },
    Group { rows: &["apply.ten-layers", "apply.ten-layers.no-barrier"], prepare: apply::ten_layers },
    Group { rows: &["save.debian"], prepare: apply::save },
    Group { rows: &["run.none"], prepare: run::none },
    Group { rows: &["diff.one-file", "commit.one-file", "commit.no-barrier"], prepare: change::one_file },
    Group {
        rows: &["layer.create", "layer.first-byte", "layer.diff", "layer.commit", "layer.remove"],
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
        prepare: union::each_way,
    },
    Group { rows: &["union.branches", "union.branches.dense", "union.one-directory"], prepare: union::large },
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
