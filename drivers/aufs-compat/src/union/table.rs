//! The nodes that there are, by their numbers.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Mutex, Weak};

use super::lock;
use super::node::Node;

/// How many parts it has, so that threads seldom meet.
const PARTS: usize = 64;

/// Every node there is, once.
///
/// What the kernel holds stays until the kernel forgets it, anything else (what is above it, what a thread works with) as
/// long as somebody has it.
#[derive(Debug)]
pub(crate) struct Table {
    parts: [Mutex<HashMap<u64, Entry>>; PARTS],
}

#[derive(Debug)]
struct Entry {
    node: Weak<Node>,
    /// The same, while `lookups` is not 0.
    held: Option<Arc<Node>>,
    /// How often the kernel was given it and has not forgotten it yet.
    lookups: u64,
}

impl Table {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { parts: std::array::from_fn(|_| Mutex::default()) })
    }

    fn part(&self, number: u64) -> &Mutex<HashMap<u64, Entry>> {
        &self.parts[(number % PARTS as u64) as usize]
    }

    /// The node of this number, if there is one.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Node>> {
        lock(self.part(number)).get(&number)?.node.upgrade()
    }

    /// The node of this number, or a new one.
    pub(crate) fn get_or_insert(&self, number: u64, new: impl FnOnce() -> Node) -> Arc<Node> {
        let mut part = lock(self.part(number));
        match part.entry(number) {
            Slot::Occupied(mut slot) => match slot.get().node.upgrade() {
                Some(node) => node,
                None => {
                    let node = Arc::new(new());
                    slot.get_mut().node = Arc::downgrade(&node);
                    node
                }
            },
            Slot::Vacant(slot) => {
                let node = Arc::new(new());
                slot.insert(Entry { node: Arc::downgrade(&node), held: None, lookups: 0 });
                node
            }
        }
    }

    /// The kernel is given this node once more.
    pub(crate) fn hold(&self, node: &Arc<Node>) {
        let mut part = lock(self.part(node.number));
        let slot = part.entry(node.number);
        let entry = slot.or_insert_with(|| Entry { node: Arc::downgrade(node), held: None, lookups: 0 });
        entry.held.get_or_insert_with(|| Arc::clone(node));
        entry.lookups += 1;
    }

    /// The kernel forgets so many of the times that it was given this node.
    pub(crate) fn forget(&self, number: u64, times: u64) {
        let mut part = lock(self.part(number));
        let Some(entry) = part.get_mut(&number) else { return };
        entry.lookups = entry.lookups.saturating_sub(times);
        if entry.lookups == 0 {
            let node = entry.held.take();
            drop(part);
            // Which clears the entry, and so locks the part again.
            drop(node);
        }
    }

    /// Takes out the entry of a node that is gone, unless another has its number meanwhile.
    pub(crate) fn clear(&self, number: u64) {
        let mut part = lock(self.part(number));
        if part.get(&number).is_some_and(|entry| entry.node.strong_count() == 0) {
            part.remove(&number);
        }
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }

    /// Lets go of everything: nobody asks any more.
    pub(crate) fn release(&self) {
        for part in &self.parts {
            let held: Vec<_> = lock(part).values_mut().filter_map(|entry| entry.held.take()).collect();
            drop(held);
        }
    }
}
