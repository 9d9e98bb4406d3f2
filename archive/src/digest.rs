//! SHA-256 digests in the one spelling that registries and image configs use: `sha256:` and 64 lower-case hex digits.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::Digest as _;

/// The SHA-256 of something, spelled `sha256:…`.
///
/// Text becomes a digest only by [`FromStr`], which takes nothing but the exact form: a digest is safe to
/// use in a file name (CVE-2024-3727).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not taken for a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// It is none.
    #[error("'{}' is not a digest: expected 'sha256:' and 64 lower-case hex digits", .0.escape_debug())]
    Malformed(String),
    /// It is one of another algorithm.
    #[error("'{}' is not supported: of all digests, only sha256 is", .0.escape_debug())]
    Unsupported(String),
}

/// What other engines may name blobs by.
const OTHER_ALGORITHMS: [&str; 3] = ["sha384:", "sha512:", "blake3:"];

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without `sha256:`, as file names in a store use them.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        parse(text).map(Self).ok_or_else(|| {
            let shown = text.chars().take(100).collect();
            if OTHER_ALGORITHMS.iter().any(|algorithm| text.starts_with(algorithm)) {
                return ParseDigestError::Unsupported(shown);
            }
            ParseDigestError::Malformed(shown)
        })
    }
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = text.strip_prefix("sha256:")?.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A SHA-256 in progress.
#[derive(Clone, Debug, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Hashes and counts what passes through, in either direction.
#[derive(Debug)]
pub struct Hashing<S> {
    inner: S,
    hasher: Hasher,
    length: u64,
}

impl<S> Hashing<S> {
    /// Over a stream of which nothing was hashed yet.
    pub fn new(inner: S) -> Self {
        Self { inner, hasher: Hasher::new(), length: 0 }
    }

    /// The stream, with the digest and the number of the bytes that passed.
    pub fn finish(self) -> (S, Digest, u64) {
        (self.inner, self.hasher.finish(), self.length)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count(&buffer[..length]);
        Ok(length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.count(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn spells_the_digest_of_nothing_as_everyone_does() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn cve_2024_3727_only_the_exact_form_is_a_digest() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let long = format!("{EMPTY}0");
        let slash = format!("sha256:../{}", &EMPTY[10..]);
        let space = format!(" {EMPTY}");
        for text in
            ["", "sha256:", &EMPTY[7..], &EMPTY[..70], &long, &upper, &slash, &space, "sha512:00", "sha256:é"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_refused_digest_is_quoted_without_control_characters() {
        let error = "sha256:\x1b[31m".parse::<Digest>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "'sha256:\\u{1b}[31m' is not a digest: expected 'sha256:' and 64 lower-case hex digits"
        );
    }

    #[test]
    fn a_digest_of_another_algorithm_is_told_from_what_is_none() {
        let error = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap_err();
        assert!(matches!(error, ParseDigestError::Unsupported(_)), "{error}");
    }

    #[test]
    fn json_holds_the_text_form() {
        let digest = Digest::of(b"mica");
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"sha256:\"").is_err());
    }

    #[test]
    fn hashing_counts_what_passed_in_either_direction() {
        let mut reader = Hashing::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!((reader.length, reader.hasher.finish()), (3, Digest::of(b"abc")));

        let mut writer = Hashing::new(Vec::new());
        writer.write_all(b"abc").unwrap();
        assert_eq!(writer.finish(), (b"abc".to_vec(), Digest::of(b"abc"), 3));
    }
}
