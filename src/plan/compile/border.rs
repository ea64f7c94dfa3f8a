//! mangle INPUT and FORWARD: the border. Behind nat, ahead of every filter rule, so that no ACCEPT there can open it.
//!
//! From an external interface (and from any that is not known to be inside) pass only packets of mapped connections, replies to
//! connections begun inside, and what the openings name. The last rule drops everything, tracked or not.

use super::{Context, FamilySets, goto, hook, in_set};
use crate::model::{Family, Opening, Protocol};
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
    forward.extend(replies(context));
    forward.push(Rule::new([], Target::Drop));
    mangle.chains.insert(BORDER.to_owned(), forward);
    hook(mangle, Builtin::Forward, [], BORDER);

    let mut input = vec![Rule::new([Match::InInterface("lo".to_owned())], Target::Return)];
    input.extend(mapped(context));
    input.extend(context.inside_interfaces().map(|inside| Rule::new([inside], Target::Return)));
    input.extend(replies(context));
    // Openings are for outsiders: whoever claims to come from the inside must not get an answer sent there. Neighbours in a shared
    // subnet are no impostors.
    let shared = context.topology.externals.iter().filter(|e| !e.shared.is_empty() && family == Family::Ipv4);
    input.extend(shared.map(|e| Rule::new([Match::InInterface(e.name.clone())], goto(OPEN))));
    input.push(Rule::new([in_set(FamilySets::of(family).inner, SetDirection::Source)], Target::Drop));
    input.push(Rule::new([], goto(OPEN)));
    mangle.chains.insert(BORDER_IN.to_owned(), input);
    hook(mangle, Builtin::Input, [], BORDER_IN);

    mangle.chains.insert(OPEN.to_owned(), openings(context, family));
}

/// Clients' packets of mapped connections.
fn mapped(context: &Context) -> Vec<Rule> {
    let marks = context.marks();
    // A client's packets go in the original direction; a reply of a pod never arrives here. A connection that a pod began towards a
    // mapped address (inside slot) is continued from the inside only, except where the two share a subnet.
    let mut rules = vec![Rule::new(
        [
            Match::CtDirection(CtDirection::Original),
            context.mapped(),
            Match::ConnMark { value: marks.inside(), mask: marks.slot_mask(), invert: true },
        ],
        Target::Return,
    )];
    rules.extend(context.topology.externals.iter().filter(|e| !e.shared.is_empty()).map(|e| {
        Rule::new(
            [Match::InInterface(e.name.clone()), Match::CtDirection(CtDirection::Original), context.mapped()],
            Target::Return,
        )
    }));
    rules
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

fn openings(context: &Context, family: Family) -> Vec<Rule> {
    let to_external = || in_set(FamilySets::of(family).external, SetDirection::Destination);
    let mut rules = Vec::new();
    if family == Family::Ipv6 {
        // RFC 4861, 7.1: neighbour discovery is valid with hop limit 255 only, that is from the link itself.
        rules.extend([135, 136].map(|kind| {
            Rule::new([Match::IpProtocol("ipv6-icmp"), Match::Icmp6Type(kind), Match::HopLimit(255)], Target::Return)
        }));
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
            (Opening::Vrrp, Family::Ipv4) => rules
                .push(Rule::new([Match::Destination(VRRP_GROUP.into()), Match::IpProtocol("vrrp")], Target::Return)),
            (Opening::Dhcp | Opening::Vrrp, Family::Ipv6) => {}
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
    rules.push(Rule::new([], Target::Drop));
    rules
}

/// RFC 9568, 5.1.1.2.
const VRRP_GROUP: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::new(224, 0, 0, 18));
