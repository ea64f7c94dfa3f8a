use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use bed::Namespace;

use crate::Options;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures};
use crate::fixture::{self, Size};
use crate::net::Net;

const OWN: Size = Size::new(10_000, 1);
/// Instead of the minute that is the default, so that many refreshes can be seen.
const PERIOD: Duration = Duration::from_secs(4);
const MINUTE: Duration = Duration::from_secs(60);
/// Between two commits of others: 100 a minute.
const COMMIT_EVERY: Duration = Duration::from_millis(600);

pub fn measure(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&[OWN]) {
        let row = format!("refresh {size}");
        if let Err(why) = at(options, figures, &row, size) {
            figures.fail(&row, "refreshes", &why);
        }
    }
}

fn at(options: &Options, figures: &mut Figures, row: &str, size: Size) -> Result<(), String> {
    let manifests = fixture::manifests(size);
    let setup = Setup::manifests(&options.program, manifests.path()).set_all(&options.set);
    let often = setup.clone().set("SNCTRLR_AUTOREFRESH_PERIOD_SEC", &PERIOD.as_secs().to_string());
    let net = Net::new();
    let border = net.border(size.addresses());
    let home = Home::new();
    let mut daemon = Daemon::launch(&border.ns, &home, &often);
    daemon.ready(options.patience())?;
    let bounded = |b: Bound| if size == OWN { b } else { Bound::None };

    let (mut used, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let (time, tools) = one_refresh(&daemon)?;
        used.push(time);
        calls.push(tools);
    }
    figures.add(row, "nobody changed anything, processor time of a refresh", "ms", bounded(Bound::AtMost(50.0)), used);
    figures.add(row, "nobody changed anything, calls of tools", "", bounded(Bound::AtMost(0.0)), calls);

    let mut found = Vec::new();
    for _ in 0..options.rounds {
        found.push(chain_flushed(&border.ns)?);
    }
    figures.add(row, "a chain that somebody flushed is filled again after", "s", bounded(Bound::AtMost(5.0)), found);
    let mut found = Vec::new();
    for _ in 0..options.rounds {
        found.push(member_deleted(&border.ns)?);
    }
    let must = bounded(Bound::AtMost(PERIOD.as_secs_f64() + 5.0));
    let told =
        format!("a member of a set that somebody deleted is back after (a refresh every {} s)", PERIOD.as_secs());
    figures.add(row, &told, "s", must, found);
    daemon.stop()?;

    // From here on with default settings.
    let mut daemon = Daemon::launch(&border.ns, &home, &setup);
    daemon.ready(options.patience())?;
    let mut used = Vec::new();
    let mut commits = Vec::new();
    for _ in 0..options.rounds.min(3) {
        let (time, count) = beside_others(&border.ns, &daemon);
        used.push(time);
        commits.push(count);
    }
    figures.add(row, "others' commits in a minute", "", Bound::AtLeast(95.0), commits);
    figures.add(row, "processor time in that minute", "s", bounded(Bound::AtMost(1.0)), used);
    Ok(())
}

/// Milliseconds of processor time, and calls of tools, from one pass to the next.
fn one_refresh(daemon: &Daemon<'_>) -> Result<(f64, f64), String> {
    let count = |name| daemon.metric(name);
    let (passes, calls) = (count("smartnat_passes_total"), count("smartnat_tool_calls_total"));
    // What the question itself took is over.
    daemon.settled(PERIOD);
    let before = daemon.cgroup.used();
    sleep(2 * PERIOD);
    let used = daemon.settled(PERIOD) - before;
    let passes = count("smartnat_passes_total") - passes;
    if passes < 1.0 {
        return Err(format!("no pass in {} s", 2 * PERIOD.as_secs()));
    }
    Ok((used.as_secs_f64() * 1000.0 / passes, (count("smartnat_tool_calls_total") - calls) / passes))
}

/// Seconds until it is as it was.
fn until(what: &str, holds: impl Fn() -> bool) -> Result<f64, String> {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > Duration::from_secs(60) {
            return Err(format!("after a minute {what}"));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn chain_flushed(border: &Namespace) -> Result<f64, String> {
    let list = || border.run("iptables -t nat -S SMARTNAT-DNAT");
    let before = list();
    border.run("iptables -t nat -F SMARTNAT-DNAT");
    until("a chain that somebody flushed is still empty", || list() == before)
}

fn member_deleted(border: &Namespace) -> Result<f64, String> {
    let set = border.run("ipset save SN-EP");
    let add = set.lines().find_map(|line| line.strip_prefix("add ")).ok_or("SN-EP has no members")?.to_owned();
    border.run(&format!("ipset del {add}"));
    until("a member that somebody deleted is still missing", || {
        border.attempt(&format!("ipset test {add}"), "").is_ok()
    })
}

/// Seconds of processor time in a minute, and how many commits there were.
fn beside_others(border: &Namespace, daemon: &Daemon<'_>) -> (f64, f64) {
    for table in ["filter", "nat"] {
        border.run(&format!("iptables -t {table} -N OTHERS"));
    }
    daemon.quiet(PERIOD);
    let done = AtomicBool::new(false);
    let figures = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (begin, mut count) = (Instant::now(), 0_u32);
            while !done.load(Ordering::Relaxed) {
                // Both tables in turn; what is added goes again.
                let table = if count.is_multiple_of(2) { "filter" } else { "nat" };
                let verb = if (count / 2).is_multiple_of(2) { "-A" } else { "-D" };
                border.run(&format!("iptables -t {table} {verb} OTHERS -s 192.0.2.77 -j RETURN"));
                count += 1;
                sleep((COMMIT_EVERY * count).saturating_sub(begin.elapsed()));
            }
            f64::from(count)
        });
        let before = daemon.cgroup.used();
        sleep(MINUTE);
        let used = (daemon.cgroup.used() - before).as_secs_f64();
        done.store(true, Ordering::Relaxed);
        (used, writer.join().unwrap_or_default())
    });
    for table in ["filter", "nat"] {
        border.run(&format!("iptables -t {table} -F OTHERS"));
        border.run(&format!("iptables -t {table} -X OTHERS"));
    }
    figures
}
