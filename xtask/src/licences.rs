//! `cargo xtask licences`: the licence of what is linked, against the list in deny.toml.

use crate::Result;
use crate::options::Options;
use crate::run::{cargo, output};
use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

pub(crate) fn verb(_: &Options) -> Result<ExitCode> {
    let config = fs::read_to_string("deny.toml").map_err(|e| format!("deny.toml: {e}"))?;
    let allowed = allowed(&config);
    if allowed.is_empty() {
        return Err("deny.toml: no `allow = [` with a licence on each line".to_owned());
    }
    let mut tree = cargo();
    tree.args(["tree", "--workspace", "--edges=normal,build", "--prefix=none", "--format={p}|{l}"]);
    let crates = output(&mut tree)?;
    let crates: BTreeSet<&str> = crates.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    let exceptions = exceptions(&config);
    let mut refused = 0;
    for krate in crates.iter().filter(|line| !line.is_empty()) {
        let (name, licence) = krate.split_once('|').unwrap_or((krate, ""));
        let excepted =
            exceptions.iter().any(|(other, own)| name.split(' ').next() == Some(other) && licence == own);
        if !excepted && !fits(licence, &allowed) {
            refused += 1;
            println!("{name}: licence '{licence}' is not in deny.toml");
        }
    }
    println!("licences: {} crates, {refused} refused", crates.len());
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The entries of deny.toml's `allow` list, one on each line.
fn allowed(config: &str) -> Vec<String> {
    let list = config.lines().skip_while(|line| line.trim() != "allow = [").skip(1);
    let list = list.take_while(|line| line.trim() != "]");
    list.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// The crates with a licence of their own, one on each line.
fn exceptions(config: &str) -> Vec<(String, String)> {
    let list = config.lines().skip_while(|line| line.trim() != "exceptions = [").skip(1);
    let entries = list.take_while(|line| line.trim() != "]").map(|line| line.split('"').collect::<Vec<_>>());
    let named = entries.filter_map(|parts| Some(((*parts.get(1)?).to_owned(), (*parts.get(3)?).to_owned())));
    named.collect()
}

/// Whether an SPDX expression can be met by `allowed` alone. The old `A/B` means `A OR B`.
fn fits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    any(&mut words, allowed) && words.is_empty()
}

/// `A OR B`; `words` is read from its end.
fn any(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut fits = all(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        fits |= all(words, allowed);
    }
    fits
}

/// `A AND B`, which binds closer than `OR`.
fn all(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut fits = one(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        fits &= one(words, allowed);
    }
    fits
}

/// A licence, with its exception if it has one, or an expression in brackets.
fn one(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let Some(word) = words.pop() else { return false };
    if word == "(" {
        return any(words, allowed) & (words.pop() == Some(")"));
    }
    let mut licence = word.to_owned();
    if words.last() == Some(&"WITH") {
        words.pop();
        licence = format!("{licence} WITH {}", words.pop().unwrap_or_default());
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_fits_when_an_allowed_choice_meets_it() {
        let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for good in ["MIT", "GPL-2.0 OR MIT", "Apache-2.0/MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
            assert!(fits(good, &allowed), "{good}");
        }
        assert!(fits("Apache-2.0 WITH LLVM-exception", &allowed));
        for bad in ["", "Apache-2.0", "MIT AND GPL-2.0", "GPL-2.0 OR LGPL-2.1", "MIT MIT", "(MIT", "MIT)"] {
            assert!(!fits(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn the_list_is_read_from_deny_toml() {
        let config = "[licenses]\nallow = [\n    \"MIT\",\n    # why\n    \"Zlib\",\n]\nother = [\"x\"]\n";
        assert_eq!(allowed(config), ["MIT", "Zlib"]);
    }

    #[test]
    fn an_exception_is_one_crates_own() {
        let config = "exceptions = [\n    # why\n    { crate = \"a\", allow = [\"MPL-2.0\"] },\n]\n";
        assert_eq!(exceptions(config), [("a".to_owned(), "MPL-2.0".to_owned())]);
    }
}
