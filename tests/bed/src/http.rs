use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::Namespace;
use crate::peer::connect;

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub body: String,
}

/// A request for a plain HTTP server on a namespace's loopback.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub content_type: &'a str,
    pub body: &'a str,
    /// Of connecting, and of every read.
    pub timeout: Duration,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str) -> Self {
        Call { method: "GET", path, content_type: "application/json", body: "", timeout: Duration::from_secs(5) }
    }

    /// `Err` while nobody listens, or when what comes back is no HTTP.
    pub fn send(&self, namespace: &Namespace, port: u16) -> io::Result<Reply> {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let mut stream = namespace.within(|| connect(from, to, self.timeout))?;
        stream.set_read_timeout(Some(self.timeout))?;
        let Call { method, path, content_type, body, .. } = self;
        // HTTP/1.0: the answer comes in one piece and ends with the connection.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let parsed = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let code = head.split_whitespace().nth(1)?.parse().ok()?;
            Some(Reply { code, body: body.to_owned() })
        });
        parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {text}")))
    }
}
