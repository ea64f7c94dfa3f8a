use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Step;
use crate::model::ObjectKey;

/// So many statuses of one Mapping may be written at once, and then one in every [`REFILL`]: pods that come and go, or another writer who
/// is of another opinion, cause no storm.
const BURST: f64 = 10.0;
const REFILL: Duration = Duration::from_secs(5);

/// How often each Mapping's status was written lately.
#[derive(Default)]
pub(super) struct Paces(HashMap<ObjectKey, (f64, Instant)>);

impl Paces {
    /// Whether the step may be taken now, or after how long. Only statuses are held back: traffic waits for finalizers.
    pub(super) fn may(&mut self, key: &ObjectKey, step: &Step, now: Instant) -> Result<(), Duration> {
        if !matches!(step, Step::Apply(_) | Step::DropForeign | Step::ClearSilence) {
            return Ok(());
        }
        let (tokens, at) = self.0.get(key).copied().unwrap_or((BURST, now));
        let tokens = (tokens + now.duration_since(at).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        let enough = tokens >= 1.0;
        self.0.insert(key.clone(), (if enough { tokens - 1.0 } else { tokens }, now));
        if enough { Ok(()) } else { Err(REFILL.mul_f64(1.0 - tokens)) }
    }

    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }
}

/// While writes fail, one at a time is tried, with growing pauses.
#[derive(Default)]
pub(super) struct Trouble {
    pause: Option<Duration>,
    until: Option<Instant>,
    told: Option<String>,
}

impl Trouble {
    const FIRST: Duration = Duration::from_millis(250);
    const LAST: Duration = Duration::from_secs(1);

    /// Another failure; how long nothing is tried now. `asked` is how long the API server wants to be left alone.
    pub(super) fn again(&mut self, now: Instant, asked: Duration) -> Duration {
        let pause = self.pause.map_or(Self::FIRST, |p| (p * 2).min(Self::LAST));
        self.pause = Some(pause);
        let pause = pause.max(asked);
        self.until = Some(now + pause);
        pause
    }

    /// Whether this was not told before.
    pub(super) fn is_new(&mut self, reason: &str) -> bool {
        let new = self.told.as_deref() != Some(reason);
        self.told = Some(reason.to_owned());
        new
    }

    pub(super) fn lasts(&self) -> bool {
        self.pause.is_some()
    }

    pub(super) fn waits(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// A write went well; whether that ends a trouble.
    pub(super) fn over(&mut self) -> bool {
        let lasted = self.lasts();
        *self = Trouble::default();
        lasted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn statuses_of_one_mapping_come_in_a_burst_and_then_at_a_pace_and_others_are_not_held_back() {
        let mut paces = Paces::default();
        let (a, b) = (ObjectKey::new("x", "a"), ObjectKey::new("x", "b"));
        let now = Instant::now();
        let step = Step::ClearSilence;
        let burst = (0..100).filter(|_| paces.may(&a, &step, now).is_ok()).count();
        assert_eq!(burst, BURST as usize);
        assert_eq!(paces.may(&a, &step, now), Err(REFILL));
        assert_eq!(paces.may(&a, &step, now + REFILL), Ok(()));
        assert_eq!(paces.may(&b, &step, now), Ok(()));
        assert_eq!(paces.may(&a, &Step::AddFinalizer, now), Ok(()));
    }

    #[tokio::test]
    async fn pauses_grow_to_a_bound_and_end_with_the_first_success() {
        let mut trouble = Trouble::default();
        let now = Instant::now();
        let pauses: Vec<_> = (0..8).map(|_| trouble.again(now, Duration::ZERO)).collect();
        assert!(pauses.is_sorted() && pauses[0] < pauses[1]);
        assert_eq!(pauses.last(), Some(&Trouble::LAST));
        assert!(trouble.waits(now) && !trouble.waits(now + Trouble::LAST));
        assert_eq!(trouble.again(now, Duration::from_secs(7)), Duration::from_secs(7));
        assert!(trouble.waits(now + Duration::from_secs(6)), "it asked for more");
        assert_eq!(trouble.again(now, Duration::ZERO), Trouble::LAST);
        assert!(trouble.over());
        assert!(!trouble.over());
    }
}
