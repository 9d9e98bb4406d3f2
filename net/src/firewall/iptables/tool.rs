//! The programs `iptables` and `ip6tables`, with their `-save` and `-restore`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};

use mica_core::network::{Family, OwnerId};
use mica_core::{Error, Result};

use super::listing::Listing;
use super::rules::Table;

/// How long, in seconds, another program may hold the lock of the tables before a change fails. Without a bound one that
/// hangs would hold up every container of the host.
const PATIENCE: &str = "10";

/// The programs of one family.
#[derive(Debug)]
pub(super) struct Tool {
    family: Family,
    /// The one that the others are named after.
    name: &'static str,
}

impl Tool {
    /// Probes the programs, the privilege and the tables. Writes nothing.
    pub(super) fn open(family: Family) -> Result<Self> {
        let name = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let unavailable = |why: &dyn fmt::Display| Error::Unavailable {
            reason: format!("{name} does not work: {why}; install iptables, or choose another firewall"),
        };
        // Asks the program for its version, without which there is none.
        iptables::new(family == Family::V6).map_err(|err| unavailable(&err))?;
        let tool = Self::new(family, name);
        let mut nothing = Batch::default();
        Table::ALL.into_iter().for_each(|table| nothing.touch(table));
        tool.run_restore(&["--test"], &nothing).map_err(|err| unavailable(&err))?;
        Ok(tool)
    }

    /// The programs of this name, taken for ones that wait for the lock of the tables (since 1.4.20).
    pub(super) const fn new(family: Family, name: &'static str) -> Self {
        Self { family, name }
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// What stands in these tables.
    pub(super) fn list(&self, tables: &[Table], owner: OwnerId) -> Result<Listing> {
        let text = self.show(tables)?;
        Ok(Listing::read(owner, &text))
    }

    /// The rules of these tables, as `-save` prints them. One program does for several tables, and takes as long as for one.
    pub(super) fn show(&self, tables: &[Table]) -> Result<String> {
        let program = format!("{}-save", self.name);
        let doing = || format!("list rules with {program}");
        let mut command = Command::new(&program);
        if let [table] = tables {
            command.args(["-t", table.name()]);
        }
        let output = command.stdin(Stdio::null()).output().map_err(Error::io(doing))?;
        if !output.status.success() {
            return Err(Error::driver(doing(), complaint(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // A table with rules that the program cannot print is passed over, and that told in a comment.
        match text.lines().find(|line| line.starts_with('#') && line.contains("is incompatible")) {
            Some(line) => Err(Error::driver(doing(), line.trim_start_matches(['#', ' ']))),
            None => Ok(text),
        }
    }

    /// Carries out the commands, those of a table at once or not at all. Without any it does nothing.
    pub(super) fn restore(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() { Ok(()) } else { self.run_restore(&[], batch) }
    }

    fn run_restore(&self, options: &[&str], batch: &Batch) -> Result<()> {
        let program = format!("{}-restore", self.name);
        let doing = || format!("change rules with {program}");
        let failed = |err| Error::io(doing)(err);
        let mut child = Command::new(&program)
            .args(["--noflush", "--wait", PATIENCE])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        // A program that ends without reading says why, which is worth more than the broken pipe.
        let written =
            child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(batch.to_string().as_bytes()));
        let output = child.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            return Err(Error::driver(doing(), complaint(&output.stderr)));
        }
        written.map_err(failed)
    }
}

/// What a program said, on one line.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it failed and did not say why".to_owned() } else { lines.join("; ") }
}

/// Commands for tables, as `iptables-restore` reads them.
#[derive(Debug, Default)]
pub(super) struct Batch(BTreeMap<Table, Vec<String>>);

impl Batch {
    pub(super) fn push(&mut self, table: Table, command: String) {
        self.0.entry(table).or_default().push(command);
    }

    /// Names a table without a command for it.
    fn touch(&mut self, table: Table) {
        self.0.entry(table).or_default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, commands) in &self.0 {
            writeln!(f, "*{}", table.name())?;
            commands.iter().try_for_each(|command| writeln!(f, "{command}"))?;
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}
