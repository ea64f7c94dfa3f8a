//! What differs between one snapshot and the next, which shares with it what is the same.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::ObjectKey;

/// A value that is not the one it was.
pub struct Changed<'a, K, V> {
    pub key: &'a K,
    pub before: Option<&'a V>,
    pub now: Option<&'a V>,
}

/// An object, or what is said of one, that is not the one it was.
pub type ChangedObject<'a, T> = Changed<'a, ObjectKey, Arc<T>>;

/// The changes between two snapshots, in the order of keys. Values are not compared: what is the same is the same value.
pub fn changes<'a, T>(
    before: &'a BTreeMap<ObjectKey, Arc<T>>,
    now: &'a BTreeMap<ObjectKey, Arc<T>>,
) -> Vec<ChangedObject<'a, T>> {
    changes_by(before, now, order, Arc::ptr_eq)
}

/// The changes between two maps, in the order of keys.
pub fn changes_by<'a, K, V>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
    order: impl Fn(&K, &K) -> Ordering,
    same: impl Fn(&V, &V) -> bool,
) -> Vec<Changed<'a, K, V>> {
    let mut changed = Vec::new();
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => order(a, b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return changed,
        };
        let before = if order.is_le() { old.next() } else { None };
        let now = if order.is_ge() { new.next() } else { None };
        let (before_value, now_value) = (before.map(|(_, value)| value), now.map(|(_, value)| value));
        let same = matches!((before_value, now_value), (Some(a), Some(b)) if same(a, b));
        if let Some((key, _)) = now.or(before).filter(|_| !same) {
            changed.push(Changed { key, before: before_value, now: now_value });
        }
    }
}

/// Most keys are the very same text.
fn order(a: &ObjectKey, b: &ObjectKey) -> Ordering {
    if Arc::ptr_eq(&a.name, &b.name) && Arc::ptr_eq(&a.namespace, &b.namespace) { Ordering::Equal } else { a.cmp(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_or_is_another_value_has_changed_and_nothing_else() {
        let key = |name: &str| ObjectKey::new("a", name);
        let before: BTreeMap<_, _> = ["b", "c", "d", "f"].map(|name| (key(name), Arc::new(1))).into();
        let mut now = before.clone();
        now.insert(key("a"), Arc::new(1));
        now.insert(key("c"), Arc::new(1));
        now.insert(key("e"), Arc::new(1));
        now.remove(&key("f"));
        let changed = changes(&before, &now);
        let told: Vec<_> = changed.iter().map(|c| (&*c.key.name, c.before.is_some(), c.now.is_some())).collect();
        assert_eq!(told, [("a", false, true), ("c", true, true), ("e", false, true), ("f", true, false)]);
        assert!(changes(&now, &now.clone()).is_empty());
    }
}
