//! `cargo xtask guest`: a command in a kernel of its own, where the host's lacks what the command needs.
//!
//! The kernel is Debian's user-mode-linux, an ordinary program. It sees the host's files as they are and writes to
//! memory, but for the disks that it is given.

mod kernel;

use crate::Result;
use crate::options::Options;
use crate::run::{self, command};
use kernel::Kernel;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

const INIT: &str = include_str!("../guest/init.sh");
/// Starts the guest's kernel, and ends it when told to. The kernel is in a session of its own, and its helper processes
/// outlive it when it is killed: so this ends when the last of them has, or it has waited for that long enough.
const KEEPER: &str = r#"
trap 'kill -s KILL -- "-$kernel" "$kernel"' TERM INT HUP
"$@" &
kernel=$!
wait "$kernel"
wait "$kernel"
for _ in $(seq 100); do
    kill -s KILL -- "-$kernel" 2> /dev/null || break
    sleep 0.01
done
"#;
/// The size of the disk for temporary files, which takes what is written to it.
const SCRATCH: u64 = 32 << 30;
/// What the files that a guest brings back are called in between, before their numbers.
const BROUGHT: &str = "brought.";
/// What the guest inherits of our environment.
const INHERITED: &[&str] = &["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUST_BACKTRACE", "CI"];

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    if options.rest.is_empty() {
        return Err("no command: cargo xtask guest -- COMMAND ARGS...".to_owned());
    }
    let guest = Guest::prepare(&run::target_dir()?, options.install)?;
    let job = Job {
        command: &options.rest,
        variables: &[],
        disks: &options.disks,
        scratch: &options.scratch,
        memory: options.memory,
        limit: Duration::from_secs(options.seconds.into()),
        brings: &[],
    };
    let status = guest.run(&job, |line| println!("{line}"))?;
    Ok(ExitCode::from(status))
}

/// A kernel that can be booted.
pub(crate) struct Guest {
    kernel: Kernel,
    /// For what is shared with running guests.
    dir: PathBuf,
}

/// What one boot is for.
pub(crate) struct Job<'a> {
    pub(crate) command: &'a [String],
    pub(crate) variables: &'a [(String, String)],
    /// Files that become `/dev/ubda`, `/dev/ubdb` and so on, and are written to.
    pub(crate) disks: &'a [PathBuf],
    /// The file system of temporary files: ext4 or xfs.
    pub(crate) scratch: &'a str,
    /// In MiB.
    pub(crate) memory: u32,
    pub(crate) limit: Duration,
    /// Files that the command writes in the guest, and where they come to on the host.
    pub(crate) brings: &'a [(PathBuf, PathBuf)],
}

impl Guest {
    /// Finds the kernel below `target`, or with `install` fetches it there.
    pub(crate) fn prepare(target: &Path, install: bool) -> Result<Self> {
        let dir = target.join("guest");
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self { kernel: Kernel::prepare(&dir, install)?, dir })
    }

    /// Boots, runs the command in our working directory, tells its output by lines and returns its exit status.
    pub(crate) fn run(&self, job: &Job<'_>, mut tell: impl FnMut(&str)) -> Result<u8> {
        let status = self.run_until(job, |line| {
            tell(line);
            None
        });
        status.and_then(|status| status.ok_or_else(|| "nobody cuts the power".to_owned()))
    }

    /// Does the same until `cut` answers a line: after that time the power goes, and there is no status.
    pub(crate) fn run_until(
        &self,
        job: &Job<'_>,
        cut: impl FnMut(&str) -> Option<Duration>,
    ) -> Result<Option<u8>> {
        let shared = Shared::create(&self.dir)?;
        shared.write("init.sh", INIT)?;
        fs::set_permissions(shared.path("init.sh"), fs::Permissions::from_mode(0o755))
            .map_err(|e| format!("{}: {e}", shared.dir.display()))?;
        shared.write("job.sh", &script(job)?)?;
        let scratch = fs::File::create(shared.path("scratch"));
        scratch
            .and_then(|file| file.set_len(SCRATCH))
            .map_err(|e| format!("{}: {e}", shared.dir.display()))?;
        let errors =
            fs::File::create(shared.path("console")).map_err(|e| format!("{}: {e}", shared.dir.display()))?;
        let mut boot = self.boot(job, &shared)?;
        boot.stdout(Stdio::piped()).stderr(errors);
        let mut running = Running::start(&mut boot)?;
        let end = running.listen(job.limit, cut);
        running.end();
        match end {
            End::Own => {}
            End::Cut => return Ok(None),
            End::Late => {
                return Err(format!(
                    "the guest was ended after {} s: --seconds sets the limit, and {} is how it began",
                    job.limit.as_secs(),
                    job.command.join(" ")
                ));
            }
        }
        shared.bring(job.brings)?;
        shared.status().map(Some)
    }

    fn boot(&self, job: &Job<'_>, shared: &Shared) -> Result<Command> {
        // The guest ends with us, however we end.
        let mut boot = command("setpriv");
        boot.args(["--pdeathsig", "TERM", "sh", "-c", KEEPER, "sh"]).arg(&self.kernel.program);
        boot.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "panic=1"]);
        boot.args(["con=null", "con0=null,fd:2", "ssl=null", "ssl0=null,fd:1"]);
        boot.arg(format!("mem={}M", job.memory)).arg("umid=guest");
        for (name, path) in [("uml_dir", "uml"), ("init", "init.sh"), ("OUT", "")] {
            boot.arg(format!("{name}={}", shared.path(path).display()));
        }
        boot.arg(format!("MODULES={}", self.kernel.modules.display()));
        boot.arg(format!("ubd15={}", shared.path("scratch").display()));
        boot.arg(format!("SCRATCH={}", job.scratch));
        for (disk, letter) in job.disks.iter().zip(0..16) {
            let disk = disk.canonicalize().map_err(|e| format!("{}: {e}", disk.display()))?;
            boot.arg(format!("ubd{letter}={}", disk.display()));
        }
        Ok(boot)
    }
}

/// What the guest runs, as a script: a kernel's command line has little room.
fn script(job: &Job<'_>) -> Result<String> {
    let here = std::env::current_dir().map_err(|e| format!("cannot tell the working directory: {e}"))?;
    let inherited = INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let mut script = String::new();
    for (name, value) in inherited.chain(job.variables.iter().cloned()) {
        script += &format!("export {name}={}\n", quoted(&value));
    }
    script += &format!("cd {} || exit\n", quoted(&here.display().to_string()));
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    script += &format!("{}\nstatus=$?\n", words.join(" "));
    for (number, (inside, _)) in job.brings.iter().enumerate() {
        let path = quoted(&inside.display().to_string());
        script += &format!("[ ! -e {path} ] || cp {path} /out/{BROUGHT}{number}\n");
    }
    Ok(script + "exit $status\n")
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A directory that a guest shares with the host.
struct Shared {
    dir: PathBuf,
}

impl Shared {
    fn create(parent: &Path) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("run.{}.{number}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.clone() } else { self.dir.join(name) }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Puts what the guest brings to where it belongs.
    fn bring(&self, brings: &[(PathBuf, PathBuf)]) -> Result<()> {
        for (number, (_, path)) in brings.iter().enumerate() {
            let brought = self.path(&format!("{BROUGHT}{number}"));
            if !brought.exists() {
                continue;
            }
            let dir = path.parent().unwrap_or(Path::new("."));
            let copied = fs::create_dir_all(dir).and_then(|()| fs::copy(&brought, path));
            copied.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// The exit status of the command, or how the guest failed to run it.
    fn status(&self) -> Result<u8> {
        let told = fs::read_to_string(self.path("status")).unwrap_or_default();
        told.trim().parse().map_err(|_| {
            let console = fs::read_to_string(self.path("console")).unwrap_or_default();
            let last: Vec<&str> = console.lines().rev().take(12).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            format!("the guest ended before its command did; its console's last lines:\n{}", last.join("\n"))
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = run::remove_tree(&self.dir) {
            eprintln!("xtask: {error}");
        }
    }
}

/// How a guest ended.
enum End {
    /// By itself.
    Own,
    Cut,
    Late,
}

/// A guest that runs. Dropping it is a power cut.
struct Running {
    keeper: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(boot: &mut Command) -> Result<Self> {
        let mut keeper = boot.spawn().map_err(|e| format!("cannot run setpriv: {e}"))?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = keeper.stdout.take() {
            std::thread::spawn(move || forward(stdout, &sender));
        }
        Ok(Self { keeper, lines })
    }

    /// Tells each line until the guest has closed its output, or time is over: `limit`, or what `cut` answers a line.
    fn listen(&self, limit: Duration, mut cut: impl FnMut(&str) -> Option<Duration>) -> End {
        let (mut deadline, mut end) = (Instant::now() + limit, End::Late);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(delay) = cut(&line) {
                        (deadline, end) = (Instant::now() + delay, End::Cut);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return End::Own,
                Err(RecvTimeoutError::Timeout) => return end,
            }
        }
    }

    /// Ends the guest if it runs still. After this nobody writes to its disks.
    fn end(&mut self) {
        // There is nothing left to end where the guest powered itself off.
        let _ = run::output(command("kill").args(["-TERM", &self.keeper.id().to_string()]));
        let _ = self.keeper.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn forward(stdout: ChildStdout, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(stdout).split(b'\n').map_while(std::result::Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        if lines.send(line).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_command_reach_the_guest_as_they_are() {
        let command = ["printf", "%s\n", "it's", "a b", "$HOME"].map(str::to_owned);
        let variables = [("WORD".to_owned(), "x'y".to_owned())];
        let job = Job {
            command: &command,
            variables: &variables,
            disks: &[],
            scratch: "ext4",
            memory: 1,
            limit: Duration::ZERO,
            brings: &[],
        };
        let script = script(&job).unwrap();
        let output = run::output(run::command("sh").args(["-c", &script])).unwrap();
        assert_eq!(output, "it's\na b\n$HOME\n");
        assert!(script.contains(r"export WORD='x'\''y'"), "{script}");
    }
}
