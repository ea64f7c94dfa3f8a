use std::time::{Duration, Instant, SystemTime};

use super::Report;
use crate::sources::SourceState;

/// Answer of a health or readiness question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub ok: bool,
    /// Plain text; the first line is the answer, the others explain.
    pub body: String,
}

/// Wall-clock time to the second; `None` for a clock before 1970 or after the year 9999.
pub(super) fn timestamp(time: SystemTime) -> Option<jiff::Timestamp> {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    jiff::Timestamp::from_second(i64::try_from(since_epoch.as_secs()).ok()?).ok()
}

/// RFC 3339 in UTC.
pub(super) fn rfc3339(time: SystemTime) -> String {
    timestamp(time).map_or_else(|| "unknown".to_owned(), |t| t.to_string())
}

/// Fails only when the loop is stuck (no heartbeat for `stuck_after`) or passes fail. A source that is away is told, and no failure: the
/// last known state stays in force.
pub fn health(report: &Report, now: Instant, stuck_after: Duration) -> Health {
    let silent = now.saturating_duration_since(report.heartbeat);
    let last = match report.last_pass {
        Some(pass) => rfc3339(pass.at),
        None => format!("no pass yet, started {}", rfc3339(report.started)),
    };
    let stuck = silent > stuck_after;
    let ok = !stuck && report.failure.is_none();
    let mut body = format!("{} {last}\n", if ok { "OK" } else { "FAIL" });
    if stuck {
        body += &format!(
            "loop: no sign of life for {} s (limit {} s); the dataplane stays as it is; restart the service and look at its log\n",
            silent.as_secs(),
            stuck_after.as_secs()
        );
    }
    if let Some(f) = &report.failure {
        body += &format!(
            "apply: failing since {} ({}), what worked before stays in force; {}: {}\n",
            rfc3339(f.since),
            if f.attempts == 1 { "once".to_owned() } else { format!("{} times", f.attempts) },
            f.command,
            f.message.trim_end()
        );
    }
    for (name, source) in &report.sources {
        let since = rfc3339(source.since);
        match &source.state {
            SourceState::Current => {}
            SourceState::Syncing => {
                body += &format!("source {name}: waiting for its first complete state since {since}\n")
            }
            SourceState::Away { reason } => {
                body += &format!("source {name}: away since {since}, going on with what is known: {reason}\n");
            }
        }
    }
    if let Some(credential) = report.credential.as_ref().filter(|_| report.credential_expired) {
        let expires = credential.expires.map(|e| e.to_string()).unwrap_or_default();
        body +=
            &format!("credential: {} expired at {expires}; {}\n", credential.kind.as_str(), credential.kind.remedy());
    }
    Health { ok, body }
}

/// Whether the first full apply was done.
pub fn readiness(report: &Report) -> Health {
    if report.ready {
        return Health { ok: true, body: "OK\n".to_owned() };
    }
    let mut waiting: Vec<String> = report
        .sources
        .iter()
        .filter(|(_, s)| s.state != SourceState::Current)
        .map(|(name, s)| match &s.state {
            SourceState::Away { reason } => format!("source {name} ({reason})"),
            _ => format!("source {name}"),
        })
        .collect();
    if let Some(f) = &report.failure {
        waiting.push(format!("an apply that works ({}: {})", f.command, f.message.trim_end()));
    }
    if waiting.is_empty() {
        waiting.push("the first full apply".to_owned());
    }
    let border = if report.border_closed { "closed" } else { "not closed yet" };
    Health { ok: false, body: format!("NOT READY, the border is {border}; waiting for {}\n", waiting.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::super::PassReport;
    use super::*;
    use crate::cluster::credential::{Credential, CredentialKind};

    const LIMIT: Duration = Duration::from_secs(180);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    fn running() -> Report {
        let mut r = Report::new(at(0));
        r.source_state("host", SourceState::Current, at(0));
        r.pass_ok(PassReport { full: true, ..PassReport::default() }, at(20));
        r
    }

    #[test]
    fn the_body_begins_with_ok_and_the_time_of_the_last_good_pass() {
        let h = health(&running(), Instant::now(), LIMIT);
        assert_eq!(h, Health { ok: true, body: "OK 2023-11-14T22:13:40Z\n".into() });
    }

    #[test]
    fn a_source_that_is_away_is_told_but_no_failure() {
        let mut r = running();
        r.source_state("manifests", SourceState::Away { reason: "a.yaml:3: bad indentation".into() }, at(30));
        let h = health(&r, Instant::now(), LIMIT);
        assert!(h.ok);
        assert_eq!(
            h.body.lines().nth(1).unwrap(),
            "source manifests: away since 2023-11-14T22:13:50Z, going on with what is known: a.yaml:3: bad indentation"
        );
    }

    #[test]
    fn an_expired_credential_is_told_with_its_remedy() {
        let mut r = running();
        let expires = jiff::Timestamp::from_second(1_700_000_000).ok();
        r.credential = Some(Credential { kind: CredentialKind::Token, begins: None, expires });
        assert!(!health(&r, Instant::now(), LIMIT).body.contains("credential"));
        r.credential_expired = true;
        let h = health(&r, Instant::now(), LIMIT);
        assert!(h.ok && h.body.contains("credential: token expired at 2023-11-14T22:13:20Z; make a new"), "{}", h.body);
    }

    #[test]
    fn a_failing_apply_is_a_failure_with_command_and_stderr_until_it_works_again() {
        let mut r = running();
        r.pass_failed("iptables-restore --noflush", "line 3 failed\n", 1, at(40));
        let h = health(&r, Instant::now(), LIMIT);
        assert!(!h.ok);
        assert!(h.body.starts_with("FAIL 2023-11-14T22:13:40Z\n"), "{}", h.body);
        assert!(h.body.contains("since 2023-11-14T22:14:00Z (once)"), "{}", h.body);
        assert!(h.body.contains("iptables-restore --noflush: line 3 failed\n"), "{}", h.body);
        r.pass_ok(PassReport::default(), at(50));
        assert!(health(&r, Instant::now(), LIMIT).ok);
    }

    #[test]
    fn a_silent_loop_is_a_failure_past_the_limit_only() {
        let mut r = running();
        assert!(health(&r, r.heartbeat + LIMIT, LIMIT).ok);
        let h = health(&r, r.heartbeat + LIMIT + Duration::from_secs(1), LIMIT);
        assert!(!h.ok && h.body.contains("loop: no sign of life for 181 s (limit 180 s)"), "{}", h.body);
        r.beat();
        assert!(health(&r, r.heartbeat + LIMIT, LIMIT).ok);
    }

    #[test]
    fn before_the_first_pass_it_is_healthy_but_not_ready() {
        let mut r = Report::new(at(0));
        r.source_state("manifests", SourceState::Syncing, at(0));
        let h = health(&r, Instant::now(), LIMIT);
        assert!(h.ok && h.body.starts_with("OK no pass yet, started 2023-11-14T22:13:20Z\n"), "{}", h.body);
        let ready = readiness(&r);
        assert!(!ready.ok);
        assert_eq!(ready.body, "NOT READY, the border is not closed yet; waiting for source manifests\n");
    }

    #[test]
    fn readiness_comes_with_the_first_full_apply_and_stays() {
        let mut r = Report::new(at(0));
        r.pass_ok(PassReport::default(), at(1));
        assert!(!readiness(&r).ok);
        r.pass_ok(PassReport { full: true, ..PassReport::default() }, at(2));
        r.pass_failed("x", "y", 0, at(3));
        assert!(readiness(&r).ok);
    }
}
