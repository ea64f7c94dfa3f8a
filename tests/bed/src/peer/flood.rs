use std::fs;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Proto, Request};

/// Under 300 flows a second, so that a client's ephemeral ports last while old connections wait in TIME_WAIT.
const PAUSE: Duration = Duration::from_millis(4);

/// Long: who waits only waits for a slow machine. A datagram is sent once; a SYN that was lost is sent again, and counted by the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

/// New flows, one after the other; each must be answered at its first packet.
pub struct Flood {
    stop: Arc<AtomicBool>,
    flows: Arc<AtomicU64>,
    worker: JoinHandle<FloodReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloodReport {
    pub flows: u64,
    /// Flows without an answer, and SYNs that the namespace had to send again meanwhile.
    pub lost: u64,
    /// What happened to those without an answer, the first ten.
    pub failures: Vec<String>,
}

impl Flood {
    /// Starts in the namespace of the calling thread (a new thread stays in its parent's).
    pub fn start(proto: Proto, to: SocketAddrV4) -> Flood {
        let (stop, flows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (halt, count) = (Arc::clone(&stop), Arc::clone(&flows));
        let worker = thread::spawn(move || {
            let mut report = FloodReport::default();
            let before = syn_retransmissions();
            while !halt.load(Ordering::Relaxed) {
                report.flows += 1;
                if let Err(failure) = (Request { timeout: PATIENCE, ..Request::new(proto, to) }).send() {
                    report.lost += 1;
                    if report.failures.len() < 10 {
                        report.failures.push(format!("flow {}: {failure}", report.flows));
                    }
                }
                count.store(report.flows, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            let again = syn_retransmissions() - before;
            if proto == Proto::Tcp && again > 0 {
                report.lost += again;
                report.failures.push(format!("{again} SYNs were sent again"));
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

/// TcpExt TCPSynRetrans of the calling thread's namespace.
fn syn_retransmissions() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("the kernel counts");
    let mut lines = text.lines().filter(|l| l.starts_with("TcpExt:")).map(str::split_whitespace);
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { panic!("no TcpExt counters:\n{text}") };
    let found = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans");
    found.and_then(|(_, value)| value.parse().ok()).expect("TCPSynRetrans is among the counters")
}
