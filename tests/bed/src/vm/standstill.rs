use std::time::{Duration, Instant};

/// Work that goes on is not at its limit, however slow the machine is below.
const STANDSTILL: Duration = Duration::from_secs(300);
/// Against what moves for ever without getting anywhere.
const ENDLESS: Duration = Duration::from_secs(3600);

/// Tells work that stands still from work that takes long, by something that changes while it goes on.
pub struct Standstill {
    begin: Instant,
    moved: Instant,
    seen: usize,
}

impl Standstill {
    pub fn new() -> Standstill {
        Standstill { begin: Instant::now(), moved: Instant::now(), seen: 0 }
    }

    /// Why it is to be given up, if it is; `now` is what changes.
    pub fn reached(&mut self, now: usize) -> Option<String> {
        if now != self.seen {
            (self.seen, self.moved) = (now, Instant::now());
        }
        if self.moved.elapsed() > STANDSTILL {
            return Some(format!("nothing moved for {} s", STANDSTILL.as_secs()));
        }
        (self.begin.elapsed() > ENDLESS).then(|| format!("no end after {} s", ENDLESS.as_secs()))
    }
}
