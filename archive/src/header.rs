//! The 512-byte header of a tar member: v7, ustar, GNU and star dialects.

use std::ops::Range;

use crate::{Segment, sparse};

/// The unit of a tar archive, in bytes.
pub(crate) const BLOCK: usize = 512;

/// What is wrong with a field, to be joined with its place in the archive.
pub(crate) type Field<T> = Result<T, String>;

pub(crate) const NAME: Range<usize> = 0..100;
pub(crate) const MODE: Range<usize> = 100..108;
pub(crate) const UID: Range<usize> = 108..116;
pub(crate) const GID: Range<usize> = 116..124;
pub(crate) const SIZE: Range<usize> = 124..136;
pub(crate) const MTIME: Range<usize> = 136..148;
pub(crate) const CHECKSUM: Range<usize> = 148..156;
pub(crate) const TYPE: usize = 156;
pub(crate) const LINK: Range<usize> = 157..257;
pub(crate) const MAGIC: Range<usize> = 257..265;
pub(crate) const MAJOR: Range<usize> = 329..337;
pub(crate) const MINOR: Range<usize> = 337..345;
pub(crate) const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_TIMES: [Range<usize>; 2] = [345..357, 357..369];

/// The magic and version of the formats that have any.
pub(crate) const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

/// A header whose checksum is right.
pub(crate) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Takes a block that is not all zero; refuses one that is no header.
    pub(crate) fn parse(block: &'a [u8; BLOCK]) -> Field<Self> {
        let found = number("checksum", &block[CHECKSUM])
            .map_err(|_| "no checksum: this is not a tar header".to_owned())?;
        let (unsigned, signed) = checksums(block);
        // Historic tars on machines with a signed char summed signed bytes.
        if found != i64::from(unsigned) && found != signed {
            return Err(format!("checksum is {found:o}, expected {unsigned:o}"));
        }
        Ok(Self(block))
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// The name with its prefix, where the dialect has one.
    pub(crate) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        match self.prefix() {
            [] => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    fn prefix(&self) -> &'a [u8] {
        let block = self.0;
        match &block[MAGIC] {
            magic if magic == GNU => self.misplaced_prefix(),
            magic if magic.starts_with(b"ustar\0") && block[STAR_TRAILER] == *b"tar\0" => {
                text(&block[STAR_PREFIX])
            }
            magic if magic.starts_with(b"ustar\0") => text(&block[PREFIX]),
            _ => &[],
        }
    }

    /// Go before 1.8 wrote the ustar prefix into GNU headers, where the times belong. Such layers exist;
    /// they show by times that are no numbers.
    fn misplaced_prefix(&self) -> &'a [u8] {
        let block = self.0;
        let is_time =
            |field: &Range<usize>| block[field.start] == 0 || number("", &block[field.clone()]).is_ok();
        let prefix = text(&block[PREFIX]);
        if GNU_TIMES.iter().all(is_time) || !prefix.is_ascii() { &[] } else { prefix }
    }

    pub(crate) fn link(&self) -> &'a [u8] {
        text(&self.0[LINK])
    }

    /// Permission bits; the file type, which some archivers leave in, is cut off.
    pub(crate) fn mode(&self) -> Field<u32> {
        Ok((number("mode", &self.0[MODE])? & 0o7777) as u32)
    }

    pub(crate) fn uid(&self) -> Field<u32> {
        id("uid", number("uid", &self.0[UID])?)
    }

    pub(crate) fn gid(&self) -> Field<u32> {
        id("gid", number("gid", &self.0[GID])?)
    }

    /// The bytes that the header announces after itself.
    pub(crate) fn size(&self) -> Field<u64> {
        length("size", &self.0[SIZE])
    }

    /// The length of the extracted file, in a header of type `S`.
    pub(crate) fn sparse_size(&self) -> Field<u64> {
        sparse::real_size(self.0)
    }

    /// Takes the start of the map in a header of type `S`; whether it goes on in an extension block.
    pub(crate) fn sparse_map(&self, map: &mut Vec<Segment>) -> Field<bool> {
        sparse::from_header(self.0, map)
    }

    pub(crate) fn mtime(&self) -> Field<i64> {
        number("mtime", &self.0[MTIME])
    }

    /// Major and minor number.
    pub(crate) fn device(&self) -> Field<(u32, u32)> {
        let part = |what, field: Range<usize>| {
            let value = number(what, &self.0[field])?;
            u32::try_from(value).map_err(|_| format!("{what} is {value}, out of range"))
        };
        Ok((part("device major", MAJOR)?, part("device minor", MINOR)?))
    }
}

/// An owner's number. The last one is no number: to the kernel it says 'leave the owner alone'.
pub(crate) fn id(what: &str, value: i64) -> Field<u32> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(format!("{what} is {value}, expected 0 to {}", u32::MAX - 1)),
    }
}

/// A number that counts bytes.
pub(crate) fn length(what: &str, field: &[u8]) -> Field<u64> {
    let value = number(what, field)?;
    u64::try_from(value).map_err(|_| format!("{what} is {value}, expected no negative number"))
}

/// A field's bytes up to the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits between spaces and NULs, or big-endian binary marked by the first bit (GNU, star).
pub(crate) fn number(what: &str, field: &[u8]) -> Field<i64> {
    match field.first() {
        Some(&first) if first & 0x80 != 0 => binary(what, field),
        _ => octal(what, field),
    }
}

fn octal(what: &str, field: &[u8]) -> Field<i64> {
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_filler(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !is_filler(byte)).map_or(start, |last| last + 1);
    let mut value: i64 = 0;
    for &digit in &field[start..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(format!("{what} is '{}', not an octal number", field[start..end].escape_ascii()));
        }
        value = value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or_else(|| format!("{what} is too large"))?;
    }
    Ok(value)
}

/// Two's complement of the field's width less the marker bit.
fn binary(what: &str, field: &[u8]) -> Field<i64> {
    let is_negative = field[0] & 0x40 != 0;
    let filler = if is_negative { 0xff } else { 0 };
    let first = if is_negative { field[0] } else { field[0] & 0x7f };
    let (high, low) = field.split_at(field.len().saturating_sub(8));
    let mut bytes = [filler; 8];
    bytes[8 - low.len()..].copy_from_slice(low);
    if high.is_empty() {
        bytes[8 - low.len()] = first;
    }
    let value = i64::from_be_bytes(bytes);
    let fits = high.iter().enumerate().all(|(at, &byte)| filler == if at == 0 { first } else { byte });
    if fits && (value < 0) == is_negative {
        Ok(value)
    } else {
        Err(format!("{what} does not fit in 64 bits"))
    }
}

/// The sums over a header, its checksum field counted as spaces, of unsigned and of signed bytes.
pub(crate) fn checksums(block: &[u8; BLOCK]) -> (u32, i64) {
    let unsigned = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let signed = |bytes: &[u8]| bytes.iter().map(|&byte| i64::from(byte.cast_signed())).sum::<i64>();
    let spaces = 8 * u32::from(b' ');
    let (before, after) = (&block[..CHECKSUM.start], &block[CHECKSUM.end..]);
    (unsigned(before) + unsigned(after) + spaces, signed(before) + signed(after) + i64::from(spaces))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields_come_with_any_filler() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"77777777", 0o77_777_777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"777777777777", 0o777_777_777_777),
        ] {
            assert_eq!(number("size", field), Ok(value), "{}", field.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_octal_number_is_said() {
        assert_eq!(number("mode", b"-000644\0").unwrap_err(), "mode is '-000644', not an octal number");
        assert_eq!(number("mode", b"64 4\0\0\0\0").unwrap_err(), "mode is '64 4', not an octal number");
        assert!(number("mode", b"0000008\0").is_err());
        assert!(number("size", &[b'7'; 40]).is_err());
    }

    #[test]
    fn binary_fields_reach_over_the_octal_range_and_below_zero() {
        assert_eq!(number("size", b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Ok(8 << 30));
        assert_eq!(number("mtime", &[0xff; 12]), Ok(-1));
        assert_eq!(number("uid", b"\x80\0\0\0\xff\xff\xff\xfe"), Ok(0xffff_fffe));
        assert_eq!(number("uid", &[0xff; 8]), Ok(-1));
        assert!(number("uid", b"\xc0\0\0\0\0\0\0\0").unwrap() < 0);
    }

    #[test]
    fn a_binary_number_over_64_bits_is_refused() {
        assert_eq!(
            number("size", b"\x80\0\0\x01\0\0\0\0\0\0\0\0").unwrap_err(),
            "size does not fit in 64 bits"
        );
        assert!(number("size", b"\x80\0\0\0\x80\0\0\0\0\0\0\0").is_err());
        assert!(number("size", b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0").is_err());
        assert!(number("size", b"\x81\0\0\0\0\0\0\0\0\0\0\0").is_err());
    }

    #[test]
    fn a_negative_length_is_refused() {
        assert_eq!(length("size", &[0xff; 12]).unwrap_err(), "size is -1, expected no negative number");
    }

    #[test]
    fn the_owner_that_means_unchanged_is_refused() {
        assert!(id("uid", -1).is_err());
        assert!(id("uid", i64::from(u32::MAX)).is_err());
        assert_eq!(id("uid", i64::from(u32::MAX) - 1), Ok(u32::MAX - 1));
    }
}
