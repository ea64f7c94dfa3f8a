//! The trace against the kernel: the reference border is loaded into a network namespace, packets are sent through it, and what
//! became of them must be what the trace says. Needs root.

mod chains;
mod lab;
mod observe;
mod programmed;
mod render;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bed::packet::flags;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use smartnat::ruleset::CtDirection;
use smartnat::trace::{Outcome, Packet, PacketKind, PacketState, trace};

use self::lab::{INTERFACES, Lab};
use self::observe::Observed;
use crate::reference::{CLUSTER_IP, POD_A, POD_B, dataplane, host, ip};

/// Random packets per setting and family.
const PACKETS: u32 = 800;

const SOURCES: &[&str] = &[
    "192.0.2.7",
    "192.0.2.200",
    "198.18.0.9",
    "203.0.113.1",
    "203.0.113.77",
    "198.51.100.77",
    POD_A,
    POD_B,
    "10.244.9.9",
    "10.96.7.7",
    "10.0.0.1",
    "10.0.0.9",
];

/// Sources that no honest packet has.
const FORGED: &[&str] =
    &["10.0.0.2", "203.0.113.10", CLUSTER_IP, "127.0.0.1", "203.0.113.255", "224.0.0.5", "255.255.255.255", "0.0.0.0"];

const MAPPED: &[&str] = &["203.0.113.10", "203.0.113.11", "198.51.100.10"];

const DESTINATIONS: &[&str] = &[
    POD_A,
    "10.244.9.9",
    CLUSTER_IP,
    "10.96.7.7",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.255",
    "192.0.2.99",
    "203.0.113.1",
    "203.0.113.77",
    "203.0.113.255",
    "255.255.255.255",
    "127.0.0.1",
    "224.0.0.1",
    "0.0.0.0",
];

const SOURCES6: &[&str] = &[
    "2001:db8:1::1",
    "2001:db8:9::9",
    "fd00::9",
    "fd00::1",
    "fe80::1",
    "2001:db8:1::10",
    "fd00::2",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "ff02::1",
];

/// fe80::2 is eth0's, fe80::10 is eth1's, fe80::99 is nobody's.
const DESTINATIONS6: &[&str] =
    &["2001:db8:1::10", "fd00::2", "fd00::1", "2001:db8:9::9", "fe80::2", "fe80::10", "fe80::99", "::1", "ff02::1"];

/// A packet and the TCP flags that make connection tracking see it in its state.
type Case = (Packet, u8);

fn one_of(addresses: &'static [&'static str]) -> impl Strategy<Value = IpAddr> {
    proptest::sample::select(addresses).prop_map(ip)
}

/// An address of anybody; multicast is delivered only where its group was joined, which a trace does not know.
fn anybody() -> impl Strategy<Value = IpAddr> {
    any::<Ipv4Addr>().prop_filter("no multicast", |a| !a.is_multicast()).prop_map(IpAddr::V4)
}

/// Ports that are mapped somewhere.
const PORTS: &[u16] = &[80, 53, 443, 8443];

fn port(mapped: &'static [u16]) -> impl Strategy<Value = u16> {
    prop_oneof![6 => proptest::sample::select(mapped), 2 => proptest::sample::select(&[22, 68, 8080, 30080][..]), 1 => 1..=u16::MAX]
}

/// Kind, TCP flags and what connection tracking makes of them.
fn kind4(mapped: &'static [u16]) -> impl Strategy<Value = (PacketKind, u8, PacketState)> {
    let tcp_flags = proptest::sample::select(
        &[
            (flags::SYN, PacketState::New),
            (flags::ACK, PacketState::PickedUp),
            (flags::SYN_ACK, PacketState::Invalid),
            (flags::RST, PacketState::Invalid),
            (flags::FIN | flags::ACK, PacketState::Invalid),
            (flags::NULL, PacketState::Invalid),
            (flags::XMAS, PacketState::Invalid),
        ][..],
    );
    let icmp =
        proptest::sample::select(&[(8, PacketState::New), (13, PacketState::New), (0, PacketState::Invalid)][..]);
    let source_port = prop_oneof![4 => 1024..=u16::MAX, 1 => Just(67)];
    let udp_ports = (source_port, port(mapped));
    prop_oneof![
        3 => (1024..=u16::MAX, port(mapped)).prop_map(|(s, d)| (tcp(s, d), flags::SYN, PacketState::New)),
        2 => (1024..=u16::MAX, port(mapped), tcp_flags).prop_map(|(s, d, (f, state))| (tcp(s, d), f, state)),
        3 => udp_ports.prop_map(|(s, d)| {
            (PacketKind::Udp { source_port: s, destination_port: d }, 0, PacketState::New)
        }),
        2 => icmp.prop_map(|(kind, state)| (PacketKind::Icmp { kind, code: 0 }, 0, state)),
        1 => proptest::sample::select(&[112_u8, 253][..]).prop_map(|p| (PacketKind::Other(p), 0, PacketState::New)),
    ]
}

fn tcp(source_port: u16, destination_port: u16) -> PacketKind {
    PacketKind::Tcp { source_port, destination_port }
}

fn interface() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&INTERFACES[..]).prop_map(|(near, _)| near)
}

/// What a border is there for: clients and pods that mean well.
fn honest() -> impl Strategy<Value = Case> {
    let outside =
        (proptest::sample::select(&["eth1", "eth2"][..]), one_of(&["192.0.2.7", "192.0.2.200", "198.18.0.9"]));
    let inside = (Just("eth0"), one_of(&[POD_A, POD_B, "10.244.9.9", "10.0.0.9"]));
    let destination = prop_oneof![4 => one_of(MAPPED), 1 => one_of(&["192.0.2.99", "10.244.9.9", "10.96.7.7"])];
    let ports = proptest::sample::select(PORTS);
    let kind = (any::<bool>(), 1024..=u16::MAX, ports).prop_map(|(is_tcp, source_port, destination_port)| {
        if is_tcp { tcp(source_port, destination_port) } else { PacketKind::Udp { source_port, destination_port } }
    });
    (prop_oneof![2 => outside, 1 => inside], destination, kind).prop_map(|((interface, source), destination, kind)| {
        (Packet::first(interface, source, destination, kind), flags::SYN)
    })
}

/// Anything from anywhere.
fn wild() -> impl Strategy<Value = Case> {
    let source = prop_oneof![8 => one_of(SOURCES), 1 => one_of(FORGED), 1 => anybody()];
    let destination = prop_oneof![5 => one_of(MAPPED), 5 => one_of(DESTINATIONS), 1 => anybody()];
    let hop_limit = proptest::sample::select(&[64_u8, 64, 255, 1][..]);
    (interface(), source, destination, kind4(PORTS), hop_limit)
        .prop_map(|(interface, source, destination, (kind, tcp_flags, state), hop_limit)| {
            (Packet { hop_limit, state, ..Packet::first(interface, source, destination, kind) }, tcp_flags)
        })
        .prop_filter("it must be answered", |(packet, _)| answered(packet))
}

/// What nobody listens for is told from what is dropped by the answer to it, and only what was sent to one gets an answer.
fn answered(packet: &Packet) -> bool {
    let to_many = match packet.destination {
        IpAddr::V4(a) => a.is_multicast() || a.is_unspecified() || a.octets()[3] == 255,
        IpAddr::V6(a) => a.is_multicast(),
    };
    !(matches!(packet.kind, PacketKind::Other(_)) && to_many)
}

fn case6() -> impl Strategy<Value = Case> {
    let kind = prop_oneof![
        (1024..=u16::MAX, port(PORTS)).prop_map(|(s, d)| tcp(s, d)),
        (1024..=u16::MAX, port(PORTS)).prop_map(|(s, d)| PacketKind::Udp { source_port: s, destination_port: d }),
        proptest::sample::select(&[128_u8, 130, 133, 134, 135, 136, 137][..])
            .prop_map(|kind| PacketKind::Icmp { kind, code: 0 }),
    ];
    let hop_limit = proptest::sample::select(&[255_u8, 255, 64, 1][..]);
    (interface(), one_of(SOURCES6), one_of(DESTINATIONS6), kind, hop_limit).prop_map(
        // No IPv6 rule asks for a state.
        |(interface, source, destination, kind, hop_limit)| {
            let packet = Packet { hop_limit, ..Packet::first(interface, source, destination, kind) };
            (Packet { state: PacketState::Untracked, ..packet }, flags::SYN)
        },
    )
}

/// Sends random packets through the reference border; each must end as its trace says. Returns how often which sort of end was seen.
fn agree(masquerade: bool, cases: impl Strategy<Value = Case>) -> [u32; 4] {
    let (plane, host) = (dataplane(masquerade), host());
    let lab = std::cell::RefCell::new(Lab::new(&plane, &host));
    let seen = std::cell::RefCell::new([0; 4]);
    let config = Config { cases: PACKETS, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&cases, |(packet, tcp_flags)| {
        let mut lab = lab.borrow_mut();
        lab.forget_connections();
        let observed = lab.send(&packet, tcp_flags);
        let trace = trace(&plane, &host, &packet);
        let agrees = trace.outcomes.iter().any(|outcome| observed.is(outcome, &packet, &host));
        prop_assert!(agrees, "flags {:#x}: the kernel did {:?}, but\n{}", tcp_flags, observed, trace);
        seen.borrow_mut()[observed.sort()] += 1;
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
    seen.into_inner()
}

#[test]
fn trace_agrees_with_the_kernel_on_random_packets() {
    for masquerade in [true, false] {
        let seen = agree(masquerade, prop_oneof![honest(), wild()]);
        assert!(seen.iter().all(|n| *n > PACKETS / 200), "forwarded, delivered, refused, dropped: {seen:?}");
    }
}

#[test]
fn trace_agrees_with_the_kernel_on_random_ipv6_packets() {
    let [forwarded, delivered, _, dropped] = agree(true, case6());
    let seen = [forwarded, delivered, dropped];
    assert!(seen.iter().all(|n| *n > PACKETS / 100), "forwarded, delivered, dropped: {seen:?}");
}

#[test]
fn the_pods_that_the_kernel_chooses_are_those_of_the_trace() {
    let (plane, host) = (dataplane(true), host());
    let mut lab = Lab::new(&plane, &host);
    let udp = |source_port| PacketKind::Udp { source_port, destination_port: 53 };
    for (destination, kind) in [
        ("203.0.113.10", (|port| tcp(port, 80)) as fn(u16) -> PacketKind),
        ("203.0.113.10", udp),
        // Each client stays with its pod; clients differ.
        ("203.0.113.11", |port| tcp(port, 8443)),
    ] {
        let mut chosen = BTreeSet::new();
        let mut possible = BTreeSet::new();
        for client in 1..=60 {
            let source = ip(&format!("192.0.2.{client}"));
            let packet = Packet::first("eth1", source, ip(destination), kind(20000 + client));
            match lab.send(&packet, flags::SYN) {
                Observed::Forwarded { to, .. } => chosen.insert(to),
                other => panic!("{packet}: {other:?}"),
            };
            possible.extend(trace(&plane, &host, &packet).outcomes.into_iter().map(|outcome| match outcome {
                Outcome::Forwarded { to, .. } => to,
                other => panic!("{packet}: {other}"),
            }));
        }
        assert_eq!(chosen, possible, "of {destination}");
    }
}

#[test]
fn trace_agrees_with_the_kernel_on_answers() {
    for masquerade in [true, false] {
        let (plane, host) = (dataplane(masquerade), host());
        let mut lab = Lab::new(&plane, &host);
        for (n, (interface, slot)) in [("eth1", 0x1_0000), ("eth2", 0x2_0000)].into_iter().enumerate() {
            let client = SocketAddr::new(ip("192.0.2.7"), 40000 + n as u16);
            let begin = Packet::first(interface, client.ip(), ip("203.0.113.10"), tcp(client.port(), 80));
            let Observed::Forwarded { to: pod, source, source_port, .. } = lab.send(&begin, flags::SYN) else {
                panic!("{begin} did not reach a pod")
            };
            let answer = Packet {
                state: PacketState::Established {
                    direction: CtDirection::Reply,
                    connmark: 0x2000_0000 | slot,
                    dnat: true,
                    destination: Some(client),
                },
                ..Packet::first("eth0", pod.ip(), source, tcp(pod.port(), source_port))
            };
            let traced = trace(&plane, &host, &answer);
            let Some(Outcome::Forwarded { to, out_interface, .. }) = traced.outcomes.first() else {
                panic!("{traced}")
            };
            match lab.send(&answer, flags::SYN_ACK) {
                Observed::Forwarded { to: t, out_interface: o, source, source_port } => {
                    assert_eq!((t, o), (*to, out_interface.as_str()), "{traced}");
                    assert_eq!(SocketAddr::new(source, source_port), "203.0.113.10:80".parse().unwrap());
                }
                other => panic!("the kernel did {other:?}, but\n{traced}"),
            }
        }
    }
}
