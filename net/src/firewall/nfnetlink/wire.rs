//! How messages stand on the wire: headers in the host's byte order, attributes of a length, a type and a value.

use std::io;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nfgenmsg`.
const SUBHEADER: usize = 4;
/// Bits of an attribute's type that are none of its number: nested, in the network's byte order.
const TYPE_FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;

/// Attributes, as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes they take.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// A number in the network's byte order, as netfilter wants them.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut value = value.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(crate) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// The same as `nest`, written in its place: what is large is not copied.
    pub(crate) fn within(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let begin = self.begin(kind | NESTED);
        self = fill(self);
        self.end(begin);
        self
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let begin = self.begin(kind);
        self.0.extend(value);
        self.end(begin);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let begin = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        begin
    }

    fn end(&mut self, begin: usize) {
        let length = self.0.len() - begin;
        debug_assert!(length <= usize::from(u16::MAX), "an attribute holds less than 64 KiB");
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        if let Some(place) = self.0.get_mut(begin..begin + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A request of one of netfilter's subsystems.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The subsystem in the upper byte, its message in the lower.
    kind: u16,
    flags: u16,
    family: u8,
    attributes: Attributes,
}

impl Message {
    /// A request of the subsystem (`NFNL_SUBSYS_*`), about things of this family (`NFPROTO_*`).
    pub(crate) fn new(subsystem: i32, message: i32, family: i32, attributes: Attributes) -> Self {
        // The numbers are constants of the kernel's headers, and each fits a byte.
        let kind = (subsystem as u16) << 8 | message as u16 & 0xff;
        Self { kind, flags: 0, family: family as u8, attributes }
    }

    /// The same with these flags (`NLM_F_*`), beside those that every request has.
    pub(crate) fn with(mut self, flags: i32) -> Self {
        self.flags |= flags as u16;
        self
    }

    pub(super) fn encode(&self, sequence: u32, flags: i32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + SUBHEADER + self.attributes.len());
        self.append(&mut bytes, sequence, flags);
        bytes
    }

    pub(super) fn append(&self, bytes: &mut Vec<u8>, sequence: u32, flags: i32) {
        let flags = self.flags | flags as u16;
        bytes.extend(header(self.kind, flags, sequence, SUBHEADER + self.attributes.len()));
        bytes.extend([self.family, libc::NFNETLINK_V0 as u8, 0, 0]);
        bytes.extend(self.attributes.as_bytes());
    }
}

/// The message that begins or ends a transaction of nftables.
pub(super) fn batch(bytes: &mut Vec<u8>, kind: i32, sequence: u32) {
    bytes.extend(header(kind as u16, libc::NLM_F_REQUEST as u16, sequence, SUBHEADER));
    bytes.extend([libc::AF_UNSPEC as u8, libc::NFNETLINK_V0 as u8]);
    bytes.extend((libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes());
}

fn header(kind: u16, flags: u16, sequence: u32, rest: usize) -> [u8; HEADER] {
    let length = u32::try_from(HEADER + rest).unwrap_or(u32::MAX).to_ne_bytes();
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&length);
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

/// What was answered: the family of the thing, and its attributes.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) family: u8,
    pub(crate) attributes: Vec<u8>,
}

/// A message that came, with the sequence number of the request that it answers.
pub(super) enum Part {
    Answer(u32, Parsed),
    /// An end: 0, or the number of an error.
    Status(u32, i32),
    /// A dump during which something changed.
    Torn(u32),
}

/// The messages of a datagram.
pub(super) fn parts(mut bytes: &[u8]) -> Vec<io::Result<Part>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let Some((message, rest)) = split(bytes) else {
            parts.push(Err(cut()));
            break;
        };
        let u16_at = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        let (kind, flags) = (u16_at(4), u16_at(6));
        let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
        if flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
            parts.push(Ok(Part::Torn(sequence)));
        }
        let body = &message[HEADER..];
        parts.push(match i32::from(kind) {
            libc::NLMSG_ERROR | libc::NLMSG_DONE => match body.first_chunk() {
                Some(code) => Ok(Part::Status(sequence, i32::from_ne_bytes(*code).wrapping_neg())),
                None => Err(cut()),
            },
            _ => match body.split_at_checked(SUBHEADER) {
                Some((sub, attributes)) => {
                    Ok(Part::Answer(sequence, Parsed { family: sub[0], attributes: attributes.to_vec() }))
                }
                None => Err(cut()),
            },
        });
        bytes = rest;
    }
    parts
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    if length < HEADER {
        return None;
    }
    let message = bytes.get(..length)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "netlink: a message was cut off")
}

/// The attributes in these bytes, each by its number and its value. What is cut off is left out.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !TYPE_FLAGS, value))
    })
}

/// The value of the first attribute of this number.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in the network's byte order.
pub(crate) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, kind)?.try_into().ok()?))
}

/// Text, without the NUL at its end.
pub(crate) fn text(bytes: &[u8], kind: u16) -> Option<&str> {
    std::str::from_utf8(find(bytes, kind)?).ok().map(|text| text.trim_end_matches('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let inner = Attributes::new().number(1, 7).text(2, "abc");
        let all = Attributes::new().bytes(5, &[1, 2, 3]).nest(6, &inner);
        let in_place = Attributes::new().bytes(5, &[1, 2, 3]).within(6, |it| it.number(1, 7).text(2, "abc"));
        assert_eq!(all, in_place);
        let bytes = all.as_bytes();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(bytes, 5), Some(&[1, 2, 3][..]));
        let inner = find(bytes, 6).unwrap();
        assert_eq!((number(inner, 1), text(inner, 2)), (Some(7), Some("abc")));
        assert_eq!(find(bytes, 7), None);
    }

    #[test]
    fn what_is_cut_off_is_no_panic() {
        let message = Message::new(10, 1, 2, Attributes::new().text(1, "table").number(2, 3)).encode(9, 1);
        for end in 0..message.len() {
            for part in parts(&message[..end]).into_iter().flatten() {
                if let Part::Answer(_, parsed) = part {
                    attributes(&parsed.attributes).for_each(drop);
                }
            }
            attributes(&message[..end]).for_each(drop);
        }
        assert!(matches!(&parts(&message)[..], [Ok(Part::Answer(9, parsed))] if parsed.family == 2));
    }
}
