//! Trees that take no more memory than they need.

use std::collections::{BTreeMap, BTreeSet};

/// Below so many entries nobody sees the difference.
const MANY: usize = 1_000;

/// A tree that may be built anew with full nodes. Filled in the order of its keys, it has half of its room empty.
pub trait Dense {
    /// After `changed` entries came or went. Costs as much as reading the whole tree, so nothing is done for a few.
    fn densify(&mut self, changed: usize);
}

fn is_worth_it(entries: usize, changed: usize) -> bool {
    entries >= MANY && changed >= entries / 2
}

impl<K: Ord, V> Dense for BTreeMap<K, V> {
    fn densify(&mut self, changed: usize) {
        if is_worth_it(self.len(), changed) {
            *self = std::mem::take(self).into_iter().collect();
        }
    }
}

impl<K: Ord> Dense for BTreeSet<K> {
    fn densify(&mut self, changed: usize) {
        if is_worth_it(self.len(), changed) {
            *self = std::mem::take(self).into_iter().collect();
        }
    }
}
