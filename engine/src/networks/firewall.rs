//! Which firewall the networks of a data root are behind: the same one for as long as anything of them may stand, whatever a
//! later command asks for. What one has written another one does not find.

use std::fs;
use std::path::PathBuf;

use super::Networks;
use crate::container::remove_file;
use crate::{Error, Result, root};

/// What is written for the one that is found first.
const FOUND: &str = "found";

impl Networks {
    /// The firewall to open drivers with; `None` is the first that works.
    pub(super) fn firewall(&self) -> Result<Option<String>> {
        let wanted = self.firewall.as_deref();
        let Some(text) = root::read_optional(&self.firewall_path()?, 64)? else {
            return Ok(wanted.map(str::to_owned));
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let used = Some(text.as_str()).filter(|text| *text != FOUND);
        if wanted.is_none() || wanted == used {
            return Ok(used.map(str::to_owned));
        }
        let used = used.map_or("that is found first".to_owned(), |name| format!("'{name}'"));
        Err(Error::Conflict(format!(
            "the networks of this data root are behind the firewall {used} until 'mica network check --undo' takes them down; \
             do that first, or leave --firewall out"
        )))
    }

    /// Has later commands use the same one, before anything is written to it.
    pub(super) fn keep_firewall(&self) -> Result<()> {
        let path = self.firewall_path()?;
        if path.exists() {
            return Ok(());
        }
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        let written = fs::write(&aside, self.firewall.as_deref().unwrap_or(FOUND)).and_then(|()| {
            // The first one holds: whoever comes second at the same moment is told so by the driver's next opening.
            let linked = fs::hard_link(&aside, &path);
            fs::remove_file(&aside)?;
            match linked {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        });
        written.map_err(Error::io(|| format!("write '{}'", path.display())))?;
        self.firewall().map(drop)
    }

    /// Lets another one be chosen: nothing of the networks stands any more.
    pub(super) fn forget_firewall(&self) -> Result<()> {
        remove_file(&self.firewall_path()?)
    }

    fn firewall_path(&self) -> Result<PathBuf> {
        Ok(self.run()?.join("firewall"))
    }
}
