//! Sizes and times as people read them.

use mica_core::ByteSize;

/// `331MB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// `3 weeks ago`, for a time in seconds since 1970.
pub(crate) fn ago(then: i64) -> String {
    if then == 0 {
        return "N/A".to_owned();
    }
    format!("{} ago", duration(jiff::Timestamp::now().as_second() - then))
}

/// The time as a date with its offset, for a time in seconds since 1970.
pub(crate) fn date(then: i64) -> String {
    match jiff::Timestamp::from_second(then) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        Err(_) => "N/A".to_owned(),
    }
}

/// A time span in Docker's words: `About a minute`, `5 hours`.
pub(crate) fn duration(seconds: i64) -> String {
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / 60),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / (365 * DAY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_dockers_words() {
        for (seconds, text) in [
            (-5, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (150, "2 minutes"),
            (3700, "About an hour"),
            (2 * 86400 - 1800, "2 days"),
            (47 * 3600, "47 hours"),
            (15 * 86400, "2 weeks"),
            (61 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_date_has_its_offset() {
        assert_eq!(date(1_795_223_705), "2026-11-21 01:15:05 +0000 UTC");
    }
}
