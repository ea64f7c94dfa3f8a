use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::ObjectKey;

/// Which Mappings are to be looked at: now, when a write to them has ended, or later. Each stands in it once.
#[derive(Default)]
pub(super) struct Queue {
    ready: VecDeque<ObjectKey>,
    marked: HashSet<ObjectKey>,
    /// A write to it is under way, and whether it was marked meanwhile.
    under_way: HashMap<ObjectKey, bool>,
    timers: BTreeSet<(Instant, ObjectKey)>,
    timer_of: BTreeMap<ObjectKey, Instant>,
    /// Since when it has been waiting for its turn.
    since: HashMap<ObjectKey, Instant>,
    for_clock: Vec<ObjectKey>,
}

impl Queue {
    pub(super) fn mark(&mut self, key: ObjectKey) {
        if let Some(again) = self.under_way.get_mut(&key) {
            *again = true;
            return;
        }
        if self.marked.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    pub(super) fn mark_all<'a>(&mut self, keys: impl Iterator<Item = &'a ObjectKey>) {
        for key in keys {
            self.mark(key.clone());
        }
    }

    /// The next one to look at.
    pub(super) fn next(&mut self) -> Option<ObjectKey> {
        let key = self.ready.pop_front()?;
        self.marked.remove(&key);
        if let Some(at) = self.timer_of.remove(&key) {
            self.timers.remove(&(at, key.clone()));
        }
        Some(key)
    }

    /// Nothing is to be done for it.
    pub(super) fn rest(&mut self, key: &ObjectKey) {
        self.since.remove(key);
    }

    /// Looked at again after this time, or when it is marked.
    pub(super) fn wait(&mut self, key: ObjectKey, now: Instant, time: Duration) {
        self.since.entry(key.clone()).or_insert(now);
        let at = now + time;
        if let Some(old) = self.timer_of.insert(key.clone(), at) {
            self.timers.remove(&(old, key.clone()));
        }
        self.timers.insert((at, key));
    }

    pub(super) fn waited(&self, key: &ObjectKey, now: Instant) -> Duration {
        self.since.get(key).map_or(Duration::ZERO, |since| now.duration_since(*since))
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Marks those whose time has come.
    pub(super) fn wake(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.timers.pop_first() else { return };
            self.timer_of.remove(&key);
            self.mark(key);
        }
    }

    pub(super) fn await_clock(&mut self, key: ObjectKey) {
        self.for_clock.push(key);
    }

    pub(super) fn clock_known(&mut self) {
        for key in std::mem::take(&mut self.for_clock) {
            self.mark(key);
        }
    }

    pub(super) fn begin(&mut self, key: ObjectKey) {
        self.since.remove(&key);
        self.under_way.insert(key, false);
    }

    pub(super) fn ended(&mut self, key: &ObjectKey) {
        if self.under_way.remove(key) == Some(true) {
            self.mark(key.clone());
        }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Nothing is to be looked at now, and no write is under way. What waits for its time does not count.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.under_way.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    #[tokio::test]
    async fn a_mapping_stands_in_it_once_and_not_while_a_write_to_it_is_under_way() {
        let mut queue = Queue::default();
        queue.mark(key("a"));
        queue.mark(key("a"));
        assert_eq!(queue.next(), Some(key("a")));
        assert_eq!(queue.next(), None);
        assert!(queue.is_idle());
        queue.begin(key("a"));
        assert!(!queue.is_idle());
        queue.mark(key("a"));
        assert_eq!((queue.next(), queue.under_way()), (None, 1));
        queue.ended(&key("a"));
        assert!(!queue.is_idle());
        assert_eq!((queue.next(), queue.under_way()), (Some(key("a")), 0));
    }

    #[tokio::test]
    async fn one_that_waits_comes_at_its_time_or_when_marked_and_then_only_once() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        queue.wait(key("a"), now, second);
        queue.wait(key("b"), now, second);
        queue.mark(key("b"));
        assert_eq!(queue.next(), Some(key("b")));
        queue.wake(now + second / 2);
        assert_eq!(queue.next(), None);
        queue.wake(now + second);
        assert_eq!(queue.next(), Some(key("a")));
        assert_eq!((queue.next(), queue.next_wake()), (None, None));
        assert_eq!(queue.waited(&key("a"), now + second), second);
        queue.rest(&key("a"));
        assert_eq!(queue.waited(&key("a"), now + second), Duration::ZERO);
    }
}
