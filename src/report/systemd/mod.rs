mod busy;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sd_notify::NotifyState;

use super::Report;
use crate::model::printable;
use crate::plan::InterfaceKind;
use busy::{Busy, Rounds, ThreadTime};

/// What is told to systemd (sd_notify(3)). Without systemd nothing happens; a failure to notify is logged and no reason to stop.
#[derive(Debug)]
pub struct Systemd {
    watchdog: Option<Duration>,
    last_beat: Option<Instant>,
    last_status: String,
    starting: Arc<AtomicBool>,
    rounds: Rounds,
}

impl Systemd {
    /// Reads WATCHDOG_USEC and WATCHDOG_PID. Called on the thread on which the loop will run: where there is a watchdog, it is
    /// also fed while that thread computes.
    pub fn from_env() -> Self {
        let systemd = Self::with_watchdog(sd_notify::watchdog_enabled().filter(|d| !d.is_zero()));
        if let Err(error) = systemd.feed_while_busy() {
            tracing::warn!(%error, "no thread that feeds the watchdog during long computations could be started");
        }
        systemd
    }

    fn with_watchdog(watchdog: Option<Duration>) -> Self {
        Systemd {
            watchdog,
            last_beat: None,
            last_status: String::new(),
            starting: Arc::new(true.into()),
            rounds: Rounds::default(),
        }
    }

    /// Beside the loop, which cannot do it then. It judges by the processor time of the loop's thread, so that it starves with
    /// one that is stuck.
    fn feed_while_busy(&self) -> std::io::Result<()> {
        let Some(watchdog) = self.watchdog else { return Ok(()) };
        let (time, rounds, starting) = (ThreadTime::of_this_thread(), self.rounds.clone(), self.starting.clone());
        let mut busy = Busy::new(watchdog);
        let feed = move || {
            while let Some(used) = time.used() {
                if busy.gets_on(rounds.so_far(), used) {
                    send(&beat(watchdog, &starting));
                }
                std::thread::sleep(watchdog / 4);
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(feed).map(drop)
    }

    /// How often the loop has to come round for the watchdog: half of what systemd waits (sd_watchdog_enabled(3)).
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        self.watchdog.map(|w| w / 2)
    }

    /// The border is closed: what depends on it may start.
    pub fn ready(&mut self) {
        self.starting.store(false, Ordering::Relaxed);
        send(&[NotifyState::Ready]);
    }

    pub fn stopping(&self) {
        send(&[NotifyState::Stopping, NotifyState::Status("stopping; the dataplane stays")]);
    }

    /// To be called by the loop itself, every time it comes round: a watchdog fed from elsewhere, whatever the loop does, would
    /// not notice that it is stuck. Sends no more often than needed. A start may take as long as it gets on, too: on a slow box with much to write that is
    /// longer than what systemd gives it.
    pub fn heartbeat(&mut self, now: Instant) {
        self.rounds.count();
        if let (true, Some(watchdog)) = (self.beat_due(now), self.watchdog) {
            self.last_beat = Some(now);
            send(&beat(watchdog, &self.starting));
        }
    }

    fn beat_due(&self, now: Instant) -> bool {
        let Some(watchdog) = self.watchdog else { return false };
        // A beat that was left out is time that the next piece of work lacks.
        self.last_beat.is_none_or(|last| now.saturating_duration_since(last) >= watchdog / 20)
    }

    /// Shows the report's figures in `systemctl status`, if they changed.
    pub fn status(&mut self, report: &Report) {
        let line = status_line(report);
        if line != self.last_status {
            // A line break would begin another assignment.
            send(&[NotifyState::Status(&printable(&line))]);
            self.last_status = line;
        }
    }
}

fn beat(watchdog: Duration, starting: &AtomicBool) -> Vec<NotifyState<'static>> {
    let longer = starting.load(Ordering::Relaxed).then(|| u32::try_from(watchdog.as_micros()).unwrap_or(u32::MAX));
    [NotifyState::Watchdog].into_iter().chain(longer.map(NotifyState::ExtendTimeoutUsec)).collect()
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be notified (NOTIFY_SOCKET)");
    }
}

/// `12 mappings, 340 endpoints on 3 interfaces; 1 refused; last pass 14:02:11 UTC took 16 ms`.
pub fn status_line(report: &Report) -> String {
    let mappings = &report.outcomes.mappings;
    let refused = mappings.values().filter(|m| m.refused.is_some()).count();
    let interfaces = report.outcomes.interfaces.iter().filter(|i| i.kind == InterfaceKind::External).count();
    let mut parts = Vec::new();
    if report.ready {
        parts.push(format!(
            "{}, {} on {}",
            count(mappings.len() - refused, "mapping"),
            count(report.endpoints(), "endpoint"),
            count(interfaces, "interface")
        ));
    } else if report.border_closed {
        parts.push("border closed, waiting for the first complete snapshot".to_owned());
    } else {
        parts.push("border not closed yet".to_owned());
    }
    if refused > 0 {
        parts.push(format!("{refused} refused"));
    }
    if let Some(f) = &report.failure {
        parts.push(format!(
            "FAILING since {} UTC ({}): {}",
            clock(f.since),
            count(f.attempts as usize, "attempt"),
            f.command
        ));
    }
    for (name, source) in &report.sources {
        if matches!(source.state, crate::sources::SourceState::Away { .. }) {
            parts.push(format!("source {name} away since {} UTC", clock(source.since)));
        }
    }
    if let Some(p) = report.last_pass {
        parts.push(format!("last pass {} UTC took {} ms", clock(p.at), p.took.as_millis()));
    }
    parts.join("; ")
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn clock(time: SystemTime) -> String {
    // RFC 3339 in UTC has the clock at a fixed place for four-digit years.
    super::health::rfc3339(time).get(11..19).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Outcomes, PassReport};
    use super::*;
    use crate::model::ObjectKey;
    use crate::plan::{InterfaceOutcome, MappingOutcome, Programmed, ProgrammedReason, Refusal, RefusalReason};
    use crate::sources::SourceState;

    fn mapping(endpoints: usize, refused: bool) -> MappingOutcome {
        MappingOutcome {
            uid: None,
            generation: None,
            refused: refused.then(|| Refusal { reason: RefusalReason::Conflict, message: String::new() }),
            programmed: Programmed { ok: !refused, reason: ProgrammedReason::Programmed, message: String::new() },
            service_vip: None,
            configured: [].into(),
            endpoints,
        }
    }

    #[test]
    fn the_status_line_tells_real_figures() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut r = Report::new(now);
        assert_eq!(status_line(&r), "border not closed yet");
        r.pass_ok(PassReport { took: Duration::from_millis(3), ..PassReport::default() }, now);
        assert_eq!(
            status_line(&r),
            "border closed, waiting for the first complete snapshot; last pass 22:13:20 UTC took 3 ms"
        );
        let interface =
            |name: &str, kind| InterfaceOutcome { up: true, carrier: true, ..InterfaceOutcome::down(name, kind) };
        let mappings = [
            (ObjectKey::new("a", "a"), mapping(2, false)),
            (ObjectKey::new("a", "b"), mapping(3, false)),
            (ObjectKey::new("a", "c"), mapping(0, true)),
        ];
        let interfaces = vec![interface("eth0", InterfaceKind::Gateway), interface("eth1", InterfaceKind::External)];
        let outcomes = Outcomes::of(mappings, interfaces);
        r.pass_ok(PassReport { took: Duration::from_millis(16), full: true, outcomes, ..PassReport::default() }, now);
        assert_eq!(
            status_line(&r),
            "2 mappings, 5 endpoints on 1 interface; 1 refused; last pass 22:13:20 UTC took 16 ms"
        );
        r.source_state("manifests", SourceState::Away { reason: "x".into() }, now);
        r.pass_failed("ipset restore", "boom", 1, now);
        let line = status_line(&r);
        assert!(
            line.contains("FAILING since 22:13:20 UTC (1 attempt): ipset restore; source manifests away"),
            "{line}"
        );
    }

    #[test]
    fn the_watchdog_is_fed_no_more_often_than_it_helps_and_only_when_asked_for() {
        let start = Instant::now();
        let mut s = Systemd::with_watchdog(Some(Duration::from_secs(20)));
        assert_eq!(s.heartbeat_interval(), Some(Duration::from_secs(10)));
        assert!(s.beat_due(start));
        s.heartbeat(start);
        assert!(!s.beat_due(start + Duration::from_millis(900)));
        assert!(s.beat_due(start + Duration::from_secs(1)));
        let words = |s: &Systemd| {
            beat(Duration::from_secs(20), &s.starting).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(words(&s), ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=20000000"], "a start may go on");
        s.ready();
        assert_eq!(words(&s), ["WATCHDOG=1"]);
        let s = Systemd::with_watchdog(None);
        assert!(!s.beat_due(start) && s.heartbeat_interval().is_none());
    }
}
