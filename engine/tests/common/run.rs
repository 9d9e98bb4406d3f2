//! What a data root has below `/run`.

use std::fs;
use std::path::Path;

/// Removes what the networks of a data root kept there. No container of it runs any more.
pub(crate) fn clear(root: &Path) {
    if let Ok(owner) = fs::read_to_string(root.join("owner")) {
        // Most roots have none.
        let _ = fs::remove_dir_all(Path::new("/run/mica").join(owner.trim()));
    }
}
