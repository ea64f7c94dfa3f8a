use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE};
use kube::Client;
use kube::client::Body;
use serde_json::Value;

use crate::cluster::{self, RequestError};
use crate::error_chain;

/// Longest wait for one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// An answer of the API server.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// `Null` when it is no JSON.
    pub(super) body: Value,
    pub(super) took: Duration,
}

impl Reply {
    /// The server's own words for a refusal.
    pub(super) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or("without a reason")
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: TroubleKind,
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TroubleKind {
    Timeout,
    ConnectionRefused,
    Unreachable,
    Tls,
    /// No credential to send: a token file or an exec plugin.
    Credential,
    Other,
}

pub(super) type Asked = Result<Reply, Trouble>;

pub(super) async fn get(client: &Client, path: &str) -> Asked {
    get_as(client, path, "application/json").await
}

pub(super) async fn get_as(client: &Client, path: &str, accept: &str) -> Asked {
    send(client, Request::get(path).header(ACCEPT, accept).body(Body::empty())).await
}

pub(super) async fn post(client: &Client, path: &str, body: &Value) -> Asked {
    let body = Body::from(body.to_string().into_bytes());
    send(client, Request::post(path).header(CONTENT_TYPE, "application/json").body(body)).await
}

async fn send(client: &Client, request: Result<Request<Body>, http::Error>) -> Asked {
    let request = request.map_err(|e| trouble(&e))?;
    let begin = Instant::now();
    let exchange = async {
        let answer = client.send(request).await?;
        let (took, code) = (begin.elapsed(), answer.status().as_u16());
        let bytes = answer.into_body().collect_bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok::<_, kube::Error>(Reply { code, body, took })
    };
    cluster::within(PATIENCE, exchange).await.map_err(|e| match e {
        RequestError::Silent(_) => Trouble { kind: TroubleKind::Timeout, text: e.to_string() },
        RequestError::Kube(e @ kube::Error::Auth(_)) => {
            Trouble { kind: TroubleKind::Credential, text: error_chain(&e) }
        }
        RequestError::Kube(e) => trouble(&e),
    })
}

fn trouble(error: &(dyn Error + 'static)) -> Trouble {
    let mut kind = TroubleKind::Other;
    let mut deepest = error.to_string();
    let mut next = Some(error);
    while let Some(e) = next {
        deepest = e.to_string();
        if let Some(found) = e.downcast_ref::<io::Error>().and_then(of_io) {
            kind = found;
        }
        next = e.source();
    }
    Trouble { kind, text: deepest }
}

/// Errors of the connection stand in one another; the innermost says what happened.
fn of_io(error: &io::Error) -> Option<TroubleKind> {
    if let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<io::Error>()) {
        return of_io(inner);
    }
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => TroubleKind::ConnectionRefused,
        io::ErrorKind::TimedOut => TroubleKind::Timeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => TroubleKind::Unreachable,
        // What rustls makes of a certificate that it does not trust, or of a server that speaks no TLS.
        io::ErrorKind::InvalidData => TroubleKind::Tls,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn trouble_is_told_by_the_innermost_error() {
        let of = |e: io::Error| trouble(&Outer(e)).kind;
        assert_eq!(of(io::ErrorKind::ConnectionRefused.into()), TroubleKind::ConnectionRefused);
        assert_eq!(of(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, "bad"))), TroubleKind::Tls);
        assert_eq!(of(io::ErrorKind::TimedOut.into()), TroubleKind::Timeout);
        assert_eq!(trouble(&Outer(io::Error::other("no such name"))).text, "no such name");
    }
}
