//! The options of the verbs.

use crate::Result;
use std::path::PathBuf;

/// An option that a verb may take.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) value: Option<&'static str>,
    pub(crate) about: &'static str,
}

impl Flag {
    pub(crate) fn usage(&self) -> String {
        self.value.map_or_else(|| self.name.to_owned(), |value| format!("{} {value}", self.name))
    }
}

pub(crate) const NO_INSTALL: Flag =
    Flag { name: "--no-install", value: None, about: "Say what is missing, and install nothing" };
pub(crate) const PACKAGE: Flag =
    Flag { name: "--package", value: Some("NAME"), about: "Test this crate only; may be repeated" };
pub(crate) const SECONDS: Flag = Flag {
    name: "--seconds",
    value: Some("N"),
    about: "Time for each target, or in the guest [default: 60]",
};
pub(crate) const DISK: Flag = Flag {
    name: "--disk",
    value: Some("FILE"),
    about: "Give the guest this file as a disk; may be repeated",
};
pub(crate) const SCRATCH: Flag = Flag {
    name: "--scratch",
    value: Some("FS"),
    about: "The file system of the guest's temporary files: ext4 or xfs [default: ext4]",
};
pub(crate) const MEMORY: Flag =
    Flag { name: "--memory", value: Some("MIB"), about: "Memory of the guest [default: 2048]" };
pub(crate) const REST: Flag =
    Flag { name: "--", value: Some("ARGS..."), about: "Pass everything that follows on" };
pub(crate) const IN_GUEST: Flag =
    Flag { name: "--guest", value: None, about: "Do it under a kernel of its own, which has device mapper" };
pub(crate) const NO_GUEST: Flag =
    Flag { name: "--no-guest", value: None, about: "Leave out what needs a kernel of its own" };
pub(crate) const DIR: Flag =
    Flag { name: "--dir", value: Some("DIR"), about: "Test the file system of this directory instead" };
pub(crate) const HELP: Flag = Flag { name: "--help", value: None, about: "Print this" };

/// What was asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) help: bool,
    pub(crate) install: bool,
    pub(crate) guest: bool,
    pub(crate) in_guest: bool,
    pub(crate) packages: Vec<String>,
    pub(crate) seconds: u32,
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) scratch: String,
    pub(crate) memory: u32,
    pub(crate) rest: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            help: false,
            install: true,
            guest: true,
            in_guest: false,
            packages: Vec::new(),
            seconds: 60,
            disks: Vec::new(),
            dir: None,
            scratch: "ext4".to_owned(),
            memory: 2048,
            rest: Vec::new(),
        }
    }
}

/// Reads the arguments of `verb`, which takes `flags` and no operands.
pub(crate) fn parse(verb: &str, args: &[String], flags: &[Flag]) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, attached) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let known = flags.iter().chain([&HELP]).find(|flag| flag.name == name);
        let flag = known.ok_or_else(|| unknown(verb, arg, flags))?;
        if flag.name == REST.name {
            options.rest = args.cloned().collect();
            break;
        }
        let value = match (flag.value, attached) {
            (None, None) => String::new(),
            (None, Some(_)) => return Err(format!("{name} takes no value")),
            (Some(_), Some(value)) => value,
            (Some(what), None) => {
                args.next().cloned().ok_or_else(|| format!("{name} needs a value: {name} {what}"))?
            }
        };
        match flag.name {
            "--help" => options.help = true,
            "--no-install" => options.install = false,
            "--guest" => options.in_guest = true,
            "--no-guest" => options.guest = false,
            "--package" => options.packages.push(value),
            "--dir" => options.dir = Some(value.into()),
            "--disk" => options.disks.push(value.into()),
            "--scratch" if matches!(value.as_str(), "ext4" | "xfs") => options.scratch = value,
            "--scratch" => return Err(format!("--scratch: '{value}' is neither ext4 nor xfs")),
            "--memory" => options.memory = number(name, &value)?,
            _ => options.seconds = number(name, &value)?,
        }
    }
    Ok(options)
}

fn number(name: &str, value: &str) -> Result<u32> {
    value.parse().map_err(|_| format!("{name}: '{value}' is no number"))
}

fn unknown(verb: &str, arg: &str, flags: &[Flag]) -> String {
    let usages: Vec<String> = flags.iter().chain([&HELP]).map(Flag::usage).collect();
    format!("unknown option '{arg}'; `{verb}` takes: {}", usages.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Options> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        parse("test", &args, &[NO_INSTALL, PACKAGE, SECONDS])
    }

    #[test]
    fn what_follows_two_dashes_is_passed_on() {
        let args = ["--no-install", "--", "--only", "run"].map(str::to_owned);
        let options = parse("bench", &args, &[NO_INSTALL, REST]).unwrap();
        assert!(!options.install);
        assert_eq!(options.rest, ["--only", "run"]);
    }

    #[test]
    fn values_may_follow_or_be_attached() {
        let options = parsed(&["--package", "a", "--package=b", "--no-install", "--seconds=5"]).unwrap();
        assert_eq!(options.packages, ["a", "b"]);
        assert!(!options.install);
        assert_eq!(options.seconds, 5);
    }

    #[test]
    fn an_unknown_option_lists_those_that_exist() {
        let error = parsed(&["--fast"]).unwrap_err();
        let list = "--no-install, --package NAME, --seconds N, --help";
        assert_eq!(error, format!("unknown option '--fast'; `test` takes: {list}"));
    }

    #[test]
    fn a_missing_or_surplus_value_is_told() {
        assert_eq!(parsed(&["--package"]).unwrap_err(), "--package needs a value: --package NAME");
        assert_eq!(parsed(&["--no-install=yes"]).unwrap_err(), "--no-install takes no value");
        assert_eq!(parsed(&["--seconds", "x"]).unwrap_err(), "--seconds: 'x' is no number");
    }
}
