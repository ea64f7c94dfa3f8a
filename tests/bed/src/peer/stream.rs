use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Answer, Failure, Pattern, connect};

/// A round without its echo for so long is a broken stream.
const SILENCE: Duration = Duration::from_secs(5);
const ROUND: usize = 256;
const PAUSE: Duration = Duration::from_millis(1);

/// A TCP connection that stays open: sends rounds of bytes and checks every byte of the echo.
pub struct Stream {
    pub answer: Answer,
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    worker: JoinHandle<StreamReport>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    /// Bytes that came back, in order and unchanged.
    pub bytes: u64,
    pub longest_gap: Duration,
    /// What ended it before it was told to stop.
    pub broken: Option<String>,
}

impl Stream {
    /// Connects in the namespace of the calling thread.
    pub fn open(to: SocketAddrV4) -> Result<Stream, Failure> {
        let mut connection = connect(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), to, SILENCE)?;
        connection.set_read_timeout(Some(SILENCE))?;
        connection.set_write_timeout(Some(SILENCE))?;
        let mut greeting = String::new();
        // Nothing follows the greeting until we ask, so the reader's buffer holds no more than it.
        BufReader::new(&connection).read_line(&mut greeting)?;
        let answer = greeting.parse().map_err(Failure::Broken)?;
        connection.write_all(b"echo\n")?;
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (halt, count) = (Arc::clone(&stop), Arc::clone(&bytes));
        let worker = thread::spawn(move || {
            let mut longest_gap = Duration::ZERO;
            let mut broken = None;
            let (mut sent, mut received) = (Pattern::default(), Pattern::default());
            while !halt.load(Ordering::Relaxed) {
                let begin = Instant::now();
                if let Err(e) = round(&mut connection, &mut sent, &mut received) {
                    broken = Some(e.to_string());
                    break;
                }
                longest_gap = longest_gap.max(begin.elapsed());
                count.store(received.offset(), Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            StreamReport { bytes: count.load(Ordering::Relaxed), longest_gap, broken }
        });
        Ok(Stream { answer, stop, bytes, worker })
    }

    /// Bytes echoed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the connection has been cut.
    pub fn is_broken(&self) -> bool {
        self.worker.is_finished()
    }

    pub fn stop(self) -> StreamReport {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("a stream's thread does not panic")
    }
}

fn round(connection: &mut (impl Read + Write), sent: &mut Pattern, received: &mut Pattern) -> io::Result<()> {
    let mut buffer = [0; ROUND];
    sent.fill(&mut buffer);
    connection.write_all(&buffer)?;
    connection.read_exact(&mut buffer)?;
    received.check(&buffer).map_err(io::Error::other)
}
