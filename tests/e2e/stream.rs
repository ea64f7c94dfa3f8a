//! Under a packet stream: 200 changes of each kind lose nothing of what did not change.

use std::net::Ipv4Addr;

use bed::peer::{Flood, Proto, Stream};
use bed::{Bed, Daemon, Endpoints, Manifests, Mapping, PodState, Service, eventually};

use crate::support::{assert_alive, assert_nothing_lost, daemon, flood, manifests, mapping, open_stream};

const CHANGES: u32 = 200;

/// What must not notice anything: an open connection and new flows of both protocols, through both external interfaces.
struct Traffic {
    stream: Stream,
    floods: Vec<Flood>,
}

impl Traffic {
    fn start(bed: &Bed) -> Traffic {
        // Flows that are over are soon forgotten: tens of thousands of them, read anew at each change, would be most of the work here.
        for state in ["tcp_timeout_time_wait", "udp_timeout"] {
            bed.border.set_sysctl(&format!("net/netfilter/nf_conntrack_{state}"), "5");
        }
        let traffic =
            Traffic { stream: open_stream(&bed.client1, Bed::EXT1), floods: flood(&bed.client2, Bed::EXT2).into() };
        assert_alive(&traffic.stream);
        traffic
    }

    #[track_caller]
    fn unharmed(self) {
        assert_alive(&self.stream);
        assert_nothing_lost(self.floods, 50);
        let report = self.stream.stop();
        assert_eq!(report.broken, None, "{report:?}");
    }
}

/// The Mapping under traffic, and a Service `other` for the ones that change.
fn objects() -> Manifests {
    let mut manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24")]);
    manifests.put_service(Service::new("other", Ipv4Addr::new(10, 96, 0, 11)));
    manifests.put_endpoints(Endpoints::of("other").ready(Bed::POD1)).write();
    manifests
}

fn other(port: u16) -> Mapping {
    Mapping::new("other").address(Bed::EXT1).address(Bed::EXT2).service("other").port(Proto::Tcp, port, 80)
}

#[track_caller]
fn apply(daemon: &Daemon<'_>, manifests: &mut Manifests) {
    manifests.write();
    daemon.settle(manifests);
}

#[test]
fn changes_of_other_mappings_and_pods_lose_nothing() {
    let bed = Bed::new();
    let mut manifests = objects();
    let daemon = daemon(&bed, &manifests).start();
    let traffic = Traffic::start(&bed);
    for n in 0..CHANGES {
        // Ports around those under traffic, so that the dispatch trees are rebuilt on both sides of them.
        match n % 4 {
            0 => _ = manifests.put(other(81 + (n / 4) as u16)),
            1 => _ = manifests.put(other(79 - (n / 4) as u16)),
            2 => _ = manifests.put_endpoints(Endpoints::of("other").ready(Bed::POD1).ready(Bed::POD2)),
            _ => _ = manifests.put_endpoints(Endpoints::of("other").ready(Bed::POD2)).remove("other"),
        }
        apply(&daemon, &mut manifests);
    }
    traffic.unharmed();
}

#[test]
fn changes_of_sources_and_ports_of_the_mapping_itself_lose_nothing_that_stays() {
    let bed = Bed::new();
    let mut manifests = objects();
    let daemon = daemon(&bed, &manifests).start();
    let traffic = Traffic::start(&bed);
    for n in 0..CHANGES {
        let web = mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24");
        manifests.put(match n % 4 {
            0 => web.source(&format!("100.64.{n}.0/24")),
            1 => web.source("100.64.0.0/10").port(Proto::Tcp, 1000 + n as u16, 80),
            2 => mapping("web", &[Bed::EXT1, Bed::EXT2]),
            _ => web,
        });
        apply(&daemon, &mut manifests);
    }
    traffic.unharmed();
}

#[test]
fn changes_of_the_pods_behind_the_mapping_lose_no_connection() {
    let bed = Bed::new();
    let mut manifests = objects();
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1));
    let daemon = daemon(&bed, &manifests).start();
    apply(&daemon, &mut manifests);
    let mut traffic = Traffic::start(&bed);
    // A datagram under way to a pod that is unready by then may be lost.
    traffic.floods.truncate(1);
    for n in 0..CHANGES {
        let web = Endpoints::of("web").ready(Bed::POD1);
        manifests.put_endpoints(if n % 2 == 0 {
            web.ready(Bed::POD2)
        } else {
            web.pod(Bed::POD2, PodState::Terminating)
        });
        apply(&daemon, &mut manifests);
    }
    traffic.unharmed();
}

#[test]
fn hooks_pushed_down_by_others_come_back_to_the_top_and_lose_nothing() {
    let bed = Bed::new();
    let manifests = objects();
    let _daemon = daemon(&bed, &manifests).start();
    let traffic = Traffic::start(&bed);
    let hooks = [("nat", "PREROUTING"), ("mangle", "PREROUTING"), ("mangle", "FORWARD"), ("filter", "INPUT")];
    for n in 0..CHANGES {
        let (table, chain) = hooks[n as usize % hooks.len()];
        bed.border.run(&format!("iptables -w -t {table} -I {chain} -s 192.0.0.9 -j RETURN"));
        eventually(&format!("our hook is first again in {table} {chain}"), || {
            let rules = bed.border.run(&format!("iptables -t {table} -S {chain}"));
            rules.lines().nth(1).is_some_and(|l| l.contains("-j SMARTNAT-")).then_some(())
        });
        bed.border.run(&format!("iptables -w -t {table} -D {chain} -s 192.0.0.9 -j RETURN"));
    }
    traffic.unharmed();
}

#[test]
fn restarts_and_kills_lose_nothing() {
    let bed = Bed::new();
    let manifests = objects();
    let mut daemon = daemon(&bed, &manifests).start();
    let traffic = Traffic::start(&bed);
    for n in 0..CHANGES {
        if n % 2 == 0 {
            daemon.kill();
        } else {
            assert!(daemon.stop().success());
        }
        daemon.start_again();
    }
    traffic.unharmed();
}

#[test]
fn two_hundred_mappings_that_come_and_go_at_once_lose_nothing_of_others() {
    let bed = Bed::new();
    let mut manifests = objects();
    let daemon = daemon(&bed, &manifests).start();
    let traffic = Traffic::start(&bed);
    for round in 0..3 {
        for n in 0..CHANGES as u16 {
            let many = Mapping::new(&format!("many-{n}")).address(Bed::EXT1B).service("other");
            manifests.put(many.port(Proto::Tcp, 2000 + n + round, 80));
        }
        apply(&daemon, &mut manifests);
        let last = 2000 + CHANGES as u16 - 1 + round;
        assert_eq!(bed.client1.get(Proto::Tcp, Bed::EXT1B, last).unwrap().at.ip(), Bed::POD1);
        for n in 0..CHANGES {
            manifests.remove(&format!("many-{n}"));
        }
        apply(&daemon, &mut manifests);
    }
    traffic.unharmed();
}
