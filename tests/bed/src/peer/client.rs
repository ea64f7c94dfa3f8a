use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use super::{Answer, Pattern, Proto};

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// TCP reset or ICMP port unreachable.
    Refused,
    /// Nothing came back.
    Timeout,
    /// ICMP host or network unreachable, or no route.
    Unreachable,
    /// Anything else, a connection cut after it stood among them.
    Broken(String),
}

impl Failure {
    /// Exit code of `peer get`.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Broken(_) => 1,
            Failure::Refused => 3,
            Failure::Timeout => 4,
            Failure::Unreachable => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("refused"),
            Failure::Timeout => f.write_str("timeout"),
            Failure::Unreachable => f.write_str("unreachable"),
            Failure::Broken(how) => write!(f, "broken: {how}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Failure::Unreachable,
            _ => Failure::Broken(e.to_string()),
        }
    }
}

/// One request to a [`super::Server`].
#[derive(Debug, Clone)]
pub struct Request {
    pub proto: Proto,
    pub to: SocketAddrV4,
    /// Local address; 0.0.0.0:0 leaves it to the kernel.
    pub from: SocketAddrV4,
    pub timeout: Duration,
}

impl Request {
    pub fn new(proto: Proto, to: SocketAddrV4) -> Self {
        Request { proto, to, from: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), timeout: Duration::from_secs(5) }
    }

    /// Makes the request in the namespace of the calling thread.
    pub fn send(&self) -> Result<Answer, Failure> {
        let line = match self.proto {
            Proto::Tcp => {
                let stream = connect(self.from, self.to, self.timeout)?;
                stream.set_read_timeout(Some(self.timeout))?;
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line)?;
                line
            }
            Proto::Udp => {
                let socket = UdpSocket::bind(self.from)?;
                socket.connect(self.to)?;
                socket.set_read_timeout(Some(self.timeout))?;
                socket.send(b"who are you?\n")?;
                let mut buffer = [0; 2048];
                let n = socket.recv(&mut buffer)?;
                String::from_utf8_lossy(&buffer[..n]).into_owned()
            }
        };
        line.parse().map_err(Failure::Broken)
    }
}

/// Opens a TCP connection from a chosen local address.
pub fn connect(from: SocketAddrV4, to: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd: OwnedFd = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    match socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => {}
        Err(e) => return Err(e.into()),
    }
    let limit = PollTimeout::try_from(timeout).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], limit)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let stream = TcpStream::from(fd);
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A large transfer towards a server that counts and checks it.
#[derive(Debug, Clone)]
pub struct Upload {
    pub to: SocketAddrV4,
    pub bytes: u64,
    /// No progress for so long ends it.
    pub timeout: Duration,
}

impl Upload {
    /// Sends everything; the server's last word is `BYTES ok`.
    pub fn send(&self) -> Result<String, Failure> {
        let mut stream = connect(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), self.to, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.write_all(b"count\n")?;
        let mut pattern = Pattern::default();
        let mut buffer = vec![0; 64 * 1024];
        while pattern.offset() < self.bytes {
            let n = (self.bytes - pattern.offset()).min(buffer.len() as u64) as usize;
            pattern.fill(&mut buffer[..n]);
            stream.write_all(&buffer[..n])?;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut told = String::new();
        stream.read_to_string(&mut told)?;
        // The greeting comes first.
        told.lines().nth(1).map(str::to_owned).ok_or_else(|| Failure::Broken(format!("no count in {told:?}")))
    }
}
