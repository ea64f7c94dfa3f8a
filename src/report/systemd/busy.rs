//! The loop while it computes: it cannot come round then to show that it is alive, and on a busy box a second's work takes minutes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::unistd::gettid;

/// A thread that stands, or only wakes now and then, uses less than this between two looks.
const AT_WORK: Duration = Duration::from_millis(20);
/// A tick of /proc/PID/stat, whatever the kernel's own (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// The times that the loop has come round.
#[derive(Debug, Clone, Default)]
pub(super) struct Rounds(Arc<AtomicUsize>);

impl Rounds {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn so_far(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells a thread that computes from one that is stuck, between two of its rounds: it uses the processor, but not without end.
#[derive(Debug)]
pub(super) struct Busy {
    /// As much processor time as it may use in one piece, however long that takes.
    most: Duration,
    round: usize,
    at_round: Duration,
    at_look: Duration,
}

impl Busy {
    pub(super) fn new(most: Duration) -> Self {
        Busy { most, round: 0, at_round: Duration::ZERO, at_look: Duration::ZERO }
    }

    /// Whether it is in the middle of a piece of work and gets on; `used` is its processor time.
    pub(super) fn gets_on(&mut self, round: usize, used: Duration) -> bool {
        if round != self.round {
            // It has just shown that itself.
            (self.round, self.at_round, self.at_look) = (round, used, used);
            return false;
        }
        let at_work = used.saturating_sub(self.at_look) >= AT_WORK;
        self.at_look = used;
        at_work && used.saturating_sub(self.at_round) < self.most
    }
}

/// The processor time of one thread, as others see it.
#[derive(Debug)]
pub(super) struct ThreadTime(PathBuf);

impl ThreadTime {
    pub(super) fn of_this_thread() -> Self {
        ThreadTime(PathBuf::from(format!("/proc/self/task/{}/stat", gettid())))
    }

    /// Nothing where the thread is gone.
    pub(super) fn used(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(&self.0).ok()?;
        // utime and stime (proc_pid_stat(5)). The name before may hold anything, also a bracket.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u32>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
        Some(TICK.saturating_mul(ticks))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn who_computes_gets_on_and_who_stands_or_never_ends_does_not() {
        let mut busy = Busy::new(MS(1000));
        assert!(!busy.gets_on(1, MS(5000)), "it came round itself");
        assert!(busy.gets_on(1, MS(5020)), "little is enough, on a box with much else to do");
        assert!(busy.gets_on(1, MS(5900)));
        assert!(!busy.gets_on(1, MS(5910)), "it stands");
        assert!(busy.gets_on(1, MS(5990)));
        assert!(!busy.gets_on(1, MS(6100)), "it computes without end");
        assert!(!busy.gets_on(2, MS(6200)));
        assert!(busy.gets_on(2, MS(6300)), "the next piece of work has as much");
    }

    #[test]
    fn a_threads_time_grows_with_its_own_work_alone() {
        let (here, there) = (ThreadTime::of_this_thread(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            there.0.send(ThreadTime::of_this_thread()).unwrap();
            std::thread::park();
        });
        let other = there.1.recv().unwrap();
        let (begin, before) = (Instant::now(), here.used().unwrap());
        while here.used().unwrap() < before + MS(100) {
            assert!(begin.elapsed() < Duration::from_secs(60));
        }
        assert!(other.used().unwrap() < MS(50));
    }
}
