use std::time::Duration;

use crate::Options;
use crate::daemon::{Daemon, Home, Setup, subcommand};
use crate::figures::{Bound, Figures};
use crate::fixture::{self, Size};
use crate::hand::{self, Cost};
use crate::net::{Dump, Net};

/// Each with the seconds that it may take.
const SIZES: [(Size, f64); 2] = [(Size::new(1000, 10), 2.5), (Size::new(10_000, 1), 5.0)];
/// For the version before, whose calls of tools may take as long as they like.
const BEFORE: Duration = Duration::from_secs(400);
const STEPS: [&str; 4] = ["upgrade", "restart without change", "another masquerade setting", "cleanup"];

pub fn measure(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&SIZES.map(|(size, _)| size)) {
        let row = format!("again {size}");
        let manifests = fixture::manifests(size);
        let setup = Setup::manifests(&options.program, manifests.path()).set_all(&options.set);
        let net = Net::new();
        let before = match before(options, figures, (&net, size, &setup)) {
            Ok(dump) => Some(dump),
            Err(why) => {
                figures.fail(&row, STEPS[0], &why);
                None
            }
        };
        let mut costs: [Vec<(Cost, f64)>; 4] = Default::default();
        let mut failed = None;
        for _ in 0..options.rounds {
            if let Err((step, why)) = round(options, (&net, size, &setup), before.as_ref(), &mut costs) {
                failed = Some((step, why));
                break;
            }
        }
        let seconds = SIZES.iter().find(|(own, _)| *own == size).map(|(_, seconds)| *seconds);
        for (step, costs) in costs.iter().enumerate().filter(|(_, costs)| !costs.is_empty()) {
            let unchanged = step == 1;
            let told = STEPS[step];
            let wall = seconds.map_or(Bound::None, |s| Bound::AtMost(if unchanged { 1.0 } else { s }));
            figures.add(&row, told, "s", wall, costs.iter().map(|(c, _)| c.wall.as_secs_f64()).collect());
            let processor = costs.iter().map(|(c, _)| c.processor.as_secs_f64()).collect();
            figures.add(&row, &format!("{told}, processor time"), "s", Bound::None, processor);
            if !unchanged {
                let must = seconds.map_or(Bound::None, |_| Bound::AtMost(3.0));
                figures.add(
                    &row,
                    &format!("{told}, against loading by hand"),
                    "",
                    must,
                    costs.iter().map(|(_, ratio)| *ratio).collect(),
                );
            }
        }
        if let Some((step, why)) = failed {
            figures.fail(&row, STEPS[step], &why);
        }
    }
}

/// What the version before leaves in the kernel.
fn before(options: &Options, figures: &Figures, (net, size, setup): (&Net, Size, &Setup)) -> Result<Dump, String> {
    let program = options.previous.clone().ok_or("no version before was given (--previous)")?;
    figures.say("  the version before, once; its tables are laid again for each round");
    let setup = Setup { program, ..setup.clone() }.set("SNCTRLR_IPTABLES_TIMEOUT_SEC", "300");
    let border = net.border(size.addresses());
    let home = Home::new();
    let mut daemon = Daemon::launch(&border.ns, &home, &setup);
    daemon.ready(BEFORE).map_err(|why| format!("the version before: {why}"))?;
    daemon.stop()?;
    Ok(border.dump())
}

/// One step after the other on one border; the `Err` says at which it ended.
fn round(
    options: &Options,
    (net, size, setup): (&Net, Size, &Setup),
    before: Option<&Dump>,
    costs: &mut [Vec<(Cost, f64)>; 4],
) -> Result<(), (usize, String)> {
    let masquerade = setup.clone().set("SNCTRLR_SETUP_MASQUERADE", "false");
    let starts = [(0, setup), (1, setup), (2, &masquerade)];
    let border = net.border(size.addresses());
    let home = Home::new();
    if let Some(dump) = before {
        hand::load(&border, dump);
    }
    let mut taken = Vec::new();
    for (step, setup) in starts {
        let mut daemon = Daemon::launch(&border.ns, &home, setup);
        let cost = daemon.ready(options.patience()).map_err(|why| (step, why))?;
        daemon.stop().map_err(|why| (step, why))?;
        // Without a version before, the first one is a plain start.
        if step > 0 || before.is_some() {
            taken.push((step, cost));
        }
    }
    let dump = border.dump();
    let words = ["cleanup", "--force"];
    let cost = subcommand(&border.ns, &home, &masquerade, &words, options.patience()).map_err(|why| (3, why))?;
    taken.push((3, cost));
    drop(border);
    let by_hand = hand::load(&net.border(size.addresses()), &dump).processor.as_secs_f64();
    for (step, cost) in taken {
        costs[step].push((cost, cost.processor.as_secs_f64() / by_hand));
    }
    Ok(())
}
