use std::fs;
use std::time::{Duration, Instant};

/// How long a condition may take to come true on a machine that has nothing else to do; a passing test never waits for it.
pub const BOUND: Duration = Duration::from_secs(20);
/// So many times as long may it take while others want the processors too.
const PATIENCE: u32 = 6;
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(60);

/// Repeats `probe` until it gives a value.
///
/// # Panics
/// After [`BOUND`], with `what` was awaited.
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually_within(BOUND, what, probe)
}

/// As [`eventually`], with a bound of its own.
///
/// # Panics
/// After `bound`, with `what` was awaited; later on a machine that is busy.
#[track_caller]
pub fn eventually_within<T>(bound: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        let waited = begin.elapsed();
        let enough = waited >= bound && (waited >= bound * PATIENCE || !is_busy());
        assert!(!enough, "not within {} s: {what}", waited.as_secs());
        // Who asks all the time takes the processor from whom it asks.
        std::thread::sleep((waited / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}

/// Whether programs had to wait for a processor during much of the last minute; also when the kernel does not tell.
fn is_busy() -> bool {
    let told = fs::read_to_string("/proc/pressure/cpu").ok();
    let share = told.as_deref().and_then(|text| text.split_once("avg60=")?.1.split(' ').next()?.parse::<f64>().ok());
    share.is_none_or(|percent| percent > 10.0)
}

/// For [`eventually`]: `Some` when the condition holds.
pub fn holds(condition: bool) -> Option<()> {
    condition.then_some(())
}
