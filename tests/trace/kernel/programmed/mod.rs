//! The trace against what the daemon programs: it serves Mappings on a bed's border, and random packets are sent there from all sides.
//! What the kernel does with each must be what the trace of this process' own plan says. Needs root.

mod border;
mod scene;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bed::packet::flags;
use bed::peer::Proto;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use smartnat::model::MarkLayout;
use smartnat::ruleset::CtDirection;
use smartnat::trace::{Outcome, Packet, PacketKind, PacketState, trace};

use self::border::{Border, Setting, Variant};
use self::scene::{ENDPOINTS, PORTS, ROUTED, SAME_SUBNET, Scene, Way};
use super::observe::Observed;
use super::{answered, anybody, kind4, tcp};

/// Random packets per setting.
const PACKETS: u32 = 300;

/// A packet, the TCP flags that make connection tracking see it in its state, and where it is sent.
type Case = (Way, Packet, u8);

fn one_of(addresses: &'static [Ipv4Addr]) -> impl Strategy<Value = IpAddr> {
    select(addresses).prop_map(IpAddr::V4)
}

/// The interface of arrival is seen, not chosen.
fn first(source: IpAddr, destination: IpAddr, kind: PacketKind) -> Packet {
    Packet::first("", source, destination, kind)
}

/// Clients and pods that mean well.
fn honest(scene: &'static Scene) -> impl Strategy<Value = Case> {
    let outside = (select(scene.outside), one_of(scene.clients));
    let inside = (select(scene.inside), one_of(scene.sources));
    let pods = select(scene.pods).prop_map(|(way, address)| (way, IpAddr::V4(address)));
    let endpoint = (select(ENDPOINTS), 1024..=u16::MAX).prop_map(|((which, protocol, port), source_port)| {
        let kind = match protocol {
            Proto::Tcp => tcp(source_port, port),
            Proto::Udp => PacketKind::Udp { source_port, destination_port: port },
        };
        (scene.mapped[which], kind)
    });
    (prop_oneof![4 => outside, 1 => inside, 1 => pods], endpoint).prop_map(|((way, source), (destination, kind))| {
        (way, first(source, IpAddr::V4(destination), kind), flags::SYN)
    })
}

/// Pods that begin connections of their own.
fn egress(scene: &'static Scene) -> impl Strategy<Value = Case> {
    let destination = prop_oneof![4 => one_of(scene.from_pods), 1 => one_of(scene.mapped), 1 => outer()];
    (select(scene.pods), destination, kind4(PORTS)).prop_map(|((way, pod), destination, (kind, tcp_flags, state))| {
        (way, Packet { state, ..first(IpAddr::V4(pod), destination, kind) }, tcp_flags)
    })
}

/// Somebody whom a pod's router does not know.
fn outer() -> impl Strategy<Value = IpAddr> {
    (11..=126_u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

/// Anything from anywhere.
fn wild(scene: &'static Scene) -> impl Strategy<Value = Case> {
    const ODD: &[Ipv4Addr] =
        &[Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)];
    let way = prop_oneof![2 => select(scene.outside), 1 => select(scene.inside)];
    let source = prop_oneof![8 => one_of(scene.sources), 1 => one_of(scene.own), 1 => one_of(ODD), 1 => anybody()];
    let destination =
        prop_oneof![10 => one_of(scene.mapped), 10 => one_of(scene.destinations), 1 => one_of(ODD), 2 => anybody()];
    let hop_limit = select(&[64_u8, 64, 255, 1][..]);
    (way, source, destination, kind4(PORTS), hop_limit)
        .prop_map(|(way, source, destination, (kind, tcp_flags, state), hop_limit)| {
            (way, Packet { hop_limit, state, ..first(source, destination, kind) }, tcp_flags)
        })
        .prop_filter("it must be answered", |(_, packet, _)| answered(packet))
}

/// Sends random packets; each must end as its trace says.
fn agree(scene: &'static Scene, variants: impl IntoIterator<Item = Variant>) {
    let setting = Setting::new(scene);
    let seen = RefCell::new([0; 4]);
    for variant in variants {
        let border = RefCell::new(Border::start(&setting, variant));
        let config = Config { cases: PACKETS, failure_persistence: None, ..Config::default() };
        let cases = prop_oneof![2 => honest(scene), 1 => egress(scene), 3 => wild(scene)];
        let outcome = TestRunner::new(config).run(&cases, |(way, packet, tcp_flags)| {
            let mut border = border.borrow_mut();
            border.forget_connections();
            let (arrived, observed) = border.send(&way, &packet, tcp_flags);
            let trace = trace(&border.plan.dataplane, &border.host, &arrived);
            let agrees = trace.outcomes.iter().any(|outcome| observed.is(outcome, &arrived, &border.host));
            prop_assert!(agrees, "flags {:#x}: the kernel did {:?}, but\n{}", tcp_flags, observed, trace);
            seen.borrow_mut()[observed.sort()] += 1;
            Ok(())
        });
        if let Err(e) = outcome {
            panic!("{variant:?}: {e}");
        }
    }
    let seen = seen.into_inner();
    assert!(seen.iter().all(|n| *n > PACKETS / 10), "forwarded, delivered, refused, dropped: {seen:?}");
}

const ALL: [Variant; 4] = [
    Variant { masquerade: true, snat: true },
    Variant { masquerade: true, snat: false },
    Variant { masquerade: false, snat: true },
    Variant { masquerade: false, snat: false },
];

#[test]
fn trace_agrees_with_the_kernel_on_what_the_daemon_programs() {
    agree(&ROUTED, ALL);
}

#[test]
fn trace_agrees_with_the_kernel_on_what_the_daemon_programs_in_one_subnet() {
    agree(&SAME_SUBNET, ALL);
}

#[test]
fn the_pods_that_the_kernel_chooses_are_those_of_the_trace() {
    const PACKETS: u16 = 40;
    let setting = Setting::new(&ROUTED);
    let mut border = Border::start(&setting, ALL[0]);
    let udp = |source_port, destination_port| PacketKind::Udp { source_port, destination_port };
    let [web, open, other] = ROUTED.mapped else { panic!("three addresses are mapped") };
    for (destination, port, kind) in [
        (web, 80, tcp as fn(u16, u16) -> PacketKind),
        (web, 53, udp),
        // Each client stays with its pod; clients differ.
        (web, 8443, tcp),
        (open, 1005, tcp),
        (other, 80, tcp),
    ] {
        for way in ROUTED.outside.iter().chain(ROUTED.inside) {
            let outside = ROUTED.outside.iter().any(|w| w.role == way.role);
            let mut chosen = BTreeSet::new();
            let mut possible = BTreeSet::new();
            for n in 1..=PACKETS {
                let [_, low] = n.to_be_bytes();
                let source = if outside { Ipv4Addr::new(192, 0, 2, low) } else { Ipv4Addr::new(10, 244, 9, low) };
                let packet = first(source.into(), (*destination).into(), kind(20_000 + n, port));
                let (arrived, observed) = border.send(way, &packet, flags::SYN);
                match observed {
                    Observed::Forwarded { to, .. } => chosen.insert(to),
                    other => panic!("{arrived}: {other:?}"),
                };
                let trace = trace(&border.plan.dataplane, &border.host, &arrived);
                possible.extend(trace.outcomes.into_iter().map(|outcome| match outcome {
                    Outcome::Forwarded { to, .. } => to,
                    other => panic!("{arrived}: {other}"),
                }));
            }
            assert_eq!(chosen, possible, "of {destination} port {port} from {}", way.role);
        }
    }
}

/// Sends the answer to a connection that went through the border: where it goes must be what the trace says, and it must come from `seen`.
fn assert_answered(border: &mut Border, way: &Way, answer: &Packet, seen: SocketAddr) {
    let (arrived, observed) = border.send(way, answer, flags::SYN_ACK);
    let traced = trace(&border.plan.dataplane, &border.host, &arrived);
    let [Outcome::Forwarded { to, out_interface, .. }] = traced.outcomes.iter().collect::<Vec<_>>()[..] else {
        panic!("{traced}")
    };
    match observed {
        Observed::Forwarded { to: t, source, source_port, out_interface: o } => {
            assert_eq!((t, o), (*to, out_interface.as_str()), "{traced}");
            assert_eq!(SocketAddr::new(source, source_port), seen, "{traced}");
        }
        other => panic!("the kernel did {other:?}, but\n{traced}"),
    }
}

fn answer(from: SocketAddr, to: SocketAddr, is_tcp: bool, connmark: u32, dnat: bool, reaches: SocketAddr) -> Packet {
    let kind = match is_tcp {
        true => tcp(from.port(), to.port()),
        false => PacketKind::Udp { source_port: from.port(), destination_port: to.port() },
    };
    let direction = CtDirection::Reply;
    let state = PacketState::Established { direction, connmark, dnat, destination: Some(reaches) };
    Packet { state, ..first(from.ip(), to.ip(), kind) }
}

#[test]
fn trace_agrees_with_the_kernel_on_answers() {
    let marks = MarkLayout::default();
    for scene in [&ROUTED, &SAME_SUBNET] {
        let setting = Setting::new(scene);
        for variant in ALL {
            let mut border = Border::start(&setting, variant);
            let mut port = 30_000;
            // Of pods to clients. Nobody has the client's address, so nobody ends the connection.
            for (way, (which, protocol, endpoint)) in
                scene.outside.iter().flat_map(|way| [0, 1, 3, 4].map(|i| (way, ENDPOINTS[i])))
            {
                port += 1;
                let is_tcp = protocol == Proto::Tcp;
                let client = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 7).into(), port);
                let mapped = SocketAddr::new(scene.mapped[which].into(), endpoint);
                let begin = answer(client, mapped, is_tcp, 0, false, mapped).kind;
                let (arrived, observed) = border.send(way, &first(client.ip(), mapped.ip(), begin), flags::SYN);
                let Observed::Forwarded { to: pod, source, source_port, .. } = observed else {
                    panic!("{arrived}: {observed:?}")
                };
                let connmark = marks.mapped() | marks.slot(border.plan.slots[&arrived.interface]);
                let back = answer(pod, SocketAddr::new(source, source_port), is_tcp, connmark, true, client);
                assert_answered(&mut border, &scene.inside[0], &back, mapped);
            }
            // To pods that began by themselves, by way of their Mapping's address.
            for (way, pod) in scene.pods.iter().filter(|_| variant.snat) {
                port += 1;
                let outsider = SocketAddr::new(Ipv4Addr::new(198, 18, 0, 7).into(), 443);
                let pod = SocketAddr::new((*pod).into(), port);
                let (arrived, observed) =
                    border.send(way, &first(pod.ip(), outsider.ip(), tcp(port, outsider.port())), flags::SYN);
                let Observed::Forwarded { source, source_port, out_interface, .. } = observed else {
                    panic!("{arrived}: {observed:?}")
                };
                let connmark = marks.begun_inside() | marks.slot(border.plan.slots[out_interface]);
                let back = answer(outsider, SocketAddr::new(source, source_port), true, connmark, false, pod);
                assert_answered(&mut border, &scene.outside[0], &back, outsider);
            }
        }
    }
}
