use super::{DroppedBy, Effect, Outcome, Packet, PacketState, Place, SourceSeen, Step, Trace};
use crate::ruleset::Match;
use crate::ruleset::ownership::{BORDER, BORDER_IN, DNAT, EGRESS, OPEN, PRE_NEW};

/// Why a packet ends as it does, and the rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub why: Why,
    pub decided_by: Place,
}

/// What decides about packets in what a plan programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A Mapping has the endpoint and allows the source.
    Allowed,
    /// A Mapping has the endpoint, and its source filter does not name the source.
    SourceNotAllowed,
    /// A Mapping has the endpoint and allows the source, but there is nobody to hand the client to.
    NobodyThere,
    /// A source of the inside arrives where only clients do.
    InsideSource,
    /// The source is an address of the box itself.
    OwnSource,
    /// A Mapping may have the endpoint, but the interface is not among those that the plan knows.
    UnknownInterface,
    /// From outside, and neither a Mapping nor an opening lets it in.
    NotMapped,
    /// From outside, and of no connection that connection tracking knows or would begin.
    NoConnection,
    /// One of the openings of the border.
    Opening,
    /// A connection that a pod behind a Mapping begins.
    Egress,
}

impl Trace {
    /// What decided, as far as the packet's way tells. `None` where it met nothing of a Mapping and nothing of the border, for instance
    /// between inside hosts.
    pub fn reason(&self) -> Option<Reason> {
        let outcome = self.outcomes.first()?;
        let (why, place) = match self.mapping() {
            Some(mapping) => self.decided_by_mapping(mapping, outcome)?,
            None => match outcome {
                // Of what comes from the inside, too.
                Outcome::Dropped(DroppedBy::Rule(place)) if place.rule.contains(&Match::SourceLocal.to_string()) => {
                    (Why::OwnSource, place)
                }
                Outcome::Dropped(DroppedBy::Rule(place)) if is_border(place) => self.closed(place),
                Outcome::Delivered { .. } => (Why::Opening, self.returned(OPEN)?),
                Outcome::Forwarded { source: SourceSeen::Snat(_), .. } => {
                    (Why::Egress, self.find(|place, _| place.chain == EGRESS)?)
                }
                _ => return None,
            },
        };
        Some(Reason { why, decided_by: place.clone() })
    }

    fn decided_by_mapping<'a>(&'a self, mapping: &str, outcome: &Outcome) -> Option<(Why, &'a Place)> {
        let of_mapping = |place: &Place| place.mapping.as_deref() == Some(mapping);
        if let Some(filter) = self.find(|place, effect| of_mapping(place) && *effect == Effect::Return) {
            return Some((Why::SourceNotAllowed, filter));
        }
        let last = self.places().filter(|(place, _)| of_mapping(place)).last();
        let why = match outcome {
            Outcome::Refused { .. } => Why::NobodyThere,
            Outcome::Forwarded { .. } | Outcome::Delivered { .. } => Why::Allowed,
            Outcome::Dropped(_) | Outcome::Unknown { .. } => return None,
        };
        last.map(|(place, _)| (why, place))
    }

    /// Why the border dropped it.
    fn closed<'a>(&'a self, border: &'a Place) -> (Why, &'a Place) {
        if matches!(self.packet.state, PacketState::Invalid | PacketState::Untracked) {
            return (Why::NoConnection, border);
        }
        if let Some(place) = self.returned(PRE_NEW) {
            return (Why::InsideSource, place);
        }
        if let Some(place) = self.returned(DNAT) {
            return (Why::UnknownInterface, place);
        }
        (Why::NotMapped, border)
    }

    fn places(&self) -> impl Iterator<Item = (&Place, &Effect)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Rule { place, effect, .. } => Some((place, effect)),
            Step::Route(_) => None,
        })
    }

    fn find(&self, wanted: impl Fn(&Place, &Effect) -> bool) -> Option<&Place> {
        self.places().find(|(place, effect)| wanted(place, effect)).map(|(place, _)| place)
    }

    fn returned(&self, chain: &str) -> Option<&Place> {
        self.find(|place, effect| place.chain == chain && *effect == Effect::Return)
    }
}

fn is_border(place: &Place) -> bool {
    [PRE_NEW, BORDER, BORDER_IN, OPEN].contains(&place.chain.as_str())
}

impl Why {
    /// In words, of this packet.
    pub(super) fn of(self, packet: &Packet) -> String {
        let Packet { source, destination, interface, .. } = packet;
        match self {
            Why::Allowed => format!("the Mapping allows {source}"),
            Why::SourceNotAllowed => format!("{source} is not among the Mapping's allowedSources"),
            Why::NobodyThere => {
                format!("the Mapping allows {source}, but has no ready pod or no ClusterIP that this box reaches")
            }
            Why::InsideSource => format!("{source} belongs to the inside; arriving by {interface} it counts as forged"),
            Why::OwnSource => {
                format!("{source} is an address of this box; arriving by {interface} it counts as forged")
            }
            Why::UnknownInterface => {
                format!("{interface} is neither an inside interface nor an external one that Mappings are served on")
            }
            Why::NotMapped => match packet.kind.ports() {
                Some((protocol, _, port)) => format!(
                    "no Mapping has {protocol} port {port} of {destination} on this box, and no opening of the border lets it in"
                ),
                None => "no opening of the border lets it in, and only TCP and UDP can be mapped".to_owned(),
            },
            Why::NoConnection => "it belongs to no connection and can begin none".to_owned(),
            Why::Opening => "an opening of the border lets it in (SNCTRLR_BORDER_OPENINGS)".to_owned(),
            Why::Egress => {
                format!("{source} is behind a Mapping, and its own connections leave so (SNCTRLR_SETUP_SNAT)")
            }
        }
    }
}
