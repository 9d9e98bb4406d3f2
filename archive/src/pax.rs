//! PAX extended records: `LENGTH KEY=VALUE\n`, each overriding a field of the header that follows.

use crate::header::{Field, id};
use crate::{Time, encoded};

/// More attributes than this no file can have: their names would not fit in a list (`XATTR_LIST_MAX`, 64 KiB). Those
/// that come in two forms count twice.
const MAX_XATTRS: usize = 10_000;
/// The prefix of the keys that hold extended attributes.
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";
/// The same of libarchive, with the attribute encoded.
pub(crate) const ENCODED_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
/// The prefix of the keys that hold ACLs as text.
pub(crate) const ACL: &[u8] = b"SCHILY.acl.";

/// What begins the keys that say nothing of all members.
const OF_ONE_MEMBER: [&[u8]; 4] = [XATTR, ENCODED_XATTR, ACL, b"GNU.sparse."];

/// What a global header may set for all members after it.
///
/// A path, a size or an attribute that every member has alike makes no sense, and readers differ in what they
/// do with one, so these are refused there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
}

/// What the records before one member say about it.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    pub(crate) sparse: Sparse,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    encoded_xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The records of GNU's sparse formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    pub(crate) major: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    /// Offset and length in turn, from either form of format 0.
    pub(crate) numbers: Option<Vec<u64>>,
}

impl Records {
    /// Before any record: what the global headers said.
    pub(crate) fn new(defaults: &Defaults) -> Self {
        Self { uid: defaults.uid, gid: defaults.gid, mtime: defaults.mtime, ..Self::default() }
    }

    /// Takes the records of a member's own extended header.
    pub(crate) fn add(&mut self, records: &[u8]) -> Field<()> {
        each(records, |key, value| self.set(key, value))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Field<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            return set_xattr(&mut self.xattrs, self.encoded_xattrs.len(), name, value);
        }
        if let Some(name) = key.strip_prefix(ENCODED_XATTR) {
            return set_xattr(&mut self.encoded_xattrs, self.xattrs.len(), name, value);
        }
        if key.starts_with(ACL) {
            return set_xattr(&mut self.xattrs, self.encoded_xattrs.len(), key, value);
        }
        match key {
            b"path" => self.path = name("path", value)?,
            b"linkpath" => self.link = name("linkpath", value)?,
            b"size" => self.size = number("size", value)?,
            b"uid" => self.uid = owner("uid", value)?,
            b"gid" => self.gid = owner("gid", value)?,
            b"mtime" => self.mtime = time(value)?,
            b"GNU.sparse.major" => self.sparse.major = number("GNU.sparse.major", value)?,
            b"GNU.sparse.name" => self.sparse.name = name("GNU.sparse.name", value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = number("GNU.sparse.size", value)?;
            }
            b"GNU.sparse.map" => self.sparse.numbers = Some(numbers(value)?),
            b"GNU.sparse.offset" => self.add_sparse(0, value)?,
            b"GNU.sparse.numbytes" => self.add_sparse(1, value)?,
            _ => {}
        }
        Ok(())
    }

    /// All attributes. One that has another form than the kernel's has the key of its record for a name.
    pub(crate) fn take_xattrs(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut xattrs = std::mem::take(&mut self.xattrs);
        let broken = encoded::merge(&mut xattrs, std::mem::take(&mut self.encoded_xattrs));
        xattrs.extend(broken.into_iter().map(|(name, value)| ([ENCODED_XATTR, &name].concat(), value)));
        xattrs
    }

    fn add_sparse(&mut self, parity: usize, value: &[u8]) -> Field<()> {
        let numbers = self.sparse.numbers.get_or_insert_default();
        if numbers.len() % 2 != parity {
            return Err("GNU.sparse.offset and GNU.sparse.numbytes do not alternate".to_owned());
        }
        numbers.push(decimal("GNU.sparse.offset", value)?);
        Ok(())
    }
}

/// Puts an attribute into a list, beside which there are `others`.
fn set_xattr(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>, others: usize, name: &[u8], value: &[u8]) -> Field<()> {
    if let Some((_, known)) = xattrs.iter_mut().find(|(known, _)| known == name) {
        *known = value.to_vec();
    } else if xattrs.len() + others < MAX_XATTRS {
        xattrs.push((name.to_vec(), value.to_vec()));
    } else {
        return Err(format!("more than {MAX_XATTRS} extended attributes"));
    }
    Ok(())
}

impl Sparse {
    /// Whether the map stands before the content, as format 1.0 has it.
    pub(crate) fn is_in_content(&self) -> Field<bool> {
        match self.major {
            Some(1) => Ok(true),
            None | Some(0) => Ok(false),
            Some(other) => Err(format!("sparse format {other} is unknown, expected 0 or 1")),
        }
    }
}

impl Defaults {
    /// Takes the records of a global header.
    pub(crate) fn add(&mut self, records: &[u8]) -> Field<()> {
        each(records, |key, value| {
            match key {
                b"uid" => self.uid = owner("uid", value)?,
                b"gid" => self.gid = owner("gid", value)?,
                b"mtime" => self.mtime = time(value)?,
                b"path" | b"linkpath" | b"size" => return Err(misplaced(key)),
                _ if OF_ONE_MEMBER.iter().any(|prefix| key.starts_with(prefix)) => {
                    return Err(misplaced(key));
                }
                _ => {}
            }
            Ok(())
        })
    }
}

fn misplaced(key: &[u8]) -> String {
    format!("'{}' in a global header: it can only belong to one member", key.escape_ascii())
}

/// Calls `take` with each key and value in turn.
fn each(mut records: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> Field<()>) -> Field<()> {
    while !records.is_empty() {
        let (record, rest) = split_record(records)
            .ok_or_else(|| format!("extended record '{}' is malformed", start_of(records)))?;
        let (key, value) = split_once(record, b'=')
            .filter(|(key, _)| !key.is_empty() && !key.contains(&0))
            .ok_or_else(|| format!("extended record '{}' has no key", start_of(records)))?;
        take(key, value)?;
        records = rest;
    }
    Ok(())
}

/// The first record without its length and newline, and what follows it.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digits, _) = split_once(&records[..records.len().min(20)], b' ')?;
    let length = usize::try_from(digits_value(digits)?).ok()?;
    let (whole, rest) = records.split_at_checked(length)?;
    Some((whole.get(digits.len() + 1..)?.strip_suffix(b"\n")?, rest))
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let middle = bytes.iter().position(|&byte| byte == at)?;
    Some((&bytes[..middle], &bytes[middle + 1..]))
}

fn start_of(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(40)].escape_ascii().to_string()
}

/// The value of a non-empty run of decimal digits.
pub(crate) fn digits_value(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn decimal(key: &str, value: &[u8]) -> Field<u64> {
    digits_value(value)
        .filter(|&number| number <= i64::MAX as u64)
        .ok_or_else(|| format!("{key} is '{}', expected a decimal number under 2^63", start_of(value)))
}

/// An empty value takes back what an earlier record said.
fn number(key: &str, value: &[u8]) -> Field<Option<u64>> {
    if value.is_empty() { Ok(None) } else { decimal(key, value).map(Some) }
}

fn owner(key: &str, value: &[u8]) -> Field<Option<u32>> {
    number(key, value)?.map(|number| id(key, number.cast_signed())).transpose()
}

fn name(key: &str, value: &[u8]) -> Field<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(format!("{key} '{}' holds a NUL", start_of(value)));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn numbers(value: &[u8]) -> Field<Vec<u64>> {
    value.split(|&byte| byte == b',').map(|number| decimal("GNU.sparse.map", number)).collect()
}

/// Seconds with any number of decimal places, of which nine count.
fn time(value: &[u8]) -> Field<Option<Time>> {
    if value.is_empty() {
        return Ok(None);
    }
    parse_time(value)
        .map(Some)
        .ok_or_else(|| format!("mtime is '{}', expected seconds such as -1.5", start_of(value)))
}

fn parse_time(value: &[u8]) -> Option<Time> {
    let (is_negative, magnitude) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = split_once(magnitude, b'.').unwrap_or((magnitude, b""));
    let seconds = i64::try_from(digits_value(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let place = |at: usize| fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, at| sum * 10 + place(at));
    Some(match (is_negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// A time as a PAX value: no more decimal places than it needs.
pub(crate) fn format_time(time: Time) -> String {
    if time.nanoseconds == 0 {
        return time.seconds.to_string();
    }
    // In a negative value the fraction counts away from zero too: one and a half before 1970 is -1.5.
    let (sign, whole, fraction) = if time.seconds < 0 {
        ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - time.nanoseconds)
    } else {
        ("", time.seconds.unsigned_abs(), time.nanoseconds)
    };
    let places = format!("{fraction:09}");
    format!("{sign}{whole}.{}", places.trim_end_matches('0'))
}

/// Appends one record. The length counts its own digits.
pub(crate) fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + decimal_width(rest);
    length = rest + decimal_width(length);
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn decimal_width(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(records: &[u8]) -> Field<Records> {
        let mut parsed = Records::default();
        parsed.add(records).map(|()| parsed)
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        push_record(&mut records, key.as_bytes(), value);
        records
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        assert_eq!(record("path", b"a"), b"9 path=a\n");
        assert_eq!(record("path", b""), b"8 path=\n");
        for length in (80..110).chain(980..1010) {
            let made = record("path", &vec![b'x'; length]);
            assert!(made.starts_with(format!("{} ", made.len()).as_bytes()), "{length}");
            assert_eq!(parsed(&made).unwrap().path.unwrap().len(), length);
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"9 path=a",
            b"11 path=a\n",
            b"8 path=a\n",
            b"0 path=a\n",
            b"3 \n",
            b"-5 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b"5 =b\n",
            b"7 a\0=b\n",
            b"5 ab\n",
            b"12 path=a\0b\n",
            b"14 linkpath=\0\n",
        ] {
            assert!(parsed(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (key, value) in [
            ("size", "-1"),
            ("size", "9223372036854775808"),
            ("size", "1e3"),
            ("uid", "4294967295"),
            ("gid", "4294967296"),
            ("mtime", "nan"),
            ("mtime", "1.5x"),
            ("mtime", "-"),
            ("mtime", "9223372036854775808"),
            ("GNU.sparse.map", "1,2,"),
        ] {
            assert!(parsed(&record(key, value.as_bytes())).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn the_last_record_of_a_key_wins_and_an_empty_one_takes_back() {
        let records = [record("path", b"a"), record("path", b"b"), record("size", b"7"), record("size", b"")];
        let parsed = parsed(&records.concat()).unwrap();
        assert_eq!(parsed.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(parsed.size, None);
    }

    #[test]
    fn attribute_values_are_any_bytes() {
        let mut parsed = parsed(&record("SCHILY.xattr.user.x", b"\0=\n\xff")).unwrap();
        assert_eq!(parsed.take_xattrs(), [(b"user.x".to_vec(), b"\0=\n\xff".to_vec())]);
    }

    #[test]
    fn what_has_not_the_kernels_form_keeps_its_key() {
        let records = [
            record("LIBARCHIVE.xattr.user.a", b"Yg"),
            record("LIBARCHIVE.xattr.user.b", b"?"),
            record("SCHILY.acl.access", b"user::rwx"),
        ];
        let names = [&b"SCHILY.acl.access"[..], b"user.a", b"LIBARCHIVE.xattr.user.b"];
        let values = [&b"user::rwx"[..], b"b", b"?"];
        let expected: Vec<_> =
            names.map(<[u8]>::to_vec).into_iter().zip(values.map(<[u8]>::to_vec)).collect();
        assert_eq!(parsed(&records.concat()).unwrap().take_xattrs(), expected);
    }

    #[test]
    fn attributes_without_number_are_refused() {
        let records: Vec<u8> =
            (0..20_000).flat_map(|number| record(&format!("SCHILY.xattr.user.{number}"), b"")).collect();
        assert_eq!(parsed(&records).unwrap_err(), "more than 10000 extended attributes");
    }

    #[test]
    fn a_global_header_may_not_speak_of_one_member() {
        let attributes = ["SCHILY.xattr.user.x", "SCHILY.acl.access", "LIBARCHIVE.xattr.user.x"];
        for key in ["path", "linkpath", "size", "GNU.sparse.map"].into_iter().chain(attributes) {
            assert!(Defaults::default().add(&record(key, b"1")).is_err(), "{key}");
        }
        assert!(Defaults::default().add(&record("comment", b"1")).is_ok());
    }

    #[test]
    fn times_keep_nanoseconds_on_both_sides_of_1970() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.000000001", -1, 999_999_999),
        ] {
            let time = Time { seconds, nanoseconds };
            assert_eq!(parse_time(text.as_bytes()), Some(time), "{text}");
            assert_eq!(format_time(time), text);
        }
        assert_eq!(parse_time(b"1.1234567899").unwrap().nanoseconds, 123_456_789);
    }
}
