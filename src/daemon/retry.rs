use std::time::Duration;

use tokio::time::Instant;

/// A failed pass is tried again after this, doubled each time up to a minute.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);
/// What changes meanwhile may have been the obstacle: so many passes begin at once for it, and then one for every such time.
const PROMPT: u32 = 5;
const PROMPT_EVERY: Duration = Duration::from_secs(2);

/// When a pass may be tried again after one that failed.
#[derive(Default)]
pub struct Retry {
    delay: Option<Duration>,
    at: Option<Instant>,
    /// Failures that began before their time, less those that time has forgiven; as of the last failure.
    early: u32,
    failed: Option<Instant>,
}

impl Retry {
    /// Returns when the next pass is due whatever happens.
    pub fn failed(&mut self, now: Instant) -> Duration {
        let early = self.at.is_some_and(|at| now < at);
        self.early = self.early_at(now) + u32::from(early);
        self.failed = Some(now);
        // A pass ahead of its time says nothing about how long it will take.
        let delay = match self.delay {
            Some(delay) if early => delay,
            Some(delay) => (delay * 2).min(LAST),
            None => FIRST,
        };
        self.delay = Some(delay);
        self.at = Some(now + delay);
        delay
    }

    pub fn succeeded(&mut self) {
        *self = Retry::default();
    }

    /// Whether the last pass failed.
    pub fn is_waiting(&self) -> bool {
        self.at.is_some()
    }

    pub async fn due(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Until a change may begin a pass.
    pub async fn allowed(&self) {
        if let Some(at) = self.allowed_at() {
            tokio::time::sleep_until(at).await;
        }
    }

    /// `None`: at once.
    fn allowed_at(&self) -> Option<Instant> {
        Some(self.failed? + PROMPT_EVERY * (self.early.checked_sub(PROMPT)? + 1))
    }

    fn early_at(&self, now: Instant) -> u32 {
        let since = self.failed.map_or(Duration::ZERO, |failed| now.saturating_duration_since(failed));
        let forgiven = since.as_millis() / PROMPT_EVERY.as_millis();
        self.early.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_begins_a_pass_at_once_and_a_storm_of_them_does_not_spin() {
        let mut retry = Retry::default();
        let mut now = Instant::now();
        let allows = |retry: &Retry, now| retry.allowed_at().is_none_or(|at| at <= now);
        assert!(allows(&retry, now));
        retry.failed(now);
        // Ten changes a second for a minute, and every pass fails.
        let mut passes = 0;
        for _ in 0..600 {
            now += Duration::from_millis(100);
            if allows(&retry, now) {
                passes += 1;
                retry.failed(now);
            }
        }
        assert!((20..=40).contains(&passes), "{passes}");
        // After a rest the next change is answered at once again.
        now += PROMPT_EVERY * PROMPT;
        assert!(allows(&retry, now));
        retry.succeeded();
        assert!(allows(&retry, now) && retry.at.is_none());
    }

    #[test]
    fn pauses_grow_by_what_was_waited_for_only() {
        let mut retry = Retry::default();
        let mut now = Instant::now();
        assert_eq!(retry.failed(now), FIRST);
        assert_eq!(retry.failed(now + Duration::from_millis(1)), FIRST, "ahead of its time");
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            now = retry.at.unwrap();
            assert_eq!(retry.failed(now), Duration::from_secs(expected));
        }
    }
}
