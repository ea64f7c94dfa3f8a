use crate::Options;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures};
use crate::fixture::{self, Size};
use crate::hand;
use crate::net::Net;

/// What must be reached at a size, in seconds and MiB.
struct Must {
    size: Size,
    ready: f64,
    resident: Option<f64>,
}

const MUST: [Must; 3] = [
    Must { size: Size::new(1000, 1), ready: 2.5, resident: Some(25.0) },
    Must { size: Size::new(1000, 10), ready: 2.5, resident: Some(70.0) },
    Must { size: Size::new(10_000, 1), ready: 5.0, resident: Some(70.0) },
];

fn most(bound: Option<f64>) -> Bound {
    bound.map_or(Bound::None, Bound::AtMost)
}

pub fn from_files(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&MUST.map(|m| m.size)) {
        let row = format!("start-files {size}");
        if let Err(why) = at(options, figures, &row, size) {
            figures.fail(&row, "start to ready", &why);
        }
    }
}

#[derive(Default)]
struct Rounds {
    wall: Vec<f64>,
    processor: Vec<f64>,
    by_hand: Vec<f64>,
    ratio: Vec<f64>,
    resident: Vec<f64>,
    asked: Vec<f64>,
    peak: Vec<f64>,
    calls: Vec<f64>,
}

fn at(options: &Options, figures: &mut Figures, row: &str, size: Size) -> Result<(), String> {
    let must = MUST.iter().find(|m| m.size == size);
    let manifests = fixture::manifests(size);
    let setup = Setup::manifests(&options.program, manifests.path()).set_all(&options.set);
    let net = Net::new();
    let mut r = Rounds::default();
    // Of the first round: it is the same in all of them.
    let mut dump = None;
    for round in 1..=options.rounds {
        let border = net.border(size.addresses());
        let home = Home::new();
        let mut daemon = Daemon::launch(&border.ns, &home, &setup);
        let cost = daemon.ready(options.patience())?;
        r.resident.push(daemon.memory("VmRSS"));
        r.calls.push(daemon.metric("smartnat_tool_calls_total"));
        let status = daemon.get("/status").map_or(0, |r| r.body.len());
        if status < size.mappings {
            return Err(format!("/status has {status} bytes only"));
        }
        r.asked.push(daemon.memory("VmRSS"));
        r.peak.push(daemon.memory("VmHWM"));
        let dump = dump.get_or_insert_with(|| border.dump());
        drop(daemon);
        drop(border);
        let border = net.border(size.addresses());
        let by_hand = hand::load(&border, dump).processor;
        r.wall.push(cost.wall.as_secs_f64());
        r.processor.push(cost.processor.as_secs_f64());
        r.by_hand.push(by_hand.as_secs_f64());
        r.ratio.push(cost.processor.as_secs_f64() / by_hand.as_secs_f64());
        figures.say(format_args!(
            "  round {round}: {:.2?}, processor {:.2?}, by hand {by_hand:.2?}",
            cost.wall, cost.processor
        ));
    }
    figures.add(row, "start to ready", "s", most(must.map(|m| m.ready)), r.wall);
    figures.add(row, "processor time, daemon and tools", "s", Bound::None, r.processor);
    figures.add(row, "processor time of the same tables by hand", "s", Bound::None, r.by_hand);
    figures.add(row, "ratio of both", "", most(must.map(|_| 3.0)), r.ratio);
    figures.add(row, "calls of tools", "", Bound::None, r.calls);
    figures.add(row, "resident when ready", "MiB", Bound::None, r.resident);
    let ratio = r.peak.iter().zip(&r.asked).map(|(peak, asked)| peak / asked).collect();
    figures.add(row, "resident after /metrics and /status", "MiB", most(must.and_then(|m| m.resident)), r.asked);
    figures.add(row, "peak", "MiB", Bound::None, r.peak);
    figures.add(row, "peak / resident", "", most(must.map(|_| 1.3)), ratio);
    Ok(())
}

const HUNDRED_THOUSAND: Size = Size::new(10_000, 10);

/// As many endpoints as there shall be; rounds are few because each takes long.
pub fn hundred_thousand(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&[HUNDRED_THOUSAND]) {
        let row = format!("hundred {size}");
        let manifests = fixture::manifests(size);
        let setup = Setup::manifests(&options.program, manifests.path()).set_all(&options.set);
        let net = Net::new();
        let (mut wall, mut processor, mut peak) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds.min(3) {
            let border = net.border(size.addresses());
            let home = Home::new();
            let mut daemon = Daemon::launch(&border.ns, &home, &setup);
            match daemon.ready(options.patience()) {
                Ok(cost) => {
                    wall.push(cost.wall.as_secs_f64());
                    processor.push(cost.processor.as_secs_f64());
                    peak.push(daemon.memory("VmHWM"));
                }
                Err(why) => {
                    figures.fail(&row, "start to ready", &why);
                    break;
                }
            }
        }
        if wall.is_empty() {
            continue;
        }
        let bounded = |n: f64| if size == HUNDRED_THOUSAND { Bound::AtMost(n) } else { Bound::None };
        figures.add(&row, "start to ready", "s", bounded(60.0), wall);
        figures.add(&row, "processor time, daemon and tools", "s", Bound::None, processor);
        figures.add(&row, "peak of memory", "MiB", bounded(600.0), peak);
    }
}
