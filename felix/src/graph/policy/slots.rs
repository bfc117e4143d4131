//! Values by the number of their place; a place that is free is taken again.

/// The values and the free places.
#[derive(Debug)]
pub struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts a value somewhere; where.
    pub fn insert(&mut self, value: T) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.get_slot(place) {
            *slot = Some(value);
        }
        place
    }

    /// Takes a value out.
    pub fn remove(&mut self, place: u32) -> Option<T> {
        let value = self.get_slot(place)?.take()?;
        self.free.push(place);
        Some(value)
    }

    /// The value at a place.
    pub fn get(&self, place: u32) -> Option<&T> {
        self.values.get(place as usize)?.as_ref()
    }

    /// The value at a place, to be changed.
    pub fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.get_slot(place)?.as_mut()
    }

    /// All values with their places, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.values).filter_map(|(place, value)| Some((place, value.as_mut()?)))
    }

    /// Places that are taken.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.values).filter(|(_, value)| value.is_some()).map(|(place, _)| place)
    }

    fn get_slot(&mut self, place: u32) -> Option<&mut Option<T>> {
        self.values.get_mut(place as usize)
    }
}
