//! The suite as a test program: each case is a test that `cargo test` and nextest list, run and time by its name.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use mica_core::{DriverEntry, Error, OptionMap};

use crate::case::Case;
use crate::mounted::HELPER;
use crate::outcome::Outcome;
use crate::room::Subject;

/// The `main` of a driver's `tests/conformance.rs`, in its `Cargo.toml` with `harness = false`.
///
/// A case that the host cannot run prints `skip: DRIVER/CASE: REASON` and passes.
pub fn main(entry: &'static DriverEntry) -> ExitCode {
    main_each(entry, &[("", &[])])
}

/// The same for a driver that has to be right with several sets of options. The name of a set stands before the names
/// of its cases, as in `LABEL/CASE`.
pub fn main_each(entry: &'static DriverEntry, sets: &[(&str, &[(&str, &str)])]) -> ExitCode {
    if let Some(status) = serve(entry) {
        return status;
    }
    let mut arguments = Arguments::from_args();
    // One after another: they look at descriptors, mounts and devices of the whole process, and fork.
    arguments.test_threads = Some(1);
    if !arguments.list
        && let Err(error) = crate::sys::leave_mount_namespace()
    {
        eprintln!("make a mount namespace, which takes root: {error}");
        return ExitCode::FAILURE;
    }
    let trials = sets.iter().flat_map(|(label, options)| {
        let options: OptionMap = options.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        crate::cases().map(move |case| trial(entry, label, options.clone(), case))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Serves a mount, if this process was started for that by [`Mounted`](crate::mounted::Mounted).
fn serve(entry: &DriverEntry) -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next()? == HELPER && arguments.next()? == entry.name;
    let helper = entry.helper.filter(|_| asked)?;
    Some(helper(&arguments.collect::<Vec<_>>()))
}

fn trial(entry: &'static DriverEntry, label: &str, options: OptionMap, case: &'static Case) -> Trial {
    let name = if label.is_empty() { case.name.to_owned() } else { format!("{label}/{}", case.name) };
    Trial::test(name.clone(), move || {
        let dir = tempfile::tempdir()?;
        let subject = Subject { entry, options: &options, root: dir.path() };
        tell(&format!("{}/{name}", entry.name), case.promise, subject.available(), || case.run(subject))
    })
}

/// Runs a case where the driver is available, and says as a test how that went.
pub(crate) fn tell(
    name: &str,
    promise: &str,
    available: Result<(), Error>,
    run: impl FnOnce() -> Outcome,
) -> Result<(), Failed> {
    let outcome = match available {
        Ok(()) => run(),
        Err(Error::Unavailable { reason }) => Outcome::Skipped(reason),
        Err(error) => Outcome::Failed(format!("open the driver: {error}")),
    };
    match outcome {
        Outcome::Passed => Ok(()),
        Outcome::Failed(text) => Err(Failed::from(format!("{text}\n  promised: {promise}"))),
        Outcome::Skipped(reason) => {
            eprintln!("skip: {name}: {reason}");
            Ok(())
        }
    }
}
