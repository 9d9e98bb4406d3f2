//! The maps of sparse members: which runs of the extracted file the archive holds.

use crate::Segment;
use crate::header::{BLOCK, Field, length};
use crate::pax;

/// The most segments that a map may have: it is held in memory, 16 bytes each.
pub(crate) const MAX_SEGMENTS: usize = 512 * 1024;

/// Bytes of one entry of an old GNU map: two numbers of 12 digits.
const ENTRY: usize = 24;
/// Where in a header of type `S` its four entries, the mark of a block that goes on, and the real size stand.
const IN_HEADER: (usize, usize, usize) = (386, 482, 483);
/// The same in an extension block: 21 entries and the mark.
const IN_EXTENSION: (usize, usize) = (0, 504);

/// Takes the entries of an old GNU header; whether an extension block follows.
pub(crate) fn from_header(block: &[u8; BLOCK], map: &mut Vec<Segment>) -> Field<bool> {
    old_entries(&block[IN_HEADER.0..IN_HEADER.1], map)?;
    Ok(block[IN_HEADER.1] != 0)
}

/// The length of the extracted file, from an old GNU header.
pub(crate) fn real_size(block: &[u8; BLOCK]) -> Field<u64> {
    length("sparse file size", &block[IN_HEADER.2..IN_HEADER.2 + 12])
}

/// Takes the entries of an extension block; whether another one follows.
pub(crate) fn from_extension(block: &[u8; BLOCK], map: &mut Vec<Segment>) -> Field<bool> {
    old_entries(&block[IN_EXTENSION.0..IN_EXTENSION.1], map)?;
    Ok(block[IN_EXTENSION.1] != 0)
}

fn old_entries(entries: &[u8], map: &mut Vec<Segment>) -> Field<()> {
    if map.len() > MAX_SEGMENTS {
        return Err(too_many(map.len() as u64));
    }
    for entry in entries.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
        let (offset, size) = entry.split_at(ENTRY / 2);
        map.push(Segment {
            offset: length("sparse offset", offset)?,
            length: length("sparse length", size)?,
        });
    }
    Ok(())
}

/// The pairs of a map as segments.
pub(crate) fn segments(numbers: &[u64]) -> Field<Vec<Segment>> {
    if !numbers.len().is_multiple_of(2) {
        return Err("sparse map has an offset without a length".to_owned());
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}

/// A map of format 1.0 while its blocks come in: decimal numbers, each ended by a newline, the first of them
/// the number of segments.
#[derive(Debug, Default)]
pub(crate) struct TextMap {
    numbers: Vec<u64>,
    digits: Vec<u8>,
}

impl TextMap {
    /// Takes the next block; the map, once it is whole.
    pub(crate) fn add(&mut self, block: &[u8; BLOCK]) -> Field<Option<Vec<Segment>>> {
        for &byte in block {
            if byte != b'\n' {
                self.digits.push(byte);
                continue;
            }
            let number = pax::digits_value(&self.digits)
                .filter(|&number| number <= i64::MAX as u64)
                .ok_or_else(|| format!("sparse map holds '{}', not a number", self.digits.escape_ascii()))?;
            self.digits.clear();
            self.numbers.push(number);
            if self.is_whole()? {
                return segments(&self.numbers[1..]).map(Some);
            }
        }
        if self.digits.len() > 20 { Err("sparse map holds no number".to_owned()) } else { Ok(None) }
    }

    fn is_whole(&self) -> Field<bool> {
        let count = self.numbers.first().copied().unwrap_or(0);
        if count > MAX_SEGMENTS as u64 {
            return Err(too_many(count));
        }
        Ok(self.numbers.len() as u64 == 1 + 2 * count)
    }
}

fn too_many(count: u64) -> String {
    format!("sparse map has {count} segments, expected {MAX_SEGMENTS} at most")
}

/// Brings a map into order: no empty segments, ascending, without overlap, inside the file, and as much data as
/// the archive stores.
pub(crate) fn check(mut map: Vec<Segment>, real_size: u64, stored: u64) -> Field<Vec<Segment>> {
    if map.len() > MAX_SEGMENTS {
        return Err(too_many(map.len() as u64));
    }
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in &map {
        let stop = segment.offset.checked_add(segment.length).filter(|&stop| stop <= real_size);
        end = match stop {
            Some(stop) if segment.offset >= end => stop,
            Some(_) => return Err(format!("sparse segment at {} overlaps the one before", segment.offset)),
            None => return Err(format!("sparse segment at {} ends after the file", segment.offset)),
        };
        sum += segment.length;
    }
    if sum != stored {
        return Err(format!("sparse map speaks of {sum} bytes of data, the archive holds {stored}"));
    }
    map.retain(|segment| segment.length > 0);
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u64, u64)]) -> Vec<Segment> {
        pairs.iter().map(|&(offset, length)| Segment { offset, length }).collect()
    }

    #[test]
    fn a_map_in_order_loses_only_its_empty_segments() {
        assert_eq!(check(map(&[(0, 5), (10, 0), (20, 5), (30, 0)]), 30, 10), Ok(map(&[(0, 5), (20, 5)])));
    }

    #[test]
    fn maps_out_of_order_are_refused() {
        for (pairs, size, stored) in [
            (&[(10, 5), (0, 5)][..], 20, 10),
            (&[(0, 5), (4, 5)], 20, 10),
            (&[(0, 25)], 20, 25),
            (&[(u64::MAX, 2)], 20, 2),
            (&[(0, 5)], 20, 6),
        ] {
            assert!(check(map(pairs), size, stored).is_err(), "{pairs:?}");
        }
    }

    fn text_map(text: &[u8]) -> Field<Option<Vec<Segment>>> {
        let mut block = [0; BLOCK];
        block[..text.len()].copy_from_slice(text);
        TextMap::default().add(&block)
    }

    #[test]
    fn a_text_map_is_whole_at_its_last_number() {
        assert_eq!(text_map(b"1\n0\n5\n"), Ok(Some(map(&[(0, 5)]))));
        assert_eq!(text_map(b"0\n"), Ok(Some(Vec::new())));
        assert!(text_map(b"2\n0\n5\n").is_err(), "the padding is no number");
        assert!(text_map(b"99999999\n").is_err());
        assert!(text_map(b"x\n").is_err());
        assert!(text_map(b"").is_err());
    }

    #[test]
    fn a_number_may_cross_blocks() {
        let mut text = b"100\n".to_vec();
        for segment in 0..100 {
            text.extend_from_slice(format!("{}\n1\n", segment * 10).as_bytes());
        }
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        let mut parser = TextMap::default();
        let found = text.chunks_exact(BLOCK).find_map(|block| parser.add(block.try_into().unwrap()).unwrap());
        assert_eq!(found.unwrap().len(), 100);
    }
}
