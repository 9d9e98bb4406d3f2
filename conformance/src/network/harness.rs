//! The suite as a test program: each case is a test that `cargo test` and nextest list, run and time by its name.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use mica_core::{NetworkEntry, OptionMap};

use super::{Case, Subject};
use crate::harness::tell;

/// The `main` of a driver's `tests/conformance.rs`, in its `Cargo.toml` with `harness = false`.
///
/// A case that the host cannot run prints `skip: DRIVER/CASE: REASON` and passes.
pub fn main(entry: &'static NetworkEntry) -> ExitCode {
    main_each(entry, &[("", &[])])
}

/// The same for a driver that has to be right with several sets of settings. The name of a set stands before the names
/// of its cases, as in `LABEL/CASE`.
pub fn main_each(entry: &'static NetworkEntry, sets: &[(&str, &[(&str, &str)])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after another: they look at descriptors of the whole process.
    arguments.test_threads = Some(1);
    let trials = sets.iter().flat_map(|(label, settings)| {
        let settings: OptionMap = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        super::cases().map(move |case| trial(entry, label, settings.clone(), case))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn trial(entry: &'static NetworkEntry, label: &str, settings: OptionMap, case: &'static Case) -> Trial {
    let name = if label.is_empty() { case.name.to_owned() } else { format!("{label}/{}", case.name) };
    Trial::test(name.clone(), move || {
        let dir = tempfile::tempdir()?;
        let options = OptionMap::new();
        let subject = Subject { entry, settings: &settings, options: &options, root: dir.path() };
        tell(&format!("{}/{name}", entry.name), case.promise, subject.available(), || case.run(subject))
    })
}
