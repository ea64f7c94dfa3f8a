//! mangle OUTPUT: ICMP errors that the box itself sends.
//!
//! Some are sent before any rule has seen the packet that they complain about (an unknown hop-by-hop option, a fragment
//! without its rest), others behind PREROUTING but ahead of the border. Whoever can make the box send one learns that
//! it is there, and may have it sent to others.

use super::{FamilySets, goto, in_set, jump};
use crate::model::Family;
use crate::ruleset::{
    CtState, Match, Rule, SetDirection, TableRules, Target,
    ownership::{OUT_ICMP, OUT_STRAY},
};

/// Types of the errors of a family.
struct Errors {
    protocol: &'static str,
    unreachable: &'static [u8],
    time_exceeded: u8,
    parameter_problem: u8,
    redirect: u8,
}

impl Errors {
    fn of(family: Family) -> Self {
        match family {
            Family::Ipv4 => {
                Errors { protocol: "icmp", unreachable: &[3], time_exceeded: 11, parameter_problem: 12, redirect: 5 }
            }
            // "Packet too big" is a type of its own.
            Family::Ipv6 => Errors {
                protocol: "ipv6-icmp",
                unreachable: &[1, 2],
                time_exceeded: 3,
                parameter_problem: 4,
                redirect: 137,
            },
        }
    }
}

/// "Fragment reassembly time exceeded", in both families.
const REASSEMBLY: u8 = 1;

/// The rule by which they leave OUTPUT's chain for theirs.
pub fn from_the_box(family: Family) -> Rule {
    Rule::new([Match::IpProtocol(Errors::of(family).protocol)], jump(OUT_ICMP))
}

pub fn compile(family: Family, mangle: &mut TableRules) {
    let errors = Errors::of(family);
    let of_icmp = |m: Match| [Match::IpProtocol(errors.protocol), m];
    let kind = |kind| {
        of_icmp(match family {
            Family::Ipv4 => Match::IcmpType(kind),
            Family::Ipv6 => Match::Icmp6Type(kind),
        })
    };
    let drop = |m: [Match; 2]| Rule::new(m, Target::Drop);
    let reassembly = Match::IcmpCode { family, kind: errors.time_exceeded, code: REASSEMBLY };
    mangle.add(
        OUT_ICMP,
        vec![
            Rule::new([Match::OutInterface("lo".to_owned())], Target::Return),
            // These two anybody could ask for, and nobody needs them.
            drop(kind(errors.parameter_problem)),
            drop(of_icmp(reassembly)),
            Rule::new([Match::CtState(CtState::Invalid)], goto(OUT_STRAY)),
        ],
    );
    // About packets of no connection. "Destination unreachable" and the like tell the inside what it needs, also where
    // its packets are not tracked. A redirect would lead neighbours past the border: IPv6 has no parameter against it.
    let mut stray = vec![
        drop(kind(errors.redirect)),
        Rule::new([in_set(FamilySets::of(family).inner, SetDirection::Destination)], Target::Return),
    ];
    stray.extend(errors.unreachable.iter().chain([&errors.time_exceeded]).map(|error| drop(kind(*error))));
    mangle.add(OUT_STRAY, stray);
}
