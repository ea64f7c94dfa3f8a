//! Packets through what the compiler makes, without a kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use smartnat::model::{BorderConfig, InterfaceAddress, MainRoute, Protocol, World};
use smartnat::plan::{Plan, plan};
use smartnat::ruleset::{CtDirection, RejectWith};
use smartnat::trace::{Outcome, Packet, PacketKind, PacketState, SourceSeen, Trace, Why, trace};

use crate::specs;
use crate::world::{Spec, config, key, mapping_mut, objects_mut, pod, reference, world};

const CLIENT: &str = "192.0.2.7";
const OUTSIDER: &str = "198.18.0.9";
const PODS: [&str; 2] = ["10.244.1.2", "10.244.1.3"];
const MAPPED: &str = "203.0.113.10";
const CLUSTER_IP: &str = "10.96.0.10";
const EXTERNAL: [&str; 2] = ["eth1", "eth2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn kind(protocol: Protocol, destination_port: u16) -> PacketKind {
    match protocol {
        Protocol::Tcp => PacketKind::Tcp { source_port: 40_000, destination_port },
        Protocol::Udp => PacketKind::Udp { source_port: 40_000, destination_port },
    }
}

fn tcp(port: u16) -> PacketKind {
    kind(Protocol::Tcp, port)
}

/// A world and the plan of it.
struct Planned {
    world: World,
    plan: Plan,
}

impl Planned {
    fn new(config: &BorderConfig, world: World) -> Planned {
        let plan = plan(config, &world);
        Planned { world, plan }
    }

    fn follow(&self, packet: &Packet) -> Trace {
        trace(&self.plan.dataplane, &self.world.host, packet)
    }

    fn first(&self, interface: &str, source: &str, destination: &str, kind: PacketKind) -> Trace {
        self.follow(&Packet::first(interface, ip(source), ip(destination), kind))
    }
}

fn settings(masquerade: bool, snat: bool) -> BorderConfig {
    BorderConfig { masquerade, snat, ..config() }
}

/// The reference with other settings.
fn with(masquerade: bool, snat: bool) -> Planned {
    Planned::new(&settings(masquerade, snat), reference())
}

/// The reference's Mapping for clients of 192.0.2.0/24 and pods.
fn filtered() -> Planned {
    let mut world = reference();
    let web = mapping_mut(&mut world, "web");
    web.spec.allowed_sources = vec!["192.0.2.0/24".to_owned(), "10.244.0.0/16".to_owned()];
    Planned::new(&config(), world)
}

/// The reference's Mapping in mode service; the ClusterIP is on the box, or nowhere.
fn by_cluster_ip(local: bool) -> Planned {
    let mut world = reference();
    let web = mapping_mut(&mut world, "web");
    web.spec.mode = Some("service".to_owned());
    world.host.main_routes.retain(|route| route.destination.to_string() != "10.96.0.0/16");
    if local {
        let address = InterfaceAddress::of(ip(CLUSTER_IP).into());
        world.host.links.get_mut("lo").unwrap().addresses.push(address);
    }
    Planned::new(&config(), world)
}

#[track_caller]
fn assert_forwarded(trace: &Trace, to: &[SocketAddr], source: SourceSeen, out_interface: &str) {
    let outcome = |to: &SocketAddr| Outcome::Forwarded { to: *to, source, out_interface: out_interface.to_owned() };
    assert_eq!(trace.outcomes, to.iter().map(outcome).collect(), "{trace}");
}

#[track_caller]
fn assert_only(trace: &Trace, outcome: &Outcome, why: Why) {
    assert_eq!(trace.outcomes, BTreeSet::from([outcome.clone()]), "{trace}");
    assert_eq!(trace.reason().map(|r| r.why), Some(why), "{trace}");
}

#[track_caller]
fn assert_dropped(trace: &Trace, why: Why) {
    assert!(is_dropped(trace), "{trace}");
    assert_eq!(trace.reason().map(|r| r.why), Some(why), "{trace}");
}

fn is_dropped(trace: &Trace) -> bool {
    trace.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Dropped(_)))
}

fn both(port: u16) -> [SocketAddr; 2] {
    PODS.map(|pod| SocketAddr::new(ip(pod), port))
}

const SETTINGS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

#[test]
fn clients_reach_both_pods_on_every_interface_and_are_masqueraded_where_that_is_set() {
    for (masquerade, snat) in SETTINGS {
        let planned = with(masquerade, snat);
        let seen = if masquerade { SourceSeen::Masquerade } else { SourceSeen::Kept };
        for interface in EXTERNAL {
            for address in [MAPPED, "203.0.113.11", "198.51.100.10"] {
                for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
                    let trace = planned.first(interface, CLIENT, address, kind(protocol, port));
                    assert_forwarded(&trace, &both(port), seen, "eth0");
                    assert_eq!(trace.mapping(), Some(format!("default/web:{protocol}/{port}").as_str()));
                    assert_eq!(trace.reason().unwrap().why, Why::Allowed);
                }
            }
        }
    }
}

#[test]
fn hairpins_are_always_masqueraded() {
    for (masquerade, snat) in SETTINGS {
        let trace = with(masquerade, snat).first("eth0", PODS[0], MAPPED, tcp(80));
        assert_forwarded(&trace, &both(80), SourceSeen::Masquerade, "eth0");
    }
}

#[test]
fn pods_leave_by_the_interface_and_address_of_their_mapping_only_where_snat_is_set() {
    for (masquerade, snat) in SETTINGS {
        let planned = with(masquerade, snat);
        let to = [SocketAddr::new(ip("192.0.2.99"), 443)];
        let trace = planned.first("eth0", PODS[0], "192.0.2.99", tcp(443));
        if snat {
            assert_forwarded(&trace, &to, SourceSeen::Snat(ip(MAPPED)), "eth1");
            assert_eq!(trace.reason().unwrap().why, Why::Egress);
        } else {
            assert_forwarded(&trace, &to, SourceSeen::Kept, "eth0");
        }
        // Somebody else's pod, and within the cluster.
        let other = planned.first("eth0", "10.244.9.9", "192.0.2.99", tcp(443));
        assert_forwarded(&other, &to, SourceSeen::Kept, "eth0");
        for inside in ["10.244.9.9", "10.96.7.7", "10.0.0.9"] {
            let trace = planned.first("eth0", PODS[0], inside, tcp(443));
            assert_forwarded(&trace, &[SocketAddr::new(ip(inside), 443)], SourceSeen::Kept, "eth0");
        }
    }
}

#[test]
fn answers_leave_by_the_interface_that_the_client_came_in_on() {
    let marks = config().marks;
    for (interface, slot) in [("eth1", 1), ("eth2", 2)] {
        let client = SocketAddr::new(ip(CLIENT), 40_000);
        let state = PacketState::Established {
            direction: CtDirection::Reply,
            connmark: marks.slot(slot) | marks.mapped(),
            dnat: true,
            destination: Some(client),
        };
        let answer = Packet { state, ..Packet::first("eth0", ip(PODS[0]), ip("10.0.0.2"), tcp(40_000)) };
        for (masquerade, snat) in SETTINGS {
            assert_forwarded(&with(masquerade, snat).follow(&answer), &[client], SourceSeen::Kept, interface);
        }
    }
}

#[test]
fn a_source_that_is_not_allowed_is_dropped_and_told_so() {
    let planned = filtered();
    assert_forwarded(&planned.first("eth1", CLIENT, MAPPED, tcp(80)), &both(80), SourceSeen::Masquerade, "eth0");
    let refused = planned.first("eth1", OUTSIDER, MAPPED, tcp(80));
    assert_dropped(&refused, Why::SourceNotAllowed);
    assert_eq!(refused.mapping(), Some("default/web:tcp/80"));
    assert_forwarded(&planned.first("eth0", PODS[1], MAPPED, tcp(80)), &both(80), SourceSeen::Masquerade, "eth0");
    // The filter counts on the inside too: the packet stays what it was, one for the box itself.
    let node = planned.first("eth0", "10.0.0.9", MAPPED, tcp(80));
    let itself = Outcome::Delivered { to: SocketAddr::new(ip(MAPPED), 80) };
    assert_only(&node, &itself, Why::SourceNotAllowed);
}

proptest! {
    /// One, a few, and many are asked for in different ways.
    #[test]
    fn exactly_the_allowed_sources_pass(
        nets in prop::collection::btree_set((0u8..16, 24u8..=32), 1..9),
        asked in prop::collection::vec((0u8..16, any::<u8>()), 1..20),
    ) {
        let nets: Vec<ipnet::IpNet> = nets.iter().map(|(i, len)| format!("198.18.{i}.128/{len}").parse().unwrap()).collect();
        let mut world = reference();
        mapping_mut(&mut world, "web").spec.allowed_sources = nets.iter().map(|net| net.to_string()).collect();
        let planned = Planned::new(&config(), world);
        for (i, last) in asked.into_iter().chain([(0, 128), (1, 129), (2, 127)]) {
            let source = format!("198.18.{i}.{last}");
            let trace = planned.first("eth1", &source, MAPPED, tcp(80));
            if nets.iter().any(|net| net.contains(&ip(&source))) {
                assert_forwarded(&trace, &both(80), SourceSeen::Masquerade, "eth0");
            } else {
                assert_dropped(&trace, Why::SourceNotAllowed);
            }
        }
    }
}

#[test]
fn forged_sources_reach_nothing_from_outside() {
    for planned in [with(true, true), with(false, false), by_cluster_ip(true)] {
        for interface in EXTERNAL {
            for source in [PODS[0], "10.244.9.9", "10.0.0.9"] {
                for destination in [MAPPED, "10.0.0.2"] {
                    assert_dropped(&planned.first(interface, source, destination, tcp(80)), Why::InsideSource);
                }
                // What is for no address of the box ends before its source is looked at.
                assert_dropped(&planned.first(interface, source, PODS[1], tcp(80)), Why::NotMapped);
                let trace = planned.first(interface, source, CLUSTER_IP, tcp(80));
                assert!(is_dropped(&trace), "{trace}");
            }
            // A ClusterIP is of the inside, or the box's own; the kernel takes its own from nobody.
            for source in [CLUSTER_IP, MAPPED, "10.0.0.2", "127.0.0.1"] {
                let trace = planned.first(interface, source, MAPPED, tcp(80));
                assert!(is_dropped(&trace), "{trace}");
            }
        }
    }
}

#[test]
fn an_interface_not_seen_yet_is_outside_and_serves_nothing() {
    let planned = with(true, true);
    assert_dropped(&planned.first("wlan0", CLIENT, MAPPED, tcp(80)), Why::UnknownInterface);
    assert_dropped(&planned.first("wlan0", CLIENT, MAPPED, tcp(22)), Why::NotMapped);
    assert_dropped(&planned.first("wlan0", CLIENT, PODS[0], tcp(80)), Why::NotMapped);
}

#[test]
fn without_anybody_to_go_to_allowed_clients_are_refused_and_others_dropped() {
    let mut world = reference();
    for slice in objects_mut(&mut world).slices.values_mut() {
        Arc::make_mut(slice).endpoints.clear();
    }
    for planned in [Planned::new(&config(), world), by_cluster_ip(false)] {
        let reset = Outcome::Refused { with: RejectWith::TcpReset };
        let unreachable = Outcome::Refused { with: RejectWith::PortUnreachable };
        for (interface, source) in [("eth1", CLIENT), ("eth2", OUTSIDER), ("eth0", PODS[0])] {
            assert_only(&planned.first(interface, source, MAPPED, tcp(80)), &reset, Why::NobodyThere);
            let udp = planned.first(interface, source, MAPPED, kind(Protocol::Udp, 53));
            assert_only(&udp, &unreachable, Why::NobodyThere);
        }
        assert_dropped(&planned.first("eth1", CLIENT, MAPPED, tcp(81)), Why::NotMapped);
    }
}

#[test]
fn a_cluster_ip_on_the_box_is_where_clients_are_led_and_what_they_cannot_reach_themselves() {
    let planned = by_cluster_ip(true);
    let vip = Outcome::Delivered { to: SocketAddr::new(ip(CLUSTER_IP), 80) };
    for interface in EXTERNAL {
        assert_only(&planned.first(interface, CLIENT, MAPPED, tcp(80)), &vip, Why::Allowed);
        assert_dropped(&planned.first(interface, CLIENT, CLUSTER_IP, tcp(80)), Why::NotMapped);
    }
}

#[test]
fn cluster_ips_node_ports_pods_and_the_box_itself_are_closed_from_outside() {
    for (masquerade, snat) in SETTINGS {
        let planned = with(masquerade, snat);
        for interface in EXTERNAL {
            for (destination, port) in [
                (CLUSTER_IP, 80),
                (PODS[0], 80),
                (MAPPED, 30_080),
                (MAPPED, 22),
                ("10.0.0.2", 6443),
                ("192.0.2.99", 80),
            ] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let trace = planned.first(interface, CLIENT, destination, kind(protocol, port));
                    assert_dropped(&trace, Why::NotMapped);
                }
            }
            let echo = PacketKind::Icmp { kind: 8, code: 0 };
            let answered = Outcome::Delivered { to: SocketAddr::new(ip(MAPPED), 0) };
            assert_only(&planned.first(interface, CLIENT, MAPPED, echo), &answered, Why::Opening);
            assert_dropped(&planned.first(interface, CLIENT, PODS[0], echo), Why::NotMapped);
            let stray = Packet::first(interface, ip(CLIENT), ip(MAPPED), tcp(80));
            let stray = Packet { state: PacketState::Invalid, ..stray };
            assert_dropped(&planned.follow(&stray), Why::NoConnection);
        }
    }
}

/// The reference on a box with IPv6 addresses, and with these openings.
fn with_ipv6(openings: &[&str]) -> Planned {
    let mut world = reference();
    for (interface, address) in [
        ("lo", "::1/128"),
        ("eth0", "fd00::2/64"),
        ("eth0", "fe80::2/64"),
        ("eth1", "2001:db8:1::10/64"),
        ("eth1", "fe80::10/64"),
    ] {
        let net: ipnet::IpNet = address.parse().unwrap();
        let address =
            InterfaceAddress { address: net.addr(), prefix_len: net.prefix_len(), secondary: false, peer: None };
        world.host.links.get_mut(interface).unwrap().addresses.push(address);
    }
    let route = |to: &str, interface: &str| MainRoute {
        destination: to.parse().unwrap(),
        interface: Some(interface.to_owned()),
        gateway: None,
        metric: 0,
    };
    world.host.main_routes.extend([
        route("fd00::/64", "eth0"),
        route("fe80::/64", "eth0"),
        route("2001:db8:1::/64", "eth1"),
        route("::/0", "eth1"),
    ]);
    let openings = openings.iter().map(|o| o.parse().unwrap()).collect();
    Planned::new(&BorderConfig { openings, ..config() }, world)
}

/// A packet of an ICMPv6 type that connection tracking leaves alone.
fn untracked(source: &str, destination: &str, kind: u8, hop_limit: u8) -> Packet {
    let kind = PacketKind::Icmp { kind, code: 0 };
    Packet { hop_limit, state: PacketState::Untracked, ..Packet::first("eth1", ip(source), ip(destination), kind) }
}

#[test]
fn ipv6_of_the_link_reaches_the_box_and_nothing_else_does() {
    let planned = with_ipv6(&[]);
    let delivered = |packet: &Packet| {
        let trace = planned.follow(packet);
        matches!(trace.outcomes.first(), Some(Outcome::Delivered { .. }))
    };
    let (external, router) = ("2001:db8:1::10", "fe80::1");
    assert!(delivered(&untracked(router, external, 135, 255)), "solicitation");
    assert!(delivered(&untracked("::", "ff02::1:ff00:10", 135, 255)), "duplicate address detection");
    assert!(delivered(&untracked("fe80::2", external, 136, 255)), "an address that is ours on another link");
    assert!(delivered(&untracked(router, "ff02::1", 130, 1)), "listener query");
    for (source, destination, kind, hops) in [
        (router, external, 135, 64),
        (router, "ff02::1", 130, 64),
        ("2001:db8:1::1", "ff02::1", 130, 1),
        ("::", "ff02::1", 130, 1),
        (router, "fe80::2", 135, 255),
        (router, "ff02::1", 134, 255),
        (router, external, 137, 255),
    ] {
        let packet = untracked(source, destination, kind, hops);
        assert!(is_dropped(&planned.follow(&packet)), "{}", planned.follow(&packet));
    }
    // What is not for the box ends before anything could answer it; the first hook is the last.
    for destination in ["fd00::1", "2001:db8:9::9", "fe80::2", "fd00::"] {
        let last_hop = Packet { hop_limit: 1, ..Packet::first("eth1", ip("2001:db8:1::9"), ip(destination), tcp(80)) };
        assert_dropped(&planned.follow(&last_hop), Why::NotMapped);
        let trace = planned.follow(&last_hop).to_string();
        assert!(trace.contains("mangle SMARTNAT-PRE-NEW"), "{trace}");
    }
}

#[test]
fn nobody_speaks_in_the_name_of_the_box_in_ipv6() {
    let planned = with_ipv6(&["icmp-echo"]);
    let echo = PacketKind::Icmp { kind: 128, code: 0 };
    for interface in ["eth0", "eth1"] {
        for source in ["2001:db8:1::10", "fd00::2"] {
            assert_dropped(&planned.first(interface, source, "2001:db8:1::10", echo), Why::OwnSource);
        }
        assert_dropped(&planned.first("eth0", "2001:db8:1::10", "2001:db8:9::9", echo), Why::OwnSource);
        // It has come back by the interface that it left by.
        let group = planned.first("eth0", "fd00::2", "ff05::42", kind(Protocol::Udp, 5353));
        assert!(matches!(group.outcomes.first(), Some(Outcome::Delivered { .. })), "{group}");
    }
}

#[test]
fn openings_for_vrrp_let_in_groups_or_peers() {
    const VRRP: PacketKind = PacketKind::Other(112);
    let groups = with_ipv6(&["vrrp"]);
    let peers = with_ipv6(&["vrrp=203.0.113.2", "vrrp=198.18.7.7", "vrrp=fe80::7", "vrrp=2001:db8:1::7"]);
    let lets_in = |planned: &Planned, source: &str, destination: &str| {
        let trace = planned.first("eth1", source, destination, VRRP);
        match trace.reason().map(|r| r.why) {
            Some(Why::Opening) => true,
            Some(_) => false,
            None => panic!("{trace}"),
        }
    };
    for (source, group) in [("203.0.113.2", "224.0.0.18"), ("fe80::7", "ff02::12")] {
        assert!(lets_in(&groups, source, group));
        assert!(!lets_in(&peers, source, group));
    }
    for (source, to) in [
        ("203.0.113.2", "203.0.113.10"),
        ("203.0.113.2", "198.51.100.10"),
        ("198.18.7.7", "203.0.113.10"),
        ("fe80::7", "fe80::10"),
        ("2001:db8:1::7", "2001:db8:1::10"),
    ] {
        assert!(lets_in(&peers, source, to), "{source} {to}");
        assert!(!lets_in(&groups, source, to), "{source} {to}");
    }
    for (source, to) in [
        ("203.0.113.3", "203.0.113.10"),
        ("203.0.113.2", "10.0.0.2"),
        ("203.0.113.2", PODS[0]),
        ("fe80::8", "fe80::10"),
        ("fe80::7", "fe80::2"),
        ("2001:db8:1::7", "fd00::2"),
    ] {
        assert!(!lets_in(&peers, source, to), "{source} {to}");
    }
    let other = peers.first("eth1", "203.0.113.2", "203.0.113.10", PacketKind::Other(89));
    assert_dropped(&other, Why::NotMapped);
}

/// What stands behind an endpoint, by the specs alone: the pods, and whether sources are filtered.
fn served<'a>(
    specs: &'a [Spec],
    plan: &'a Plan,
) -> impl Iterator<Item = (&'a Spec, IpAddr, Protocol, u16, BTreeSet<SocketAddr>)> {
    let accepted = specs.iter().filter(|spec| plan.mappings[&key(&spec.name)].refused.is_none());
    accepted.flat_map(|spec| {
        let ports =
            spec.ports.iter().flat_map(|(protocol, port)| spec.addresses.iter().map(|a| (*a, *protocol, *port)));
        ports.map(move |(address, protocol, port)| {
            let pods = (0..spec.pods).map(|i| SocketAddr::new(pod(i), port)).collect();
            (spec, address, protocol, port, pods)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_endpoint_leads_to_exactly_its_pods_and_nothing_else_leads_anywhere(
        specs in specs(), masquerade: bool, snat: bool, seed in any::<[prop::sample::Index; 10]>()
    ) {
        let planned = Planned::new(&settings(masquerade, snat), world(&specs));
        let endpoints: Vec<_> = served(&specs, &planned.plan).collect();
        let seen = if masquerade { SourceSeen::Masquerade } else { SourceSeen::Kept };
        for at in &seed {
            if endpoints.is_empty() {
                break;
            }
            let (spec, address, protocol, port, pods) = at.get(&endpoints);
            for interface in EXTERNAL {
                let packet = Packet::first(interface, ip(CLIENT), *address, kind(*protocol, *port));
                let trace = planned.follow(&packet);
                let expected: BTreeSet<Outcome> = match (pods.is_empty(), protocol) {
                    (true, Protocol::Tcp) => [Outcome::Refused { with: RejectWith::TcpReset }].into(),
                    (true, Protocol::Udp) => [Outcome::Refused { with: RejectWith::PortUnreachable }].into(),
                    (false, _) => pods
                        .iter()
                        .map(|to| Outcome::Forwarded { to: *to, source: seen, out_interface: "eth0".to_owned() })
                        .collect(),
                };
                prop_assert_eq!(&trace.outcomes, &expected, "{}", trace);
                let named = format!("default/{}:{protocol}/{port}", spec.name);
                prop_assert_eq!(trace.mapping(), Some(named.as_str()));
                if spec.filtered {
                    let trace = planned.follow(&Packet { source: ip(OUTSIDER), ..packet });
                    prop_assert!(is_dropped(&trace), "{}", trace);
                }
            }
        }

        let known: BTreeSet<_> = endpoints.iter().map(|(_, address, protocol, port, _)| (*address, *protocol, *port)).collect();
        let addresses: Vec<IpAddr> = planned.world.host.addresses().filter(|(name, _)| *name != "lo").map(|(_, a)| a.address).collect();
        for (i, at) in seed.iter().enumerate() {
            // Next to what is served: the same port elsewhere, and another port at the same place.
            let address = *at.get(&addresses);
            let port = endpoints.get(i).map_or(80, |(.., port, _)| port + (i % 2) as u16);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                if known.contains(&(address, protocol, port)) {
                    continue;
                }
                for interface in EXTERNAL {
                    let trace = planned.follow(&Packet::first(interface, ip(CLIENT), address, kind(protocol, port)));
                    prop_assert!(is_dropped(&trace), "{}", trace);
                }
            }
        }
    }
}

/// `mappings` Mappings with an address of their own and `ports` ports.
fn sized(mappings: u32, ports: u16) -> (Vec<Spec>, Planned) {
    let ports: Vec<_> =
        (0..ports).map(|i| (if i % 2 == 0 { Protocol::Tcp } else { Protocol::Udp }, 1000 + i)).collect();
    let specs: Vec<Spec> = (0..mappings).map(|i| Spec::direct(&format!("m{i}"), [i], &ports)).collect();
    let planned = Planned::new(&settings(true, true), world(&specs));
    (specs, planned)
}

/// One with 10,000 endpoints, made once.
fn large() -> &'static (Vec<Spec>, Planned) {
    static LARGE: OnceLock<(Vec<Spec>, Planned)> = OnceLock::new();
    LARGE.get_or_init(|| sized(1000, 10))
}

/// The most rules that the first packet to any of some endpoints asks.
fn worst((specs, planned): &(Vec<Spec>, Planned)) -> usize {
    let endpoints: Vec<_> = served(specs, &planned.plan).collect();
    let some = endpoints.iter().step_by(1 + endpoints.len() / 300);
    let evaluations = some.map(|(_, address, protocol, port, pods)| {
        let trace = planned.follow(&Packet::first("eth1", ip(CLIENT), *address, kind(*protocol, *port)));
        assert_eq!(trace.outcomes.len(), pods.len(), "{trace}");
        trace.evaluations()
    });
    evaluations.max().unwrap()
}

#[test]
fn new_connections_ask_a_number_of_rules_that_grows_with_the_logarithm_of_the_endpoints() {
    // A chain of four children costs at most four rules and settles two bits: two rules a bit, and a little for uneven trees.
    const PER_BIT: f64 = 2.5;
    let one = worst(&sized(1, 1));
    assert!(one <= 25, "{one}");
    for (endpoints, worst) in [
        (10_f64, worst(&sized(1, 10))),
        (100.0, worst(&sized(10, 10))),
        (1_000.0, worst(&sized(100, 10))),
        (10_000.0, worst(large())),
    ] {
        let bound = one as f64 + PER_BIT * endpoints.log2();
        assert!(worst as f64 <= bound, "{worst} rules for {endpoints} endpoints, more than {bound}");
    }
}

#[test]
fn packets_of_established_connections_ask_as_many_rules_whatever_is_mapped() {
    let marks = config().marks;
    let few = sized(1, 1);
    let connmark = marks.slot(1) | marks.mapped();
    let (client, at) = (SocketAddr::new(ip(CLIENT), 40_000), few.0[0].addresses[0]);
    let established =
        |direction, destination| PacketState::Established { direction, connmark, dnat: true, destination };
    let onwards = established(CtDirection::Original, Some(SocketAddr::new(pod(0), 1000)));
    let back = established(CtDirection::Reply, Some(client));
    for packet in [
        Packet { state: onwards, ..Packet::first("eth1", client.ip(), at, tcp(1000)) },
        Packet { state: back, ..Packet::first("eth0", pod(0), ip("10.0.0.2"), tcp(40_000)) },
    ] {
        let [small, large] = [&few, large()].map(|(_, planned)| planned.follow(&packet));
        assert!(matches!(small.outcomes.first(), Some(Outcome::Forwarded { .. })), "{small}");
        assert_eq!(small.outcomes, large.outcomes);
        assert_eq!(small.evaluations(), large.evaluations(), "{small}\n{large}");
        assert!(small.evaluations() <= 10, "{small}");
    }
}
