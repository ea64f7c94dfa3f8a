//! filter and security INPUT: what a Mapping admitted but could not translate is answered, and never reaches a process of the box.

use super::{Context, hook};
use crate::model::{Family, Protocol};
use crate::ruleset::{
    Builtin, Dataplane, Match, RejectWith, Rule, Table, Target,
    ownership::{GUARD, REFUSE},
};

pub fn compile(context: &Context, dataplane: &mut Dataplane) {
    let untranslated = [context.mapped(), Match::NotDnated];

    let filter = dataplane.tables.entry((Family::Ipv4, Table::Filter)).or_default();
    filter.chains.insert(
        REFUSE.to_owned(),
        vec![
            Rule::new([Match::Protocol(Protocol::Tcp)], Target::Reject(RejectWith::TcpReset)),
            Rule::new([], Target::Reject(RejectWith::PortUnreachable)),
        ],
    );
    hook(filter, Builtin::Input, untranslated.clone(), REFUSE);

    // An ACCEPT that somebody puts ahead of REFUSE ends the filter table; this table comes after it.
    let security = dataplane.tables.entry((Family::Ipv4, Table::Security)).or_default();
    security.chains.insert(GUARD.to_owned(), vec![Rule::new([], Target::Drop)]);
    hook(security, Builtin::Input, untranslated, GUARD);
}
