//! A table that remembers what was used of late.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Holds at most so many values. To make room it drops one that was not asked for since it was last considered.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    values: HashMap<K, Slot<V>>,
    order: VecDeque<K>,
    most: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    used: bool,
}

impl<K: Copy + Eq + Hash, V: Clone> Recent<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { values: HashMap::new(), order: VecDeque::new(), most: most.max(1) }
    }

    pub(crate) fn get(&mut self, key: K) -> Option<V> {
        let slot = self.values.get_mut(&key)?;
        slot.used = true;
        Some(slot.value.clone())
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Some(slot) = self.values.get_mut(&key) {
            slot.value = value;
            return;
        }
        while self.values.len() >= self.most {
            self.evict();
        }
        self.values.insert(key, Slot { value, used: false });
        self.order.push_back(key);
        // What was removed is still in the order, and what was put back is in it twice.
        if self.order.len() > self.most * 2 {
            self.order.clear();
            self.order.extend(self.values.keys());
        }
    }

    pub(crate) fn remove(&mut self, key: K) {
        if self.values.remove(&key).is_some() && self.values.is_empty() {
            self.order.clear();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.order.clear();
    }

    fn evict(&mut self) {
        let Some(key) = self.order.pop_front() else {
            self.values.clear();
            return;
        };
        match self.values.get_mut(&key) {
            Some(slot) if slot.used => {
                slot.used = false;
                self.order.push_back(key);
            }
            Some(_) => {
                self.values.remove(&key);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;

    #[test]
    fn it_never_holds_more_than_it_may_and_keeps_what_is_used() {
        let mut recent = Recent::new(10);
        for key in 0..1000 {
            recent.insert(key, key * 2);
            assert_eq!(recent.get(0), Some(0), "used all the time, at {key}");
            assert!(recent.values.len() <= 10 && recent.order.len() <= 20);
        }
        assert_eq!(recent.get(999), Some(1998));
        assert_eq!(recent.get(500), None);
    }

    #[test]
    fn what_was_removed_and_put_back_is_one_value() {
        let mut recent = Recent::new(4);
        for round in 0..1000 {
            recent.insert(7, round);
            recent.insert(8, round);
            recent.remove(7);
            assert_eq!(recent.get(7), None);
            assert!(recent.order.len() <= 8);
        }
    }
}
