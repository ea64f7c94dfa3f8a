use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::status_text::StatusText;
use super::{Health, Report, health, readiness, render_metrics};
use crate::apply::conntrack::{self, ConntrackCounts};
use crate::settings::MonitorAddress;

/// The endpoints' address cannot be used (yet).
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for /healthcheck and /metrics: {source}; set SNCTRLR_MONITOR_IP to an address of this box and \
     SNCTRLR_MONITOR_PORT to a free port"
)]
pub struct HttpError {
    pub address: MonitorAddress,
    pub source: io::Error,
}

/// What the endpoints answer from.
#[derive(Debug, Clone)]
pub struct Monitor {
    pub report: watch::Receiver<Report>,
    /// Name of this instance, as it stands in `instances[]`.
    pub instance: Arc<str>,
    /// Without a heartbeat for so long the loop counts as stuck.
    pub stuck_after: Duration,
}

/// The counts of this network namespace's connection tracking; `None` when the kernel does not tell.
async fn read_conntrack() -> Option<ConntrackCounts> {
    match conntrack::counts().await {
        Ok(counts) => Some(counts),
        Err(error) => {
            tracing::debug!(error = &error as &(dyn std::error::Error + 'static), "metrics go without conntrack");
            None
        }
    }
}

/// `/healthcheck`, `/readyz`, `/metrics`, `/status`.
pub fn router(monitor: Monitor) -> Router {
    Router::new()
        .route("/healthcheck", get(healthcheck))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(monitor)
}

/// Serves the endpoints until it is dropped. An address that cannot be used is warned about and tried again: monitoring never stops
/// forwarding, and at boot the address may come later than the daemon.
pub async fn serve(address: MonitorAddress, monitor: Monitor) {
    let mut wait = Duration::from_secs(1);
    let mut told = None;
    let listeners = loop {
        match bind(address).await {
            Ok(listeners) => break listeners,
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!("{text}; trying again until it works");
                    told = Some(text);
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        }
    };
    tracing::info!(address = %address, "health, metrics and status are served over HTTP");
    let app = router(monitor);
    // axum::serve returns only when it is told to.
    futures::future::join_all(listeners.into_iter().map(|l| {
        let app = app.clone();
        async move {
            if let Err(error) = axum::serve(l, app).await {
                tracing::warn!(%error, "the HTTP server ended");
            }
        }
    }))
    .await;
}

/// The listening sockets: one for an address, one or two for all of them.
async fn bind(address: MonitorAddress) -> Result<Vec<TcpListener>, HttpError> {
    let failed = |source| HttpError { address, source };
    let listen = |ip: IpAddr| TcpListener::bind(SocketAddr::new(ip, address.port));
    if let Some(ip) = address.ip {
        return Ok(vec![listen(ip).await.map_err(failed)?]);
    }
    // [::] takes IPv4 too, unless net.ipv6.bindv6only says otherwise; there is no [::] where IPv6 is switched off.
    match listen(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).await {
        Ok(v6) => match listen(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).await {
            Ok(v4) => Ok(vec![v6, v4]),
            Err(_) => Ok(vec![v6]),
        },
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(failed(error)),
        Err(_) => Ok(vec![listen(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).await.map_err(failed)?]),
    }
}

fn plain(answer: Health) -> Response {
    let code = if answer.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [(header::CACHE_CONTROL, "no-store")], answer.body).into_response()
}

async fn healthcheck(State(m): State<Monitor>) -> Response {
    let answer = health(&m.report.borrow(), Instant::now(), m.stuck_after);
    plain(answer)
}

async fn readyz(State(m): State<Monitor>) -> Response {
    let answer = readiness(&m.report.borrow());
    plain(answer)
}

async fn metrics(State(m): State<Monitor>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let report = m.report.borrow().clone();
    match render_metrics(&report, read_conntrack().await, accept.contains("application/openmetrics-text")) {
        Ok((media, text)) => ([(header::CONTENT_TYPE, media)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")).into_response()
        }
    }
}

async fn status(State(m): State<Monitor>) -> Response {
    let report = m.report.borrow().clone();
    let text = futures::stream::iter(StatusText::new(report, m.instance));
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(text)).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::PassReport;
    use super::*;

    fn monitor() -> (watch::Sender<Report>, Monitor) {
        let (sender, report) = watch::channel(Report::new(SystemTime::now()));
        let monitor = Monitor { report, instance: "border-1".into(), stuck_after: Duration::from_secs(180) };
        (sender, monitor)
    }

    /// Status code and whole answer.
    async fn fetch(address: SocketAddr, path: &str, accept: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let code = answer.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a status line");
        Ok((code, answer))
    }

    async fn started(monitor: Monitor) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router(monitor)).await });
        address
    }

    #[tokio::test]
    async fn the_endpoints_follow_the_report() {
        let (sender, monitor) = monitor();
        let address = started(monitor).await;
        assert_eq!(fetch(address, "/healthcheck", "*/*").await.unwrap().0, 200);
        assert_eq!(fetch(address, "/readyz", "*/*").await.unwrap().0, 503);

        sender.send_modify(|r| r.pass_ok(PassReport { full: true, ..PassReport::default() }, SystemTime::now()));
        assert_eq!(fetch(address, "/readyz", "*/*").await.unwrap().0, 200);
        let (code, body) = fetch(address, "/healthcheck", "*/*").await.unwrap();
        assert_eq!(code, 200);
        assert!(body.contains("\r\n\r\nOK 20"), "{body}");

        sender.send_modify(|r| r.pass_failed("ipset restore", "boom", 1, SystemTime::now()));
        let (code, body) = fetch(address, "/healthcheck", "*/*").await.unwrap();
        assert_eq!(code, 503);
        assert!(body.contains("ipset restore: boom"), "{body}");
        assert_eq!(fetch(address, "/readyz", "*/*").await.unwrap().0, 200);
        assert_eq!(fetch(address, "/nothing", "*/*").await.unwrap().0, 404);
    }

    #[tokio::test]
    async fn metrics_speak_the_format_that_was_asked_for_and_status_is_json() {
        let (_sender, monitor) = monitor();
        let address = started(monitor).await;
        let (code, body) = fetch(address, "/metrics", "*/*").await.unwrap();
        assert_eq!(code, 200);
        assert!(body.contains("content-type: text/plain; version=0.0.4"), "{body}");
        assert!(body.contains("# TYPE smartnat_passes_total counter"), "{body}");
        let (_, body) = fetch(address, "/metrics", "application/openmetrics-text;version=1.0.0").await.unwrap();
        assert!(body.contains("# TYPE smartnat_passes counter"), "{body}");

        let (code, body) = fetch(address, "/status", "*/*").await.unwrap();
        assert_eq!(code, 200);
        let document: serde_json::Value = serde_json::from_str(body.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(document["instance"], "border-1");
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_its_settings_and_tried_again() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let wanted = MonitorAddress { ip: Some(address.ip()), port: address.port() };
        let error = bind(wanted).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("SNCTRLR_MONITOR_IP"), "{error}");
        assert!(error.contains("SNCTRLR_MONITOR_PORT"), "{error}");

        let (_sender, monitor) = monitor();
        let server = tokio::spawn(serve(wanted, monitor));
        drop(taken);
        let answer = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Ok((code, _)) = fetch(address, "/healthcheck", "*/*").await {
                    break code;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert_eq!(answer.await.expect("served once the port is free"), 200);
        server.abort();
    }

    #[tokio::test]
    async fn all_addresses_are_served_in_both_families() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (_sender, monitor) = monitor();
        let listeners = bind(MonitorAddress { ip: None, port: free }).await.unwrap();
        for listener in listeners {
            let app = router(monitor.clone());
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, free));
        assert_eq!(fetch(v4, "/healthcheck", "*/*").await.unwrap().0, 200);
    }
}
