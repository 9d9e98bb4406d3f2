//! Extended attributes as libarchive encodes them, `LIBARCHIVE.xattr.NAME=VALUE`: in the name, `%` and two hexadecimal
//! digits stand for what could disturb a reader, and the value is base64 without padding.
//!
//! bsdtar writes these beside `SCHILY.xattr`, where the name is encoded in the same way, or with
//! `--options xattrheader=LIBARCHIVE` alone.

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
        match decode_value(&value) {
            Some(value) => plain.push((decoded, value)),
            None => broken.push((name, value)),
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

fn decode_value(value: &[u8]) -> Option<Vec<u8>> {
    let padding = value.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = &value[..value.len() - padding];
    if padding > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let bits = group.iter().try_fold(0, |bits, &digit| Some(bits << 6 | base64(digit)?))?;
        let bits: u32 = bits << (6 * (4 - group.len()));
        decoded.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(decoded)
}

/// The six bits of a digit.
fn base64(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_with_padding_and_without() {
        for (encoded, decoded) in
            [("", &b""[..]), ("Yg", b"b"), ("Yg==", b"b"), ("//8", b"\xff\xff"), ("AAEC", b"\0\x01\x02")]
        {
            assert_eq!(decode_value(encoded.as_bytes()).as_deref(), Some(decoded), "{encoded}");
        }
        for broken in ["Y", "Yg=a", "Y===", "Y g", "Yg\n", "AAECA"] {
            assert_eq!(decode_value(broken.as_bytes()), None, "{broken}");
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
