//! Lists whose separators can be escaped.

/// What a `\` takes the meaning from. Before anything else it stands for itself.
const ESCAPED: &[u8] = b":,\\";

/// Splits a list at each separator that no `\` precedes. The parts are escaped still.
pub(crate) fn split(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut after_escape = false;
    list.split(move |&byte| {
        let ends = byte == separator && !after_escape;
        after_escape = byte == b'\\' && !after_escape;
        ends
    })
}

/// The part itself.
pub(crate) fn unescape(part: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(part.len());
    let mut rest = part;
    while let [first, tail @ ..] = rest {
        match tail {
            [second, behind @ ..] if *first == b'\\' && ESCAPED.contains(second) => {
                plain.push(*second);
                rest = behind;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// The part as it stands in a list.
pub(crate) fn escape(plain: &[u8]) -> Vec<u8> {
    let mut part = Vec::with_capacity(plain.len());
    for byte in plain {
        if ESCAPED.contains(byte) {
            part.push(b'\\');
        }
        part.push(*byte);
    }
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_survive_a_list(parts in prop::collection::vec(r"[ab:,\\]{0,5}", 1..5)) {
            let escaped: Vec<Vec<u8>> = parts.iter().map(|part| escape(part.as_bytes())).collect();
            let list = escaped.join(&b':');
            let read: Vec<Vec<u8>> = split(&list, b':').map(unescape).collect();
            prop_assert_eq!(read, parts.into_iter().map(String::into_bytes).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_backslash_before_anything_else_is_itself() {
        assert_eq!(unescape(br"C:\dir\\x\"), br"C:\dir\x\");
    }
}
