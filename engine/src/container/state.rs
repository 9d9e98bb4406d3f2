//! Where a container is in its life: `state.json`, replaced whole by whoever holds the container's lock.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, root};

/// The longest state that is read, in bytes.
const MAX_STATE: u64 = 1 << 20;

/// The state of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// What it is doing.
    pub status: Status,
    /// Its supervisor, while it has one.
    pub supervisor: i32,
    /// Its first process, while it runs.
    pub pid: i32,
    /// The exit status of its last run.
    pub exit_code: u8,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// What went wrong with it, for people.
    pub error: String,
    /// When it was started last, as RFC 3339 says it; empty for never.
    pub started: String,
    /// When it ended last; empty for never.
    pub finished: String,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was never started.
    #[default]
    Created,
    /// Its supervisor is making it ready.
    Starting,
    /// It runs.
    Running,
    /// It is stopped in its tracks.
    Paused,
    /// It ended.
    Exited,
}

impl Status {
    /// Whether a supervisor looks after it.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused)
    }

    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created | Self::Starting => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }
}

impl State {
    /// Reads the state of the container in `dir`; one that has none was never started.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("state.json");
        let Some(text) = root::read_optional(&path, MAX_STATE)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("'{}'", path.display()), e))
    }

    /// Replaces the state of the container in `dir`. A process that is killed leaves the old one or the new. It is not
    /// synced: after a power cut nothing runs, whatever it says.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join("state.json");
        let failed = || format!("write '{}'", path.display());
        let text = serde_json::to_vec(self).map_err(|e| Error::io(failed)(e.into()))?;
        let aside = dir.join("state.json.new");
        fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path)).map_err(Error::io(failed))
    }
}

/// Now, as records say it.
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Seconds since 1970 of a time in a record; 0 where there is none.
pub fn seconds(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second)
}

/// Removes a file that need not be there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(|| format!("remove '{}'", path.display()))(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_replaced_whole_and_none_is_created() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap().status, Status::Created);
        let state = State { status: Status::Exited, exit_code: 3, finished: now(), ..State::default() };
        state.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), state);
        assert!(seconds(&state.finished) > 1_700_000_000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
