//! The names of images: `debian:12`, `registry.example:5000/team/app@sha256:…`.
//!
//! The grammar is the one of registries (distribution's `reference` package); `docker.io`, `library/` and `latest` go
//! without saying.

use std::fmt;
use std::str::FromStr;

use mica_archive::Digest;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::error::shown;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// The longest repository name, in bytes.
const MAX_NAME: usize = 255;

/// The name of an image, whole: with registry, repository, and a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The repository as people write it: `debian`, `registry.example/app`.
    pub fn repository(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            return self.path.strip_prefix(DEFAULT_NAMESPACE).unwrap_or(&self.path).to_owned();
        }
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag; only a name with a digest may have none.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest that is meant.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// With every default spelled out: `docker.io/library/debian:12`.
    pub fn whole(&self) -> String {
        let Self { domain, path, .. } = self;
        format!("{domain}/{path}{}", self.suffix())
    }

    fn suffix(&self) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        tag.chain(self.digest.iter().map(|digest| format!("@{digest}"))).collect()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error::Invalid(format!("invalid image name '{}': {why}", shown(text))))
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let tag = match tag {
        Some(tag) if is_tag(tag) => Some(tag.to_owned()),
        Some(_) => {
            return Err(
                "a tag is 1 to 128 letters, digits, '_', '.', '-', and begins with none of '.', '-'".into()
            );
        }
        None if digest.is_none() => Some(DEFAULT_TAG.to_owned()),
        None => None,
    };
    let (domain, path) = split_domain(name);
    let is_official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let path = if is_official { format!("{DEFAULT_NAMESPACE}{path}") } else { path.to_owned() };
    check_name(domain, &path)?;
    Ok(Reference { domain: domain.to_owned(), path, tag, digest })
}

/// The first component is a registry when it looks like a host: it has a dot or a port, or is `localhost`.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_DOMAIN, path),
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn check_name(domain: &str, path: &str) -> Result<(), String> {
    let bare = path.strip_prefix(DEFAULT_NAMESPACE).unwrap_or(path);
    if bare.is_empty() {
        return Err("it is empty".to_owned());
    }
    if bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err("64 hex digits are an image id, not a name".to_owned());
    }
    if domain == DEFAULT_DOMAIN && bare == "sha256" {
        return Err("'sha256:' begins an image id, not a name".to_owned());
    }
    if domain.len() + path.len() >= MAX_NAME {
        return Err(format!("it is longer than {MAX_NAME} bytes"));
    }
    if !is_domain(domain) {
        return Err(format!("'{}' is no registry; write HOST or HOST:PORT", shown(domain)));
    }
    if let Some(upper) = path.chars().find(char::is_ascii_uppercase) {
        return Err(format!("a repository is lower case, and has '{upper}'"));
    }
    if !path.split('/').all(is_component) {
        return Err(
            "a repository is made of a-z, 0-9, and single '.', '_', '__' or '-' between them".to_owned()
        );
    }
    Ok(())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Runs of letters and digits with one separator between two: `.`, `_`, `__`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_inside = |b: u8| is_plain(b) || matches!(b, b'.' | b'_' | b'-');
    let bytes = text.as_bytes();
    let ends_plain = |b: Option<&u8>| b.is_some_and(|&b| is_plain(b));
    ends_plain(bytes.first())
        && ends_plain(bytes.last())
        && bytes.iter().all(|&b| is_inside(b))
        && bytes
            .split(|&b| is_plain(b))
            .all(|s| matches!(s, b"" | b"." | b"_" | b"__") || s.iter().all(|&b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
        && tag.bytes().next().is_some_and(is_word)
}

impl fmt::Display for Reference {
    /// As people write it: `debian:12`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository(), self.suffix())
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.whole()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_without_saying_is_filled_in() {
        for (text, whole, short) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("docker.io/library/debian:12", "docker.io/library/debian:12", "debian:12"),
            ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("team/app", "docker.io/team/app:latest", "team/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("127.0.0.1:5000/t/bb:1", "127.0.0.1:5000/t/bb:1", "127.0.0.1:5000/t/bb:1"),
            ("h.example:5000/a", "h.example:5000/a:latest", "h.example:5000/a:latest"),
            ("a__b/c---d/e.f:V_1.0-x", "docker.io/a__b/c---d/e.f:V_1.0-x", "a__b/c---d/e.f:V_1.0-x"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.whole(), reference.to_string()), (whole.to_owned(), short.to_owned()));
            assert_eq!(reference.whole().parse::<Reference>().unwrap(), reference);
            assert_eq!(short.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_stands_with_or_without_a_tag() {
        let digest = Digest::of(b"x");
        let reference: Reference = format!("debian@{digest}").parse().unwrap();
        assert_eq!((reference.tag(), reference.digest()), (None, Some(&digest)));
        let both: Reference = format!("debian:12@{digest}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("12"), Some(&digest)));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "a".repeat(256);
        let hex = "0".repeat(64);
        for bad in [
            "",
            "sha256",
            "sha256:ab",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "Debian",
            "a:",
            "a:.x",
            "a:-x",
            "a b",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            "é",
            "a\n",
            "../a",
            "a/../b",
            "a:b:c",
            "a@sha256:12",
            "a@",
            "h:99999/a",
            "h.:1/a",
            "-h.x/a",
            ":1/a",
            &long,
            &hex,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        let tag = format!("a:{}", "t".repeat(129));
        assert!(tag.parse::<Reference>().is_err());
    }

    #[test]
    fn the_error_shows_no_control_characters() {
        let text = "a\x1b[31m".parse::<Reference>().unwrap_err().to_string();
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}
