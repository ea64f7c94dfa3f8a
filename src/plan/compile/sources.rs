//! Which clients a Mapping's port takes, and the mark of those that it does.

use ipnet::IpNet;

use super::{Context, not_in_set};
use crate::model::Family;
use crate::plan::Sources;
use crate::ruleset::{Dataplane, IpSet, Match, Rule, SetDirection, SetKind, SetMember, Target, ownership};

/// Networks that stand in rules. A look-up in a set costs a new connection as much as a dozen rules that do not match, and a set as much
/// time at a start as a dozen rules.
const FEW: usize = 4;

/// Sets the mapped flag on connections of these sources, and sends others back. `named` stands in one of the rules, and where an allowed
/// client does not come by if there is such a place.
///
/// Several networks are told apart by the flag itself: it is not set on what comes here, which the hook's rule makes sure of.
pub fn filter(context: &Context, sources: &Sources, named: Match, dataplane: &mut Dataplane) -> Vec<Rule> {
    let flag = context.marks().mapped();
    // Whether it is masqueraded follows from the flag, too; see egress.
    let mapped = Target::SetConnMark { value: flag, mask: flag };
    match sources {
        Sources::Everyone => vec![Rule::new([named], mapped)],
        Sources::Nets(nets) => match nets.as_slice() {
            [net] => vec![Rule::new([Match::NotSource(*net), named], Target::Return), Rule::new([], mapped)],
            few if few.len() <= FEW => {
                let allow = |net: &IpNet| Rule::new([Match::Source(*net)], mapped.clone());
                let others = Match::ConnMark { value: 0, mask: flag, invert: false };
                few.iter().map(allow).chain([Rule::new([others, named], Target::Return)]).collect()
            }
            many => {
                let others = not_in_set(&set(many, dataplane), SetDirection::Source);
                vec![Rule::new([others, named], Target::Return), Rule::new([], mapped)]
            }
        },
    }
}

/// The set that holds exactly these networks, named by its content: it never changes, others take its place.
fn set(nets: &[IpNet], dataplane: &mut Dataplane) -> String {
    let text: Vec<String> = nets.iter().map(IpNet::to_string).collect();
    let name = ownership::set_of("S", &text.join(","));
    dataplane
        .sets
        .entry(name.as_str().into())
        .or_insert_with(|| IpSet::of(SetKind::HashNet(Family::Ipv4), nets.iter().copied().map(SetMember::Net)));
    name
}
