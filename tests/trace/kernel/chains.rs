//! Chains made at random: how jumps, gotos, returns and marks work together is the same in trace and kernel.
//!
//! What the packet mark has become is seen by the way that the packet takes: two of its bits choose the interface, or none.

use bed::packet::flags;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use smartnat::model::{Family, Protocol};
use smartnat::ruleset::ownership::MAX_CHAIN_DEPTH;
use smartnat::ruleset::{
    Builtin, CtDirection, CtState, Dataplane, Match, PolicyRule, Ports, Route, RouteTarget, Rule, RuleSelector, Table,
    TableRules, Target, depth,
};
use smartnat::trace::{Packet, PacketKind, PacketState, trace};

use super::lab::Lab;
use super::{Case, render, tcp};
use crate::reference::{host, ip, net};

const TABLES_OF_RULES: u32 = 150;
const CHAINS: usize = 5;
/// Bits that rules play with; the lower two decide where the packet leaves.
const BITS: u32 = 0xf;
const WAY: u32 = 0x3;

fn chain(n: usize) -> String {
    format!("SMARTNAT-C{n}")
}

fn bits() -> impl Strategy<Value = u32> {
    0..=BITS
}

fn a_match() -> impl Strategy<Value = Match> {
    prop_oneof![
        4 => (bits(), bits(), any::<bool>())
            .prop_map(|(value, mask, invert)| Match::Mark { value: value & mask, mask, invert }),
        4 => (bits(), bits(), any::<bool>())
            .prop_map(|(value, mask, invert)| Match::ConnMark { value: value & mask, mask, invert }),
        2 => Just(Match::CtState(CtState::New)),
        1 => Just(Match::CtState(CtState::Established)),
        1 => Just(Match::CtDirection(CtDirection::Original)),
        1 => Just(Match::CtDirection(CtDirection::Reply)),
        1 => Just(Match::NotDnated),
        1 => Just(Match::Source(net("192.0.2.0/25"))),
        1 => Just(Match::InInterface("eth1".to_owned())),
        1 => Just(Match::InInterface("eth+".to_owned())),
        1 => Just(Match::OutInterface("eth1".to_owned())),
        1 => Just(Match::CtState(CtState::Invalid)),
        1 => Just(Match::NotSource(net("192.0.2.0/25"))),
        1 => Just(Match::NotDestination(net("192.0.2.0/25"))),
        1 => Just(Match::SourceLocal),
        1 => Just(Match::DestinationNotHere),
        1 => Just(Match::Ipv4Options),
        1 => any::<bool>().prop_map(|invert| Match::DestinationLocal { invert }),
    ]
}

/// A rule of chain `n`; it leads only to chains with a higher number.
fn a_rule(n: usize) -> impl Strategy<Value = Rule> {
    let further = n + 1..CHAINS.max(n + 2);
    let lead = (further, any::<bool>()).prop_map(move |(to, goto)| match to {
        CHAINS.. => Target::Return,
        to if goto => Target::Goto(chain(to)),
        to => Target::Jump(chain(to)),
    });
    let set = (bits(), bits(), any::<bool>()).prop_map(|(value, mask, connection)| {
        if connection { Target::SetConnMark { value, mask } } else { Target::SetMark { value, mask } }
    });
    let copy = (bits(), any::<bool>())
        .prop_map(|(mask, save)| if save { Target::SaveMark { mask } } else { Target::RestoreMark { mask } });
    let target = prop_oneof![
        6 => lead, 5 => set, 3 => copy, 2 => Just(Target::Return), 1 => Just(Target::Accept), 1 => Just(Target::Drop)
    ];
    let ports = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![
            Match::Protocol(Protocol::Udp),
            Match::DestinationPort(Protocol::Udp, Ports { first: 50, last: 60 }),
        ]),
    ];
    (ports, proptest::collection::vec(a_match(), 0..=1), target)
        .prop_map(|(ports, more, target)| Rule::new(ports.into_iter().chain(more), target))
}

fn chains() -> impl Strategy<Value = TableRules> {
    let rules: Vec<_> = (0..CHAINS).map(|n| proptest::collection::vec(a_rule(n), 0..6)).collect();
    rules.prop_map(|chains| TableRules {
        chains: chains.into_iter().enumerate().map(|(n, rules)| (chain(n).into(), rules.into())).collect(),
        // The lab's own packets, which come from elsewhere, pass untouched.
        hooks: [(Builtin::Prerouting, Rule::new([Match::Source(net("192.0.2.0/24"))], Target::Jump(chain(0))))].into(),
        ..TableRules::default()
    })
}

/// Mark 0 leaves by the main table, 1 by eth1, 2 by eth2, 3 nowhere.
fn dataplane(rules: TableRules) -> Dataplane {
    let way = |interface: &str, gateway| RouteTarget::Gateway { interface: interface.to_owned(), gateway: ip(gateway) };
    let targets = [way("eth1", "203.0.113.1"), way("eth2", "198.51.100.1"), RouteTarget::Unreachable];
    let mut plane = Dataplane::default();
    plane.tables.insert((Family::Ipv4, Table::Mangle), rules);
    for (mark, target) in (1..).zip(targets) {
        let table = 1000 + mark;
        let selector = RuleSelector::FwMark { mark, mask: WAY };
        plane.rules.insert(PolicyRule::lookup(Family::Ipv4, 100 + mark, selector, table));
        plane.routes.insert(Route { table, destination: net("0.0.0.0/0"), target, metric: 0 });
    }
    plane
}

fn packets() -> [Case; 4] {
    let udp = PacketKind::Udp { source_port: 4000, destination_port: 53 };
    let of = |interface, source, kind, state| Packet {
        state,
        ..Packet::first(interface, ip(source), ip("192.0.2.250"), kind)
    };
    [
        (of("eth1", "192.0.2.7", udp, PacketState::New), 0),
        (of("eth2", "192.0.2.200", tcp(4001, 80), PacketState::New), flags::SYN),
        (of("eth1", "192.0.2.7", tcp(4002, 80), PacketState::Invalid), flags::SYN_ACK),
        (of("eth2", "192.0.2.200", tcp(4003, 80), PacketState::Invalid), flags::RST),
    ]
}

#[test]
fn trace_agrees_with_the_kernel_on_random_chains() {
    let host = host();
    let lab = std::cell::RefCell::new(Lab::new(&dataplane(TableRules::default()), &host));
    let config = Config { cases: TABLES_OF_RULES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&chains(), |rules| {
        let mut lab = lab.borrow_mut();
        let plane = dataplane(rules);
        lab.replace_tables(&plane);
        lab.forget_connections();
        for (packet, tcp_flags) in packets() {
            let observed = lab.send(&packet, tcp_flags);
            let trace = trace(&plane, &host, &packet);
            let agrees = trace.outcomes.iter().all(|outcome| observed.is(outcome, &packet, &host));
            prop_assert!(agrees, "the kernel did {:?}, but\n{}", observed, trace);
        }
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
}

#[test]
fn the_kernel_refuses_chains_that_are_deeper_than_our_limit_and_no_others() {
    let lab = Lab::new(&dataplane(TableRules::default()), &host());
    for (length, loads) in [(MAX_CHAIN_DEPTH, true), (MAX_CHAIN_DEPTH + 1, false)] {
        let lead = |n: usize| if n.is_multiple_of(2) { Target::Goto(chain(n)) } else { Target::Jump(chain(n)) };
        let rules = TableRules {
            chains: (0..length)
                .map(|n| (chain(n), if n + 1 < length { vec![Rule::new([], lead(n + 1))] } else { Vec::new() }))
                .map(|(name, rules)| (name.into(), rules.into()))
                .collect(),
            hooks: [(Builtin::Prerouting, Rule::new([], Target::Jump(chain(0))))].into(),
            ..TableRules::default()
        };
        assert_eq!(depth(&rules, Builtin::Prerouting), length);
        let input = render::tables(&dataplane(rules), Family::Ipv4);
        let loaded = lab.border.attempt("iptables-restore", &input);
        assert_eq!(loaded.is_ok(), loads, "{length} chains: {loaded:?}");
    }
}
