use std::time::Duration;

use tokio::time::Instant;

/// Gathers events: due shortly after the last one, but never later than a bound after the first.
pub(crate) struct Debounce {
    quiet: Duration,
    bound: Duration,
    /// First event since the last [`Debounce::clear`], and when it is due.
    pending: Option<(Instant, Instant)>,
}

impl Debounce {
    pub(crate) fn new(quiet: Duration, bound: Duration) -> Self {
        Debounce { quiet, bound, pending: None }
    }

    pub(crate) fn mark(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, (now + self.quiet).min(first + self.bound)));
    }

    pub(crate) fn clear(&mut self) {
        self.pending = None;
    }

    /// Waits until it is due; for ever when nothing is pending. Cancel safe.
    pub(crate) async fn due(&self) {
        match self.pending {
            Some((_, due)) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(20);
    const BOUND: Duration = Duration::from_millis(100);

    fn due(debounce: &Debounce) -> Option<Instant> {
        debounce.pending.map(|(_, due)| due)
    }

    #[test]
    fn a_lone_event_is_due_after_the_quiet_time() {
        let start = Instant::now();
        let mut debounce = Debounce::new(QUIET, BOUND);
        assert_eq!(due(&debounce), None);
        debounce.mark(start);
        assert_eq!(due(&debounce), Some(start + QUIET));
        debounce.clear();
        assert_eq!(due(&debounce), None);
    }

    #[test]
    fn a_storm_is_due_at_the_bound() {
        let start = Instant::now();
        let mut debounce = Debounce::new(QUIET, BOUND);
        for ms in 0..90 {
            debounce.mark(start + Duration::from_millis(ms));
        }
        assert_eq!(due(&debounce), Some(start + BOUND));
        debounce.clear();
        debounce.mark(start + Duration::from_millis(95));
        assert_eq!(due(&debounce), Some(start + Duration::from_millis(115)), "the bound begins anew after a look");
    }
}
