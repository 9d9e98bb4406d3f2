//! The two codes that tar-split's records are written in.

/// The polynomial of ISO 3309, reversed, as Go's `hash/crc64` has it.
const ISO: u64 = 0xd800_0000_0000_0000;

/// The remainder of each byte, and of it with up to seven zero bytes behind.
const TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { rest >> 1 ^ ISO } else { rest >> 1 };
            bit += 1;
        }
        tables[0][byte] = rest;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = tables[0][(before & 0xff) as usize] ^ before >> 8;
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// CRC-64 of what it is given, eight bytes at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc64(u64);

impl Crc64 {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let word = (self.0 ^ u64::from_le_bytes(*word)).to_le_bytes();
            let parts = word.iter().zip(TABLES.iter().rev()).map(|(&byte, table)| table[usize::from(byte)]);
            self.0 = parts.fold(0, |sum, part| sum ^ part);
        }
        for &byte in rest {
            self.0 = TABLES[0][usize::from(self.0 as u8 ^ byte)] ^ self.0 >> 8;
        }
    }

    pub(super) fn finish(self) -> u64 {
        !self.0
    }
}

/// The bytes that base64 with its padding stands for; `None` where it is none.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let (groups, []) = text.as_bytes().as_chunks::<4>() else { return None };
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    for (at, group) in groups.iter().enumerate() {
        let padding = group.iter().rev().take_while(|&&digit| digit == b'=').count();
        if padding > 2 || (padding > 0 && at + 1 < groups.len()) {
            return None;
        }
        let bits = group[..4 - padding].iter().try_fold(0, |bits, &one| Some(bits << 6 | digit(one)?))?;
        let bits: u32 = bits << (6 * padding);
        bytes.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
    }
    Some(bytes)
}

/// The six bits of a digit.
fn digit(digit: u8) -> Option<u32> {
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
    use proptest::prelude::*;

    use super::*;

    fn crc(bytes: &[u8]) -> u64 {
        let mut crc = Crc64::new();
        crc.update(bytes);
        crc.finish()
    }

    #[test]
    fn checksums_are_those_of_go() {
        // The check value of CRC-64/GO-ISO, and rows of hash/crc64's own table.
        let rows =
            [("", 0), ("a", 0x3420 << 48), ("ab", 0x36c42 << 44), ("123456789", 0xb909_56c7_75a4_1001)];
        for (text, sum) in rows {
            assert_eq!(crc(text.as_bytes()), sum, "{text}");
        }
    }

    #[test]
    fn what_is_no_base64_is_none() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YWI=", Some(b"ab")),
            ("YWJj", Some(b"abc")),
            ("YWJjZA==", Some(b"abcd")),
            ("YQ", None),
            ("YQ==YQ==", None),
            ("Y===", None),
            ("====", None),
            ("YW\nJ", None),
            ("é==", None),
        ] {
            assert_eq!(base64(text).as_deref(), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_checksum_does_not_depend_on_how_its_bytes_come(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
        ) {
            let (one, other) = bytes.split_at(at.index(bytes.len() + 1));
            let mut sum = Crc64::new();
            sum.update(one);
            sum.update(other);
            prop_assert_eq!(sum.finish(), crc(&bytes));
        }
    }
}
