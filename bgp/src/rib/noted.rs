//! Slots to be looked at again: each once, first come, first served.

use std::collections::VecDeque;

use super::destinations::Slot;

#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    order: VecDeque<Slot>,
    /// A bit each.
    bits: Vec<u64>,
}

impl Noted {
    pub(super) fn insert(&mut self, slot: Slot) {
        let (word, bit) = place(slot);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.order.push_back(slot);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Slot> {
        let slot = self.order.pop_front()?;
        let (word, bit) = place(slot);
        self.bits[word] &= !bit;
        if self.order.is_empty() {
            // Rare as it is to be long, it should not stay so.
            self.order.shrink_to(1024);
        }
        Some(slot)
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

fn place(slot: Slot) -> (usize, u64) {
    (slot as usize / 64, 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_out_once_in_the_order_it_came_in() {
        let mut noted = Noted::default();
        [70, 3, 70, 64, 3].into_iter().for_each(|slot| noted.insert(slot));
        assert_eq!(noted.len(), 3);
        assert_eq!(noted.pop(), Some(70));
        assert!(noted.contains(64) && !noted.contains(70) && !noted.contains(5000));
        noted.insert(70);
        assert_eq!(std::iter::from_fn(|| noted.pop()).collect::<Vec<_>>(), [3, 64, 70]);
        assert!(noted.is_empty());
    }
}
