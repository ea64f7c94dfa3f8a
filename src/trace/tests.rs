//! The semantics of chains, matches and branches, on small hand-made tables. Whole borders are traced in `tests/trace`.

use std::sync::Arc;

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::model::{InterfaceAddress, Link, MainRoute, Protocol};
use crate::ruleset::{
    Builtin, CtDirection, CtState, IpSet, Match, Probability, Rule, SetDirection, SetKind, SetMember, Table,
    TableRules, Target,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One interface `eth0` with 10.0.0.2/24 and a default route.
fn host() -> Host {
    let mut host = Host::default();
    let address = InterfaceAddress::of("10.0.0.2/24".parse().unwrap());
    host.links.insert("eth0".to_owned(), Link { up: true, addresses: vec![address], ..Link::default() });
    let route = |destination: &str, gateway: Option<&str>| MainRoute {
        destination: destination.parse().unwrap(),
        interface: Some("eth0".to_owned()),
        gateway: gateway.map(ip),
        metric: 0,
    };
    host.main_routes = vec![route("10.0.0.0/24", None), route("0.0.0.0/0", Some("10.0.0.1"))];
    host
}

fn syn() -> Packet {
    let kind = PacketKind::Tcp { source_port: 40000, destination_port: 80 };
    Packet::first("eth0", ip("192.0.2.7"), ip("10.0.0.2"), kind)
}

fn rule(matches: impl IntoIterator<Item = Match>, target: Target) -> Rule {
    Rule::new(matches, target)
}

fn goto(chain: &str) -> Target {
    Target::Goto(chain.to_owned())
}

fn jump(chain: &str) -> Target {
    Target::Jump(chain.to_owned())
}

fn mark(value: u32) -> Rule {
    rule([], Target::SetMark { value, mask: value })
}

fn dnat(to: &str) -> Rule {
    rule([], Target::Dnat(to.parse().unwrap()))
}

fn remembered(set: &str) -> Match {
    Match::Set { name: set.to_owned(), direction: SetDirection::Source, invert: false }
}

/// A dataplane with one table whose hook jumps to the first chain.
fn plane(table: Table, hook: Builtin, chains: Vec<(String, Vec<Rule>)>) -> Dataplane {
    let first = chains[0].0.clone();
    let rules = TableRules {
        hooks: [(hook, rule([], Target::Jump(first)))].into(),
        chains: chains.into_iter().map(|(name, rules)| (name.into(), rules.into())).collect(),
        ..TableRules::default()
    };
    Dataplane { tables: [((Family::Ipv4, table), rules)].into(), ..Dataplane::default() }
}

fn mangle_input(chains: &[(&str, Vec<Rule>)]) -> Dataplane {
    let chains = chains.iter().map(|(name, rules)| ((*name).to_owned(), rules.clone())).collect();
    plane(Table::Mangle, Builtin::Input, chains)
}

fn only(trace: &Trace) -> &Outcome {
    assert_eq!(trace.outcomes.len(), 1, "{trace}");
    trace.outcomes.first().unwrap()
}

/// Every destination that the packet may be forwarded to; anything else is a failure.
fn destinations(trace: &Trace) -> Vec<SocketAddr> {
    let to = |outcome: &Outcome| match outcome {
        Outcome::Forwarded { to, .. } => *to,
        other => panic!("{other}\n{trace}"),
    };
    trace.outcomes.iter().map(to).collect()
}

/// The packet mark that a walk through mangle INPUT ends with.
fn marked(dataplane: &Dataplane) -> u32 {
    let trace = trace(dataplane, &host(), &syn());
    let mut marks = trace.steps.iter().filter_map(|step| match step {
        Step::Rule { effect: Effect::Mark(mark), .. } => Some(*mark),
        _ => None,
    });
    marks.next_back().unwrap_or(0)
}

#[test]
fn a_jump_comes_back_and_a_goto_comes_back_to_where_the_last_jump_was() {
    let dataplane = mangle_input(&[
        ("A", vec![rule([], jump("B")), mark(1)]),
        ("B", vec![rule([], goto("C")), mark(2)]),
        ("C", vec![mark(4)]),
    ]);
    assert_eq!(marked(&dataplane), 1 | 4, "the rest of B is never reached");
}

#[test]
fn return_leaves_one_chain_and_at_the_end_the_policy_accepts() {
    let dataplane =
        mangle_input(&[("A", vec![rule([], jump("B")), mark(1)]), ("B", vec![rule([], Target::Return), mark(2)])]);
    assert_eq!(marked(&dataplane), 1);
    let to = "10.0.0.2:80".parse().unwrap();
    assert_eq!(only(&trace(&dataplane, &host(), &syn())), &Outcome::Delivered { to });
}

#[test]
fn accept_ends_its_table_only() {
    let mut dataplane = mangle_input(&[("A", vec![rule([], Target::Accept), rule([], Target::Drop)])]);
    let filter = plane(Table::Filter, Builtin::Input, vec![("F".to_owned(), vec![rule([], Target::Drop)])]);
    dataplane.tables.extend(filter.tables);
    let trace = trace(&dataplane, &host(), &syn());
    let Outcome::Dropped(DroppedBy::Rule(place)) = only(&trace) else { panic!("{trace}") };
    assert_eq!((place.table, place.chain.as_str(), place.number), (Table::Filter, "F", 1));
    assert!(trace.to_string().ends_with("\nVerdict: dropped: filter F rule 1: -j DROP"), "{trace}");
}

#[test]
fn a_packet_without_connection_matches_no_connmark_but_counts_as_not_translated() {
    let about = |m: Match| {
        let dataplane = mangle_input(&[("A", vec![rule([m], Target::Drop)])]);
        let packet = Packet { state: PacketState::Invalid, ..syn() };
        matches!(only(&trace(&dataplane, &host(), &packet)), Outcome::Dropped(_))
    };
    assert!(!about(Match::ConnMark { value: 0, mask: 1, invert: false }));
    assert!(!about(Match::ConnMark { value: 1, mask: 1, invert: true }));
    assert!(!about(Match::CtState(CtState::New)));
    assert!(!about(Match::CtState(CtState::Established)));
    assert!(!about(Match::CtDirection(CtDirection::Original)));
    assert!(about(Match::NotDnated));
    assert!(!about(Match::Dnated));
    assert!(about(Match::CtState(CtState::Invalid)));
}

#[test]
fn what_is_not_tracked_is_not_invalid() {
    let dataplane = mangle_input(&[("A", vec![rule([Match::CtState(CtState::Invalid)], Target::Drop)])]);
    let end = |state| only(&trace(&dataplane, &host(), &Packet { state, ..syn() })).clone();
    assert!(matches!(end(PacketState::Invalid), Outcome::Dropped(_)));
    assert!(matches!(end(PacketState::Untracked), Outcome::Delivered { .. }));
    assert!(matches!(end(PacketState::New), Outcome::Delivered { .. }));
}

#[test]
fn an_answer_goes_where_connection_tracking_sends_it() {
    let dataplane = Dataplane::default();
    let kind = PacketKind::Tcp { source_port: 8080, destination_port: 40000 };
    let state = PacketState::Established {
        direction: CtDirection::Reply,
        connmark: 0x10000,
        dnat: true,
        destination: Some("192.0.2.7:1024".parse().unwrap()),
    };
    let packet = Packet { state, ..Packet::first("eth0", ip("10.244.1.2"), ip("10.0.0.2"), kind) };
    assert_eq!(destinations(&trace(&dataplane, &host(), &packet)), ["192.0.2.7:1024".parse().unwrap()]);
}

#[test]
fn a_thousand_pods_are_all_found_at_the_cost_of_a_tree() {
    let mut chains = Vec::new();
    pods(&mut chains, 0, 1000, "P-0-1000", Vec::new());
    chains.sort_by_key(|(name, _)| name != "P-0-1000");
    let dataplane = plane(Table::Nat, Builtin::Prerouting, chains);
    let trace = trace(&dataplane, &host(), &syn());
    assert_eq!(destinations(&trace).len(), 1000);
    assert!(trace.alternatives.is_empty(), "ends that differ in the pod alone are explained once");
    // The hook, ten nodes of two rules, and a leaf of two.
    assert_eq!(trace.evaluations(), 1 + 2 * 10 + 2);
    assert!(trace.to_string().contains(" and 992 more by eth0, source kept"), "{trace}");
}

/// A binary tree of random choices over the pods `first..last`; `before` stands ahead of the choice in the topmost chain.
fn pods(chains: &mut Vec<(String, Vec<Rule>)>, first: u32, last: u32, name: &str, mut before: Vec<Rule>) {
    if last - first == 1 {
        let set = format!("AFF-{first}");
        before.push(rule([], Target::AddSource { set, timeout: 60 }));
        before.push(dnat(&format!("10.244.{}.{}:80", first / 250, first % 250 + 1)));
    } else {
        let middle = first + (last - first) / 2;
        let (left, right) = (format!("P-{first}-{middle}"), format!("P-{middle}-{last}"));
        pods(chains, first, middle, &left, Vec::new());
        pods(chains, middle, last, &right, Vec::new());
        let chance = Probability { weight: middle - first, of: last - first };
        before.push(rule([Match::Statistic(chance)], goto(&left)));
        before.push(rule([], goto(&right)));
    }
    chains.push((name.to_owned(), before));
}

#[test]
fn a_remembered_client_is_led_to_the_pod_that_remembers_it_and_to_no_other() {
    const PODS: u32 = 1000;
    let mut chains = Vec::new();
    let mut sets = Dataplane::default().sets;
    lookups(&mut chains, &mut sets, 0, PODS);
    let asked = vec![rule([remembered(&format!("L-0-{PODS}"))], goto(&format!("L-0-{PODS}")))];
    let mut top = Vec::new();
    pods(&mut top, 0, PODS, "top", asked);
    top.sort_by_key(|(name, _)| name != "top");
    top.extend(chains);
    let dataplane = Dataplane { sets, ..plane(Table::Nat, Builtin::Prerouting, top) };
    let trace = trace(&dataplane, &host(), &syn());
    assert_eq!(destinations(&trace).len(), PODS as usize, "never past the tree undecided");
    assert!(trace.evaluations() <= 2 + 4 * 11, "{}", trace.evaluations());
}

/// A tree of lookups over the pods' sets; a chain drops what it cannot place.
fn lookups(
    chains: &mut Vec<(String, Vec<Rule>)>,
    sets: &mut std::collections::BTreeMap<Arc<str>, IpSet>,
    first: u32,
    last: u32,
) {
    if last - first == 1 {
        sets.insert(format!("AFF-{first}").into(), IpSet::new(SetKind::Affinity(Family::Ipv4)));
        chains.push((format!("L-{first}-{last}"), vec![rule([], goto(&format!("P-{first}-{last}")))]));
    } else {
        let middle = first + (last - first) / 2;
        lookups(chains, sets, first, middle);
        lookups(chains, sets, middle, last);
        let name = format!("L-{first}-{last}");
        let (left, right) = (format!("L-{first}-{middle}"), format!("L-{middle}-{last}"));
        let choose = vec![
            rule([remembered(&left)], goto(&left)),
            rule([remembered(&right)], goto(&right)),
            rule([], Target::Drop),
        ];
        chains.push((name, choose));
    }
    let members = (first..last).map(|pod| SetMember::Set(format!("AFF-{pod}")));
    sets.insert(format!("L-{first}-{last}").into(), IpSet::of(SetKind::List, members));
}

#[test]
fn an_end_of_another_sort_is_explained_from_where_it_parts() {
    let half = Match::Statistic(Probability { weight: 1, of: 2 });
    let dataplane = mangle_input(&[("A", vec![mark(1), rule([half], Target::Drop)])]);
    let trace = trace(&dataplane, &host(), &syn());
    assert_eq!(trace.outcomes.len(), 2, "{trace}");
    let [alternative] = trace.alternatives.as_slice() else { panic!("{trace}") };
    assert_eq!(alternative.outcome, Outcome::Delivered { to: "10.0.0.2:80".parse().unwrap() });
    assert_eq!((alternative.shared, alternative.steps.len()), (trace.steps.len() - 1, 0), "all but the drop");
}

#[test]
fn sure_and_impossible_chances_are_no_branches() {
    let chance = |weight| Match::Statistic(Probability { weight, of: 2 });
    let dataplane =
        mangle_input(&[("A", vec![rule([chance(0)], Target::Drop), rule([chance(2)], Target::Accept), mark(1)])]);
    assert!(matches!(only(&trace(&dataplane, &host(), &syn())), Outcome::Delivered { .. }));
    assert_eq!(marked(&dataplane), 0);
}

#[test]
fn independent_chances_that_change_nothing_do_not_multiply() {
    let half = || Match::Statistic(Probability { weight: 1, of: 2 });
    let chains = vec![("A".to_owned(), (0..64).map(|_| rule([half()], jump("B"))).collect()), ("B".to_owned(), vec![])];
    let dataplane = plane(Table::Mangle, Builtin::Input, chains);
    let trace = trace(&dataplane, &host(), &syn());
    assert!(matches!(only(&trace), Outcome::Delivered { .. }));
    assert_eq!(trace.evaluations(), 1 + 64);
}

#[test]
fn rules_that_the_kernel_would_not_load_are_unknown_and_end() {
    let unknown = |dataplane: Dataplane| match only(&trace(&dataplane, &host(), &syn())) {
        Outcome::Unknown { reason } => reason.clone(),
        other => panic!("{other}"),
    };
    let missing = mangle_input(&[("A", vec![rule([], jump("B"))])]);
    assert_eq!(unknown(missing), "the chain B does not exist in table mangle");
    let endless = mangle_input(&[("A", vec![rule([], goto("A"))])]);
    assert_eq!(unknown(endless), "A in table mangle is chain 16 from INPUT");
    let no_set = mangle_input(&[("A", vec![rule([remembered("SN-X")], Target::Drop)])]);
    assert_eq!(unknown(no_set), "the set SN-X does not exist");
}

#[test]
fn sets_match_as_the_kernel_looks_them_up() {
    let member = |text: &str| SetMember::Net(text.parse().unwrap());
    let v4 = Family::Ipv4;
    let endpoint = |protocol| SetMember::IpPort { address: ip("10.0.0.2"), protocol, port: 80 };
    let sets = [
        ("net", IpSet::of(SetKind::HashNet(v4), [member("192.0.2.0/25"), member("10.0.0.0/8")]), true),
        ("other-net", IpSet::of(SetKind::HashNet(v4), [member("192.0.2.128/25")]), false),
        ("net6", IpSet::of(SetKind::HashNet(Family::Ipv6), [member("::/1")]), false),
        ("ip", IpSet::of(SetKind::HashIp(v4), [SetMember::Ip(ip("192.0.2.7"))]), true),
        ("list", IpSet::of(SetKind::List, ["other-net", "ip"].map(|s| SetMember::Set(s.to_owned()))), true),
        ("tcp", IpSet::of(SetKind::HashIpPort(v4), [endpoint(Protocol::Tcp)]), true),
        ("udp", IpSet::of(SetKind::HashIpPort(v4), [endpoint(Protocol::Udp)]), false),
    ];
    for (name, set, expected) in &sets {
        let direction = if matches!(set.kind, SetKind::HashIpPort(_)) {
            SetDirection::DestinationPort
        } else {
            SetDirection::Source
        };
        for invert in [false, true] {
            let m = Match::Set { name: (*name).to_owned(), direction, invert };
            let mut dataplane = mangle_input(&[("A", vec![rule([m], Target::Drop)])]);
            dataplane.sets = sets.iter().map(|(name, set, _)| ((*name).into(), set.clone())).collect();
            let dropped = matches!(only(&trace(&dataplane, &host(), &syn())), Outcome::Dropped(_));
            assert_eq!(dropped, *expected != invert, "{name}, inverted {invert}");
        }
    }
}

#[test]
fn what_cannot_come_by_a_wire_or_has_no_way_is_dropped_by_the_kernel() {
    let dataplane = Dataplane::default();
    let from_to =
        |source: &str, destination: &str| Packet { source: ip(source), destination: ip(destination), ..syn() };
    let end = |host: &Host, packet: &Packet| only(&trace(&dataplane, host, packet)).clone();
    for (source, destination) in [
        ("10.0.0.2", "198.51.100.1"),
        ("10.0.0.255", "198.51.100.1"),
        ("127.0.0.1", "10.0.0.2"),
        ("192.0.2.7", "127.0.0.1"),
        ("224.0.0.1", "10.0.0.2"),
        ("0.0.0.0", "10.0.0.2"),
    ] {
        let outcome = end(&host(), &from_to(source, destination));
        assert!(matches!(outcome, Outcome::Dropped(DroppedBy::Martian(_))), "{source} -> {destination}: {outcome}");
    }
    let last_hop = Packet { hop_limit: 1, ..from_to("192.0.2.7", "198.51.100.1") };
    assert_eq!(end(&host(), &last_hop), Outcome::Dropped(DroppedBy::HopLimit));
    let mut cut_off = host();
    cut_off.links.get_mut("eth0").unwrap().up = false;
    assert_eq!(end(&cut_off, &from_to("192.0.2.7", "198.51.100.1")), Outcome::Dropped(DroppedBy::NoRoute));
    assert!(matches!(end(&host(), &from_to("192.0.2.7", "10.0.0.255")), Outcome::Delivered { .. }), "broadcast");
    assert!(matches!(end(&host(), &from_to("192.0.2.7", "2001:db8::1")), Outcome::Unknown { .. }), "families");
}
