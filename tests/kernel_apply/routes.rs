use smartnat::apply::{Repair, Scope};
use smartnat::model::Family;
use smartnat::ruleset::ownership::UNREACHABLE_METRIC;
use smartnat::ruleset::{Dataplane, PolicyRule, Route, RouteTarget, RuleSelector};
use smartnat::sources::host::read_host;

use crate::bed::{Bed, full, ip};
use crate::netns::{in_netns, ip_json, sh};

fn plane() -> Dataplane {
    let route = |destination: &str, target, metric| Route {
        table: 1001,
        destination: destination.parse().unwrap(),
        target,
        metric,
    };
    let link = RouteTarget::Link { interface: "eth1".into(), source: ip("203.0.113.10") };
    let gateway = RouteTarget::Gateway { interface: "eth1".into(), gateway: ip("203.0.113.1") };
    Dataplane {
        routes: [
            route("203.0.113.0/24", link, 0),
            route("0.0.0.0/0", gateway, 0),
            route("0.0.0.0/0", RouteTarget::Unreachable, UNREACHABLE_METRIC),
        ]
        .into(),
        rules: [PolicyRule::lookup(Family::Ipv4, 100, RuleSelector::FwMark { mark: 0x10000, mask: 0x0fff_0000 }, 1001)]
            .into(),
        ..full()
    }
}

fn told(repairs: &[Repair]) -> Vec<String> {
    repairs.iter().map(ToString::to_string).collect()
}

#[test]
fn routes_and_rules_that_others_removed_are_put_back_and_told_once() {
    in_netns(|| async {
        sh(
            "ip link add eth1 type veth peer name r1; ip link set eth1 up; ip link set r1 up; ip addr add 203.0.113.10/24 dev eth1",
        );
        let mut bed = Bed::new();
        let plane = plane();
        let host = read_host().await.unwrap();
        let first = bed.applier.apply(&plane, &host, Scope::Full).await.unwrap();
        assert_eq!((first.writes.routes, first.writes.rules, first.repairs.len()), (3, 1, 0), "{first:?}");
        let written = bed.applier.take_written_routing().expect("something was written");
        let host = read_host().await.unwrap();
        assert_eq!((&written.routes, &written.rules), (&host.own_routes, &host.own_rules), "as a look shows it");
        assert_eq!(bed.applier.take_written_routing(), None);
        let quiet = bed.applier.apply(&plane, &host, Scope::Full).await.unwrap();
        assert!(quiet.writes.is_empty() && quiet.tool_calls == 0, "{quiet:?}");

        sh("ip rule del pref 100; ip link set eth1 down; ip link set eth1 up");
        let host = read_host().await.unwrap();
        let repaired = bed.applier.apply(&plane, &host, Scope::Full).await.unwrap();
        assert_eq!(
            told(&repaired.repairs),
            [
                "route 203.0.113.0/24 dev eth1 table 1001 scope link src 203.0.113.10 was removed",
                "route 0.0.0.0/0 via 203.0.113.1 dev eth1 table 1001 was removed",
                "rule fwmark 0x10000/0xfff0000 lookup 1001 pref 100 was removed",
            ]
        );
        assert_eq!((ip_json("route show table 1001").len(), ip_json("rule show pref 100").len()), (3, 1));
    });
}

#[test]
fn routes_of_an_interface_that_is_away_wait_and_hold_up_nothing_else() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let host = read_host().await.unwrap();
        let applied = bed.applier.apply(&plane(), &host, Scope::Full).await.unwrap();
        assert_eq!(applied.waiting_routes.len(), 2, "{applied:?}");
        assert!(applied.waiting_routes.iter().all(|text| text.contains("eth1")), "{applied:?}");
        assert!(sh("iptables -t nat -S PREROUTING").contains("SMARTNAT-DNAT"));
        assert_eq!(ip_json("route show table 1001").len(), 1, "the unreachable default is there");
    });
}
