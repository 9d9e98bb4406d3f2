//! What the kernel has open.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lock;

/// How many parts a table has, so that threads seldom meet.
const PARTS: usize = 16;

/// A table from the numbers that the kernel names open files by to what they stand for.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    parts: [Mutex<Part<T>>; PARTS],
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Part<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::new(Part { slots: Vec::new(), free: Vec::new() })),
            turn: AtomicUsize::new(0),
        }
    }
}

impl<T: Clone> Handles<T> {
    /// Gives a number to this, which stays until [`remove`](Self::remove).
    pub(crate) fn insert(&self, value: T) -> u64 {
        let part = self.turn.fetch_add(1, Ordering::Relaxed) % PARTS;
        let mut within = lock(&self.parts[part]);
        let slot = match within.free.pop() {
            Some(slot) => {
                within.slots[slot] = Some(value);
                slot
            }
            None => {
                within.slots.push(Some(value));
                within.slots.len() - 1
            }
        };
        (slot * PARTS + part) as u64
    }

    /// What this number stands for.
    pub(crate) fn get(&self, number: u64) -> Option<T> {
        let (part, slot) = place(number)?;
        lock(&self.parts[part]).slots.get(slot)?.clone()
    }

    /// What this number stood for. It may be given again.
    pub(crate) fn remove(&self, number: u64) -> Option<T> {
        let (part, slot) = place(number)?;
        let mut within = lock(&self.parts[part]);
        let value = within.slots.get_mut(slot)?.take()?;
        within.free.push(slot);
        Some(value)
    }
}

fn place(number: u64) -> Option<(usize, usize)> {
    let number = usize::try_from(number).ok()?;
    Some((number % PARTS, number / PARTS))
}

#[cfg(test)]
mod tests {
    use super::Handles;

    #[test]
    fn a_number_is_given_again_only_after_it_was_given_back() {
        let handles = Handles::default();
        let numbers: Vec<u64> = (0..100).map(|value| handles.insert(value)).collect();
        for (value, &number) in numbers.iter().enumerate() {
            assert_eq!(handles.get(number), Some(value));
        }
        assert_eq!(handles.remove(numbers[7]), Some(7));
        assert_eq!(handles.get(numbers[7]), None);
        assert_eq!(handles.remove(numbers[7]), None, "closed twice");
        let again: Vec<u64> = (0..100).map(|value| handles.insert(1000 + value)).collect();
        assert!(again.contains(&numbers[7]));
        assert_eq!(handles.get(numbers[8]), Some(8));
    }

    #[test]
    fn a_number_that_was_never_given_stands_for_nothing() {
        let handles = Handles::<u8>::default();
        for number in [0, 1, 15, 16, u64::MAX] {
            assert_eq!(handles.get(number), None);
            assert_eq!(handles.remove(number), None);
        }
    }
}
