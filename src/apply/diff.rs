//! What differs between what is wanted and what is there. Pure, generic, shared by the drivers; linear in the sizes of both sides.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Keys by what has to happen to them; all in the order of the maps.
#[derive(Debug, PartialEq, Eq)]
pub struct MapDiff<'a, 'b, K, V, W> {
    /// Wanted and not there.
    pub missing: Vec<(&'a K, &'a V)>,
    /// Wanted, and there with another value: (key, wanted, held).
    pub altered: Vec<(&'a K, &'a V, &'b W)>,
    /// There and not wanted.
    pub surplus: Vec<(&'b K, &'b W)>,
}

/// Compares two maps whose values may be of different types (what is wanted is typed, what is read may be text).
pub fn diff_maps<'a, 'b, K: Ord, V, W>(
    wanted: &'a BTreeMap<K, V>,
    held: &'b BTreeMap<K, W>,
    mut same: impl FnMut(&V, &W) -> bool,
) -> MapDiff<'a, 'b, K, V, W> {
    let mut diff = MapDiff { missing: Vec::new(), altered: Vec::new(), surplus: Vec::new() };
    let (mut left, mut right) = (wanted.iter().peekable(), held.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return diff,
        };
        match order {
            Ordering::Less => diff.missing.extend(left.next()),
            Ordering::Greater => diff.surplus.extend(right.next()),
            Ordering::Equal => {
                if let (Some((key, v)), Some((_, w))) = (left.next(), right.next())
                    && !same(v, w)
                {
                    diff.altered.push((key, v, w));
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct SetDiff<'a, T> {
    pub missing: Vec<&'a T>,
    pub surplus: Vec<&'a T>,
}

pub fn diff_sets<'a, T: Ord>(wanted: &'a BTreeSet<T>, held: &'a BTreeSet<T>) -> SetDiff<'a, T> {
    SetDiff { missing: wanted.difference(held).collect(), surplus: held.difference(wanted).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_key_falls_into_the_group_of_what_must_happen_to_it() {
        let wanted = BTreeMap::from([("a", 1), ("b", 2), ("c", 3)]);
        let held = BTreeMap::from([("b", 2), ("c", 4), ("d", 5)]);
        let diff = diff_maps(&wanted, &held, |v, w| v == w);
        assert_eq!(diff.missing, [(&"a", &1)]);
        assert_eq!(diff.altered, [(&"c", &3, &4)]);
        assert_eq!(diff.surplus, [(&"d", &5)]);
    }

    #[test]
    fn equal_maps_do_not_differ() {
        let map = BTreeMap::from([(1, "x"), (2, "y")]);
        let diff = diff_maps(&map, &map, |v, w| v == w);
        assert_eq!(diff, MapDiff { missing: vec![], altered: vec![], surplus: vec![] });
    }

    proptest! {
        #[test]
        fn carrying_out_a_difference_gives_what_is_wanted(
            wanted: BTreeMap<u8, u8>, held: BTreeMap<u8, u8>
        ) {
            let diff = diff_maps(&wanted, &held, |v, w| v == w);
            let mut result = held.clone();
            for (key, _) in &diff.surplus { prop_assert!(result.remove(*key).is_some()); }
            for (key, value) in &diff.missing { prop_assert!(result.insert(**key, **value).is_none()); }
            for (key, value, old) in &diff.altered { prop_assert_eq!(result.insert(**key, **value), Some(**old)); }
            prop_assert_eq!(result, wanted);
        }

        #[test]
        fn carrying_out_a_set_difference_gives_what_is_wanted(wanted: BTreeSet<u8>, held: BTreeSet<u8>) {
            let diff = diff_sets(&wanted, &held);
            let mut result = held.clone();
            for item in diff.surplus { prop_assert!(result.remove(item)); }
            for item in diff.missing { prop_assert!(result.insert(*item)); }
            prop_assert_eq!(result, wanted);
        }
    }
}
