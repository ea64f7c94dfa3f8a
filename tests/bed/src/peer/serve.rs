use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Answer, Pattern};

/// How often a blocked thread looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);

/// A pod: answers every TCP connection and UDP datagram with one line that says who it is and whom it saw.
///
/// A TCP client may go on with a line of its own: `echo` gets every further byte back, `count` is told, once it has closed its side,
/// how many bytes of the [`Pattern`] came in order (`BYTES ok`, or `BYTES` and what was wrong).
pub struct Server {
    name: String,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Server {
    /// Binds in the namespace of the calling thread.
    pub fn bind(name: &str, tcp: &[SocketAddr], udp: &[SocketAddr]) -> io::Result<Self> {
        let named = |what: &str, at: &SocketAddr, e: io::Error| io::Error::new(e.kind(), format!("{what} {at}: {e}"));
        Ok(Server {
            name: name.to_owned(),
            tcp: tcp.iter().map(|a| TcpListener::bind(a).map_err(|e| named("tcp", a, e))).collect::<Result<_, _>>()?,
            udp: udp.iter().map(|a| UdpSocket::bind(a).map_err(|e| named("udp", a, e))).collect::<Result<_, _>>()?,
        })
    }

    /// Serves until `stop` is set.
    pub fn run(self, stop: &Arc<AtomicBool>) -> io::Result<()> {
        let name = &self.name;
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for listener in &self.tcp {
                workers.push(scope.spawn(move || accept(name, listener, stop)));
            }
            for socket in &self.udp {
                workers.push(scope.spawn(move || answer_datagrams(name, socket, stop)));
            }
            workers.into_iter().try_for_each(|w| w.join().expect("a server thread does not panic"))
        })
    }
}

fn accept(name: &str, listener: &TcpListener, stop: &Arc<AtomicBool>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        let timeout = PollTimeout::try_from(TICK).expect("a tick fits");
        poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout)?;
        // An error here is a client that went away between SYN and accept.
        if let Ok((connection, _)) = listener.accept() {
            let (name, stop) = (name.to_owned(), Arc::clone(stop));
            // A client that breaks off is its own affair.
            thread::spawn(move || _ = converse(&name, connection, &stop));
        }
    }
    Ok(())
}

fn answer_datagrams(name: &str, socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(TICK))?;
    let at = socket.local_addr()?;
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        // Errors are timeouts, and port-unreachables from clients that are gone.
        if let Ok((_, saw)) = socket.recv_from(&mut buffer) {
            let line = format!("{}\n", Answer { name: name.to_owned(), saw, at });
            _ = socket.send_to(line.as_bytes(), saw);
        }
    }
    Ok(())
}

fn converse(name: &str, mut connection: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(TICK))?;
    let answer = Answer { name: name.to_owned(), saw: connection.peer_addr()?, at: connection.local_addr()? };
    connection.write_all(format!("{answer}\n").as_bytes())?;
    let mut buffer = vec![0; 64 * 1024];
    let mut read = |connection: &mut TcpStream, limit: usize| loop {
        match connection.read(&mut buffer[..limit]) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(Vec::new());
                }
            }
            other => return other.map(|n| buffer[..n].to_vec()),
        }
    };
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        match read(&mut connection, 1)?.as_slice() {
            [] => return Ok(()),
            byte => line.extend_from_slice(byte),
        }
    }
    match line.as_slice() {
        b"echo\n" => loop {
            let bytes = read(&mut connection, 64 * 1024)?;
            if bytes.is_empty() {
                return Ok(());
            }
            connection.write_all(&bytes)?;
        },
        b"count\n" => {
            let mut pattern = Pattern::default();
            let mut verdict = "ok".to_owned();
            let mut total = 0;
            loop {
                let bytes = read(&mut connection, 64 * 1024)?;
                if bytes.is_empty() {
                    return connection.write_all(format!("{total} {verdict}\n").as_bytes());
                }
                total += bytes.len();
                if verdict == "ok"
                    && let Err(wrong) = pattern.check(&bytes)
                {
                    verdict = wrong;
                }
            }
        }
        _ => Ok(()),
    }
}
