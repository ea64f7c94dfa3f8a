//! filter FORWARD, INPUT and OUTPUT: mapped packets pass what others do with packets that they do not know (a policy DROP, a REJECT at the
//! end). The border in mangle has decided about them before. Whatever stands ahead of that last word goes on deciding.

use super::{Context, in_set, jump};
use crate::model::Family;
use crate::ruleset::{
    Builtin, CtDirection, Dataplane, Match, Rule, SetDirection, Table, Target,
    ownership::{PASS, PASS_IN, PASS_OUT, SET_EGRESS, SET_SERVICES},
};

pub fn compile(context: &Context, dataplane: &mut Dataplane) {
    if !context.config.accept {
        return;
    }
    // The flag and the translation together say that a Mapping led the connection. Both directions carry them, and ICMP errors about it.
    let translated = || [context.mapped(), Match::Dnated];
    let accept = |matches: Vec<Match>| Rule::new(matches, Target::Accept);

    let mut forward = vec![accept(translated().into())];
    if context.config.snat {
        forward.extend(
            [(SetDirection::Source, CtDirection::Original), (SetDirection::Destination, CtDirection::Reply)]
                .map(|(pod, direction)| accept(egress(context, pod, direction))),
        );
    }

    // On the way to IPVS. Nothing else of a Mapping is for the box itself; see the guard.
    let mut input = vec![in_set(SET_SERVICES, SetDirection::Destination)];
    input.extend(translated());

    // From IPVS on to a pod, and ICMP errors of the box about mapped connections. Refusals are answers on connections that were not
    // translated.
    let answers = vec![context.mapped(), Match::CtDirection(CtDirection::Reply)];
    let output = vec![accept(translated().into()), accept(answers)];

    let filter = dataplane.tables.entry((Family::Ipv4, Table::Filter)).or_default();
    for (builtin, chain, rules) in [
        (Builtin::Forward, PASS, forward),
        (Builtin::Input, PASS_IN, vec![accept(input)]),
        (Builtin::Output, PASS_OUT, output),
    ] {
        filter.add(chain, rules);
        filter.passes.insert(builtin, Rule::new([], jump(chain)));
    }
}

/// Packets of the connections that a pod behind a Mapping begins: it must not lose its way out to a policy that lets its clients pass.
fn egress(context: &Context, pod: SetDirection, direction: CtDirection) -> Vec<Match> {
    let marks = context.marks();
    vec![
        in_set(SET_EGRESS, pod),
        Match::ConnMark { value: marks.begun_inside(), mask: marks.begun_inside() | marks.mapped(), invert: false },
        Match::CtDirection(direction),
    ]
}
