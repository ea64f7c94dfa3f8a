//! The API server's clock, which stamps creation and deletion of objects.

use std::time::Duration;

use http::header::DATE;
use http::{HeaderMap, Request};
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;

use super::{RequestError, within};

const PATIENCE: Duration = Duration::from_secs(10);
/// Everybody may read it, and the answer has its date also when somebody may not.
const PATH: &str = "/version";

#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    #[error("the API server was asked for its time")]
    Request(#[from] RequestError),
    #[error("the API server answered without a readable Date header")]
    NoDate,
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// To the second.
    pub server: Timestamp,
    /// In the middle between question and answer.
    pub ours: Timestamp,
    /// How long the answer took.
    pub took: SignedDuration,
}

impl Clocks {
    /// How much the server's clock is ahead of ours (behind: negative), by what is certain: the date is cut to a second and the answer took its
    /// time.
    pub fn skew(&self) -> SignedDuration {
        // The date's second begins at `server`, so the truth is between this and a second more.
        let apart = self.server.duration_since(self.ours) + SignedDuration::from_millis(500);
        let slack = SignedDuration::from_millis(500) + self.took / 2;
        if apart.abs() <= slack { SignedDuration::ZERO } else { apart - slack * apart.signum().into() }
    }
}

/// What time it is for the API server.
pub async fn server_now(client: &Client) -> Result<Timestamp, ClockError> {
    Ok(compare(client).await?.server)
}

/// Asks for the server's time, and compares.
pub async fn compare(client: &Client) -> Result<Clocks, ClockError> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static(PATH);
    let begun = Timestamp::now();
    let answer = within(PATIENCE, client.send(request)).await?;
    let took = Timestamp::now().duration_since(begun);
    let server = date(answer.headers()).ok_or(ClockError::NoDate)?;
    Ok(Clocks { server, ours: begun + took / 2, took })
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    PARSER.parse_timestamp(headers.get(DATE)?.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_http() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(DATE, "Mon, 23 Nov 2026 22:16:08 GMT".parse().unwrap());
        assert_eq!(date(&headers).unwrap().to_string(), "2026-11-23T22:16:08Z");
    }

    #[test]
    fn a_difference_that_a_cut_second_or_the_way_explains_is_no_skew() {
        let clocks = |server_ms: i64, took_ms: i64| Clocks {
            server: Timestamp::from_millisecond(server_ms).unwrap(),
            ours: Timestamp::from_millisecond(100_000).unwrap(),
            took: SignedDuration::from_millis(took_ms),
        };
        for (server, took, skew) in [
            (100_000, 0, 0),
            (99_001, 0, 0),
            (98_000, 4_000, 0),
            (130_000, 0, 30_000),
            (69_000, 0, -30_000),
            (130_000, 2_000, 29_000),
        ] {
            assert_eq!(clocks(server, took).skew(), SignedDuration::from_millis(skew), "{server} {took}");
        }
    }
}
