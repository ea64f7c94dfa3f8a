//! filter and security INPUT: what a Mapping admitted but could not translate is answered, and nothing of a Mapping reaches a process of
//! the box, but for what is on its way to a ClusterIP.

use super::{Context, hook, not_in_set};
use crate::model::{Family, Protocol};
use crate::ruleset::{
    Builtin, Dataplane, Match, RejectWith, Rule, SetDirection, Table, Target,
    ownership::{GUARD, REFUSE, SET_SERVICES},
};

pub fn compile(context: &Context, dataplane: &mut Dataplane) {
    let untranslated = [context.mapped(), Match::NotDnated];

    let filter = dataplane.tables.entry((Family::Ipv4, Table::Filter)).or_default();
    filter.add(
        REFUSE,
        vec![
            Rule::new([Match::Protocol(Protocol::Tcp)], Target::Reject(RejectWith::TcpReset)),
            Rule::new([], Target::Reject(RejectWith::PortUnreachable)),
        ],
    );
    hook(filter, Builtin::Input, untranslated, REFUSE);

    // An ACCEPT that somebody puts ahead of REFUSE ends the filter table; this table comes after it. And whatever an EndpointSlice names
    // (an address of this box, the broadcast address of its subnet), it opens no port of the box.
    let security = dataplane.tables.entry((Family::Ipv4, Table::Security)).or_default();
    security.add(GUARD, vec![Rule::new([], Target::Drop)]);
    let elsewhere = not_in_set(SET_SERVICES, SetDirection::Destination);
    hook(security, Builtin::Input, [context.mapped(), elsewhere], GUARD);
}
