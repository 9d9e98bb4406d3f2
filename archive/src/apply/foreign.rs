//! Attributes that the archive has in another form than the kernel's: ACLs as text, and what could not be decoded.

use std::borrow::Cow;

use super::fault::{Attempt, Fault, printable};
use super::metadata::{ACCESS_ACL, DEFAULT_ACL};
use super::{Applied, UnsupportedXattrs};
use crate::acl::Acl;
use crate::{Entry, Kind, pax};

/// How many names a message has.
const NAMES_SHOWN: usize = 3;

/// The member with all of its attributes in the kernel's form. What has none falls under the rule for unsupported ones:
/// of an ACL, the rules for users and groups of whom only a name is known; else the whole attribute.
pub(super) fn translate<'e>(
    entry: &'e Entry,
    unsupported: UnsupportedXattrs,
    applied: &mut Applied,
) -> Attempt<Cow<'e, Entry>> {
    // A second name has no attributes of its own.
    let is_link = matches!(entry.kind, Kind::Hardlink(_));
    if is_link || !entry.xattrs.iter().any(|(name, _)| is_foreign(name)) {
        return Ok(Cow::Borrowed(entry));
    }
    let (foreign, mut xattrs): (Vec<_>, Vec<_>) =
        entry.xattrs.iter().cloned().partition(|(name, _)| is_foreign(name));
    for (key, text) in foreign {
        let reason = match attribute(&key) {
            // GNU tar writes both when it is told to archive ACLs and all attributes.
            Some(name) if text.is_empty() || xattrs.iter().any(|(known, _)| known == name.as_bytes()) => {
                continue;
            }
            Some(name) => match Acl::parse(&text) {
                Ok(parsed) => {
                    xattrs.push((name.as_bytes().to_vec(), parsed.acl.value()));
                    if parsed.unknown.is_empty() {
                        continue;
                    }
                    without_numbers(&parsed.unknown)
                }
                Err(reason) => reason,
            },
            None if key.starts_with(pax::ACL) => "it is no POSIX ACL".to_owned(),
            None => "it is no base64".to_owned(),
        };
        let reason = format!("{} was not understood: {reason}", printable(&key));
        match unsupported {
            UnsupportedXattrs::Strict => return Err(Fault::Attribute(reason)),
            UnsupportedXattrs::Warn => applied.warn(format!("'{}': {reason}", printable(&entry.path))),
        }
    }
    Ok(Cow::Owned(Entry { xattrs, ..entry.clone() }))
}

/// Whether an attribute with this name has another form than the kernel's.
pub(super) fn is_foreign(name: &[u8]) -> bool {
    name.starts_with(pax::ACL) || name.starts_with(pax::ENCODED_XATTR)
}

/// What the kernel calls the ACL that a record holds.
fn attribute(key: &[u8]) -> Option<&'static str> {
    match key.strip_prefix(pax::ACL)? {
        b"access" => Some(ACCESS_ACL),
        b"default" => Some(DEFAULT_ACL),
        _ => None,
    }
}

fn without_numbers(names: &[Vec<u8>]) -> String {
    let shown: Vec<_> = names.iter().take(NAMES_SHOWN).map(|name| format!("'{}'", printable(name))).collect();
    let more = match names.len().saturating_sub(NAMES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("it has no number for {}{more} (bsdtar writes names and numbers)", shown.join(", "))
}
