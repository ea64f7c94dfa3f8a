//! This box's clock against the API server's, and whether anything keeps it right.

use jiff::{SignedDuration, Timestamp};

use super::ask::Reply;
use crate::cli::check::Finding;
use crate::cli::check::gather::{Gather, Ran};

const GROUP: &str = "clock";
const WARN: SignedDuration = SignedDuration::from_secs(2);
const FAIL: SignedDuration = SignedDuration::from_secs(30);
/// The server's clock is told in whole seconds.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(1);
const REMEDY: &str =
    "keep the clocks of this box and of the API server right by NTP: systemd-timesyncd, chrony or ntpd";

/// What says whether this box's clock is kept right.
pub(super) struct Keeper {
    /// systemd-timesyncd's mark.
    timesyncd: bool,
    chronyc: Ran,
    ntpq: Ran,
    /// A pod sees nothing of its node's.
    in_pod: bool,
}

pub(super) async fn gather(gather: &Gather, in_pod: bool) -> Keeper {
    Keeper {
        timesyncd: gather.read("/run/systemd/timesync/synchronized").is_some(),
        chronyc: gather.run("chronyc", &["-n", "-c", "tracking"]).await,
        ntpq: gather.run("ntpq", &["-c", "rv 0 leap,stratum"]).await,
        in_pod,
    }
}

pub(super) fn evaluate(replies: &[&Reply], keeper: &Keeper) -> Vec<Finding> {
    let mut findings: Vec<Finding> = skew(replies).map(ahead).into_iter().collect();
    findings.extend(kept(keeper));
    findings
}

/// By how much this box's clock is ahead of the server's: the least and the most that agrees with every answer.
fn skew(replies: &[&Reply]) -> Option<(SignedDuration, SignedDuration)> {
    let one = |sent: Timestamp, received: Timestamp, date: Timestamp| {
        (sent.duration_since(date) - RESOLUTION, received.duration_since(date))
    };
    let each = replies.iter().filter_map(|r| Some(one(r.sent, r.received, r.date?)));
    each.reduce(|(low, high), (l, h)| (low.max(l), high.min(h)))
}

fn ahead((least, most): (SignedDuration, SignedDuration)) -> Finding {
    let (off, direction) = if least > SignedDuration::ZERO {
        (least, "ahead of")
    } else if most < SignedDuration::ZERO {
        (-most, "behind")
    } else {
        (SignedDuration::ZERO, "")
    };
    if off <= WARN {
        return Finding::ok(GROUP, "this box's clock agrees with the API server's");
    }
    let what = format!("this box's clock is {} s {direction} the API server's", off.as_secs());
    if off > FAIL {
        return Finding::fail(
            GROUP,
            format!("{what}: credentials count as expired or not yet valid, and times in logs and Leases mislead"),
            REMEDY,
        );
    }
    Finding::warn(GROUP, what, REMEDY)
}

fn kept(keeper: &Keeper) -> Option<Finding> {
    if keeper.timesyncd {
        return Some(Finding::ok(GROUP, "systemd-timesyncd keeps it right"));
    }
    // Comma-separated; the last field is the leap status.
    if let Some(synchronised) = keeper.chronyc.stdout().map(|t| !t.trim().ends_with("Not synchronised")) {
        return Some(judged("chrony", synchronised));
    }
    // ntpq ends well also when nobody answers it.
    if let Some(text) = keeper.ntpq.stdout().filter(|t| t.contains("stratum=") || t.contains("leap=")) {
        let lost =
            ["leap=11", "leap=3", "stratum=16"].iter().any(|bad| text.split([',', ' ', '\n']).any(|w| w == *bad));
        return Some(judged("ntpd", !lost));
    }
    (!keeper.in_pod).then(|| {
        Finding::warn(
            GROUP,
            "no sign that anything keeps it right (systemd-timesyncd, chrony, ntpd)",
            "install and start one of them",
        )
    })
}

fn judged(who: &str, synchronised: bool) -> Finding {
    if synchronised {
        return Finding::ok(GROUP, format!("{who} keeps it right"));
    }
    Finding::warn(GROUP, format!("{who} runs and is not synchronised"), "see that it reaches its time servers")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::cli::check::Level;

    /// An answer with the server's clock at second 1000, and what this box's clock showed meanwhile.
    fn reply(sent: f64, received: f64) -> Reply {
        let at = |s: f64| Timestamp::from_millisecond((s * 1000.0) as i64).unwrap();
        Reply {
            code: 200,
            body: Value::Null,
            date: Some(at(1000.0)),
            sent: at(sent),
            received: at(received),
            took: Duration::ZERO,
        }
    }

    fn level(replies: &[Reply]) -> Level {
        ahead(skew(&replies.iter().collect::<Vec<_>>()).unwrap()).level
    }

    #[test]
    fn only_what_is_sure_counts_as_skew() {
        // The server's clock was between 1000 and 1001, and a slow answer may have been on its way all the time.
        assert_eq!(level(&[reply(1000.5, 1000.6)]), Level::Ok);
        assert_eq!(level(&[reply(1002.9, 1003.0)]), Level::Ok);
        assert_eq!(level(&[reply(1003.1, 1003.2)]), Level::Warn);
        assert_eq!(level(&[reply(997.0, 997.9)]), Level::Warn);
        assert_eq!(level(&[reply(990.0, 1000.5)]), Level::Ok);
        assert_eq!(level(&[reply(990.0, 1000.5), reply(996.0, 996.1)]), Level::Warn);
        assert_eq!(level(&[reply(8200.0, 8200.1)]), Level::Fail);
        assert_eq!(level(&[reply(900.0, 900.1)]), Level::Fail);
        let f = ahead(skew(&[&reply(8200.0, 8200.1)]).unwrap());
        assert!(f.what.contains("7199 s ahead of"), "{f:?}");
        assert_eq!(skew(&[&Reply { date: None, ..reply(1.0, 1.0) }]), None);
    }

    #[test]
    fn the_first_keeper_that_is_found_is_asked() {
        let none = || Keeper { timesyncd: false, chronyc: Ran::Missing, ntpq: Ran::Missing, in_pod: false };
        let level = |k: Keeper| kept(&k).map(|f| f.level);
        assert_eq!(level(none()), Some(Level::Warn));
        assert_eq!(level(Keeper { in_pod: true, ..none() }), None);
        assert_eq!(level(Keeper { timesyncd: true, ..none() }), Some(Level::Ok));
        let chrony = |status: &str| Keeper { chronyc: Ran::Well(format!("7F7F0101,,0,0.0,{status}\n")), ..none() };
        assert_eq!(level(chrony("Normal")), Some(Level::Ok));
        assert_eq!(level(chrony("Not synchronised")), Some(Level::Warn));
        let ntp = |text: &str| Keeper { ntpq: Ran::Well(text.to_owned()), ..none() };
        assert_eq!(level(ntp("leap=00, stratum=3\n")), Some(Level::Ok));
        assert_eq!(level(ntp("leap=11, stratum=16\n")), Some(Level::Warn));
        assert_eq!(level(ntp("")), Some(Level::Warn));
    }
}
