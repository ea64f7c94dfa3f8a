use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::Options;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures, quantile};
use crate::fixture::{self, Item, Size};
use crate::net::Net;
use crate::probe::Pod;

pub const OWN: Size = Size::new(10_000, 1);
/// How long a change may take before it counts as lost.
const LOST: Duration = Duration::from_secs(20);

/// Brings an object as it is now to where the daemon finds it.
pub type Publish<'a> = dyn Fn(&Item, Kind) + 'a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The Mapping gets another external port.
    Mapping,
    /// One of the Service's pods is another one.
    Endpoint,
}

pub fn from_files(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&[OWN]) {
        let row = format!("change-files {size}");
        let manifests = fixture::manifests(size);
        let setup = Setup::manifests(&options.program, manifests.path()).set_all(&options.set);
        let net = Net::new();
        if let Err(why) = changes(options, figures, &row, (size, &net, &setup), &|item, _| item.write(manifests.path()))
        {
            figures.fail(&row, "event to kernel", &why);
        }
    }
}

/// Both kinds of change against a daemon that is started for it.
pub fn changes(
    options: &Options,
    figures: &mut Figures,
    row: &str,
    (size, net, setup): (Size, &Net, &Setup),
    publish: &Publish<'_>,
) -> Result<(), String> {
    let border = net.border(size.addresses());
    let home = Home::new();
    let mut daemon = Daemon::launch(&border.ns, &home, setup);
    daemon.ready(options.patience())?;
    let bounded = |n: f64| if size == OWN { Bound::AtMost(n) } else { Bound::None };
    for (kind, told) in [(Kind::Mapping, "one Mapping"), (Kind::Endpoint, "one endpoint")] {
        figures.say(format_args!("  {} changes of {told}", options.events));
        let (took, used) = series(options, (size, net, &daemon), kind, publish)
            .map_err(|e| format!("{told}: {e}; it said: {}", home.last_words()))?;
        figures.add(row, &format!("{told}, event to kernel, p50"), "ms", bounded(60.0), vec![quantile(&took, 0.5)]);
        figures.add(row, &format!("{told}, event to kernel, p99"), "ms", bounded(200.0), vec![quantile(&took, 0.99)]);
        figures.add(row, &format!("{told}, event to kernel, all"), "ms", Bound::None, took);
        figures.add(row, &format!("{told}, processor time each"), "ms", bounded(100.0), used);
    }
    Ok(())
}

/// Milliseconds from event to kernel, and of processor time, of every change.
pub fn series(
    options: &Options,
    (size, net, daemon): (Size, &Net, &Daemon<'_>),
    kind: Kind,
    publish: &Publish<'_>,
) -> Result<(Vec<f64>, Vec<f64>), String> {
    let (mut took, mut used) = (Vec::new(), Vec::new());
    // Those with an odd number are UDP. Spread over all, each once if there are enough.
    let half = size.mappings / 2;
    let mut before = daemon.settled(LOST);
    for event in 0..options.events {
        let mut item = Item::new(size, event * 7919 % half * 2 + 1);
        // A Mapping stays where the first series left it.
        let last = if kind == Kind::Mapping { event } else { event + (options.events - 1 - event) / half * half };
        item.first_port += 30_000 + (last / half * size.ports) as u16;
        let to = SocketAddrV4::new(item.address, item.first_port);
        let pod = match kind {
            Kind::Mapping => Pod::bind(net, Ipv4Addr::UNSPECIFIED, 8080),
            Kind::Endpoint => {
                item.pods[0] = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 245, 128, 1)) + event as u32);
                Pod::bind(net, item.pods[0], 8080)
            }
        };
        took.push(pod.reached(net, to, LOST, || publish(&item, kind))?.as_secs_f64() * 1000.0);
        // What comes late counts for the next one.
        let after = daemon.settled(LOST);
        used.push((after - before).as_secs_f64() * 1000.0);
        before = after;
    }
    Ok((took, used))
}
