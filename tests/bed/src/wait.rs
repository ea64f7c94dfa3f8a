use std::time::{Duration, Instant};

/// How long a condition may take to come true: generous, because tests share two cores; a passing test never waits for it.
pub const BOUND: Duration = Duration::from_secs(20);

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
/// After `bound`, with `what` was awaited.
#[track_caller]
pub fn eventually_within<T>(bound: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begin.elapsed() < bound, "not within {} s: {what}", bound.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// For [`eventually`]: `Some` when the condition holds.
pub fn holds(condition: bool) -> Option<()> {
    condition.then_some(())
}
