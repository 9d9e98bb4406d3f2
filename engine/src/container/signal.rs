//! Signals by name and number, as `--stop-signal` and `kill -s` take them.

use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::{Error, Result};

/// The first of the real-time signals that libc leaves to programs, and the last.
const REAL_TIME: (i32, i32) = (34, 64);

/// `SIGTERM`, `term`, `15`, `RTMIN+1`; `None` for what is no signal.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=REAL_TIME.1).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, sign: i32, rest: &str| {
        let offset: i32 = if rest.is_empty() { 0 } else { rest[1..].parse().ok()? };
        let number = base + sign * offset;
        (REAL_TIME.0..=REAL_TIME.1).contains(&number).then_some(number)
    };
    match name {
        _ if name.starts_with("RTMIN") => real_time(REAL_TIME.0, 1, &name[5..]),
        _ if name.starts_with("RTMAX") => real_time(REAL_TIME.1, -1, &name[5..]),
        _ => Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32),
    }
}

/// As [`parse`], with an error for people.
pub fn require(text: &str) -> Result<i32> {
    parse(text).ok_or_else(|| {
        Error::Invalid(format!("invalid signal: {text}; give a name such as TERM or a number from 1 to 64"))
    })
}

/// `SIGTERM`; real-time ones by their number.
pub fn name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_many_spellings() {
        for text in ["15", "TERM", "SIGTERM", "sigterm", "term"] {
            assert_eq!(parse(text), Some(15), "{text}");
        }
        assert_eq!((parse("RTMIN+3"), parse("SIGRTMAX-1"), parse("RTMIN")), (Some(37), Some(63), Some(34)));
        for text in ["", "0", "65", "-1", "SIG", "NOSUCH", "RTMIN+99", "RTMIN3x"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!((name(9), name(40)), ("SIGKILL".to_owned(), "40".to_owned()));
    }
}
