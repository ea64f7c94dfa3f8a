use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Answer, Failure, Pattern, connect};

/// A round without its echo for so long is a broken stream. Long: TCP sends again after twice the time each time, so that a stream is
/// silent once more for as long as its path was away, on a busy machine for some seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// The same for a stream of which nothing more is expected.
const SILENCE_AT_THE_END: Duration = Duration::from_secs(5);
/// So often a silent stream looks how long it may be silent.
const TICK: Duration = Duration::from_millis(200);
const ROUND: usize = 256;
const PAUSE: Duration = Duration::from_millis(1);

/// A TCP connection that stays open: sends rounds of bytes and checks every byte of the echo.
pub struct Stream {
    pub answer: Answer,
    stop: Arc<AtomicBool>,
    ending: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    broken: Arc<OnceLock<String>>,
    worker: JoinHandle<Duration>,
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
        Self::open_with(to, SILENCE, PAUSE)
    }

    /// As [`Self::open`], for a path that may be away: the connection counts as cut after this much silence. TCP sends again after twice
    /// the time each time, so it may be silent once more for as long as the path was away. `pause` is what it waits between two rounds.
    pub fn open_with(to: SocketAddrV4, silence: Duration, pause: Duration) -> Result<Stream, Failure> {
        let mut connection = connect(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), to, silence)?;
        connection.set_read_timeout(Some(silence))?;
        // Rounds are far smaller than what a socket takes at once.
        connection.set_write_timeout(Some(silence))?;
        let mut greeting = String::new();
        // Nothing follows the greeting until we ask, so the reader's buffer holds no more than it.
        BufReader::new(&connection).read_line(&mut greeting)?;
        let answer = greeting.parse().map_err(Failure::Broken)?;
        connection.write_all(b"echo\n")?;
        connection.set_read_timeout(Some(TICK))?;
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ending, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let (halt, count, wound) = (Arc::clone(&stop), Arc::clone(&bytes), Arc::clone(&broken));
        let end = Arc::clone(&ending);
        let worker = thread::spawn(move || {
            let mut longest_gap = Duration::ZERO;
            let (mut sent, mut received) = (Pattern::default(), Pattern::default());
            while !halt.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let may_wait = || {
                    let limit = if end.load(Ordering::Relaxed) { silence.min(SILENCE_AT_THE_END) } else { silence };
                    begin.elapsed() < limit
                };
                if let Err(e) = round(&mut connection, &mut sent, &mut received, may_wait) {
                    wound.get_or_init(|| e.to_string());
                    break;
                }
                longest_gap = longest_gap.max(begin.elapsed());
                count.store(received.offset(), Ordering::Relaxed);
                thread::sleep(pause);
            }
            longest_gap
        });
        Ok(Stream { answer, stop, ending, bytes, broken, worker })
    }

    /// Bytes echoed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What cut the connection, if something did.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// It may be cut from now on: some seconds of silence are taken for that.
    pub fn expect_end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub fn stop(self) -> StreamReport {
        self.expect_end();
        self.stop.store(true, Ordering::Relaxed);
        let longest_gap = self.worker.join().expect("a stream's thread does not panic");
        let broken = self.broken.get().cloned();
        StreamReport { bytes: self.bytes.load(Ordering::Relaxed), longest_gap, broken }
    }
}

fn round(
    connection: &mut (impl Read + Write),
    sent: &mut Pattern,
    received: &mut Pattern,
    may_wait: impl Fn() -> bool,
) -> io::Result<()> {
    let mut buffer = [0; ROUND];
    sent.fill(&mut buffer);
    connection.write_all(&buffer)?;
    let mut filled = 0;
    while filled < ROUND {
        match connection.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && may_wait() => {}
            Err(e) => return Err(e),
        }
    }
    received.check(&buffer).map_err(io::Error::other)
}
