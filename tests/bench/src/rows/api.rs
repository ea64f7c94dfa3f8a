use std::time::{Duration, Instant};

use super::change;
use crate::Options;
use crate::cluster::Cluster;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures};
use crate::fixture::Size;
use crate::net::Net;

const SIZES: [(Size, f64); 2] = [(Size::new(1000, 10), 4.0), (Size::new(10_000, 1), 9.0)];
const STATUS_SIZE: Size = Size::new(1000, 1);
/// Statuses of a start with fresh objects.
const STATUSES: Duration = Duration::from_secs(300);

/// A cluster that has everything of a size, its statuses written.
fn filled(options: &Options, figures: &Figures, net: &Net, size: Size) -> Result<Cluster, String> {
    figures.say("  an API server");
    let cluster = Cluster::new(net);
    figures.say(format_args!("  {} objects", 3 * size.mappings));
    cluster.create_services(size);
    cluster.create_mappings(size);
    figures.say("  their statuses");
    let border = net.border(size.addresses());
    let home = Home::new();
    let mut daemon = Daemon::launch(&border.ns, &home, &setup(options, &cluster));
    let told = |why: String| format!("{why}; it said: {}", home.last_words());
    daemon.ready(options.patience()).map_err(|why| format!("at first: {why}"))?;
    cluster.watch().all_complete(size.mappings, STATUSES).map_err(told)?;
    Ok(cluster)
}

fn setup(options: &Options, cluster: &Cluster) -> Setup {
    Setup::kubeconfig(&options.program, &cluster.kubeconfig).set_all(&options.set)
}

/// Start to ready, and single changes where the size is theirs.
pub fn start(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&SIZES.map(|(size, _)| size)) {
        let row = format!("start-api {size}");
        let net = Net::new();
        let cluster = match filled(options, figures, &net, size) {
            Ok(cluster) => cluster,
            Err(why) => {
                figures.fail(&row, "start to ready", &why);
                continue;
            }
        };
        if let Err(why) = starts(options, figures, &row, (size, &net, &cluster)) {
            figures.fail(&row, "start to ready", &why);
        }
        if size != change::OWN && options.size.is_empty() {
            continue;
        }
        let row = format!("change-api {size}");
        let publish = |item: &crate::fixture::Item, kind| match kind {
            change::Kind::Mapping => cluster.patch_mapping(item),
            change::Kind::Endpoint => cluster.patch_slice(item),
        };
        let setup = setup(options, &cluster);
        if let Err(why) = change::changes(options, figures, &row, (size, &net, &setup), &publish) {
            figures.fail(&row, "event to kernel", &why);
        }
    }
}

fn starts(
    options: &Options,
    figures: &mut Figures,
    row: &str,
    (size, net, cluster): (Size, &Net, &Cluster),
) -> Result<(), String> {
    let (mut wall, mut processor) = (Vec::new(), Vec::new());
    let (mut resident, mut peak, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        let border = net.border(size.addresses());
        let home = Home::new();
        let mut daemon = Daemon::launch(&border.ns, &home, &setup(options, cluster));
        let cost = daemon.ready(options.patience())?;
        for path in ["/metrics", "/status"] {
            daemon.get(path).filter(|r| r.code == 200).ok_or_else(|| format!("{path} cannot be had"))?;
        }
        let (now, most) = (daemon.memory("VmRSS"), daemon.memory("VmHWM"));
        wall.push(cost.wall.as_secs_f64());
        processor.push(cost.processor.as_secs_f64());
        resident.push(now);
        peak.push(most);
        ratio.push(most / now);
        figures.say(format_args!("  round {round}: {:.2?}, processor {:.2?}", cost.wall, cost.processor));
    }
    let own = SIZES.iter().find(|(own, _)| *own == size);
    let must = own.map_or(Bound::None, |(_, s)| Bound::AtMost(*s));
    figures.add(row, "start to ready", "s", must, wall);
    figures.add(row, "processor time, daemon and tools", "s", Bound::None, processor);
    figures.add(row, "resident after /metrics and /status", "MiB", Bound::None, resident);
    figures.add(row, "peak", "MiB", Bound::None, peak);
    figures.add(row, "peak / resident", "", own.map_or(Bound::None, |_| Bound::AtMost(1.3)), ratio);
    Ok(())
}

/// Statuses of fresh Mappings, and deleted ones gone, beside a daemon that runs.
pub fn status(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&[STATUS_SIZE]) {
        let row = format!("status {size}");
        if let Err(why) = statuses(options, figures, &row, size) {
            figures.fail(&row, "fresh or deleted Mappings", &why);
        }
    }
}

fn statuses(options: &Options, figures: &mut Figures, row: &str, size: Size) -> Result<(), String> {
    let net = Net::new();
    let cluster = Cluster::new(&net);
    cluster.create_services(size);
    let border = net.border(size.addresses());
    let home = Home::new();
    let mut daemon = Daemon::launch(&border.ns, &home, &setup(options, &cluster));
    daemon.ready(options.patience())?;
    let told = |why: String| format!("{why}; it said: {}", home.last_words());
    let (mut made, mut complete, mut gone, mut used) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let before = daemon.quiet(Duration::from_secs(10));
        let watch = cluster.watch();
        let begin = Instant::now();
        cluster.create_mappings(size);
        made.push(begin.elapsed().as_secs_f64());
        watch.all_complete(size.mappings, STATUSES).map_err(told)?;
        complete.push(begin.elapsed().as_secs_f64());
        used.push((daemon.quiet(Duration::from_secs(10)) - before).as_secs_f64());
        let begin = Instant::now();
        cluster.delete_mappings();
        watch.all_gone(STATUSES).map_err(told)?;
        gone.push(begin.elapsed().as_secs_f64());
    }
    let must = if size == STATUS_SIZE { Bound::AtMost(10.0) } else { Bound::None };
    figures.add(row, "all made and their statuses complete", "s", must, complete);
    figures.add(row, "of that until the last one was made", "s", Bound::None, made);
    figures.add(row, "processor time of that", "s", Bound::None, used);
    figures.add(row, "deleted ones gone, since that was asked for", "s", must, gone);
    Ok(())
}
