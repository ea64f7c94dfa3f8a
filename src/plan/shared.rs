//! Values that several owners want under one key: each stays as long as one of them does.

use std::collections::BTreeMap;

use crate::model::Dense;

#[derive(Debug)]
pub struct Shared<K, V> {
    values: BTreeMap<K, V>,
    /// Owners besides the first: of most values there are none.
    more: BTreeMap<K, u32>,
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Shared { values: BTreeMap::new(), more: BTreeMap::new() }
    }
}

impl<K: Ord, V> Dense for Shared<K, V> {
    fn densify(&mut self, changed: usize) {
        self.values.densify(changed);
        self.more.densify(changed);
    }
}

impl<K: Ord + Clone, V> Shared<K, V> {
    /// One owner more. Owners of one key want the same value; should it have changed, the last one knows.
    pub fn add(&mut self, key: K, value: V) {
        if let Some(known) = self.values.get_mut(&key) {
            *known = value;
            *self.more.entry(key).or_default() += 1;
        } else {
            self.values.insert(key, value);
        }
    }

    /// One owner less.
    pub fn release(&mut self, key: &K) {
        match self.more.get_mut(key) {
            None => drop(self.values.remove(key)),
            Some(1) => drop(self.more.remove(key)),
            Some(more) => *more -= 1,
        }
    }

    pub fn values(&self) -> &BTreeMap<K, V> {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_goes_with_its_last_owner() {
        let mut shared = Shared::default();
        for value in [1, 1, 2] {
            shared.add("a", value);
        }
        shared.release(&"a");
        shared.release(&"a");
        assert_eq!(shared.values(), &BTreeMap::from([("a", 2)]));
        shared.release(&"a");
        assert!(shared.values().is_empty());
        shared.release(&"a");
        shared.add("a", 3);
        shared.release(&"a");
        assert!(shared.values().is_empty());
    }
}
