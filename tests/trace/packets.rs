//! What passes and what does not, packet by packet.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use smartnat::ruleset::{CtDirection, RejectWith};
use smartnat::trace::{DroppedBy, Effect, Outcome, Packet, PacketKind, PacketState, SourceSeen, Step, Trace, trace};

use crate::reference::{CLUSTER_IP, POD_A, POD_B, dataplane, host, ip};

const CLIENT: &str = "192.0.2.7";
const OUTSIDER: &str = "198.18.0.9";

fn tcp(port: u16) -> PacketKind {
    PacketKind::Tcp { source_port: 40000, destination_port: port }
}

fn udp(port: u16) -> PacketKind {
    PacketKind::Udp { source_port: 40000, destination_port: port }
}

const ECHO: PacketKind = PacketKind::Icmp { kind: 8, code: 0 };

fn packet(interface: &str, source: &str, destination: &str, kind: PacketKind) -> Packet {
    Packet::first(interface, ip(source), ip(destination), kind)
}

fn follow(packet: &Packet) -> Trace {
    trace(&dataplane(true), &host(), packet)
}

/// The trace of a packet with a single outcome, and that outcome.
fn one(packet: &Packet) -> (Trace, Outcome) {
    let trace = follow(packet);
    assert_eq!(trace.outcomes.len(), 1, "{trace}");
    let outcome = trace.outcomes.first().unwrap().clone();
    (trace, outcome)
}

/// The chain that dropped a packet.
fn dropped_in(packet: &Packet) -> String {
    match one(packet) {
        (_, Outcome::Dropped(DroppedBy::Rule(place))) => format!("{} {}", place.table, place.chain),
        (trace, _) => panic!("{trace}"),
    }
}

fn forwarded(to: &[&str], source: SourceSeen, out_interface: &str) -> BTreeSet<Outcome> {
    let out = out_interface.to_owned();
    let outcome = |to: &&str| Outcome::Forwarded { to: to.parse().unwrap(), source, out_interface: out.clone() };
    to.iter().map(outcome).collect()
}

fn both_pods(port: u16) -> [String; 2] {
    [format!("{POD_A}:{port}"), format!("{POD_B}:{port}")]
}

fn delivered(to: &str) -> Outcome {
    let to: SocketAddr = to.parse().unwrap();
    Outcome::Delivered { to }
}

#[test]
fn an_allowed_client_reaches_either_pod_on_the_translated_port() {
    for (kind, port) in [(tcp(80), 8080), (udp(53), 9090)] {
        let trace = follow(&packet("eth1", CLIENT, "203.0.113.10", kind));
        let [a, b] = both_pods(port);
        assert_eq!(trace.outcomes, forwarded(&[&a, &b], SourceSeen::Masquerade, "eth0"), "{trace}");
    }
}

#[test]
fn an_address_answers_on_every_external_interface() {
    let trace = follow(&packet("eth2", CLIENT, "203.0.113.10", tcp(80)));
    let [a, b] = both_pods(8080);
    assert_eq!(trace.outcomes, forwarded(&[&a, &b], SourceSeen::Masquerade, "eth0"), "{trace}");
}

#[test]
fn without_masquerade_pods_see_the_client_and_hairpins_are_masqueraded_still() {
    let plane = dataplane(false);
    let [a, b] = both_pods(8080);
    let from_outside = trace(&plane, &host(), &packet("eth1", CLIENT, "203.0.113.10", tcp(80)));
    assert_eq!(from_outside.outcomes, forwarded(&[&a, &b], SourceSeen::Kept, "eth0"), "{from_outside}");
    let hairpin = trace(&plane, &host(), &packet("eth0", POD_A, "203.0.113.10", tcp(80)));
    assert_eq!(hairpin.outcomes, forwarded(&[&a, &b], SourceSeen::Masquerade, "eth0"), "{hairpin}");
}

#[test]
fn the_explanation_names_mapping_and_rules_in_order_and_ends_with_the_verdict() {
    let text = follow(&packet("eth1", CLIENT, "203.0.113.10", tcp(80))).to_string();
    let expected = [
        "tcp 192.0.2.7:40000 -> 203.0.113.10:80, arriving by eth1, first of a connection",
        "mangle   SMARTNAT-E1 1: -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x10000/0xfff0000  => connmark 0x10000",
        "nat      SMARTNAT-T1 1: -d 203.0.113.10/32 -p tcp -m tcp --dport 80 -g SMARTNAT-M-web-0",
        "=> connmark 0x20010000",
        "(by chance)",
        "routing 10.244.2.2: via 10.0.0.3 dev eth0, by the main table",
        "mangle   SMARTNAT-BORDER 6: -m connmark --mark 0x20000000/0x20000000 -j RETURN",
        "nat      SMARTNAT-SNAT 1: -m mark --mark 0x10000000/0x10000000 -j MASQUERADE",
        "Mapping: shop/web:tcp/80",
    ];
    let mut rest = text.as_str();
    for line in expected {
        let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is missing or out of order in\n{text}"));
        rest = &rest[at + line.len()..];
    }
    let verdict = "Verdict: forwarded to one of 10.244.1.2:8080, 10.244.2.2:8080 by eth0, source masqueraded";
    assert_eq!(text.lines().last(), Some(verdict));
}

#[test]
fn a_source_that_is_not_allowed_is_dropped_at_the_border_and_the_mapping_is_named() {
    let denied = packet("eth1", OUTSIDER, "203.0.113.10", tcp(80));
    assert_eq!(dropped_in(&denied), "mangle SMARTNAT-BORDER-IN");
    assert_eq!(follow(&denied).mapping(), Some("shop/web:tcp/80"));
}

#[test]
fn a_mapping_without_pods_refuses_allowed_clients_at_once_and_drops_others() {
    let end = |source, kind| one(&packet("eth1", source, "203.0.113.11", kind)).1;
    assert_eq!(end(CLIENT, tcp(80)), Outcome::Refused { with: RejectWith::TcpReset });
    assert_eq!(end(CLIENT, udp(53)), Outcome::Refused { with: RejectWith::PortUnreachable });
    for kind in [tcp(80), udp(53)] {
        assert_eq!(dropped_in(&packet("eth1", OUTSIDER, "203.0.113.11", kind)), "mangle SMARTNAT-BORDER-IN");
    }
}

#[test]
fn a_cluster_ip_held_by_the_box_is_delivered_there() {
    let (_, outcome) = one(&packet("eth2", OUTSIDER, "198.51.100.10", tcp(443)));
    assert_eq!(outcome, delivered(&format!("{CLUSTER_IP}:443")));
}

#[test]
fn session_affinity_leads_to_each_pod_whether_remembered_or_new() {
    let trace = follow(&packet("eth1", OUTSIDER, "203.0.113.11", tcp(8443)));
    let [a, b] = both_pods(8080);
    assert_eq!(trace.outcomes, forwarded(&[&a, &b], SourceSeen::Masquerade, "eth0"), "{trace}");
}

#[test]
fn a_pod_reaches_a_mapping_and_is_masqueraded() {
    let trace = follow(&packet("eth0", POD_A, "203.0.113.10", tcp(80)));
    let [a, b] = both_pods(8080);
    assert_eq!(trace.outcomes, forwarded(&[&a, &b], SourceSeen::Masquerade, "eth0"), "{trace}");
}

#[test]
fn a_pods_own_connection_leaves_by_the_external_interface_with_the_mapped_address() {
    let trace = follow(&packet("eth0", POD_A, "192.0.2.99", tcp(443)));
    let snat = SourceSeen::Snat(ip("203.0.113.10"));
    assert_eq!(trace.outcomes, forwarded(&["192.0.2.99:443"], snat, "eth1"), "{trace}");
    let routed = |step: &Step| matches!(step, Step::Route(text) if text.contains("rule 101: fwmark 0x10000/0xfff0000"));
    assert!(trace.steps.iter().any(routed), "{trace}");
}

#[test]
fn other_pods_and_connections_within_the_cluster_leave_by_the_main_table() {
    let kept = |source, destination: &str| {
        let trace = follow(&packet("eth0", source, destination, tcp(443)));
        let to = format!("{destination}:443");
        assert_eq!(trace.outcomes, forwarded(&[&to], SourceSeen::Kept, "eth0"), "{trace}");
    };
    kept("10.244.9.9", "192.0.2.99");
    kept(POD_A, "10.244.9.9");
    kept(POD_A, "10.96.7.7");
}

#[test]
fn the_answer_to_pod_egress_comes_in_by_its_interface_only() {
    let answer = |interface| {
        let state = PacketState::Established {
            direction: CtDirection::Reply,
            connmark: 0x4001_0000,
            dnat: false,
            destination: Some(format!("{POD_A}:40000").parse().unwrap()),
        };
        Packet { state, ..packet(interface, "192.0.2.99", "203.0.113.10", tcp(40000)) }
    };
    let trace = follow(&answer("eth1"));
    assert_eq!(trace.outcomes, forwarded(&["10.244.1.2:40000"], SourceSeen::Kept, "eth0"), "{trace}");
    assert_eq!(dropped_in(&answer("eth2")), "mangle SMARTNAT-BORDER");
}

#[test]
fn the_answer_of_a_pod_leaves_by_the_interface_of_arrival() {
    for (connmark, interface) in [(0x2001_0000, "eth1"), (0x2002_0000, "eth2")] {
        let state = PacketState::Established {
            direction: CtDirection::Reply,
            connmark,
            dnat: true,
            destination: Some(format!("{CLIENT}:40000").parse().unwrap()),
        };
        let trace = follow(&Packet { state, ..packet("eth0", POD_A, "10.0.0.2", tcp(40000)) });
        assert_eq!(trace.outcomes, forwarded(&["192.0.2.7:40000"], SourceSeen::Kept, interface), "{trace}");
    }
}

#[test]
fn nothing_of_the_cluster_is_reached_from_outside() {
    for interface in ["eth1", "eth2"] {
        for destination in [POD_A, "10.96.7.7", "10.0.0.1", "192.0.2.99"] {
            assert_eq!(dropped_in(&packet(interface, CLIENT, destination, tcp(80))), "mangle SMARTNAT-BORDER");
        }
        for (destination, port) in
            [(CLUSTER_IP, 443), ("10.0.0.2", 22), ("203.0.113.10", 22), ("203.0.113.10", 30080), ("10.0.0.2", 6443)]
        {
            let packet = packet(interface, CLIENT, destination, tcp(port));
            assert_eq!(dropped_in(&packet), "mangle SMARTNAT-BORDER-IN", "{destination}:{port}");
        }
    }
}

#[test]
fn forged_sources_are_dropped_even_where_everyone_is_allowed() {
    for source in [POD_A, "10.96.7.7", "10.0.0.1"] {
        let at_mapping = packet("eth2", source, "198.51.100.10", tcp(443));
        assert_eq!(dropped_in(&at_mapping), "mangle SMARTNAT-BORDER-IN", "{source}");
        let to_pods = packet("eth1", source, "203.0.113.11", tcp(8443));
        assert_eq!(dropped_in(&to_pods), "mangle SMARTNAT-BORDER", "{source}");
    }
    for source in ["203.0.113.10", "10.0.0.2", "127.0.0.1", "203.0.113.255"] {
        let (trace, outcome) = one(&packet("eth1", source, "198.51.100.10", tcp(443)));
        assert!(matches!(outcome, Outcome::Dropped(DroppedBy::Martian(_))), "{trace}");
    }
}

#[test]
fn what_belongs_to_no_connection_is_dropped_even_at_a_mapped_endpoint() {
    for state in [PacketState::Invalid, PacketState::Untracked] {
        let syn_ack = Packet { state, ..packet("eth1", CLIENT, "203.0.113.10", tcp(80)) };
        assert_eq!(dropped_in(&syn_ack), "mangle SMARTNAT-BORDER-IN");
        let through = Packet { state, ..packet("eth1", CLIENT, POD_A, tcp(8080)) };
        assert_eq!(dropped_in(&through), "mangle SMARTNAT-BORDER");
    }
}

#[test]
fn the_openings_are_open_and_no_wider() {
    for address in ["203.0.113.10", "203.0.113.11", "198.51.100.10"] {
        assert_eq!(one(&packet("eth1", OUTSIDER, address, ECHO)).1, delivered(&format!("{address}:0")));
    }
    for (destination, kind) in [
        ("10.0.0.2", ECHO),
        (CLUSTER_IP, ECHO),
        ("203.0.113.255", ECHO),
        ("203.0.113.10", PacketKind::Icmp { kind: 13, code: 0 }),
        ("203.0.113.10", PacketKind::Udp { source_port: 67, destination_port: 69 }),
        ("203.0.113.10", PacketKind::Udp { source_port: 66, destination_port: 68 }),
        ("203.0.113.10", PacketKind::Other(112)),
    ] {
        assert_eq!(dropped_in(&packet("eth1", OUTSIDER, destination, kind)), "mangle SMARTNAT-BORDER-IN");
    }
    let offer = PacketKind::Udp { source_port: 67, destination_port: 68 };
    assert_eq!(one(&packet("eth1", "203.0.113.1", "255.255.255.255", offer)).1, delivered("255.255.255.255:68"));
    let vrrp = packet("eth1", "203.0.113.3", "224.0.0.18", PacketKind::Other(112));
    assert_eq!(one(&vrrp).1, delivered("224.0.0.18:0"));
}

#[test]
fn an_interface_that_no_rule_knows_is_outside() {
    for (destination, chain) in [("203.0.113.10", "mangle SMARTNAT-BORDER-IN"), (POD_A, "mangle SMARTNAT-BORDER")] {
        assert_eq!(dropped_in(&packet("eth9", CLIENT, destination, tcp(22))), chain);
    }
}

#[test]
fn ipv6_lets_in_neighbour_discovery_of_the_link_only() {
    let solicitation = |hop_limit| Packet {
        hop_limit,
        state: PacketState::Untracked,
        ..packet("eth1", "2001:db8:1::1", "2001:db8:1::10", PacketKind::Icmp { kind: 135, code: 0 })
    };
    assert_eq!(one(&solicitation(255)).1, delivered("[2001:db8:1::10]:0"));
    assert_eq!(dropped_in(&solicitation(64)), "mangle SMARTNAT-BORDER-IN");
    let echo = packet("eth1", "2001:db8:9::9", "2001:db8:1::10", PacketKind::Icmp { kind: 128, code: 0 });
    assert_eq!(dropped_in(&echo), "mangle SMARTNAT-BORDER-IN");
    let through = packet("eth1", "2001:db8:9::9", "fd00::1", tcp(80));
    assert_eq!(dropped_in(&through), "mangle SMARTNAT-PRE");
    let other_link = packet("eth1", "fe80::1", "fe80::2", tcp(80));
    assert_eq!(dropped_in(&other_link), "mangle SMARTNAT-PRE");
    assert_eq!(dropped_in(&packet("eth1", "::ffff:10.0.0.1", "2001:db8:1::10", tcp(80))), "mangle SMARTNAT-BORDER-IN");
    assert_eq!(dropped_in(&packet("eth0", "2001:db8:1::10", "2001:db8:9::9", tcp(80))), "mangle SMARTNAT-INSIDE");
    let from_inside = follow(&packet("eth0", "fd00::9", "2001:db8:9::9", tcp(80)));
    assert_eq!(from_inside.outcomes, forwarded(&["[2001:db8:9::9]:80"], SourceSeen::Kept, "eth0"), "{from_inside}");
}

#[test]
fn a_client_of_the_inside_that_asks_the_box_itself_is_marked_as_such() {
    let (trace, outcome) = one(&packet("eth0", "10.0.0.9", "10.0.0.2", tcp(22)));
    assert_eq!(outcome, delivered("10.0.0.2:22"));
    let marked = |step: &Step| matches!(step, Step::Rule { effect: Effect::ConnMark(0x0fff_0000), .. });
    assert!(trace.steps.iter().any(marked), "{trace}");
}
