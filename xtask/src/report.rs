//! What the tests said: outcomes from nextest's JUnit report and from rustdoc's lines, and skips.

use crate::Result;

/// A test that the host could not run. It says so itself, by a line `skip: NAME: REASON`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Skip {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// The outcomes of a run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: Vec<String>,
    pub(crate) skips: Vec<Skip>,
}

impl Tally {
    /// Nothing could be run.
    pub(crate) fn of_failure(text: String) -> Self {
        Self { failed: vec![text], ..Self::default() }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skips.extend(other.skips);
    }

    /// Reads nextest's JUnit report, which holds the output of passing tests too.
    pub(crate) fn from_junit(xml: &str) -> Self {
        let mut tally = Self::default();
        for case in xml.split("<testcase ").skip(1) {
            // Text is escaped, so that a `<` always opens an element.
            let (tag, rest) = case.split_once('>').unwrap_or((case, ""));
            let body = rest.split("</testcase>").next().unwrap_or_default();
            let name = format!("{} {}", attribute(tag, "classname"), attribute(tag, "name"));
            if !tag.ends_with('/') && (body.contains("<failure") || body.contains("<error")) {
                tally.failed.push(name);
                continue;
            }
            let skips = if tag.ends_with('/') { Vec::new() } else { skips(&unescaped(body)) };
            tally.passed += usize::from(skips.is_empty());
            tally.skips.extend(skips);
        }
        tally
    }

    /// Reads the `test NAME ... OUTCOME` lines of `cargo test --doc`.
    pub(crate) fn from_libtest(text: &str) -> Self {
        let mut tally = Self::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("test ")) {
            let Some((name, outcome)) = line.rsplit_once(" ... ") else { continue };
            match outcome {
                "ok" => tally.passed += 1,
                "ignored" => {
                    let reason = "marked `ignore`, so nobody compiles it".to_owned();
                    tally.skips.push(Skip { name: name.to_owned(), reason });
                }
                _ => tally.failed.push(name.to_owned()),
            }
        }
        tally
    }
}

/// The value of ` name="…"` in the inside of a tag.
fn attribute(tag: &str, name: &str) -> String {
    let tag = format!(" {tag}");
    let value = tag.split_once(&format!(" {name}=\"")).map_or("", |(_, rest)| rest);
    unescaped(value.split('"').next().unwrap_or_default())
}

fn unescaped(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    text.replace("&amp;", "&")
}

/// The skip lines in a test's output, where an element's tag may stand before the first.
fn skips(output: &str) -> Vec<Skip> {
    let lines = output.lines().map(|line| line.rsplit("<system-err>").next().unwrap_or(line));
    let told = lines.filter_map(|line| line.strip_prefix("skip: "));
    told.map(|told| {
        let (name, reason) = told.split_once(": ").unwrap_or((told, "no reason given"));
        Skip { name: name.trim().to_owned(), reason: reason.trim().to_owned() }
    })
    .collect()
}

/// A line of the reviewed list of skips: `NAME | kernel feature | words of the reason`.
#[derive(Debug, PartialEq)]
pub(crate) struct Expected {
    name: String,
    pub(crate) feature: String,
    words: String,
}

/// Reads the reviewed list, in which `#` begins a comment.
pub(crate) fn expected(list: &str) -> Result<Vec<Expected>> {
    let mut expected = Vec::new();
    for (index, line) in list.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        match columns[..] {
            [name, feature, words] if columns.iter().all(|column| !column.is_empty()) => {
                let [name, feature, words] = [name, feature, words].map(str::to_owned);
                expected.push(Expected { name, feature, words });
            }
            _ => return Err(format!("line {}: wanted `NAME | KERNEL FEATURE | REASON`", index + 1)),
        }
    }
    Ok(expected)
}

/// The entry that allows `skip`: its name, for a reason that was reviewed.
pub(crate) fn allowing<'a>(expected: &'a [Expected], skip: &Skip) -> Option<&'a Expected> {
    expected.iter().find(|entry| entry.name == skip.name && skip.reason.contains(&entry.words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUNIT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="4" failures="1" errors="1">
    <testsuite name="mica-vfs" tests="4">
        <testcase name="copy::a" classname="mica-vfs" time="0.004">
            <system-out>
test copy::a ... ok
</system-out>
            <system-err>skip: vfs/reflink: no &lt;reflink&gt; here &amp; now: ext4
skip: vfs/quota: none
</system-err>
        </testcase>
        <testcase name="b" classname="mica-vfs::conformance" time="0.095">
            <failure message="boom" type="test failure">skip: vfs/b: boom</failure>
        </testcase>
        <testcase name="c" classname="mica-vfs" time="0.5">
            <error type="test exited with code 0, but leaked handles so was marked failed"/>
        </testcase>
        <testcase name="d" classname="mica-vfs" time="0.1"/>
    </testsuite>
</testsuites>"#;

    fn skip(name: &str, reason: &str) -> Skip {
        Skip { name: name.to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn junit_gives_passes_failures_and_each_skip() {
        let tally = Tally::from_junit(JUNIT);
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, ["mica-vfs::conformance b", "mica-vfs c"]);
        let reflink = skip("vfs/reflink", "no <reflink> here & now: ext4");
        assert_eq!(tally.skips, [reflink, skip("vfs/quota", "none")]);
    }

    #[test]
    fn doc_tests_are_counted_by_outcome() {
        let tally = Tally::from_libtest(
            "test core/src/a.rs - A (line 3) ... ok\ntest core/src/b.rs - B (line 9) - compile fail ... ok\n\
             test core/src/c.rs - (line 1) ... ignored\ntest core/src/d.rs - (line 1) ... FAILED\n\
             test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!((tally.passed, tally.skips.len()), (2, 1));
        assert_eq!(tally.failed, ["core/src/d.rs - (line 1)"]);
    }

    #[test]
    fn a_skip_is_expected_by_name_and_reason() {
        let list = "# reviewed\n\nvfs/quota | CONFIG_QUOTA | no project quota\n";
        let list = expected(list).unwrap();
        let allowed = allowing(&list, &skip("vfs/quota", "ext4 has no project quota here"));
        assert_eq!(allowed.unwrap().feature, "CONFIG_QUOTA");
        assert!(allowing(&list, &skip("vfs/quota", "mkfs.ext4 failed")).is_none());
        assert!(allowing(&list, &skip("vfs/quota-inodes", "no project quota")).is_none());
    }

    #[test]
    fn a_list_entry_without_its_feature_is_refused() {
        let error = expected("a | b | c\nvfs/quota | no project quota\n").unwrap_err();
        assert_eq!(error, "line 2: wanted `NAME | KERNEL FEATURE | REASON`");
    }
}
