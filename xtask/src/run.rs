//! Running other programs: nothing is read from our stdin, and a failure becomes one line.

use crate::Result;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command without stdin.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs `command` with our stdout and stderr; whether it succeeded.
pub(crate) fn passes(command: &mut Command) -> Result<bool> {
    let status = command.status().map_err(|e| cannot(command, &e))?;
    Ok(status.success())
}

/// Runs `command` and returns its stdout. Its stderr becomes the error, shortened to its last line.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| cannot(command, &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let told = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no word on stderr");
    Err(format!("{} failed ({}): {}", shown(command), output.status, told.trim()))
}

/// Runs `command`, prints its stdout line by line and returns it with whether the command succeeded.
pub(crate) fn echoed(command: &mut Command) -> Result<(String, bool)> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| cannot(command, &e))?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
            println!("{line}");
            text += &line;
            text.push('\n');
        }
    }
    let status = child.wait().map_err(|e| cannot(command, &e))?;
    Ok((text, status.success()))
}

/// The directory that cargo builds into: ours is `TARGET/debug/xtask`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().map_err(|e| format!("cannot find the xtask program: {e}"))?;
    let target = exe.parent().and_then(|profile| profile.parent());
    target.map(PathBuf::from).ok_or_else(|| "run this as `cargo xtask`".to_owned())
}

/// Whether we are root, read from the kernel since the standard library does not tell.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

/// Deletes `dir`, if it is there. Refuses while something is mounted in it: the mount may show the host's own files.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| format!("/proc/self/mounts: {e}"))?;
    if let Some(target) = mounted_in(&mounts, dir) {
        let (target, dir) = (target.display(), dir.display());
        return Err(format!("{target} is still mounted: unmount it, then delete {dir}"));
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(format!("{}: {error}", dir.display())),
        _ => Ok(()),
    }
}

/// The first mount at or below `dir` in the lines of `/proc/self/mounts`, which write a blank as `\040`.
fn mounted_in(mounts: &str, dir: &Path) -> Option<PathBuf> {
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    targets.map(|target| PathBuf::from(target.replace("\\040", " "))).find(|target| target.starts_with(dir))
}

/// The command on one line, with `…` for a script.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> =
        words.map(|word| if word.contains('\n') { "…".to_owned() } else { word }).collect();
    words.join(" ")
}

fn cannot(command: &Command, error: &std::io::Error) -> String {
    format!("cannot run {}: {error}", command.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_tells_its_last_line() {
        let error = output(command("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert!(error.ends_with("failed (exit status: 3): last"), "{error}");
    }

    #[test]
    fn a_script_does_not_break_the_errors_line() {
        let error = output(command("sh").args(["-c", "echo no >&2\nfalse"])).unwrap_err();
        assert_eq!(error, "sh -c … failed (exit status: 1): no");
    }

    #[test]
    fn a_mount_at_or_below_a_directory_is_found() {
        let mounts = "none /a\\040b/c tmpfs rw 0 0\nnone /d tmpfs rw 0 0\n";
        assert_eq!(mounted_in(mounts, Path::new("/a b")).unwrap(), Path::new("/a b/c"));
        assert_eq!(mounted_in(mounts, Path::new("/d")).unwrap(), Path::new("/d"));
        assert!(mounted_in(mounts, Path::new("/a")).is_none());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut command("/nonexistent/tool")).unwrap_err();
        assert!(error.starts_with("cannot run /nonexistent/tool: "), "{error}");
    }

    #[test]
    fn echoed_returns_the_output_of_a_failed_command_too() {
        let (text, passed) = echoed(command("sh").args(["-c", "echo one; false"])).unwrap();
        assert_eq!((text.as_str(), passed), ("one\n", false));
    }
}
