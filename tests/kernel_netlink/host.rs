use std::net::IpAddr;
use std::time::Duration;

use smartnat::model::{Host, InterfaceAddress, MainRoute, Neighbour, NeighbourState, StrayKind};
use smartnat::ruleset::{PolicyRule, Route, RouteTarget, RuleSelector};
use smartnat::sources::host::{read_host, run};
use smartnat::sources::{SourceEvent, SourceState};
use tokio::sync::mpsc;

use crate::netns::{in_netns, sh, soon};
use crate::overrun::lost_messages;

/// No periodic look within a test.
const NEVER: Duration = Duration::from_secs(3600);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str, prefix_len: u8, secondary: bool) -> InterfaceAddress {
    InterfaceAddress { address: ip(text), prefix_len, secondary, peer: None }
}

/// eth1 with several subnets and an index beyond 4095, its peer r1, and eth0 towards r0.
fn topology() {
    sh("ip link add eth0 index 7 type veth peer name r0
        ip link add eth1 index 5000 mtu 1400 type veth peer name r1
        ip addr add 10.0.0.2/24 dev eth0
        ip addr add 203.0.113.10/24 dev eth1
        ip addr add 198.51.100.1/28 dev eth1
        ip addr add 203.0.113.11/24 dev eth1
        ip addr add 2001:db8::10/64 dev eth1 nodad
        ip link set eth0 up; ip link set r0 up; ip link set eth1 up
        ip route add default via 10.0.0.1
        ip route add 10.244.0.0/16 nexthop via 10.0.0.3 nexthop via 10.0.0.4
        ip route add unreachable 192.0.2.0/24 metric 7
        ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud reachable
        ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable
        ip neigh add proxy 10.0.0.3 dev eth0");
}

#[test]
fn a_look_shows_links_addresses_routes_and_gateways() {
    in_netns(|| async {
        topology();
        let host = read_host().await.unwrap();

        let names: Vec<_> = host.links.keys().map(String::as_str).collect();
        assert_eq!(names, ["eth0", "eth1", "lo", "r0", "r1"]);
        let eth1 = &host.links["eth1"];
        assert_eq!((eth1.index, eth1.up, eth1.carrier, eth1.mtu), (5000, true, false, 1400), "its peer is down");
        assert!(host.links["eth0"].carrier);
        assert!(!host.links["r1"].up);
        let v4: Vec<_> = eth1.addresses.iter().filter(|a| a.address.is_ipv4()).copied().collect();
        assert_eq!(
            v4,
            [address("203.0.113.10", 24, false), address("198.51.100.1", 28, false), address("203.0.113.11", 24, true)]
        );
        assert!(eth1.addresses.contains(&address("2001:db8::10", 64, false)));

        let route = |destination: &str, interface: Option<&str>, gateway: Option<&str>, metric| MainRoute {
            destination: destination.parse().unwrap(),
            interface: interface.map(str::to_owned),
            gateway: gateway.map(ip),
            metric,
        };
        for expected in [
            route("0.0.0.0/0", Some("eth0"), Some("10.0.0.1"), 0),
            route("10.0.0.0/24", Some("eth0"), None, 0),
            route("10.244.0.0/16", Some("eth0"), Some("10.0.0.3"), 0),
            route("10.244.0.0/16", Some("eth0"), Some("10.0.0.4"), 0),
            route("192.0.2.0/24", None, None, 7),
            route("2001:db8::/64", Some("eth1"), None, 256),
        ] {
            assert!(host.main_routes.contains(&expected), "{expected:?} is missing in {:#?}", host.main_routes);
        }
        assert_eq!(
            host.neighbours,
            [Neighbour { interface: "eth0".to_owned(), address: ip("10.0.0.1"), state: NeighbourState::Reachable }],
            "10.0.0.9 is no gateway, and 10.0.0.3 only a proxy entry"
        );
        assert!(host.own_routes.is_empty() && host.own_rules.is_empty() && host.own_strays.is_empty());
    });
}

#[test]
fn a_look_shows_altnames_and_the_other_ends_of_links() {
    in_netns(|| async {
        let long = "wan-port-with-a-name-of-more-than-fifteen-characters";
        sh(&format!(
            "ip link add eth1 type veth peer name r1
            ip link property add dev eth1 altname enp2s0 altname {long}
            ip addr add 10.0.0.1 peer 10.0.0.2/32 dev eth1
            ip addr add 10.1.0.1 peer 10.1.0.2/24 dev eth1
            ip addr add 10.2.0.1/32 dev eth1 noprefixroute"
        ));
        let host = read_host().await.unwrap();
        for name in ["eth1", "enp2s0", long] {
            assert_eq!(host.interface_named(name).map(String::as_str), Some("eth1"));
        }
        let v4: Vec<_> = host.links["eth1"].addresses.iter().filter(|a| a.address.is_ipv4()).copied().collect();
        let with = |address, prefix, peer: &str| InterfaceAddress {
            peer: Some(ip(peer)),
            ..self::address(address, prefix, false)
        };
        let expected =
            [with("10.0.0.1", 32, "10.0.0.2"), with("10.1.0.1", 24, "10.1.0.2"), address("10.2.0.1", 32, false)];
        assert_eq!(v4, expected);
        let subnets: Vec<String> = v4.iter().map(|a| a.subnet().to_string()).collect();
        assert_eq!(subnets, ["10.0.0.2/32", "10.1.0.0/24", "10.2.0.1/32"]);
    });
}

#[test]
fn a_look_into_an_empty_namespace_succeeds() {
    in_netns(|| async {
        let host = read_host().await.unwrap();
        assert_eq!(host.links.len(), 1);
        assert!(host.is_local(ip("127.0.0.1")));
    });
}

#[test]
fn own_entries_are_told_by_protocol_number_and_odd_ones_are_strays() {
    in_netns(|| async {
        topology();
        sh("ip route add default via 203.0.113.1 dev eth1 table 1001 proto 83
            ip route add 203.0.113.0/24 dev eth1 src 203.0.113.11 table 1001 proto 83
            ip route add unreachable default metric 4278198272 table 1001 proto 83
            ip route add 10.9.0.0/16 dev eth1 table 1001
            ip route add blackhole 10.8.0.0/16 table 77 proto 83
            ip -6 route add 2001:db8::/64 dev eth1 src 2001:db8::10 table 1001 proto 83
            ip -6 route add default via 2001:db8::1 dev eth1 table 1001 proto 83
            ip -6 route add unreachable default metric 4278198272 table 1001 proto 83
            ip rule add pref 100 fwmark 0x10000/0xfff0000 lookup 1001 protocol 83
            ip rule add pref 110 oif eth9 lookup 1001 protocol 83
            ip rule add pref 120 from 203.0.113.10 lookup 1001 protocol 83
            ip -6 rule add pref 120 from 2001:db8::10 lookup 1001 protocol 83
            ip rule add pref 120 from 203.0.113.99 lookup 1001
            ip rule add pref 124 from 198.51.100.0/28 lookup 1001 protocol 83
            ip rule add pref 128 from 203.0.113.0/24 iif lo lookup 1001 protocol 83
            ip rule add pref 129 from 203.0.113.0/24 iif eth1 lookup 1001 protocol 83
            ip rule add pref 130 from 203.0.113.0/24 to 192.0.2.0/24 lookup 1001 protocol 83
            ip rule add pref 131 not fwmark 0x10000/0xfff0000 lookup 1001 protocol 83");
        let host = read_host().await.unwrap();

        let route = |destination: &str, target, metric| Route {
            table: 1001,
            destination: destination.parse().unwrap(),
            target,
            metric,
        };
        let link = |source| RouteTarget::Link { interface: "eth1".to_owned(), source: ip(source) };
        let gateway = |gateway| RouteTarget::Gateway { interface: "eth1".to_owned(), gateway: ip(gateway) };
        let expected = [
            route("203.0.113.0/24", link("203.0.113.11"), 0),
            route("0.0.0.0/0", gateway("203.0.113.1"), 0),
            route("0.0.0.0/0", RouteTarget::Unreachable, 4_278_198_272),
            route("2001:db8::/64", link("2001:db8::10"), 0),
            route("::/0", gateway("2001:db8::1"), 0),
            route("::/0", RouteTarget::Unreachable, 4_278_198_272),
        ];
        assert_eq!(host.own_routes, expected.into());

        use smartnat::model::Family::{Ipv4, Ipv6};
        let rule = |family, priority, selector| PolicyRule::lookup(family, priority, selector, 1001);
        assert_eq!(
            host.own_rules,
            [
                rule(Ipv4, 100, RuleSelector::FwMark { mark: 0x10000, mask: 0x0fff_0000 }),
                rule(Ipv4, 110, RuleSelector::OutInterface("eth9".to_owned())),
                rule(Ipv4, 120, RuleSelector::From(ip("203.0.113.10").into())),
                rule(Ipv4, 124, RuleSelector::From("198.51.100.0/28".parse().unwrap())),
                rule(Ipv4, 128, RuleSelector::FromHere("203.0.113.0/24".parse().unwrap())),
                rule(Ipv6, 120, RuleSelector::From(ip("2001:db8::10").into())),
            ]
        );
        let strays: Vec<_> = host.own_strays.iter().map(|s| (s.kind, s.description.as_str())).collect();
        assert_eq!(
            strays,
            [
                (StrayKind::Route, "route 10.8.0.0/16 table 77 metric 0 of type BlackHole"),
                (StrayKind::Rule, "rule of priority 129 (Ipv4)"),
                (StrayKind::Rule, "rule of priority 130 (Ipv4)"),
                (StrayKind::Rule, "rule of priority 131 (Ipv4)"),
            ]
        );
    });
}

/// A running source, and what it delivered last.
struct Watched {
    events: mpsc::Receiver<SourceEvent>,
}

impl Watched {
    async fn start(refresh: Duration) -> (Self, Host) {
        let (sender, events) = mpsc::channel(64);
        tokio::spawn(run(refresh, sender));
        let mut watched = Watched { events };
        let first = watched.host("the first look").await;
        assert_eq!(
            soon("state", watched.events.recv()).await,
            Some(SourceEvent::State { source: "host", state: SourceState::Current })
        );
        (watched, first)
    }

    async fn host(&mut self, what: &str) -> Host {
        loop {
            match soon(what, self.events.recv()).await {
                Some(SourceEvent::Host { host, .. }) => return host,
                // Follows a look, when interfaces come, or when it is not known what was missed.
                Some(SourceEvent::SwitchesChanged) => {}
                other => panic!("{what}: got {other:?}"),
            }
        }
    }

    /// The first delivered host that fulfils a condition.
    async fn until(&mut self, what: &str, condition: impl Fn(&Host) -> bool) -> Host {
        soon(what, async {
            loop {
                let host = self.host(what).await;
                if condition(&host) {
                    return host;
                }
            }
        })
        .await
    }
}

#[test]
fn changes_are_delivered_as_whole_looks() {
    in_netns(|| async {
        topology();
        let (mut watched, first) = Watched::start(NEVER).await;
        assert_eq!(first.links["eth1"].index, 5000);

        sh("ip addr add 203.0.113.12/24 dev eth1");
        let new = address("203.0.113.12", 24, true);
        watched.until("an address added", |h| h.links["eth1"].addresses.contains(&new)).await;
        sh("ip addr del 203.0.113.12/24 dev eth1");
        watched.until("an address removed", |h| !h.links["eth1"].addresses.contains(&new)).await;

        sh("ip rule add pref 100 fwmark 1/1 lookup 1001 protocol 83");
        watched.until("a rule of ours", |h| h.own_rules.len() == 1).await;
        sh("ip route add 198.18.0.0/15 via 10.0.0.1");
        watched.until("a main route", |h| h.main_routes.iter().any(|r| r.destination.prefix_len() == 15)).await;

        sh("ip link del eth1");
        watched.until("a link removed", |h| !h.links.contains_key("eth1")).await;
        sh("ip link add eth1 index 6000 type veth peer name r1; ip addr add 203.0.113.10/24 dev eth1");
        let host = watched
            .until("the link under another index", |h| h.links.get("eth1").is_some_and(|l| !l.addresses.is_empty()))
            .await;
        assert_eq!(host.links["eth1"].index, 6000);
        assert_eq!(host, read_host().await.unwrap(), "what is delivered is what a look shows");
    });
}

#[test]
fn a_gateways_state_is_followed() {
    in_netns(|| async {
        sh("ip link add eth0 type veth peer name r0; ip link set eth0 up; ip link set r0 up
            ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1");
        let (mut watched, first) = Watched::start(NEVER).await;
        assert_eq!(first.neighbours, []);
        let mut now = async |script: &str, states: &[NeighbourState]| {
            sh(script);
            let host = watched.host(script).await;
            assert_eq!(host.neighbours.iter().map(|n| n.state).collect::<Vec<_>>(), states, "{script}");
        };
        let lladdr = "lladdr 02:00:00:00:00:01 dev eth0 nud";
        now(&format!("ip neigh add 10.0.0.1 {lladdr} permanent"), &[NeighbourState::Reachable]).await;
        now(&format!("ip neigh replace 10.0.0.1 {lladdr} stale"), &[NeighbourState::Stale]).await;
        now("ip neigh replace 10.0.0.1 dev eth0 nud failed", &[NeighbourState::Failed]).await;
        now("ip neigh del 10.0.0.1 dev eth0", &[]).await;
    });
}

#[test]
fn chatter_that_changes_nothing_delivers_nothing() {
    in_netns(|| async {
        topology();
        let (mut watched, _) = Watched::start(NEVER).await;
        // None of these is seen: neighbours that are no gateways, a folded state that stays, foreign tables, a change undone.
        sh("for i in $(seq 20 60); do ip neigh add 10.0.0.$i lladdr 02:00:00:00:01:$i dev eth0; done
            ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
            ip route add 10.7.0.0/16 dev eth0 table 500
            ip addr add 10.0.0.77/24 dev eth0; ip addr del 10.0.0.77/24 dev eth0");
        // This one is; had any of the others been delivered, it would come first.
        sh("ip addr add 10.0.0.88/24 dev eth0");
        let host = watched.host("the one change").await;
        assert!(host.links["eth0"].addresses.contains(&address("10.0.0.88", 24, true)));
    });
}

#[test]
fn the_periodic_look_is_delivered_also_when_nothing_changed() {
    in_netns(|| async {
        topology();
        let (mut watched, first) = Watched::start(Duration::from_millis(100)).await;
        for _ in 0..3 {
            assert_eq!(watched.host("a periodic look").await, first);
        }
    });
}

#[test]
fn a_storm_that_overflows_the_socket_ends_in_the_right_state() {
    in_netns(|| async {
        topology();
        let (mut watched, _) = Watched::start(NEVER).await;
        // The runtime has one thread, which waits here: nobody reads the socket.
        sh("for i in $(seq 100 179); do for j in $(seq 0 249); do echo route add 10.$i.$j.0/24 dev eth0; done; done |
            ip -batch -");
        assert!(lost_messages() > 0, "the storm was too small");
        let host = watched.until("the end of the storm", |h| h.main_routes.len() > 20_000).await;
        assert_eq!(host, read_host().await.unwrap());
        sh("ip addr add 10.0.0.88/24 dev eth0");
        watched.until("a change after the storm", |h| h.is_local(ip("10.0.0.88"))).await;
    });
}

#[test]
fn the_task_ends_when_nobody_listens() {
    in_netns(|| async {
        let (sender, mut events) = mpsc::channel(64);
        let task = tokio::spawn(run(NEVER, sender));
        soon("the first look", events.recv()).await.unwrap();
        drop(events);
        soon("the end of the task", task).await.unwrap();
    });
}

#[test]
fn a_switch_of_an_interface_is_told() {
    in_netns(|| async {
        sh("ip link add eth1.7 type veth peer name r1; echo 1 >/proc/sys/net/ipv4/conf/eth1.7/forwarding");
        let (mut watched, _) = Watched::start(NEVER).await;
        for parameter in ["forwarding", "rp_filter"] {
            sh(&format!("echo 0 >/proc/sys/net/ipv4/conf/eth1.7/{parameter}"));
            sh(&format!("echo 1 >/proc/sys/net/ipv4/conf/eth1.7/{parameter}"));
            soon("the change", async { while watched.events.recv().await != Some(SourceEvent::SwitchesChanged) {} })
                .await;
        }
    });
}

#[test]
fn local_routes_are_those_that_no_address_brought() {
    in_netns(|| async {
        topology();
        sh("ip route add local 192.0.2.7 dev eth1
            ip route add local 192.0.2.16/28 dev eth1 proto static
            ip route add local 192.0.2.9 dev lo
            ip -6 route add local 2001:db8:7::/64 dev lo
            ip route add local 192.0.2.8 dev eth1 table 77
            ip link add kube-ipvs0 type veth");
        for i in 0..50 {
            sh(&format!("ip addr add 10.96.0.{i}/32 dev kube-ipvs0"));
        }
        let (mut watched, host) = Watched::start(Duration::from_secs(3600)).await;
        let of = |host: &Host, name: &str| host.local_routes.of(name).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(of(&host, "eth1"), ["192.0.2.7/32", "192.0.2.16/28"]);
        assert_eq!(of(&host, "lo"), ["192.0.2.9/32", "2001:db8:7::/64"]);
        assert_eq!(of(&host, "kube-ipvs0"), Vec::<String>::new());
        assert!(host.is_local(ip("192.0.2.31")) && !host.is_local(ip("192.0.2.8")) && !host.is_local(ip("192.0.2.32")));

        sh("ip route del local 192.0.2.7 dev eth1");
        assert_eq!(of(&watched.host("the route is gone").await, "eth1"), ["192.0.2.16/28"]);
        sh("ip route add local 192.0.2.6 dev eth1");
        assert_eq!(of(&watched.host("another came").await, "eth1"), ["192.0.2.6/32", "192.0.2.16/28"]);
    });
}
