use std::thread::sleep;
use std::time::Duration;

use crate::Options;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures};
use crate::fixture::{self, Size};
use crate::net::Net;

const OWN: Size = Size::new(1000, 1);
/// What the bound is for.
const TEN_MINUTES: u64 = 600;

pub fn measure(options: &Options, figures: &mut Figures) {
    for size in options.sizes(&[OWN]) {
        let row = format!("idle {size}");
        let manifests = fixture::manifests(size);
        let setup = Setup::manifests(&options.program, manifests.path()).set_all(&options.set);
        let net = Net::new();
        let border = net.border(size.addresses());
        let home = Home::new();
        let mut daemon = Daemon::launch(&border.ns, &home, &setup);
        let what = format!("processor time in {} s", options.idle);
        if let Err(why) = daemon.ready(options.patience()) {
            figures.fail(&row, &what, &why);
            continue;
        }
        let before = daemon.cgroup.used();
        sleep(Duration::from_secs(options.idle));
        let used = (daemon.cgroup.used() - before).as_secs_f64();
        // A shorter look has a part of the time.
        let must = Bound::AtMost(1.0 * options.idle as f64 / TEN_MINUTES as f64);
        figures.add(&row, &what, "s", if size == OWN { must } else { Bound::None }, vec![used]);
    }
}
