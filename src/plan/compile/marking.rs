//! mangle PREROUTING and OUTPUT: which interface a connection belongs to.
//!
//! The first packet decides and writes the slot into the connection mark; every later packet from the inside takes its
//! way out from there. The number of rules depends on the number of interfaces only.

use ipnet::Ipv6Net;

use super::{Context, FamilySets, LINK_LOCAL6, errors, goto, hook, in_set, not_in_set};
use crate::model::{Family, Protocol};
use crate::ruleset::{
    Builtin, CtDirection, CtState, Match, Rule, SetDirection, TableRules, Target,
    ownership::{EGRESS, INSIDE, INSIDE_NEW, OUT, OUT_NEW, PRE, PRE_INNER, PRE_NEW, SET_EGRESS},
};

/// ff00::/8 (RFC 4291, 2.7).
const MULTICAST6: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);

pub fn compile(context: &Context, family: Family, mangle: &mut TableRules) {
    prerouting(context, family, mangle);
    match family {
        Family::Ipv4 => inside(context, mangle),
        Family::Ipv6 => inside6(mangle),
    }
    output(context, family, mangle);
}

fn prerouting(context: &Context, family: Family, mangle: &mut TableRules) {
    let mut pre: Vec<Rule> = context.inside_interfaces().map(|m| Rule::new([m], goto(INSIDE))).collect();
    pre.push(Rule::new([Match::CtState(CtState::Established)], Target::Return));
    pre.push(Rule::new([], goto(PRE_NEW)));
    mangle.add(PRE, pre);
    hook(mangle, Builtin::Prerouting, [], PRE);

    // A forged inside source gets no slot, hence no Mapping; see nat.
    let shared = context.has_shared() && family == Family::Ipv4;
    let inner = if shared { goto(PRE_INNER) } else { Target::Return };
    let mut new = vec![Rule::new([Match::InInterface("lo".to_owned())], Target::Return)];
    new.extend(strays(family));
    // Until a connection is answered its packets are NEW: the first of them decided, and a forged one must not move it.
    let decided = Match::ConnMark { value: 0, mask: context.marks().slot_mask(), invert: true };
    new.push(Rule::new([decided], Target::Return));
    new.push(Rule::new([in_set(FamilySets::of(family).inner, SetDirection::Source)], inner));
    for e in &context.topology.externals {
        new.push(Rule::new([Match::InInterface(e.name.clone())], context.set_slot(context.marks().slot(e.slot))));
    }
    mangle.add(PRE_NEW, new);

    if shared {
        let mut rules = Vec::new();
        for e in context.topology.externals.iter().filter(|e| !e.shared.is_empty()) {
            let from = Match::InInterface(e.name.clone());
            rules.push(Rule::new([from.clone()], context.set_slot(context.marks().inside())));
            // Neighbours in the shared subnet are answered where they came in.
            rules.extend(e.shared.iter().map(|net| {
                Rule::new([Match::Source(*net), from.clone()], context.set_slot(context.marks().slot(e.slot)))
            }));
        }
        mangle.add(PRE_INNER, rules);
    }
}

/// What begins outside is for an address of the box. The rest goes no farther, so that nothing answers it: "time
/// exceeded" and "fragmentation needed" are sent before FORWARD is asked.
fn strays(family: Family) -> Vec<Rule> {
    match family {
        Family::Ipv4 => vec![
            Rule::new([Match::DestinationElsewhere], Target::Drop),
            // Options are answered behind PREROUTING, and "record route" has the inside's addresses written down on the
            // way.
            Rule::new([Match::Ipv4Options], Target::Drop),
        ],
        Family::Ipv6 => vec![
            // Not UNICAST: of IPv6 that is true of the box's own addresses too.
            Rule::new(
                [Match::NotDestination(MULTICAST6.into()), Match::DestinationLocal { invert: true }],
                Target::Drop,
            ),
            // The link-local address of another interface would be forwarded there.
            Rule::new([Match::Destination(LINK_LOCAL6.into()), Match::DestinationNotHere], Target::Drop),
            from_itself(),
        ],
    }
}

/// Of IPv6 the kernel knows no martians: whoever sends in the name of the box would be believed, and sent on. Two
/// things have such a source rightly. A neighbour may have a link-local address that the box has on another link, for
/// instance fe80::1; it is not forwarded. And what the box itself sends to a group comes back to it by the interface
/// that it left by.
fn from_itself() -> Rule {
    let matches = [Match::NotSource(LINK_LOCAL6.into()), Match::NotDestination(MULTICAST6.into()), Match::SourceLocal];
    Rule::new(matches, Target::Drop)
}

/// IPv6 has no policy routing of ours yet: nothing is restored for what comes from the inside.
fn inside6(mangle: &mut TableRules) {
    mangle.add(INSIDE, vec![from_itself()]);
}

/// Packets from the inside: three rules for those of decided connections.
fn inside(context: &Context, mangle: &mut TableRules) {
    let marks = context.marks();
    let restore = Target::RestoreMark { mask: marks.slot_mask() };
    mangle.add(
        INSIDE,
        vec![
            Rule::new([context.no_slot()], goto(INSIDE_NEW)),
            // Whoever on the inside speaks for a client is an impostor. Sent out by the slot's table, its packet would
            // make the kernel drop the whole connection: a masqueraded one must not change its interface.
            Rule::new(
                [
                    Match::CtDirection(CtDirection::Original),
                    Match::ConnMark { value: 0, mask: marks.begun_inside(), invert: false },
                    Match::ConnMark { value: marks.inside(), mask: marks.slot_mask(), invert: true },
                ],
                Target::Drop,
            ),
            Rule::new([], restore),
        ],
    );
    let mut new = Vec::new();
    if context.config.snat {
        let inner = FamilySets::of(Family::Ipv4).inner;
        new.push(Rule::new(
            [
                Match::CtState(CtState::New),
                in_set(SET_EGRESS, SetDirection::Source),
                Match::DestinationLocal { invert: true },
                not_in_set(inner, SetDirection::Destination),
            ],
            goto(EGRESS),
        ));
        mangle.add(
            EGRESS,
            vec![
                // Not the beginning of a connection: an answer on one that was cut. As a connection of the pod's own it
                // would go on.
                Rule::new([Match::Protocol(Protocol::Tcp), Match::NotSyn], Target::Drop),
                Rule::new([], Target::MapMark { set: SET_EGRESS.to_owned() }),
                Rule::new([], Target::SaveMark { mask: marks.slot_mask() }),
                Rule::new([], Target::SetConnMark { value: marks.begun_inside(), mask: marks.begun_inside() }),
            ],
        );
    }
    new.push(Rule::new(
        [Match::CtState(CtState::New), Match::DestinationLocal { invert: false }],
        context.set_slot(marks.inside()),
    ));
    mangle.add(INSIDE_NEW, new);
}

/// What the box itself sends on a connection (resets, ICMP errors, echo replies) goes the connection's way. A
/// connection that the box begins through an external interface is marked.
fn output(context: &Context, family: Family, mangle: &mut TableRules) {
    let marks = context.marks();
    let begun_inside = |value| Match::ConnMark { value, mask: marks.begun_inside(), invert: false };
    // No answers to the outside by a way that is none. What the box itself begins there (VRRP) is its own affair.
    let answers = |name: &String| [Match::OutInterface(name.clone()), Match::CtDirection(CtDirection::Reply)];
    let mut rules = vec![errors::from_the_box(family)];
    rules.extend(context.topology.above.iter().map(|name| Rule::new(answers(name), Target::Drop)));
    rules.push(Rule::new([context.no_slot()], goto(OUT_NEW)));
    if family == Family::Ipv4 {
        rules.extend([
            Rule::new([Match::CtDirection(CtDirection::Reply), begun_inside(marks.begun_inside())], Target::Return),
            Rule::new([Match::CtDirection(CtDirection::Original), begun_inside(0)], Target::Return),
            Rule::new([], Target::RestoreMark { mask: marks.slot_mask() }),
        ]);
    }
    mangle.add(OUT, rules);
    errors::compile(family, mangle);
    hook(mangle, Builtin::Output, [], OUT);
    mangle.add(OUT_NEW, leaving(context));
}

/// Connections begun inside that leave by an external interface remember it, so that the border knows their replies.
/// Reached from OUTPUT and from the border, so that POSTROUTING, which every packet passes, needs no hook.
fn leaving(context: &Context) -> Vec<Rule> {
    let marks = context.marks();
    let mark = |slot| Target::SetConnMark {
        value: marks.slot(slot) | marks.begun_inside(),
        mask: marks.slot_mask() | marks.begun_inside(),
    };
    let externals = context.topology.externals.iter();
    externals
        .map(|e| Rule::new([Match::OutInterface(e.name.clone()), Match::CtState(CtState::New)], mark(e.slot)))
        .collect()
}
