//! The verb that container runtimes call: `mica cni`, or a link to this program that is named as a CNI plugin is.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mica_core::Registry;

use super::print;
use crate::cni::{Answer, Base, run};

/// The name of a link to this program by which a runtime finds the plugin.
const LINK: &str = "mica-cni";

/// Whether nothing is said but that this is the plugin: it begins at once, and reads no command line.
pub(super) fn is_called(arguments: &[OsString]) -> bool {
    let program = arguments.first().and_then(|program| Path::new(program).file_name());
    program.is_some_and(|name| name == LINK) || matches!(arguments, [_, verb] if verb == "cni")
}

/// Does what the environment asks for. What goes wrong is told on standard output, as the protocol has it.
pub(super) fn main(registry: Registry, root: PathBuf, firewall: Option<String>) -> ExitCode {
    let base = Base { registry, root, firewall };
    let Answer { text, notes, is_success } =
        run(base, &|name| std::env::var_os(name), &mut io::stdin().lock());
    notes.iter().for_each(|note| print::warning(note));
    match print::text(&text) {
        Ok(()) if is_success => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            print::error(&error);
            ExitCode::FAILURE
        }
    }
}
