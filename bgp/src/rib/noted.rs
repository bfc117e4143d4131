//! Slots to be looked at again: each once, first come, first served.

use std::collections::VecDeque;
use std::sync::Arc;

use super::destinations::Slot;
use super::path::Path;

#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    order: VecDeque<Slot>,
    /// Of each the path that is told of it, where that is kept nowhere else.
    told: VecDeque<Option<Arc<Path>>>,
    slots: Slots,
}

impl Noted {
    /// `told` is asked where it is not there already.
    pub(super) fn insert(&mut self, slot: Slot, told: impl FnOnce() -> Option<Arc<Path>>) {
        if self.slots.insert(slot) {
            self.order.push_back(slot);
            self.told.push_back(told());
        }
    }

    pub(super) fn pop(&mut self) -> Option<(Slot, Option<Arc<Path>>)> {
        let (slot, told) = (self.order.pop_front()?, self.told.pop_front()?);
        self.slots.remove(slot);
        if self.order.is_empty() {
            // Rare as it is to be long, it should not stay so.
            self.order.shrink_to(1024);
            self.told.shrink_to(1024);
        }
        Some((slot, told))
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.slots.contains(slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, Option<&Arc<Path>>)> {
        self.order.iter().copied().zip(self.told.iter().map(Option::as_ref))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Option<Arc<Path>>)> {
        self.order.iter().copied().zip(&mut self.told)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// A set of slots, a bit each.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Vec<u64>);

impl Slots {
    /// Whether that is news.
    pub(super) fn insert(&mut self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let news = self.0[word] & bit == 0;
        self.0[word] |= bit;
        news
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        let (word, bit) = place(slot);
        if let Some(bits) = self.0.get_mut(word) {
            *bits &= !bit;
        }
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + use<> {
        let words = self.0.clone();
        let end = words.len() as Slot * 64;
        (0..end).filter(move |slot| words[*slot as usize / 64] & 1 << (slot % 64) != 0)
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
        [70, 3, 70, 64, 3].into_iter().for_each(|slot| noted.insert(slot, || None));
        assert_eq!(noted.len(), 3);
        assert_eq!(noted.pop(), Some((70, None)));
        assert!(noted.contains(64) && !noted.contains(70) && !noted.contains(5000));
        noted.insert(70, || None);
        let slots: Vec<_> = std::iter::from_fn(|| noted.pop()).map(|(slot, _)| slot).collect();
        assert_eq!(slots, [3, 64, 70]);
        assert!(noted.is_empty());
    }

    #[test]
    fn a_set_of_slots_lists_those_that_are_in_it() {
        let mut slots = Slots::default();
        assert!(slots.insert(130) && slots.insert(3) && slots.insert(64) && !slots.insert(3));
        slots.remove(64);
        slots.remove(9999);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [3, 130]);
    }
}
