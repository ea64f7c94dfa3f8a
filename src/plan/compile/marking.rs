//! mangle PREROUTING and OUTPUT: which interface a connection belongs to.
//!
//! The first packet decides and writes the slot into the connection mark; every later packet from the inside takes its way out from there.
//! The number of rules depends on the number of interfaces only.

use super::{Context, FamilySets, goto, hook, in_set, not_in_set};
use crate::model::{Family, Protocol};
use crate::ruleset::{
    Builtin, CtDirection, CtState, Match, Rule, SetDirection, TableRules, Target,
    ownership::{EGRESS, INSIDE, INSIDE_NEW, OUT, OUT_NEW, PRE, PRE_INNER, PRE_NEW, SET_EGRESS},
};

pub fn compile(context: &Context, family: Family, mangle: &mut TableRules) {
    prerouting(context, family, mangle);
    if family == Family::Ipv4 {
        inside(context, mangle);
    }
    output(context, family, mangle);
}

fn prerouting(context: &Context, family: Family, mangle: &mut TableRules) {
    // IPv6 has no policy routing of ours: nothing is restored for what comes from the inside.
    let from_inside = if family == Family::Ipv4 { goto(INSIDE) } else { Target::Return };
    let mut pre: Vec<Rule> = context.inside_interfaces().map(|m| Rule::new([m], from_inside.clone())).collect();
    pre.push(Rule::new([Match::CtState(CtState::Established)], Target::Return));
    pre.push(Rule::new([], goto(PRE_NEW)));
    mangle.chains.insert(PRE.to_owned(), pre);
    hook(mangle, Builtin::Prerouting, [], PRE);

    // A forged inside source gets no slot, hence no Mapping; see nat.
    let shared = context.has_shared() && family == Family::Ipv4;
    let inner = if shared { goto(PRE_INNER) } else { Target::Return };
    let mut new = vec![Rule::new([Match::InInterface("lo".to_owned())], Target::Return)];
    if family == Family::Ipv4 {
        // What begins outside is for an address of the box. The rest goes no farther, so that nothing answers it: "time exceeded" and
        // "fragmentation needed" are sent before FORWARD is asked.
        new.push(Rule::new([Match::DestinationElsewhere], Target::Drop));
    }
    // Until a connection is answered its packets are NEW: the first of them decided, and a forged one must not move it.
    let decided = Match::ConnMark { value: 0, mask: context.marks().slot_mask(), invert: true };
    new.push(Rule::new([decided], Target::Return));
    new.push(Rule::new([in_set(FamilySets::of(family).inner, SetDirection::Source)], inner));
    for e in &context.topology.externals {
        new.push(Rule::new([Match::InInterface(e.name.clone())], context.set_slot(context.marks().slot(e.slot))));
    }
    mangle.chains.insert(PRE_NEW.to_owned(), new);

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
        mangle.chains.insert(PRE_INNER.to_owned(), rules);
    }
}

/// Packets from the inside: three rules for those of decided connections.
fn inside(context: &Context, mangle: &mut TableRules) {
    let marks = context.marks();
    let restore = Target::RestoreMark { mask: marks.slot_mask() };
    mangle.chains.insert(
        INSIDE.to_owned(),
        vec![
            Rule::new([context.no_slot()], goto(INSIDE_NEW)),
            // Whoever on the inside speaks for a client is an impostor. Sent out by the slot's table, its packet would make the kernel
            // drop the whole connection: a masqueraded one must not change its interface.
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
        mangle.chains.insert(
            EGRESS.to_owned(),
            vec![
                // Not the beginning of a connection: an answer on one that was cut. As a connection of the pod's own it would go on.
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
    mangle.chains.insert(INSIDE_NEW.to_owned(), new);
}

/// What the box itself sends on a connection (resets, ICMP errors, echo replies) goes the connection's way. A connection that the box
/// begins through an external interface is marked.
fn output(context: &Context, family: Family, mangle: &mut TableRules) {
    let marks = context.marks();
    let begun_inside = |value| Match::ConnMark { value, mask: marks.begun_inside(), invert: false };
    // No answers to the outside by a way that is none. What the box itself begins there (VRRP) is its own affair.
    let answers = |name: &String| [Match::OutInterface(name.clone()), Match::CtDirection(CtDirection::Reply)];
    let mut rules: Vec<Rule> =
        context.topology.above.iter().map(|name| Rule::new(answers(name), Target::Drop)).collect();
    rules.push(Rule::new([context.no_slot()], goto(OUT_NEW)));
    if family == Family::Ipv4 {
        rules.extend([
            Rule::new([Match::CtDirection(CtDirection::Reply), begun_inside(marks.begun_inside())], Target::Return),
            Rule::new([Match::CtDirection(CtDirection::Original), begun_inside(0)], Target::Return),
            Rule::new([], Target::RestoreMark { mask: marks.slot_mask() }),
        ]);
    }
    mangle.chains.insert(OUT.to_owned(), rules);
    hook(mangle, Builtin::Output, [], OUT);
    mangle.chains.insert(OUT_NEW.to_owned(), leaving(context));
}

/// Connections begun inside that leave by an external interface remember it, so that the border knows their replies. Reached from
/// OUTPUT and from the border, so that POSTROUTING, which every packet passes, needs no hook.
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
