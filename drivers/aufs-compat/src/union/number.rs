//! Inode numbers of the union.
//!
//! A file has the number that it has on its branch, with the number of the file system that the branch is on in the upper
//! eight bits. So they never change during a mount, whatever the kernel forgets, and need no memory. Exceptions are
//! kept in tables: files that were copied up, which keep the number that they had below, and files whose numbers do not fit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use super::node::ROOT;
use super::{lock, read, write};

/// How many bits the number on the branch may have.
const BITS: u32 = 56;
/// In the upper eight bits: not composed, but given out one after the other.
const GIVEN: u64 = 0xff;

/// The numbers of one union.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Device numbers of the file systems, by what stands for them in the upper bits.
    devices: RwLock<Vec<u64>>,
    /// By the number that would be composed of where the copy is.
    kept: RwLock<HashMap<u64, u64>>,
    /// How many of the latter there are, so that most need not look.
    kept_count: AtomicUsize,
    /// By device and inode number.
    given: Mutex<HashMap<(u64, u64), u64>>,
}

impl Numbers {
    /// The number of the file that has this inode number on the file system of this device number.
    pub(crate) fn of(&self, device: u64, inode: u64) -> u64 {
        let own = self.own(device, inode);
        if self.kept_count.load(Ordering::Acquire) == 0 {
            return own;
        }
        read(&self.kept).get(&own).copied().unwrap_or(own)
    }

    /// From now on the file there has this number.
    pub(crate) fn keep(&self, device: u64, inode: u64, number: u64) {
        let own = self.own(device, inode);
        let mut kept = write(&self.kept);
        kept.insert(own, number);
        self.kept_count.store(kept.len(), Ordering::Release);
    }

    /// Whether the file there has another number than where it is says.
    pub(crate) fn is_kept(&self, device: u64, inode: u64) -> bool {
        self.kept_count.load(Ordering::Acquire) != 0 && {
            let own = self.own(device, inode);
            read(&self.kept).contains_key(&own)
        }
    }

    /// The file there is gone; the next of this inode number is another.
    pub(crate) fn drop_kept(&self, device: u64, inode: u64) {
        if self.kept_count.load(Ordering::Acquire) != 0 {
            let own = self.own(device, inode);
            let mut kept = write(&self.kept);
            kept.remove(&own);
            self.kept_count.store(kept.len(), Ordering::Release);
        }
    }

    fn own(&self, device: u64, inode: u64) -> u64 {
        let fits = inode > ROOT && inode >> BITS == 0;
        match self.index(device).filter(|_| fits) {
            Some(index) => index << BITS | inode,
            None => {
                let mut given = lock(&self.given);
                let next = GIVEN << BITS | (given.len() as u64 + 1);
                *given.entry((device, inode)).or_insert(next)
            }
        }
    }

    fn index(&self, device: u64) -> Option<u64> {
        let position = |devices: &Vec<u64>| devices.iter().position(|&known| known == device);
        let found = position(&read(&self.devices));
        let index = found.or_else(|| {
            let mut devices = write(&self.devices);
            position(&devices).or_else(|| {
                let fits = (devices.len() as u64) < GIVEN;
                fits.then(|| {
                    devices.push(device);
                    devices.len() - 1
                })
            })
        })?;
        Some(index as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    #[test]
    fn on_the_first_file_system_the_numbers_are_the_real_ones() {
        let numbers = Numbers::default();
        assert_eq!(numbers.of(7, 12345), 12345);
        assert_eq!(numbers.of(8, 12345), 1 << 56 | 12345);
        assert_eq!(numbers.of(7, 12345), 12345);
    }

    #[test]
    fn what_does_not_fit_is_still_told_apart() {
        let numbers = Numbers::default();
        let odd: Vec<u64> = [0, 1, 1 << 56, u64::MAX].iter().map(|&inode| numbers.of(7, inode)).collect();
        for (at, number) in odd.iter().enumerate() {
            assert!(*number > 1);
            assert!(!odd[..at].contains(number));
        }
        assert_eq!(numbers.of(7, u64::MAX), odd[3], "and stays the same");
    }

    #[test]
    fn more_file_systems_than_there_are_bits_for_are_told_apart() {
        let numbers = Numbers::default();
        let mut seen: Vec<u64> = (0..600).map(|device| numbers.of(device, 99)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 600);
    }

    #[test]
    fn a_copy_has_the_number_of_what_it_was_copied_from_until_it_is_gone() {
        let numbers = Numbers::default();
        let below = numbers.of(7, 10);
        numbers.keep(7, 20, below);
        assert_eq!(numbers.of(7, 20), below);
        numbers.drop_kept(7, 20);
        assert_eq!(numbers.of(7, 20), 20);
    }
}
