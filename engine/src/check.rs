//! `storage check`: records against what the drivers hold, both ways, and mending what does not agree.

mod content;
mod images;
mod orphans;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mica_core::{LayerId, Store};

use crate::{Engine, Result};

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// That everything that a record names is there, and nothing else is.
    Records,
    /// Besides, that every layer has the content that its digest promises. Reads all of it.
    Content,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What, in a sentence without a full stop.
    pub what: String,
    /// What was done about it.
    pub outcome: Outcome,
}

/// What was done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: no repair was asked for.
    Found,
    /// It is mended, in this way.
    Mended(&'static str),
    /// It stays, for this reason.
    Left(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Found => f.write_str(&self.what),
            Outcome::Mended(how) => write!(f, "{}: {how}", self.what),
            Outcome::Left(why) => write!(f, "{}: left, {why}", self.what),
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All that is wrong, or was.
    pub findings: Vec<Finding>,
    /// How many images were looked at.
    pub images: usize,
    /// How many records of layers.
    pub layers: usize,
    /// How many layers of drivers: those of images, each once for every driver that has it, and those of containers.
    pub held: usize,
}

impl Report {
    /// Whether nothing is wrong any more.
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding.outcome, Outcome::Mended(_)))
    }

    /// The whole in a line.
    pub fn summary(&self) -> String {
        let Self { images, layers, held, findings } = self;
        let open = findings.iter().filter(|finding| !matches!(finding.outcome, Outcome::Mended(_))).count();
        let verdict = match (findings.len(), open) {
            (0, _) => "all is well".to_owned(),
            (found, 0) => format!("{found} found and mended"),
            (found, open) if found == open => format!("{open} found"),
            (found, open) => format!("{found} found, {open} not mended"),
        };
        let many = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let (images, layers) = (many(*images, "image"), many(*layers, "image layer"));
        format!("{images}, {layers}, {} in drivers: {verdict}", many(*held, "layer"))
    }
}

impl Engine {
    /// Looks for everything that does not agree, and mends it if asked to. Other commands may go on meanwhile.
    pub fn check(&self, depth: Depth, repair: bool) -> Result<Report> {
        let mut checker =
            Checker { engine: self, repair, drivers: BTreeMap::new(), report: Report::default() };
        for warning in self.warnings() {
            checker.left(warning.clone(), "the next command tries again");
        }
        // Before the records: a layer that is made after this is in none of the lists.
        checker.list_drivers()?;
        checker.check_tags_file();
        checker.check_records()?;
        if depth == Depth::Content {
            checker.check_content()?;
        }
        checker.check_images()?;
        checker.check_tags()?;
        checker.check_containers()?;
        checker.find_unneeded_records()?;
        checker.find_unknown_layers()?;
        checker.find_scratch()?;
        Ok(checker.report)
    }

    /// Removes the layers and the scratch that nothing names; returns what could not be done.
    pub(crate) fn remove_unnamed(&self) -> Result<Vec<String>> {
        let mut checker =
            Checker { engine: self, repair: true, drivers: BTreeMap::new(), report: Report::default() };
        checker.list_drivers()?;
        checker.find_unknown_layers()?;
        checker.find_scratch()?;
        let left =
            checker.report.findings.iter().filter(|finding| matches!(finding.outcome, Outcome::Left(_)));
        Ok(left.map(ToString::to_string).collect())
    }
}

/// A check under way.
struct Checker<'e> {
    engine: &'e Engine,
    repair: bool,
    /// The drivers that open, with all that they hold.
    drivers: BTreeMap<String, (Store, BTreeSet<LayerId>)>,
    report: Report,
}

impl Checker<'_> {
    fn list_drivers(&mut self) -> Result<()> {
        for name in crate::root::names(&self.engine.root().path().join("storage"))? {
            match self.engine.store(Some(&name)) {
                Ok(store) => {
                    self.check_driver(&name, &store);
                    let held: BTreeSet<LayerId> = store.driver().list()?.into_iter().collect();
                    self.report.held += held.len();
                    self.drivers.insert(name, (store, held));
                }
                Err(error) => {
                    self.left(format!("nothing of {name} is looked at: {error}"), "it does not open");
                }
            }
        }
        Ok(())
    }

    /// What the driver finds wrong with what it keeps its layers in.
    fn check_driver(&mut self, name: &str, store: &Store) {
        match store.driver().check() {
            Ok(wrong) => {
                for what in wrong {
                    self.left(what, "it takes more than this command");
                }
            }
            Err(error) => self.left(
                format!("storage driver '{name}' cannot be checked: {error}"),
                "the next check tries again",
            ),
        }
    }

    /// Notes something wrong, and mends it by `mend` where that is asked for.
    fn found(
        &mut self,
        what: impl Into<String>,
        how: &'static str,
        mend: impl FnOnce(&Engine) -> Result<()>,
    ) {
        let outcome = match self.repair {
            false => Outcome::Found,
            true => match mend(self.engine) {
                Ok(()) => Outcome::Mended(how),
                Err(error) => Outcome::Left(error.to_string()),
            },
        };
        self.report.findings.push(Finding { what: what.into(), outcome });
    }

    /// Notes something wrong that cannot be mended here.
    fn left(&mut self, what: impl Into<String>, why: &str) {
        let outcome = if self.repair { Outcome::Left(why.to_owned()) } else { Outcome::Found };
        self.report.findings.push(Finding { what: what.into(), outcome });
    }
}
