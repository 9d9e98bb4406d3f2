//! CASES.md names cases that there are.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

/// What stands in backquotes on the right side of a row: cases, and in a reason calls of the contract.
fn named(row: &str) -> impl Iterator<Item = &str> {
    let right = row.strip_prefix('|').and_then(|row| row.split('|').nth(1)).unwrap_or_default();
    right.split('`').skip(1).step_by(2)
}

#[test]
fn every_name_in_the_table_is_a_case_or_a_call() {
    let calls = ["duplicate", "list", "mounts"];
    let cases: BTreeSet<&str> = mica_conformance::cases().map(|case| case.name).collect();
    let table = include_str!("../CASES.md");
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && *line != "| Theirs | Here |").collect();
    assert_eq!(rows.len(), 7 + 11 + 20 + 7, "the suites have so many cases");
    for row in rows {
        let unknown: Vec<_> =
            named(row).filter(|name| !cases.contains(name) && !calls.contains(name)).collect();
        assert!(unknown.is_empty(), "there is no case {unknown:?}, in: {row}");
        assert!(named(row).next().is_some() || row.contains("Not "), "no case and no reason in: {row}");
    }
}
