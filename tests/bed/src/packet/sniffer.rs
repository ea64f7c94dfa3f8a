use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Seen, Wire};
use crate::{Namespace, eventually};

const TICK: Duration = Duration::from_millis(50);

/// Keeps everything that passes one interface, both directions, from its start until it is dropped.
pub struct Sniffer {
    place: String,
    frames: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Starts on an interface of a namespace; nothing that passes after the return is missed.
    #[track_caller]
    pub fn start(namespace: &Namespace, interface: &str) -> Sniffer {
        let place = format!("{interface} of {}", namespace.name());
        let wire = namespace.within(|| Wire::open(interface)).unwrap_or_else(|e| panic!("cannot sniff {place}: {e}"));
        let (frames, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, halt) = (Arc::clone(&frames), Arc::clone(&stop));
        let worker = thread::spawn(move || {
            while !halt.load(Ordering::Relaxed) {
                match wire.receive(TICK) {
                    Ok(Some(seen)) => lock(&kept).push(seen),
                    Ok(None) => {}
                    // ENETDOWN and ENXIO while an interface is taken away: there is nothing more to see.
                    Err(_) => return,
                }
            }
        });
        Sniffer { place, frames, stop, worker: Some(worker) }
    }

    /// What matched so far.
    pub fn seen(&self, matches: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        lock(&self.frames).iter().filter(|s| matches(s)).cloned().collect()
    }

    /// Waits for the first match.
    #[track_caller]
    pub fn await_seen(&self, what: &str, matches: impl Fn(&Seen) -> bool) -> Seen {
        eventually(&format!("{what} on {}", self.place), || lock(&self.frames).iter().find(|s| matches(s)).cloned())
    }

    /// Forgets what it has seen.
    pub fn clear(&self) {
        lock(&self.frames).clear();
    }
}

fn lock(frames: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    // A vector stays whole when a thread that held it panicked.
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            _ = worker.join();
        }
    }
}
