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

/// A map of a few keys, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FewByKey<K, V>(Vec<(K, V)>);

impl<K, V> Default for FewByKey<K, V> {
    fn default() -> Self {
        FewByKey(Vec::new())
    }
}

impl<K: Ord, V> FewByKey<K, V> {
    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.place(key).ok().map(|place| &self.0[place].1)
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_ok()
    }

    /// The value of a key, made if there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let place = self.place(&key).unwrap_or_else(|place| {
            if self.0.len() == self.0.capacity() {
                self.0.reserve_exact(1);
            }
            self.0.insert(place, (key, make()));
            place
        });
        &mut self.0[place].1
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.place(key).ok().map(|place| &mut self.0[place].1)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for FewByKey<K, V> {
    /// Of several values for one key the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(values: I) -> Self {
        let mut map = FewByKey::default();
        for (key, value) in values {
            match map.place(&key) {
                Ok(place) => map.0[place].1 = value,
                Err(place) => map.0.insert(place, (key, value)),
            }
        }
        map.0.shrink_to_fit();
        map
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for FewByKey<K, V> {
    fn from(values: [(K, V); N]) -> Self {
        values.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn by_key_it_is_a_map(changes in prop::collection::vec((0u8..9, 0u8..99, 0u8..4), 0..40)) {
            let mut map: BTreeMap<u8, u8> = BTreeMap::new();
            let mut few: FewByKey<u8, u8> = FewByKey::default();
            for (key, value, what) in changes {
                match what {
                    0 => {
                        map.retain(|k, _| *k != key);
                        few.retain(|k, _| *k != key);
                    }
                    1 => prop_assert_eq!(
                        map.get_mut(&key).map(|known| std::mem::replace(known, value)),
                        few.get_mut(&key).map(|known| std::mem::replace(known, value))
                    ),
                    _ => prop_assert_eq!(*map.entry(key).or_insert(value), *few.get_or_insert_with(key, || value)),
                }
                prop_assert!(few.iter().eq(map.iter()) && few.keys().eq(map.keys()) && few.values().eq(map.values()));
                prop_assert_eq!((few.get(&key), few.contains_key(&key)), (map.get(&key), map.contains_key(&key)));
                prop_assert_eq!((few.len(), few.is_empty()), (map.len(), map.is_empty()));
                prop_assert_eq!(&few, &map.iter().rev().map(|(k, v)| (*k, *v)).collect());
            }
        }

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
