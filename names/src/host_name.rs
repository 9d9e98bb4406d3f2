//! The name of a machine, as people write it on a command line.

use std::fmt;
use std::str::FromStr;

use mica_core::{Error, Result};

/// A name that a resolver can be asked for: labels of letters, digits, `-` and `_`, with dots between them.
///
/// Nothing else can end up in a file that is read line by line, or in an answer. Two names that differ in case only
/// are one name to a resolver; what was written is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(String);

impl HostName {
    /// The longest name, in bytes: with its lengths and its end it takes 255 in a message (RFC 1035, 2.3.4).
    pub const MAX: usize = 253;
    /// The longest label, in bytes.
    pub const MAX_LABEL: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first dot, where there is one.
    pub(crate) fn short(&self) -> Option<&str> {
        self.0.split_once('.').map(|(short, _)| short)
    }
}

impl FromStr for HostName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let name = text.escape_debug();
            Err(Error::Options(format!("'{name}' cannot be the name of a host: {why}")))
        };
        let usable = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        match text {
            "" => refuse("it is empty"),
            _ if text.len() > Self::MAX => refuse("it is longer than 253 bytes"),
            _ if !text.bytes().all(|b| usable(b) || b == b'.') => {
                refuse("it takes letters, digits, '-', '_' and '.' alone")
            }
            _ if text.split('.').any(str::is_empty) => refuse("a dot stands between two labels"),
            _ if text.split('.').any(|label| label.len() > Self::MAX_LABEL) => {
                refuse("a label is longer than 63 bytes")
            }
            _ if text.split('.').any(|label| label.starts_with('-')) => refuse("a label starts with '-'"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containers_are_called_is_a_name() {
        for good in ["web", "my_app-1", "DB.example.org", "0", "x-", &"a".repeat(63)] {
            assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn no_name_breaks_out_of_its_line() {
        let long = ["a".repeat(60).as_str(); 5].join(".");
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "a\n1.2.3.4 b",
            "a#",
            "-a",
            "é",
            &"a".repeat(64),
            &long,
        ] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
        let text = "a\nb".parse::<HostName>().unwrap_err().to_string();
        assert_eq!(
            text,
            "'a\\nb' cannot be the name of a host: it takes letters, digits, '-', '_' and '.' alone"
        );
    }
}
