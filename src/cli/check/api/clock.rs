//! This box's clock against the API server's, and whether anything keeps it right.

use jiff::SignedDuration;

use crate::cli::check::Finding;
use crate::cli::check::gather::{Gather, Ran};
use crate::cluster::clock::Clocks;

const GROUP: &str = "clock";
const WARN: SignedDuration = SignedDuration::from_secs(2);
const FAIL: SignedDuration = SignedDuration::from_secs(30);
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

/// `clocks`: `None` when the API server told no time.
pub(super) fn evaluate(clocks: Option<&Clocks>, keeper: &Keeper) -> Vec<Finding> {
    clocks.map(skew).into_iter().chain(kept(keeper)).collect()
}

fn skew(clocks: &Clocks) -> Finding {
    let skew = clocks.skew();
    let off = skew.abs();
    if off <= WARN {
        return Finding::ok(GROUP, "this box's clock agrees with the API server's");
    }
    let direction = if skew.is_positive() { "behind" } else { "ahead of" };
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
    use jiff::Timestamp;

    use super::*;
    use crate::cli::check::Level;

    /// This box's clock against one that shows 1000.
    fn finding(ours: i64) -> Finding {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        skew(&Clocks { server: at(1000), ours: at(ours), took: SignedDuration::ZERO })
    }

    #[test]
    fn skew_is_told_with_its_direction() {
        for (ours, level) in [
            (1000, Level::Ok),
            (998, Level::Ok),
            (1003, Level::Ok),
            (1004, Level::Warn),
            (997, Level::Warn),
            (969, Level::Fail),
        ] {
            assert_eq!(finding(ours).level, level, "{ours}");
        }
        let ahead = finding(8201);
        assert!(ahead.level == Level::Fail && ahead.what.contains("7200 s ahead of"), "{ahead:?}");
        assert!(finding(900).what.contains("100 s behind"), "{:?}", finding(900));
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
