use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction as Action, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use smartnat::apply::routing::{Routing, RoutingError, diff};
use smartnat::model::Family;
use smartnat::ruleset::ownership::{ROUTE_PROTOCOL, UNREACHABLE_METRIC};
use smartnat::ruleset::{Dataplane, LOCAL_TABLE, MAIN_TABLE, PolicyRule, Route, RouteTarget, RuleAction, RuleSelector};
use smartnat::sources::host::read_host;

use crate::netns::{in_netns, ip_json, sh, soon};

const SLOT: RuleSelector = RuleSelector::FwMark { mark: 0x10000, mask: 0x0fff_0000 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(destination: &str, target: RouteTarget, metric: u32) -> Route {
    Route { table: 1001, destination: destination.parse().unwrap(), target, metric }
}

fn link(source: &str) -> RouteTarget {
    RouteTarget::Link { interface: "eth1".into(), source: ip(source) }
}

fn gateway(gateway: &str) -> RouteTarget {
    RouteTarget::Gateway { interface: "eth1".into(), gateway: ip(gateway) }
}

fn rule(family: Family, priority: u32, selector: RuleSelector, table: u32) -> PolicyRule {
    PolicyRule::lookup(family, priority, selector, table)
}

/// eth0 and eth1 in one subnet, as in the operator guide's example, eth1 with a second one and IPv6.
fn topology() {
    sh("ip link add eth0 type veth peer name r0; ip link add eth1 index 5000 type veth peer name r1
        for i in eth0 r0 eth1 r1; do ip link set $i up; done
        ip addr add 203.0.113.2/24 dev eth0; ip addr add 203.0.113.10/24 dev eth1; ip addr add 198.51.100.10/25 dev eth1
        ip addr add 2001:db8::10/64 dev eth1 nodad");
}

fn desired() -> Dataplane {
    use Family::{Ipv4, Ipv6};
    Dataplane {
        routes: [
            route("203.0.113.0/24", link("203.0.113.10"), 0),
            route("198.51.100.0/25", link("198.51.100.10"), 0),
            route("0.0.0.0/0", gateway("203.0.113.1"), 0),
            route("0.0.0.0/0", RouteTarget::Unreachable, UNREACHABLE_METRIC),
            route("2001:db8::/64", link("2001:db8::10"), 0),
            route("::/0", gateway("2001:db8::1"), 0),
            route("::/0", RouteTarget::Unreachable, UNREACHABLE_METRIC),
        ]
        .into(),
        rules: [
            rule(Ipv4, 87, RuleSelector::InInterface("eth1".into()), LOCAL_TABLE),
            PolicyRule {
                family: Ipv4,
                priority: 88,
                selector: RuleSelector::InInterface("eth1".into()),
                action: RuleAction::Goto(101),
            },
            rule(Ipv4, 90, RuleSelector::FwMark { mark: 0x0fff_0000, mask: 0x0fff_0000 }, MAIN_TABLE),
            rule(Ipv4, 100, SLOT, 1001),
            rule(Ipv4, 110, RuleSelector::OutInterface("eth1".into()), 1001),
            rule(Ipv4, 110, RuleSelector::OutInterface("eth9".into()), 1002),
            rule(Ipv4, 120, RuleSelector::From(ip("203.0.113.10").into()), 1001),
            rule(Ipv4, 124, RuleSelector::From("198.51.100.0/28".parse().unwrap()), 1001),
            rule(Ipv4, 128, RuleSelector::FromHere("203.0.113.0/24".parse().unwrap()), 1001),
            PolicyRule { family: Ipv4, priority: 101, selector: RuleSelector::All, action: RuleAction::Nop },
            rule(Ipv6, 100, SLOT, 1001),
            rule(Ipv6, 120, RuleSelector::From(ip("2001:db8::10").into()), 1001),
        ]
        .into(),
        ..Dataplane::default()
    }
}

/// One look, one change; what is left over afterwards.
async fn converge(desired: &Dataplane) -> Result<(), RoutingError> {
    let host = read_host().await.unwrap();
    let change = diff(desired, &host);
    let result = soon("applying", Routing::connect().unwrap().apply(&change, &host)).await;
    if result.is_ok() {
        let left = diff(desired, &read_host().await.unwrap());
        assert!(left.is_empty(), "written, but read back otherwise: {left:#?}");
    }
    result
}

#[test]
fn what_is_written_is_read_back_equal_and_shown_so_by_ip() {
    in_netns(|| async {
        topology();
        converge(&desired()).await.unwrap();

        // `ip -json` leaves out tables and scopes that were asked for.
        let table = ip_json("route show table 1001 proto 83");
        let shown: Vec<_> = table
            .iter()
            .map(|r| {
                let text = |key| r[key].as_str().unwrap_or_default().to_owned();
                (text("type"), text("dst"), text("gateway"), text("dev"), text("prefsrc"), r["metric"].as_u64())
            })
            .collect();
        let row = |kind: &str, dst: &str, gw: &str, dev: &str, src: &str, metric: Option<u64>| {
            (kind.to_owned(), dst.to_owned(), gw.to_owned(), dev.to_owned(), src.to_owned(), metric)
        };
        assert_eq!(
            shown,
            [
                row("", "default", "203.0.113.1", "eth1", "", None),
                row("unreachable", "default", "", "", "", Some(4_278_198_272)),
                row("", "198.51.100.0/25", "", "eth1", "198.51.100.10", None),
                row("", "203.0.113.0/24", "", "eth1", "203.0.113.10", None),
            ]
        );
        assert_eq!(table[2]["scope"], "link");
        assert_eq!(ip_json("-6 route show table 1001 proto 83").len(), 3);

        let rules = ip_json("rule show");
        let find = |priority: u64, table: &str| {
            rules.iter().find(|r| r["priority"] == priority && r["table"] == table).unwrap().clone()
        };
        assert_eq!(find(87, "local")["iif"], "eth1");
        assert_eq!(find(90, "main")["fwmark"], "0xfff0000");
        assert_eq!(find(100, "1001")["fwmark"], "0x10000");
        assert_eq!(find(100, "1001")["fwmask"], "0xfff0000");
        assert_eq!(find(110, "1002")["oif"], "eth9");
        assert_eq!(find(120, "1001")["src"], "203.0.113.10");
        let network = find(124, "1001");
        assert_eq!((&network["src"], &network["srclen"]), (&"198.51.100.0".into(), &28.into()));
        assert_eq!(rules.iter().filter(|r| r["protocol"] == "83").count(), 10);
        let shown = sh("ip rule show");
        assert!(shown.contains("88:\tfrom all iif eth1 goto 101 proto 83"), "{shown}");
        assert!(shown.contains("128:\tfrom 203.0.113.0/24 iif lo lookup 1001 proto 83"), "{shown}");
        assert!(shown.contains("101:\tfrom all nop proto 83"), "{shown}");
        assert_eq!(ip_json("-6 rule show").iter().filter(|r| r["protocol"] == "83").count(), 2);

        // And the kernel goes by them.
        let way = |to: &str| sh(&format!("ip route get {to}"));
        assert!(way("192.0.2.1 mark 0x10000").contains("via 203.0.113.1 dev eth1"));
        assert!(way("192.0.2.1 from 203.0.113.10").contains("via 203.0.113.1 dev eth1"));
        assert!(way("192.0.2.1 from 203.0.113.2").contains("via 203.0.113.1 dev eth1"), "of such a network");
        assert!(way("203.0.113.77 mark 0x10000").contains("dev eth1"), "the same subnet, by its own interface");
        sh("echo 1 >/proc/sys/net/ipv4/ip_forward; ip route add 10.9.0.0/24 via 203.0.113.3 dev eth0");
        let marked = way("10.9.0.7 from 203.0.113.77 iif eth1 mark 0x10000");
        assert!(marked.contains("via 203.0.113.3 dev eth0"), "no mark sends a packet from outside back: {marked}");
        assert!(way("203.0.113.77").contains("dev eth0"));
    });
}

#[test]
fn everything_of_ours_goes_and_nothing_of_others() {
    in_netns(|| async {
        topology();
        sh("ip route add 10.9.0.0/16 dev eth1 table 1001; ip route add default via 203.0.113.7 metric 5 table 1001 proto static
            ip rule add pref 100 fwmark 0x20000/0xfff0000 lookup 1001; ip rule add pref 120 from 203.0.113.99 lookup 1001");
        let state = || {
            let all = [
                ip_json("route show table all"),
                ip_json("-6 route show table all"),
                ip_json("rule show"),
                ip_json("-6 rule show"),
            ];
            all.map(|entries| entries.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let before = state();
        converge(&desired()).await.unwrap();
        assert_ne!(state(), before);
        converge(&Dataplane::default()).await.unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn a_gateway_that_changes_is_replaced_in_place() {
    in_netns(|| async {
        topology();
        converge(&desired()).await.unwrap();
        let mut moved = desired();
        for (old, new) in [("203.0.113.1", "203.0.113.254"), ("2001:db8::1", "2001:db8::2")] {
            let destination = if old.contains(':') { "::/0" } else { "0.0.0.0/0" };
            assert!(moved.routes.remove(&route(destination, gateway(old), 0)));
            moved.routes.insert(route(destination, gateway(new), 0));
        }
        let change = diff(&moved, &read_host().await.unwrap());
        assert_eq!((change.add_routes.len(), change.len()), (2, 2), "{change:?}");
        converge(&moved).await.unwrap();
        assert!(sh("ip route get 192.0.2.1 mark 0x10000").contains("via 203.0.113.254 "));
    });
}

#[test]
fn duplicates_and_strays_go_and_the_wanted_one_stays() {
    in_netns(|| async {
        topology();
        converge(&desired()).await.unwrap();
        // Without NLM_F_EXCL the kernel takes the same rule again; `ip rule add` cannot do that.
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = Action::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(100),
            RuleAttribute::Table(1001),
            RuleAttribute::FwMark(0x10000),
            RuleAttribute::FwMask(0x0fff_0000),
            RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
        ];
        let (connection, mut handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        for _ in 0..2 {
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRule(message.clone()));
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
            let answers: Vec<_> = futures::StreamExt::collect(handle.request(request).unwrap()).await;
            assert!(answers.is_empty(), "{answers:?}");
        }
        sh("ip rule add pref 100 fwmark 0x10000/0xfff0000 from 192.0.2.0/24 lookup 1001 protocol 83
            ip rule add pref 5 from 192.0.2.0/24 blackhole protocol 83
            ip -6 rule add pref 6 not from 2001:db8:1::/64 lookup 1001 protocol 83
            ip route add blackhole 10.8.0.0/16 table 77 proto 83
            ip route add 10.7.0.0/16 table 1001 proto 83 mtu 1400 nexthop dev eth1 nexthop dev eth0
            ip -6 route add blackhole 2001:db8:8::/48 table 77 proto 83
            ip route replace unreachable default table 1001 proto 83
            ip route replace throw default table 1001 proto 83");
        let host = read_host().await.unwrap();
        assert_eq!(host.own_rules.iter().filter(|r| r.selector == SLOT && r.family == Family::Ipv4).count(), 3);
        assert_eq!(host.own_strays.len(), 7, "{:#?}", host.own_strays);

        converge(&desired()).await.unwrap();
        let of_slot = ip_json("rule show").iter().filter(|r| r["fwmark"] == "0x10000").count();
        assert_eq!(of_slot, 1);
        assert!(read_host().await.unwrap().own_strays.is_empty());
    });
}

#[test]
fn routes_lost_with_a_link_come_back_also_under_another_index() {
    in_netns(|| async {
        topology();
        converge(&desired()).await.unwrap();
        sh("ip link set eth1 down");
        let lost = diff(&desired(), &read_host().await.unwrap());
        assert!(lost.add_routes.len() >= 3 && lost.add_rules.is_empty(), "{lost:?}");

        let error = converge(&desired()).await.unwrap_err();
        assert!(error.is_soft(), "{error}");
        assert!(error.to_string().contains("203.0.113.0/24 dev eth1 table 1001"), "{error}");
        assert!(error.to_string().contains("ip link set eth1 up"), "{error}");

        sh("ip link set eth1 up; ip addr replace 2001:db8::10/64 dev eth1 nodad");
        converge(&desired()).await.unwrap();

        sh("ip link del eth1; ip link add eth1 index 6000 type veth peer name r1; ip link set eth1 up; ip link set r1 up
            ip addr add 203.0.113.10/24 dev eth1; ip addr add 198.51.100.10/25 dev eth1
            ip addr add 2001:db8::10/64 dev eth1 nodad");
        converge(&desired()).await.unwrap();
    });
}

#[test]
fn what_cannot_be_added_does_not_stop_the_rest() {
    in_netns(|| async {
        topology();
        let mut desired = desired();
        desired.routes.insert(Route {
            table: 1002,
            destination: "192.0.2.0/24".parse().unwrap(),
            target: RouteTarget::Link { interface: "eth9".into(), source: ip("192.0.2.1") },
            metric: 0,
        });
        desired.routes.insert(Route {
            table: 1003,
            destination: "0.0.0.0/0".parse().unwrap(),
            target: gateway("172.31.0.1"),
            metric: 0,
        });
        let error = converge(&desired).await.unwrap_err();
        assert!(error.is_soft(), "{error}");
        let RoutingError::Incomplete { failures } = &error else { panic!("{error}") };
        assert_eq!(failures.len(), 2, "{error}");
        assert!(error.to_string().contains("interface eth9 is not there"), "{error}");
        assert!(error.to_string().contains("SNCTRLR_GW_ADDRESS_OFFSET"), "{error}");
        let left = diff(&desired, &read_host().await.unwrap());
        assert_eq!((left.add_routes.len(), left.len()), (2, 2), "all else was written");
    });
}

#[test]
fn a_place_held_by_someone_else_is_named_and_left_alone() {
    in_netns(|| async {
        topology();
        sh("ip route add default via 203.0.113.7 dev eth0 table 1001");
        let foreign = sh("ip route show table 1001");
        let error = converge(&desired()).await.unwrap_err();
        assert!(!error.is_soft());
        assert!(error.to_string().contains("SNCTRLR_ROUTE_TABLE_BASE"), "{error}");
        assert!(sh("ip route show table 1001").contains(foreign.trim()));
    });
}

#[test]
fn a_change_made_from_an_old_look_succeeds() {
    in_netns(|| async {
        topology();
        let old = read_host().await.unwrap();
        let change = diff(&desired(), &old);
        let mut routing = Routing::connect().unwrap();
        routing.apply(&change, &old).await.unwrap();
        routing.apply(&change, &old).await.unwrap();

        let full = read_host().await.unwrap();
        let removal = diff(&Dataplane::default(), &full);
        routing.apply(&removal, &full).await.unwrap();
        routing.apply(&removal, &full).await.unwrap();
        assert!(diff(&Dataplane::default(), &read_host().await.unwrap()).is_empty());
    });
}

#[test]
fn the_same_rule_under_another_protocol_stays_beside_ours() {
    in_netns(|| async {
        topology();
        sh("ip rule add pref 120 from 203.0.113.10 lookup 1001 protocol static");
        converge(&desired()).await.unwrap();
        converge(&Dataplane::default()).await.unwrap();
        assert!(sh("ip rule show").contains("from 203.0.113.10"));
    });
}
