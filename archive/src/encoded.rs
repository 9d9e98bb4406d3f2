//! Extended attributes as libarchive encodes them, `LIBARCHIVE.xattr.NAME=VALUE`: in the name, `%` and two hexadecimal
//! digits stand for what could disturb a reader, and the value is base64 without padding.
//!
//! bsdtar writes these beside `SCHILY.xattr`, where the name is encoded in the same way, or with
//! `--options xattrheader=LIBARCHIVE` alone.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// How values are encoded: bsdtar leaves the padding out, and others do not.
const VALUES: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A list of attributes, by name.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Adds to `plain` what only the encoded attributes have. Of two with one name the plain one counts, under the name
/// decoded. One whose value is no base64 comes back: its name, still encoded, and its value.
pub(crate) fn merge(plain: &mut Xattrs, encoded: Xattrs) -> Xattrs {
    let mut broken = Vec::new();
    for (name, value) in encoded {
        let decoded = decode_name(&name);
        if plain.iter().any(|(known, _)| *known == decoded) {
            continue;
        }
        if let Some((known, _)) = plain.iter_mut().find(|(known, _)| *known == name) {
            *known = decoded;
            continue;
        }
        match VALUES.decode(&value) {
            Ok(value) => plain.push((decoded, value)),
            Err(_) => broken.push((name, value)),
        }
    }
    broken
}

/// A `%` that no two digits follow stands for itself.
fn decode_name(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, after @ ..] = rest {
        let byte = if *first == b'%' { hexadecimal(after) } else { None };
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_with_padding_and_without() {
        for (encoded, decoded) in
            [("", &b""[..]), ("Yg", b"b"), ("Yg==", b"b"), ("//8", b"\xff\xff"), ("AAEC", b"\0\x01\x02")]
        {
            assert_eq!(VALUES.decode(encoded).unwrap(), decoded, "{encoded}");
        }
        for broken in ["Y", "Yg=a", "Y===", "Y g", "Yg\n", "AAECA"] {
            assert!(VALUES.decode(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn names_are_decoded_as_libarchive_does() {
        for (encoded, decoded) in [
            ("user.a%3Db%25", &b"user.a=b%"[..]),
            ("%C3%a9", b"\xc3\xa9"),
            ("%", b"%"),
            ("%4", b"%4"),
            ("%4x", b"%4x"),
        ] {
            assert_eq!(decode_name(encoded.as_bytes()), decoded, "{encoded}");
        }
    }

    #[test]
    fn a_plain_attribute_counts_more_than_its_encoded_twin() {
        let list = |pairs: &[(&str, &str)]| -> Xattrs {
            pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
        };
        let mut plain = list(&[("user.a", "1"), ("user.b%3D", "2")]);
        let encoded = list(&[("user.a", "Yg"), ("user.b%3D", "Yg"), ("user.c", "Yg"), ("user.d", "?")]);
        assert_eq!(merge(&mut plain, encoded), list(&[("user.d", "?")]));
        assert_eq!(plain, list(&[("user.a", "1"), ("user.b=", "2"), ("user.c", "b")]));
    }
}
