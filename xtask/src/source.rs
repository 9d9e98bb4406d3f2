//! Just enough of Rust's lexical structure to tell code from comments and string literals.

use crate::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// One line of a source file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Line {
    /// The line without comments and without the content of its literals.
    pub(crate) code: String,
    /// The string literals that begin on it.
    pub(crate) literals: Vec<String>,
}

/// Every Rust file of the repository, those of the examples and fuzz targets included.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![PathBuf::from(".")];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for entry in entries {
            let entry = entry.map_err(|e| format!("{}: {e}", dir.display()))?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(".").unwrap_or(&path).to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Whether nothing in this file reaches a user: tests, benchmarks, examples, fuzz targets.
pub(crate) fn is_test(path: &Path) -> bool {
    let dirs = ["tests", "benches", "examples", "fuzz"];
    path.iter().any(|part| dirs.iter().any(|dir| part == *dir) || part == "tests.rs")
}

/// The index of the line where the test module at the end of a file begins.
pub(crate) fn test_module(lines: &[Line]) -> usize {
    let is_module = |pair: &[Line]| {
        pair[0].code.trim() == "#[cfg(test)]"
            && pair[1].code.starts_with("mod ")
            && pair[1].code.trim_end().ends_with('{')
    };
    lines.windows(2).position(is_module).unwrap_or(lines.len())
}

/// Splits `text` into lines of code and literals.
pub(crate) fn lines(text: &str) -> Vec<Line> {
    let mut scanner = Scanner { rest: text, lines: vec![Line::default()] };
    while scanner.step() {}
    scanner.lines
}

struct Scanner<'a> {
    rest: &'a str,
    lines: Vec<Line>,
}

impl<'a> Scanner<'a> {
    /// Consumes a comment, a literal or one character. False at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(end);
        } else if self.rest.starts_with("/*") {
            let end = block_comment(self.rest);
            self.skip(end);
        } else if let Some((open, close)) = raw_string(self.rest) {
            let end = self.rest[open..].find(&close).map_or(self.rest.len(), |at| open + at);
            self.literal(open, end, close.len());
        } else if first == '"' {
            let end = quoted(self.rest, '"');
            self.literal(1, end, 1);
        } else if first == '\'' && is_char_literal(self.rest) {
            let end = quoted(self.rest, '\'');
            self.skip((end + 1).min(self.rest.len()));
            self.push("''");
        } else {
            // A whole word at once, so that the `r` of `var"` is never taken for a raw string's.
            let word = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
            let text = self.skip(word.max(first.len_utf8()));
            if text != "\n" {
                self.push(text);
            }
        }
        true
    }

    /// A literal whose content lies between `open` and `end`.
    fn literal(&mut self, open: usize, end: usize, close: usize) {
        let content = self.rest[open..end].to_owned();
        if let Some(line) = self.lines.last_mut() {
            line.code.push_str("\"\"");
            line.literals.push(content);
        }
        self.skip((end + close).min(self.rest.len()));
    }

    /// Moves on by `length` bytes, beginning a line at each newline.
    fn skip(&mut self, length: usize) -> &'a str {
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.lines.extend(text.matches('\n').map(|_| Line::default()));
        text
    }

    fn push(&mut self, text: &str) {
        if let Some(line) = self.lines.last_mut() {
            line.code.push_str(text);
        }
    }
}

/// The length of the block comment at the start of `text`; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// For a raw string at the start of `text`: the length of its opening, and its closing.
fn raw_string(text: &str) -> Option<(usize, String)> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let rest = &text[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let is_string = rest[hashes..].starts_with('"');
    is_string.then(|| (prefix.len() + hashes + 1, format!("\"{}", "#".repeat(hashes))))
}

/// Where the literal at the start of `text` is closed by `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at,
            _ => {}
        }
    }
    text.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let first = chars.next();
    first == Some('\\') || (first.is_some() && chars.next() == Some('\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text =
            "let a = \"x \\\" // y\"; // \"z\"\n/* one\n /* two */ unsafe */ b(r#\"q\"r\"#, b\"w\");\n";
        let lines = lines(text);
        assert_eq!(lines[0].code.trim(), "let a = \"\";");
        assert_eq!(lines[0].literals, ["x \\\" // y"]);
        assert_eq!(lines[1].code, "");
        assert_eq!(lines[2].code.trim(), "b(\"\", b\"\");");
        assert_eq!(lines[2].literals, ["q\"r", "w"]);
    }

    #[test]
    fn a_quote_as_a_character_opens_no_string() {
        let lines = lines("f('\"', '\\'', &'a x, bar\"s\");\nunsafe {}");
        assert_eq!(lines[0].literals, ["s"]);
        assert_eq!(lines[1].code, "unsafe {}");
    }

    #[test]
    fn lines_are_counted_through_strings_that_span_them() {
        let lines = lines("a(\"one\ntwo\");\nb(\"three\");");
        assert_eq!(lines[0].literals, ["one\ntwo"]);
        assert_eq!(lines[2].literals, ["three"]);
    }

    #[test]
    fn an_unclosed_literal_or_comment_ends_with_the_file() {
        assert_eq!(lines("a \"b").len(), 1);
        assert_eq!(lines("a /* b\n").len(), 2);
        assert_eq!(lines("r#\"b\"").len(), 1);
        assert_eq!(lines("'\\").len(), 1);
    }

    #[test]
    fn the_test_module_begins_at_its_attribute() {
        let lines = lines("fn a() {}\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(test_module(&lines), 1);
        assert_eq!(test_module(&lines[..1]), 1);
    }
}
