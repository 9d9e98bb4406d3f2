//! What is said of a command line that is not understood.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::{Cli, container, print};
use crate::Error;

/// Prints help or a version as they are, and anything else as one line.
pub(super) fn explain(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return print::text(&text).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
        ErrorKind::InvalidUtf8 => print::error(&Error::Invalid(not_utf8(arguments))),
        _ => print::error(&Error::Invalid(one_line(&text, &known(arguments)))),
    }
    ExitCode::from(container::refusal_status(&verb(arguments)))
}

/// The verb with a space before it, and with that of a group, as far as there are such ones.
fn known(arguments: &[OsString]) -> String {
    let (command, verb) = (Cli::command(), verb(arguments));
    let Some(found) = command.find_subcommand(&verb) else { return String::new() };
    let mut after = arguments.iter().skip_while(|argument| argument.to_str() != Some(&verb)).skip(1);
    match after.next().and_then(|next| next.to_str()).filter(|next| found.find_subcommand(next).is_some()) {
        Some(next) => format!(" {verb} {next}"),
        None => format!(" {verb}"),
    }
}

/// The sentences of clap's text up to the usage, joined, and where to read more.
fn one_line(text: &str, verb: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let said = text.split("\nUsage:").next().unwrap_or(text);
    let said = said.split("\nFor more information").next().unwrap_or(said);
    let sentences: Vec<String> = said
        .split("\n\n")
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|part| !part.is_empty())
        .collect();
    format!("{}; 'mica{verb} --help' lists what there is", sentences.join("; "))
}

/// Names what clap only says to be there.
fn not_utf8(arguments: &[OsString]) -> String {
    let bad = arguments.iter().filter(|argument| argument.to_str().is_none());
    let bad: Vec<String> = bad.map(|argument| format!("'{}'", visible(argument))).collect();
    format!("not UTF-8: {}", bad.join(", "))
}

/// As text, with `\xff` for what is none.
fn visible(argument: &OsStr) -> String {
    let chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("{}{invalid}", chunk.valid().escape_debug())
    };
    argument.as_bytes().utf8_chunks().map(chunk).collect()
}

/// The first argument that is neither a global flag nor its value.
pub(super) fn verb(arguments: &[OsString]) -> String {
    let mut arguments = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        if !argument.starts_with('-') {
            return argument.into_owned();
        }
        if !argument.contains('=') {
            arguments.next();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn what_clap_says_becomes_one_line() {
        let refused = |text: &str| {
            let arguments: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            one_line(&parse(&arguments).unwrap_err().render().to_string(), &known(&arguments))
        };
        let text = refused("mica imagse");
        assert!(text.starts_with("unrecognized subcommand 'imagse'; tip: "), "{text}");
        assert!(text.contains("'images'") && !text.contains('\n'), "{text}");
        let text = refused("mica images --quite");
        assert!(
            text.starts_with("unexpected argument '--quite' found; tip: ") && !text.contains('\n'),
            "{text}"
        );
    }

    #[test]
    fn a_verb_of_a_group_is_where_its_flags_are_listed() {
        let known = |text: &str| known(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(known("mica --root /x network create --subnet y"), " network create");
        assert_eq!(known("mica network nosuch"), " network");
        assert_eq!(known("mica run create"), " run");
        assert_eq!(known("mica nosuch"), "");
    }

    #[test]
    fn what_is_not_utf_8_is_named_without_its_control_characters() {
        assert_eq!(visible(OsStr::from_bytes(b"a\xff\x1bb")), "a\\xff\\u{1b}b");
    }

    #[test]
    fn the_verb_is_found_behind_the_global_flags() {
        let verb = |text: &str| verb(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(verb("mica --root /x --runtime=runc run --rm x"), "run");
        assert_eq!(verb("mica"), "");
    }
}
