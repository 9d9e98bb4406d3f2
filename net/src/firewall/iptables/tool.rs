//! The programs `iptables` and `ip6tables`, and their `-restore`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};

use iptables::IPTables;
use mica_core::network::{Family, OwnerId};
use mica_core::{Error, Result};

use super::listing::Listing;
use super::rules::Table;

/// How long, in seconds, another program may hold the lock of the tables before a change fails. Without a bound one that
/// hangs would hold up every container of the host.
const PATIENCE: &str = "10";

/// The programs of one family.
pub(super) struct Tool {
    family: Family,
    program: IPTables,
}

impl Tool {
    /// Probes the program, the privilege and the tables.
    pub(super) fn open(family: Family) -> Result<Self> {
        let name = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let unavailable = |why: &dyn fmt::Display| Error::Unavailable {
            reason: format!("{name} does not work: {why}; install iptables, or choose another firewall"),
        };
        // Asks the program for its version, without which there is none.
        iptables::new(family == Family::V6).map_err(|err| unavailable(&err))?;
        let tool = Self::new(family, name);
        for table in Table::ALL {
            tool.show(table).map_err(|err| unavailable(&err))?;
        }
        Ok(tool)
    }

    /// The program of this name, taken for one that waits for the lock of the tables (since 1.4.20).
    pub(super) const fn new(family: Family, program: &'static str) -> Self {
        Self {
            family,
            program: IPTables { cmd: program, has_check: true, has_wait: true, is_numeric: false },
        }
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    pub(super) const fn name(&self) -> &'static str {
        self.program.cmd
    }

    /// What stands in these tables.
    pub(super) fn list(&self, tables: &[Table], owner: OwnerId) -> Result<Listing> {
        let mut listing = Listing::default();
        for &table in tables {
            let doing = || format!("list table '{}' of {}", table.name(), self.name());
            let text = self.show(table).map_err(|why| Error::driver(doing(), why))?;
            listing.read(table, owner, &text);
        }
        Ok(listing)
    }

    /// The rules of a table, as the program prints them, or what it says against it.
    pub(super) fn show(&self, table: Table) -> Result<String, String> {
        // Not `list_table`, which takes the empty output of a failure for an empty table.
        let output = self.program.execute(table.name(), "-S").map_err(|err| err.to_string())?;
        if !output.status.success() {
            return Err(complaint(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Carries out the commands, those of a table at once or not at all. Without any it does nothing.
    pub(super) fn restore(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let program = format!("{}-restore", self.name());
        let doing = || format!("change rules with {program}");
        let failed = |err| Error::io(doing)(err);
        let mut child = Command::new(&program)
            .args(["--noflush", "--wait", PATIENCE])
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

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tool").field(&self.name()).finish()
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
