//! Sets of a few values: a sorted list takes no more memory than they do, where a tree takes a node of eleven.

use std::slice::Iter;

/// Values in their order, each once. Made for some tens of values: one that is put in moves those behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Few(Vec::new())
    }
}

impl<T: Ord> Few<T> {
    /// Whether it was not in before.
    pub fn insert(&mut self, value: T) -> bool {
        let place = self.0.binary_search(&value);
        if let Err(place) = place {
            if self.0.len() == self.0.capacity() {
                // One more and not twice as many: most sets never grow again.
                self.0.reserve_exact(1);
            }
            self.0.insert(place, value);
        }
        place.is_err()
    }

    /// Whether it was in.
    pub fn remove(&mut self, value: &T) -> bool {
        self.0.binary_search(value).map(|place| self.0.remove(place)).is_ok()
    }

    pub fn contains(&self, value: &T) -> bool {
        self.0.binary_search(value).is_ok()
    }

    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.0.retain(keep);
    }

    pub fn iter(&self) -> Iter<'_, T> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Ord> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut values: Vec<T> = values.into_iter().collect();
        values.sort();
        values.dedup();
        values.shrink_to_fit();
        Few(values)
    }
}

impl<T: Ord> Extend<T> for Few<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|value| _ = self.insert(value));
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(begin in prop::collection::vec(0u8..20, 0..9), changes in prop::collection::vec((0u8..20, any::<bool>()), 0..40)) {
            let mut set: BTreeSet<u8> = begin.iter().copied().collect();
            let mut few: Few<u8> = begin.into_iter().collect();
            for (value, put) in changes {
                if put {
                    prop_assert_eq!(few.insert(value), set.insert(value));
                } else {
                    prop_assert_eq!(few.remove(&value), set.remove(&value));
                }
                prop_assert!(few.iter().eq(set.iter()));
                prop_assert_eq!((few.len(), few.is_empty(), few.contains(&value)), (set.len(), set.is_empty(), set.contains(&value)));
            }
        }
    }
}
