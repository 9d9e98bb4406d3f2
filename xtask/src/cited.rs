//! Tests that the documentation names: each must be there, under that name.

use crate::Result;
use std::collections::HashSet;
use std::fs;

/// Where tests are named by the hole that they keep closed.
const DOCUMENT: &str = "docs/security.md";

/// The functions that a file defines.
pub(crate) fn defined(text: &str) -> impl Iterator<Item = &str> {
    text.split("fn ").skip(1).map(|rest| rest.split(|c: char| !is_of_a_name(c)).next().unwrap_or_default())
}

/// The tests that are named in the tables of the document, and are not among those that are defined.
pub(crate) fn missing(defined: &HashSet<String>) -> Result<Vec<String>> {
    let text = fs::read_to_string(DOCUMENT).map_err(|e| format!("{DOCUMENT}: {e}"))?;
    Ok(missing_in(&text, defined))
}

fn missing_in(text: &str, defined: &HashSet<String>) -> Vec<String> {
    let rows = text.lines().enumerate().filter(|(_, line)| line.starts_with('|'));
    let named =
        rows.flat_map(|(index, row)| row.split('`').skip(1).step_by(2).map(move |word| (index, word)));
    let tests = named.filter(|(_, word)| word.contains('_') && word.chars().all(is_of_a_name));
    let missing = tests.filter(|(_, word)| !defined.contains(*word));
    missing.map(|(index, word)| format!("{DOCUMENT}:{}: there is no test '{word}'", index + 1)).collect()
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_was_renamed_is_missed_where_it_is_named() {
        let code = "#[test]\nfn links_stay_inside() {\n}\n    pub(crate) fn other_one<T>(x: T) {";
        let defined: HashSet<String> = defined(code).map(str::to_owned).collect();
        assert!(defined.contains("links_stay_inside") && defined.contains("other_one"));
        let text = "`no_table`\n| 1 | `links_stay_inside`, `a/b_c.rs`, `-v` |\n| 2 | `gone_away` |\n";
        assert_eq!(missing_in(text, &defined), ["docs/security.md:3: there is no test 'gone_away'"]);
    }
}
