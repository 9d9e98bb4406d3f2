//! `cargo xtask VERB`: everything that is done to this repository, from set-up to the demonstration.
//!
//! It uses the standard library alone, so that it builds first, on a machine that has only Rust, git and gcc.

mod arrows;
mod bench;
mod cited;
mod demo;
mod fuzz;
mod guest;
mod leaks;
mod licences;
mod options;
mod posix;
mod powercut;
mod report;
mod rootfs;
mod run;
mod setup;
mod source;
mod test;
mod tree;
mod unpacked;

use options::{
    DIR, DISK, Flag, IN_GUEST, MEMORY, NO_GUEST, NO_INSTALL, Options, PACKAGE, REST, SCRATCH, SECONDS,
};
use std::path::PathBuf;
use std::process::ExitCode;

/// A failure is one line for a person: what is wrong, and what would work.
type Result<T> = std::result::Result<T, String>;

struct Verb {
    name: &'static str,
    about: &'static str,
    details: &'static str,
    flags: &'static [Flag],
    /// Prints its own findings; an exit code of failure needs no further word.
    run: fn(&Options) -> Result<ExitCode>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "setup",
        about: "Install the Debian packages and cargo tools that the other verbs need",
        details: "Says which are missing and why each is needed. Installs as root, by apt-get and cargo install.",
        flags: &[NO_INSTALL],
        run: setup::verb,
    },
    Verb {
        name: "demo",
        about: "Build Mica and run a real root file system on every driver of this host",
        details: "Needs root. The table holds values read from inside the containers.\n\
                  The root file system is Debian 12, made once by mmdebstrap and kept in target/demo,\n\
                  or the static busybox where the Debian archive is out of reach.",
        flags: &[NO_INSTALL],
        run: demo::verb,
    },
    Verb {
        name: "test",
        about: "Run every test, and count what passed, failed and was skipped",
        details: "Needs root: the tests mount real file systems and start real containers.\n\
                  Fails on a failed test, on a skip that conformance/expected-skips.txt lacks, and on\n\
                  anything left behind: mounts, devices, namespaces, cgroups, processes, files.\n\
                  What needs device mapper, or the project quotas and the mount calls of an older kernel, runs in a guest\n\
                  (`cargo xtask guest`); device mapper runs natively where the host has it.",
        flags: &[NO_INSTALL, NO_GUEST, PACKAGE],
        run: test::verb,
    },
    Verb {
        name: "bench",
        about: "Measure what Mica's commands cost, beside tar and bare OCI runtimes, on each driver",
        details: "Needs root, and 13 GB of memory for a file system of its own. Contenders take turns; CPU and wall time\n\
                  are medians. What follows `--` goes to the program, which --help explains; every sample is kept in\n\
                  target/bench/samples.json. `cargo bench -p mica-bench` measures inside one process. With --guest it runs in a\n\
                  guest (`cargo xtask guest`), and the samples are in target/bench/guest.json.",
        flags: &[NO_INSTALL, IN_GUEST, SCRATCH, REST],
        run: bench::verb,
    },
    Verb {
        name: "fuzz",
        about: "Fuzz each parser of foreign input for a while",
        details: "Needs cargo-fuzz and a nightly toolchain. A crash leaves its input in fuzz/artifacts.",
        flags: &[SECONDS],
        run: fuzz::verb,
    },
    Verb {
        name: "guest",
        about: "Run a command under a kernel of its own, which has device mapper",
        details: "Boots Debian's user-mode-linux, a program like any other. The command sees this machine's files; what it\n\
                  writes is gone afterwards, but for the disks, which are /dev/ubda, /dev/ubdb and so on.\n\
                  Its exit status is the command's.",
        flags: &[NO_INSTALL, DISK, SCRATCH, MEMORY, SECONDS, REST],
        run: guest::verb,
    },
    Verb {
        name: "power-cut",
        about: "Cut the power of guests that store layers, and look at what is left",
        details: "Each driver stores images on a disk that outlives the guest's kernel, which is killed at moments that nobody\n\
                  chose. The next boot must find every image that was stored, whole, and a store that is sound.",
        flags: &[NO_INSTALL],
        run: powercut::verb,
    },
    Verb {
        name: "posix",
        about: "Run pjdfstest, which tests what POSIX says of file systems, on a union",
        details: "Needs root. The union has two branches, and is mounted with and without passthrough.\n\
                  Fails on a failed test, and on a skip that conformance/expected-skips.txt lacks.\n\
                  With --dir it tells how the file system of that directory does.",
        flags: &[NO_INSTALL, DIR],
        run: posix::verb,
    },
    Verb {
        name: "arrows",
        about: "Check that dependencies point inward, and where names and unsafe code may stand",
        details: "Each finding names its file and line.",
        flags: &[],
        run: arrows::verb,
    },
    Verb {
        name: "licences",
        about: "Check the licence of every crate that is linked against the list in deny.toml",
        details: "A quick stand-in for `cargo deny check licenses`.",
        flags: &[],
        run: licences::verb,
    },
];

fn main() -> ExitCode {
    match dispatch(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(line) => {
            eprintln!("xtask: {line}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(mut args: Vec<String>) -> Result<ExitCode> {
    if args.is_empty() || matches!(args[0].as_str(), "help" | "--help" | "-h") {
        print!("{}", overview());
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = args.remove(0);
    let Some(verb) = VERBS.iter().find(|verb| verb.name == wanted) else {
        let names: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
        return Err(format!("unknown verb '{wanted}'; there are: {}", names.join(", ")));
    };
    let options = options::parse(verb.name, &args, verb.flags)?;
    if options.help {
        print!("{}", help(verb));
        return Ok(ExitCode::SUCCESS);
    }
    std::env::set_current_dir(workspace()?).map_err(|e| format!("cannot enter the workspace: {e}"))?;
    (verb.run)(&options)
}

/// The directory of the workspace, which cargo tells when it runs us.
fn workspace() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("run this as `cargo xtask`")?;
    let parent = PathBuf::from(manifest).parent().map(PathBuf::from);
    parent.ok_or_else(|| "run this as `cargo xtask`".to_owned())
}

fn overview() -> String {
    let mut text = String::from("Usage: cargo xtask VERB [OPTIONS]\n\n");
    for verb in VERBS {
        text += &format!("  {:<10}{}\n", verb.name, verb.about);
    }
    text + "\n`cargo xtask VERB --help` says more.\n"
}

fn help(verb: &Verb) -> String {
    let mut text = format!("{}\n\n{}\n\n", verb.about, verb.details);
    text += &format!("Usage: cargo xtask {} [OPTIONS]\n\n", verb.name);
    for flag in verb.flags.iter().chain([&options::HELP]) {
        text += &format!("  {:<18}{}\n", flag.usage(), flag.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_verb_lists_those_that_exist() {
        let error = dispatch(vec!["tset".to_owned()]).unwrap_err();
        assert!(error.starts_with("unknown verb 'tset'; there are: setup, demo, test"), "{error}");
    }

    #[test]
    fn the_help_of_a_verb_names_its_options() {
        let test = VERBS.iter().find(|verb| verb.name == "test").unwrap();
        assert!(help(test).contains("--package NAME"));
        assert!(help(test).contains("--no-install"));
    }
}
