//! The process that serves a mount.
//!
//! It is started by [`mica_mount`] with the connection to the kernel as its descriptor 3, and is told by its [arguments]
//! what to serve. It ends with status 0 when the mount has ended; with another status, and a line on its standard error,
//! when it could not begin or when something broke.
//!
//! It has no terminal, and no signal but `SIGKILL` ends it: whoever wants it to end unmounts. A mount whose server was killed
//! answers everything with `ENOTCONN`.
//!
//! While it serves, nobody else can mount its writable branch: it holds that directory by `flock`.
//!
//! The branches that a mount was given an [id](ServeOptions::id) for are shown in [`RUN`] as AUFS shows its own in `/sys/fs/aufs`:
//! the file `si_ID/br0` has the first one, as `PATH=PERMISSION` and a line feed. The directory is gone when the mount is.

mod privileges;
mod run_dir;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mica_core::{Error, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::branches::{self, BranchSpec, refused};
use crate::mount_options::{MountOptions, ServeOptions};
use crate::session::{self, Wishes};
use crate::union::{self, Union, branch};
use run_dir::RunDir;

pub(crate) use run_dir::name_device;

/// Where the branches of mounts are shown.
pub const RUN: &str = "/run/mica-aufs";

/// How long to wait for a mount of the same branch that is just ending.
const PATIENCE: Duration = Duration::from_secs(3);

/// The arguments by which [`main`] serves these branches: `-o` and options, where there are any, and each branch as
/// `PATH=PERMISSION`, in which nothing is escaped.
pub fn arguments(branches: &[BranchSpec], options: &ServeOptions) -> Vec<OsString> {
    let options = Some(options.text()).filter(|text| !text.is_empty());
    let options = options.into_iter().flat_map(|text| ["-o".into(), text.into()]);
    options.chain(branches.iter().map(BranchSpec::text)).collect()
}

/// Reads [`arguments`].
fn parse(args: &[OsString]) -> Result<(Vec<BranchSpec>, ServeOptions)> {
    let mut mount = MountOptions::default();
    let branches = match args {
        [flag, options, branches @ ..] if flag == "-o" => {
            mount.add(options.as_bytes())?;
            branches
        }
        branches => branches,
    };
    let branches = branches.iter().map(|text| BranchSpec::parse(text)).collect::<Result<Vec<_>>>()?;
    branches::check(&branches)?;
    Ok((branches, mount.options))
}

/// Serves until the mount has ended. Nothing was opened in this process before, and no other thread runs in it.
pub fn main(args: &[OsString]) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            session::report(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &[OsString]) -> Result<()> {
    let channel = privileges::become_server()?;
    let (branches, options) = parse(args)?;
    let _lock = lock(&branches)?;
    let _shown = options.id.as_deref().and_then(|id| {
        let shown = RunDir::make(Path::new(RUN), id, &branches);
        shown
            .inspect_err(|error| session::report(&format!("the branches are not shown in '{RUN}': {error}")))
            .ok()
    });
    let wishes = Wishes { passthrough: options.passthrough, threads: options.threads };
    let union = open(&branches, &options)?;
    // The branches are open by now. What others have mounted would stay mounted as long as this process has it, too.
    mica_mount::keep_only(&["/dev", "/proc", "/run"].map(Path::new))?;
    session::serve(channel, &union, &wishes).map_err(Error::io(|| "serve a mount"))
}

fn open(branches: &[BranchSpec], options: &ServeOptions) -> Result<Arc<Union>> {
    check_places(branches)?;
    let branch = |spec: &BranchSpec| branch::BranchSpec {
        path: spec.path.clone(),
        writable: spec.permission.is_writable(),
        whiteouts: spec.permission.has_whiteouts(),
    };
    let options = union::Options { volatile: options.volatile, stale_reads: options.stale_reads };
    let opened = Union::open(branches.iter().map(branch).collect(), options);
    opened.map_err(|error| {
        let top = branches.first().map(|branch| branch.path.display().to_string()).unwrap_or_default();
        Error::io(|| format!("open the branches of a union, the first of which is '{top}'"))(error)
    })
}

/// Refuses branches that are no directories, or of which one is inside another, by their names.
fn check_places(branches: &[BranchSpec]) -> Result<()> {
    let mut places = branches.iter().map(place).collect::<Result<Vec<_>>>()?;
    // What is inside a directory comes next after it, or after others that are.
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[1].0.starts_with(&pair[0].0)) {
        Some([(_, outer), (_, inner)]) => Err(refused(format!(
            "branch '{}' is inside branch '{}', or the same",
            inner.display(),
            outer.display()
        ))),
        _ => Ok(()),
    }
}

/// Where a branch is, and how it was written.
fn place(branch: &BranchSpec) -> Result<(PathBuf, &Path)> {
    let doing = || format!("open branch '{}'", branch.path.display());
    let place = fs::canonicalize(&branch.path).map_err(Error::io(doing))?;
    match place.is_dir() {
        true => Ok((place, &branch.path)),
        false => Err(Error::io(doing)(Errno::NOTDIR.into())),
    }
}

/// Holds the writable branch, if there is one. A mount that has just ended may still be writing the names of hard links.
fn lock(branches: &[BranchSpec]) -> Result<Option<File>> {
    let Some(branch) = branches.iter().find(|branch| branch.permission.is_writable()) else {
        return Ok(None);
    };
    let doing = || format!("lock branch '{}'", branch.path.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&branch.path, flags, Mode::empty()).map_err(|e| Error::io(doing)(e.into()))?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(File::from(dir))),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
            Err(Errno::WOULDBLOCK) => {
                let what = format!("branch '{}'", branch.path.display());
                return Err(Error::InUse { what, by: "another mount".to_owned() });
            }
            Err(errno) => return Err(Error::io(doing)(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branches::Permission;

    #[test]
    fn what_is_passed_as_arguments_is_read_as_the_same() {
        let branch =
            |path: &str, text| BranchSpec { path: path.into(), permission: Permission::parse(text).unwrap() };
        let branches =
            [branch("/with=sign", "rw"), branch("/with:colon,comma", "ro+wh"), branch("/-o", "rr")];
        for options in [
            ServeOptions::default(),
            ServeOptions { stale_reads: true, threads: Some(3), ..Default::default() },
        ] {
            let (read, same) = parse(&arguments(&branches, &options)).unwrap();
            assert_eq!((&read[..], same), (&branches[..], options));
        }
    }
}
