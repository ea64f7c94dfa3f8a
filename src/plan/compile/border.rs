//! mangle INPUT and FORWARD: the border. Behind nat, ahead of every filter rule, so that no ACCEPT there can open it.
//!
//! From an external interface (and from any that is not known to be inside) pass only packets of mapped connections,
//! replies to connections begun inside, and what the openings name. The last rule drops everything, tracked or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::{Context, FamilySets, LINK_LOCAL6, goto, hook, in_set};
use crate::model::{Family, Opening, Protocol};
use crate::plan::topology::External;
use crate::ruleset::{
    Builtin, CtDirection, CtState, Match, Ports, Rule, SetDirection, TableRules, Target,
    ownership::{BORDER, BORDER_IN, OPEN, OUT_NEW},
};

pub fn compile(context: &Context, family: Family, mangle: &mut TableRules) {
    // The packets of mapped connections first: they are the traffic.
    let mut forward = mapped(context);
    // Also what was begun while such an interface counted as inside.
    let above = context.topology.above.iter();
    forward.extend(above.map(|name| Rule::new([Match::OutInterface(name.clone())], Target::Drop)));
    for inside in context.inside_interfaces() {
        let undecided = Match::ConnMark { value: 0, mask: context.marks().slot_mask(), invert: true };
        forward.push(Rule::new([inside.clone(), undecided], Target::Return));
        forward.push(Rule::new([inside], goto(OUT_NEW)));
    }
    forward.extend(mapped_of_high_slots(context));
    forward.extend(replies(context));
    forward.push(Rule::new([], Target::Drop));
    mangle.add(BORDER, forward);
    hook(mangle, Builtin::Forward, [], BORDER);

    let mut input = vec![Rule::new([Match::InInterface("lo".to_owned())], Target::Return)];
    input.extend(mapped(context));
    input.extend(context.inside_interfaces().map(|inside| Rule::new([inside], Target::Return)));
    input.extend(mapped_of_high_slots(context));
    input.extend(replies(context));
    // Openings are for outsiders: whoever claims to come from the inside must not get an answer sent there. Neighbours
    // in a shared subnet are no impostors.
    let shared = context.topology.externals.iter().filter(|e| shares(context, e, family));
    input.extend(shared.map(|e| Rule::new([Match::InInterface(e.name.clone())], goto(OPEN))));
    input.push(Rule::new([in_set(FamilySets::of(family).inner, SetDirection::Source)], Target::Drop));
    input.push(Rule::new([], goto(OPEN)));
    mangle.add(BORDER_IN, input);
    hook(mangle, Builtin::Input, [], BORDER_IN);

    mangle.add(OPEN, openings(context, family));
}

/// Whether the interface has a subnet that the inside has, too.
fn shares(context: &Context, external: &External, family: Family) -> bool {
    match family {
        Family::Ipv4 => !external.shared.is_empty(),
        Family::Ipv6 => external.addresses.iter().any(|a| a.is_ipv6() && context.topology.reaches_inside(*a)),
    }
}

/// Clients' packets of mapped connections.
fn mapped(context: &Context) -> Vec<Rule> {
    let marks = context.marks();
    // A client's packets go in the original direction; a reply of a pod never arrives here. A connection that a pod
    // began towards a mapped address (inside slot) is continued from the inside only, except where the two share a
    // subnet. That slot is all ones: the highest bit alone tells it from all but the high ones, and saves every packet a match.
    let outside =
        Match::ConnMark { value: marks.mapped(), mask: marks.mapped() | marks.highest_slot_bit(), invert: false };
    let mut rules = vec![Rule::new([Match::CtDirection(CtDirection::Original), outside], Target::Return)];
    rules.extend(context.topology.externals.iter().filter(|e| !e.shared.is_empty()).map(|e| {
        Rule::new(
            [Match::InInterface(e.name.clone()), Match::CtDirection(CtDirection::Original), context.mapped()],
            Target::Return,
        )
    }));
    rules
}

/// The same where a slot shares the highest bit with the inside's.
fn mapped_of_high_slots(context: &Context) -> Option<Rule> {
    let marks = context.marks();
    let high = context.topology.externals.iter().any(|e| marks.slot(e.slot) & marks.highest_slot_bit() != 0);
    let not_inside = Match::ConnMark { value: marks.inside(), mask: marks.slot_mask(), invert: true };
    high.then(|| Rule::new([Match::CtDirection(CtDirection::Original), context.mapped(), not_inside], Target::Return))
}

/// Answers to connections that were begun inside and left by the interface where the answer arrives.
fn replies(context: &Context) -> Vec<Rule> {
    let marks = context.marks();
    let externals = context.topology.externals.iter();
    externals
        .map(|e| {
            Rule::new(
                [
                    Match::InInterface(e.name.clone()),
                    Match::CtState(CtState::Established),
                    Match::CtDirection(CtDirection::Reply),
                    Match::ConnMark {
                        value: marks.slot(e.slot) | marks.begun_inside(),
                        mask: marks.slot_mask() | marks.begun_inside() | marks.mapped(),
                        invert: false,
                    },
                ],
                Target::Return,
            )
        })
        .collect()
}

/// The openings to single addresses, and the same ones to networks, where there are some.
fn openings(context: &Context, family: Family) -> Vec<Rule> {
    let sets = FamilySets::of(family);
    let to_nets = in_set(sets.external_nets, SetDirection::Destination);
    let mut rules = openings_to(context, family, sets.external);
    if context.topology.external_nets().any(|net| Family::of(net.addr()) == family) {
        let also = openings_to(context, family, sets.external_nets);
        rules.extend(also.into_iter().filter(|rule| rule.matches.contains(&to_nets)));
    }
    rules.push(Rule::new([], Target::Drop));
    rules
}

fn openings_to(context: &Context, family: Family, set: &str) -> Vec<Rule> {
    let to_external = || in_set(set, SetDirection::Destination);
    let mut rules = Vec::new();
    if family == Family::Ipv6 {
        // RFC 4861, 7.1: neighbour discovery is valid with hop limit 255 only, that is from the link itself.
        rules.extend([135, 136].map(|kind| {
            Rule::new([Match::IpProtocol("ipv6-icmp"), Match::Icmp6Type(kind), Match::HopLimit(255)], Target::Return)
        }));
        // RFC 3810, 5.1.14: a listener query comes from the link. Without the answer a switch that snoops no longer
        // sends solicitations here, and no neighbour finds the box.
        rules.push(Rule::new(
            [
                Match::Source(LINK_LOCAL6.into()),
                Match::IpProtocol("ipv6-icmp"),
                Match::Icmp6Type(130),
                Match::HopLimit(1),
            ],
            Target::Return,
        ));
        // ::, ::a.b.c.d and ::ffff:a.b.c.d, which a socket for both families takes for the IPv4 address.
        rules.push(Rule::new([Match::Source(NOT_ON_A_WIRE.into())], Target::Drop));
    }
    for opening in &context.config.openings {
        match (opening, family) {
            (Opening::IcmpEcho, Family::Ipv4) => {
                rules.push(Rule::new([Match::IpProtocol("icmp"), Match::IcmpType(8), to_external()], Target::Return))
            }
            (Opening::IcmpEcho, Family::Ipv6) => rules.push(Rule::new(
                [Match::IpProtocol("ipv6-icmp"), Match::Icmp6Type(128), to_external()],
                Target::Return,
            )),
            (Opening::Dhcp, Family::Ipv4) => rules.push(Rule::new(
                [
                    Match::Protocol(Protocol::Udp),
                    Match::SourcePort(Protocol::Udp, 67),
                    Match::DestinationPort(Protocol::Udp, Ports::one(68)),
                ],
                Target::Return,
            )),
            // RFC 9915, 7.1: server and client speak by the link-local addresses of their link.
            (Opening::Dhcp, Family::Ipv6) => rules.push(Rule::new(
                [
                    Match::Source(LINK_LOCAL6.into()),
                    Match::Destination(LINK_LOCAL6.into()),
                    Match::Protocol(Protocol::Udp),
                    Match::SourcePort(Protocol::Udp, 547),
                    Match::DestinationPort(Protocol::Udp, Ports::one(546)),
                ],
                Target::Return,
            )),
            (Opening::Vrrp, _) => {
                let group = if family == Family::Ipv4 { VRRP_GROUP } else { VRRP_GROUP6 };
                rules.push(Rule::new([Match::Destination(group.into()), Match::IpProtocol("vrrp")], Target::Return));
            }
            (Opening::VrrpPeer(peer), _) if Family::of(*peer) != family => {}
            (Opening::VrrpPeer(peer), _) => rules.push(Rule::new(
                [Match::Source((*peer).into()), Match::IpProtocol("vrrp"), to_external()],
                Target::Return,
            )),
            (Opening::Port { from: Some(net), .. }, _) if Family::of(net.addr()) != family => {}
            (Opening::Port { protocol, port, from }, _) => {
                let mut matches: Vec<Match> = from.map(Match::Source).into_iter().collect();
                matches.extend([
                    Match::Protocol(*protocol),
                    Match::DestinationPort(*protocol, Ports::one(*port)),
                    to_external(),
                ]);
                rules.push(Rule::new(matches, Target::Return));
            }
        }
    }
    if context.config.openings.iter().any(|o| matches!(o, Opening::Port { .. })) {
        // ICMP errors about connections that an opening let in: path MTU discovery of the box's own services.
        let icmp = if family == Family::Ipv4 { "icmp" } else { "ipv6-icmp" };
        let begun_outside = Match::ConnMark { value: 0, mask: context.marks().slot_mask(), invert: true };
        rules.push(Rule::new(
            [Match::IpProtocol(icmp), Match::CtState(CtState::Established), begun_outside, to_external()],
            Target::Return,
        ));
    }
    rules
}

/// RFC 9568, 5.1.1.2.
const VRRP_GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
/// RFC 9568, 5.1.2.2.
const VRRP_GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

const NOT_ON_A_WIRE: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 64);
