//! `cargo xtask arrows`: the rules of the house that no compiler checks.

use crate::Result;
use crate::cited;
use crate::options::Options;
use crate::source::{self, Line};
use crate::tree::{self, Crate};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Where the registry is built: the one place outside a driver's crate that names it.
const REGISTRY: &str = "engine/src/drivers.rs";
/// Where Docker's own drivers are named, some of which ours are called after.
const DOCKERS: &str = "engine/src/adopt/format.rs";
const MAX_LINES: usize = 650;
/// Crates that `core` may take from elsewhere.
const MAX_FOREIGN_OF_CORE: usize = 3;

pub(crate) fn verb(_: &Options) -> Result<ExitCode> {
    let normal = tree::crates("normal,build")?;
    let mut findings = Vec::new();
    for krate in &normal {
        findings.extend(edges(krate, &allowed(&krate.dir)));
    }
    for krate in &tree::crates("dev")? {
        findings.extend(edges(krate, &allowed_in_tests(&krate.dir)));
    }
    let drivers: Vec<&str> = normal.iter().filter_map(|krate| krate.dir.strip_prefix("drivers/")).collect();
    let files = source::files()?;
    let mut defined = HashSet::new();
    for path in &files {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        findings.extend(in_file(path, &text, &drivers));
        defined.extend(cited::defined(&text).map(str::to_owned));
    }
    findings.extend(cited::missing(&defined)?);
    for finding in &findings {
        println!("{finding}");
    }
    println!("arrows: {} crates, {} files, {} findings", normal.len(), files.len(), findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a crate may depend on: directories of this workspace, and whether crates from elsewhere.
#[derive(Debug)]
struct Allowed {
    ours: &'static [&'static str],
    foreign: usize,
}

fn allowed(dir: &str) -> Allowed {
    let ours: &[&str] = match dir {
        "tree" | "mount" | "archive" | "net" | "names" => &["core"],
        "conformance" => &["core", "tree", "mount", "archive"],
        "engine" | "benches" => &[
            "core",
            "tree",
            "mount",
            "archive",
            "conformance",
            "names",
            "net",
            "runtime",
            "engine",
            "drivers/",
        ],
        _ if dir.starts_with("drivers/") => &["core", "tree", "mount"],
        _ => &[],
    };
    let foreign = match dir {
        "xtask" => 0,
        "core" => MAX_FOREIGN_OF_CORE,
        _ => usize::MAX,
    };
    Allowed { ours, foreign }
}

/// Tests may use the suite and what it stands on; only the engine's may use a driver.
fn allowed_in_tests(dir: &str) -> Allowed {
    let ours: &[&str] = match dir {
        "engine" | "benches" => return allowed(dir),
        "core" | "tree" | "runtime" | "xtask" => &[],
        _ => &["core", "tree", "mount", "archive", "conformance"],
    };
    Allowed { ours, foreign: if dir == "xtask" { 0 } else { usize::MAX } }
}

/// The edges of `krate` that point outward.
fn edges(krate: &Crate, allowed: &Allowed) -> Vec<String> {
    let manifest = format!("{}/Cargo.toml", krate.dir);
    let mut findings = Vec::new();
    let mut foreign = 0;
    for need in &krate.needs {
        let fits = match &need.dir {
            Some(dir) => {
                allowed.ours.iter().any(|ours| dir == ours || (ours.ends_with('/') && dir.starts_with(ours)))
            }
            None => {
                foreign += 1;
                foreign <= allowed.foreign
            }
        };
        if !fits {
            let line = line_of(&manifest, &need.name);
            findings.push(format!("{manifest}:{line}: {} must not depend on {}", krate.name, need.name));
        }
    }
    findings
}

/// The line of a manifest that names a dependency, 1 where it cannot be told.
fn line_of(manifest: &str, dependency: &str) -> usize {
    let text = fs::read_to_string(manifest).unwrap_or_default();
    text.lines().position(|line| line.starts_with(dependency)).map_or(1, |index| index + 1)
}

/// What stands in a file that must not.
fn in_file(path: &Path, text: &str, drivers: &[&str]) -> Vec<String> {
    let lines = source::lines(text);
    let at = |line: usize, what: String| format!("{}:{line}: {what}", path.display());
    let mut findings = Vec::new();
    let count = text.lines().count();
    if count > MAX_LINES {
        findings.push(at(count, format!("{count} lines; a file has at most {MAX_LINES}")));
    }
    let may_be_unsafe =
        path.file_name().is_some_and(|name| name == "sys.rs") || path.iter().any(|dir| dir == "sys");
    for (index, line) in lines.iter().enumerate() {
        if !may_be_unsafe && has_unsafe(line) {
            findings.push(at(index + 1, "unsafe code stands in sys.rs only".to_owned()));
        }
    }
    if !source::is_test(path) && ![REGISTRY, DOCKERS].iter().any(|named| path == Path::new(named)) {
        let shipped = &lines[..source::test_module(&lines)];
        for (index, line) in shipped.iter().enumerate() {
            if let Some(name) = named_driver(path, line, drivers) {
                let what = format!("the driver \"{name}\" is named outside its crate; ask for a capability");
                findings.push(at(index + 1, what));
            }
        }
    }
    findings
}

fn has_unsafe(line: &Line) -> bool {
    let words = line.code.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.into_iter().any(|word| word == "unsafe" || word == "unsafe_code")
}

/// A driver that `line` names as a string, alone or with an option (`vfs.size`), in a file that is not its own.
fn named_driver<'a>(path: &Path, line: &Line, drivers: &[&'a str]) -> Option<&'a str> {
    let names = |literal: &String, driver: &str| {
        literal.strip_prefix(driver).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let foreign = drivers.iter().filter(|driver| !path.starts_with(Path::new("drivers").join(driver)));
    foreign.copied().find(|driver| line.literals.iter().any(|literal| names(literal, driver)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Dependency;

    fn krate(dir: &str, needs: &[(&str, Option<&str>)]) -> Crate {
        let dependency = |&(name, dir): &(&str, Option<&str>)| Dependency {
            name: name.to_owned(),
            dir: dir.map(str::to_owned),
        };
        Crate { name: dir.to_owned(), dir: dir.to_owned(), needs: needs.iter().map(dependency).collect() }
    }

    fn findings(dir: &str, needs: &[(&str, Option<&str>)]) -> usize {
        edges(&krate(dir, needs), &allowed(dir)).len()
    }

    #[test]
    fn a_driver_must_not_depend_on_another() {
        assert_eq!(findings("drivers/a", &[("mica-core", Some("core")), ("libc", None)]), 0);
        assert_eq!(findings("drivers/a", &[("mica-b", Some("drivers/b"))]), 1);
        assert_eq!(findings("drivers/a", &[("mica-engine", Some("engine"))]), 1);
        assert_eq!(findings("engine", &[("mica-b", Some("drivers/b"))]), 0);
    }

    #[test]
    fn the_suite_is_for_the_tests_of_a_driver_alone() {
        let suite = [("mica-conformance", Some("conformance"))];
        assert_eq!(findings("drivers/a", &suite), 1);
        assert!(edges(&krate("drivers/a", &suite), &allowed_in_tests("drivers/a")).is_empty());
    }

    #[test]
    fn core_takes_little_and_xtask_nothing_from_elsewhere() {
        assert_eq!(findings("xtask", &[("libc", None)]), 1);
        assert_eq!(findings("core", &[("a", None), ("b", None), ("c", None)]), 0);
        assert_eq!(findings("core", &[("a", None), ("b", None), ("c", None), ("d", None)]), 1);
    }

    #[test]
    fn a_driver_is_named_in_its_crate_the_registry_and_tests() {
        let text = "fn a() -> bool { name() == \"vfs\" }\n#[cfg(test)]\nmod tests {\n    const A: &str = \"vfs\";\n}\n";
        let found = |path: &str| in_file(Path::new(path), text, &["vfs", "overlay2"]);
        let told =
            "engine/src/pick.rs:1: the driver \"vfs\" is named outside its crate; ask for a capability";
        assert_eq!(found("engine/src/pick.rs"), [told]);
        for path in ["drivers/vfs/src/lib.rs", REGISTRY, DOCKERS, "engine/tests/run.rs"] {
            assert!(found(path).is_empty(), "{path}");
        }
        assert_eq!(found("drivers/overlay2/src/lib.rs").len(), 1);
    }

    #[test]
    fn an_option_names_its_driver_and_a_comment_does_not() {
        let found = |text: &str| in_file(Path::new("engine/src/a.rs"), text, &["vfs"]).len();
        assert_eq!(found("a(\"vfs.size\");"), 1);
        assert_eq!(found("a(\"vfsx\"); // \"vfs\""), 0);
    }

    #[test]
    fn unsafe_code_stands_in_sys_only() {
        let found = |path: &str, text: &str| in_file(Path::new(path), text, &[]).len();
        assert_eq!(found("mount/src/lib.rs", "unsafe { f() }"), 1);
        assert_eq!(found("mount/src/lib.rs", "#![allow(unsafe_code)]"), 1);
        assert_eq!(found("mount/src/lib.rs", "// unsafe\nlet unsafe_path = \"unsafe\";"), 0);
        assert_eq!(found("mount/src/sys.rs", "unsafe { f() }"), 0);
        assert_eq!(found("mount/src/sys/quota.rs", "unsafe { f() }"), 0);
    }

    #[test]
    fn a_long_file_is_told() {
        let found = in_file(Path::new("a.rs"), &"\n".repeat(MAX_LINES + 1), &[]);
        assert_eq!(found, ["a.rs:651: 651 lines; a file has at most 650"]);
    }
}
