use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Proto, Request};

/// Under 300 flows a second, so that a client's ephemeral ports last while old connections wait in TIME_WAIT.
const PAUSE: Duration = Duration::from_millis(4);

/// A datagram is sent once: who waits long only waits for a slow machine. A SYN is sent again after a second, which would hide its loss.
fn patience(proto: Proto) -> Duration {
    match proto {
        Proto::Tcp => Duration::from_millis(900),
        Proto::Udp => Duration::from_secs(3),
    }
}

/// New flows, one after the other; each must be answered at its first packet.
pub struct Flood {
    stop: Arc<AtomicBool>,
    flows: Arc<AtomicU64>,
    worker: JoinHandle<FloodReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloodReport {
    pub flows: u64,
    pub lost: u64,
    /// What happened to the lost ones, the first ten.
    pub failures: Vec<String>,
}

impl Flood {
    /// Starts in the namespace of the calling thread (a new thread stays in its parent's).
    pub fn start(proto: Proto, to: SocketAddrV4) -> Flood {
        let (stop, flows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (halt, count) = (Arc::clone(&stop), Arc::clone(&flows));
        let worker = thread::spawn(move || {
            let mut report = FloodReport::default();
            while !halt.load(Ordering::Relaxed) {
                report.flows += 1;
                if let Err(failure) = (Request { timeout: patience(proto), ..Request::new(proto, to) }).send() {
                    report.lost += 1;
                    if report.failures.len() < 10 {
                        report.failures.push(format!("flow {}: {failure}", report.flows));
                    }
                }
                count.store(report.flows, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            report
        });
        Flood { stop, flows, worker }
    }

    /// Flows tried so far.
    pub fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> FloodReport {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("a flood's thread does not panic")
    }
}
