use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer of a program on this box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The first line.
    pub(super) status: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn is_ok(&self) -> bool {
        self.status.split(' ').nth(1) == Some("200")
    }
}

/// HTTP/1.0, so that the answer ends with the connection and is not cut into chunks.
pub(super) async fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let text = match tokio::time::timeout(patience, exchange).await {
        Ok(answer) => answer?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(Answer { status: head.lines().next().unwrap_or_default().to_owned(), body: body.to_owned() })
}
