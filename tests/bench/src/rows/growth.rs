use std::path::Path;

use super::change::{Kind, series};
use crate::Options;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures, median};
use crate::fixture::{self, Size};
use crate::growth::Curve;
use crate::net::Net;

const SIZES: [Size; 4] = [Size::new(100, 1), Size::new(1000, 1), Size::new(10_000, 1), Size::new(10_000, 10)];
/// What n log n may be missed by from one size to the next: single figures differ by as much.
const NOISE: f64 = 1.1;
/// Changes at each size.
const EVENTS: usize = 20;

pub fn measure(options: &Options, figures: &mut Figures) {
    let curve = |name: &str, unit| Curve { name: name.to_owned(), unit, points: Vec::new() };
    let mut curves = [
        ("start", curve("processor time of a start", "s")),
        ("memory", curve("resident memory", "MiB")),
        ("change", curve("processor time of one changed Mapping", "ms")),
    ];
    let mut sizes = options.sizes(&SIZES);
    sizes.sort_by_key(|size| size.endpoints());
    for size in sizes {
        match at(options, size) {
            Ok(costs) => {
                figures.say(format_args!("  {size}: {:.3} s, {:.1} MiB, {:.1} ms", costs[0], costs[1], costs[2]));
                for ((_, curve), cost) in curves.iter_mut().zip(costs) {
                    curve.points.push((size.endpoints() as f64, cost));
                }
            }
            Err(why) => figures.fail(&format!("growth {size}"), "cost", &why),
        }
    }
    for (file, curve) in curves.iter().filter(|(_, curve)| curve.points.len() > 1) {
        let name = curve.name.clone();
        figures.add("growth", &format!("{name}, fitted exponent"), "", Bound::None, vec![curve.exponent()]);
        let worst = curve.against_n_log_n().into_iter().fold(f64::MIN, f64::max);
        let told = format!("{name}, worst step from size to size, in steps of n log n");
        figures.add("growth", &told, "", Bound::AtMost(NOISE), vec![worst]);
        if let Some(Err(why)) = options.out.as_deref().map(|dir: &Path| curve.plot(dir, file)) {
            figures.fail("growth", "plot", &why);
        }
    }
}

/// Processor time of a start, resident memory, processor time of a change.
fn at(options: &Options, size: Size) -> Result<[f64; 3], String> {
    let manifests = fixture::manifests(size);
    let setup = Setup::manifests(&options.program, manifests.path()).set_all(&options.set);
    let net = Net::new();
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    // The greatest one takes long.
    let rounds = if size.endpoints() > 20_000 { 1 } else { options.rounds.min(3) };
    for _ in 0..rounds {
        let border = net.border(size.addresses());
        let home = Home::new();
        let mut daemon = Daemon::launch(&border.ns, &home, &setup);
        costs[0].push(daemon.ready(options.patience())?.processor.as_secs_f64());
        costs[1].push(daemon.memory("VmRSS"));
        let events = Options { events: EVENTS.min(options.events), ..options.clone() };
        let (_, used) = series(&events, (size, &net, &daemon), Kind::Mapping, &|item, _| item.write(manifests.path()))?;
        costs[2].push(median(&used));
        // As it was, for the next round.
        fixture::items(size).for_each(|item| item.write(manifests.path()));
    }
    Ok(costs.map(|values| median(&values)))
}
