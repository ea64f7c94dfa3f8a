use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::Packet;
use crate::model::InterfaceName;
use crate::ruleset::{Match, RejectWith, Rule, Table};

/// What becomes of a packet, and why. Displays as an explanation whose last line is the verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub packet: Packet,
    /// The rules that matched and the routing decisions on one way through, in order. Where chance decides this is one way of several.
    pub steps: Vec<Step>,
    /// For every end that differs from the one of `steps` by more than its destination, a way to it.
    pub alternatives: Vec<Alternative>,
    /// Every end that the packet may come to: one, unless chance decides.
    pub outcomes: BTreeSet<Outcome>,
    /// What the policy rules were asked on these ways.
    pub lookups: BTreeSet<Lookup>,
    pub(super) evaluations: usize,
}

/// One question to the policy rules, which others may answer otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lookup {
    pub destination: IpAddr,
    pub mark: u32,
    /// Priority of the rule that answers by the plan; without an answer that of the last one.
    pub priority: u32,
}

/// A way that leaves [`Trace::steps`] after some steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// How many of [`Trace::steps`] it shares.
    pub shared: usize,
    /// The steps after those.
    pub steps: Vec<Step>,
    pub outcome: Outcome,
}

/// One end of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Sent on. Port 0 stands for a protocol without ports.
    Forwarded { to: SocketAddr, source: SourceSeen, out_interface: InterfaceName },
    /// Handed to the box itself (a process, the kernel, or IPVS). Port 0 stands for a protocol without ports.
    Delivered { to: SocketAddr },
    /// Answered at once by a rule of ours.
    Refused { with: RejectWith },
    /// Gone without a word of ours.
    Dropped(DroppedBy),
    /// The rules cannot be followed: the kernel would not load them, or they hold something that a trace does not know.
    Unknown { reason: String },
}

/// How the receiver of a forwarded packet sees where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceSeen {
    Kept,
    /// The address of the interface that it leaves by.
    Masquerade,
    Snat(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DroppedBy {
    Rule(Place),
    /// The kernel knows no way to the destination, or an unreachable route stands there.
    NoRoute,
    /// The kernel does not take such addresses from or to a wire.
    Martian(&'static str),
    /// It was to be forwarded with a hop limit of 1.
    HopLimit,
}

/// A rule and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub table: Table,
    pub chain: String,
    /// Counted from 1 in the chain, as `iptables -L --line-numbers` does; of a built-in chain only our own rule counts.
    pub number: usize,
    /// As iptables-save prints it, without `-A CHAIN`.
    pub rule: String,
    /// The Mapping that the rule, or another one of its chain, names in a comment: `namespace/name:protocol/port`.
    pub mapping: Option<String>,
}

/// One thing that happened to the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A rule matched.
    Rule {
        place: Place,
        /// It need not have matched.
        by_chance: bool,
        effect: Effect,
    },
    /// A routing decision, in words.
    Route(String),
}

/// What a matching rule did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// On to another chain.
    Chain(String),
    /// Back to the chain before, or to the end of this hook.
    Return,
    /// No further rule of this table's hook is asked.
    Accept,
    Drop,
    Refuse(RejectWith),
    /// The packet mark as it is now.
    Mark(u32),
    /// The connection mark as it is now.
    ConnMark(u32),
    Destination(SocketAddr),
    Source(SourceSeen),
    /// The client is remembered in this set.
    Remember(String),
    /// It matched and changed nothing (a connection mark on a packet without a connection, a mark of an address that has none).
    Nothing,
}

impl Trace {
    /// How many rules were asked, matching or not, on the way that asked most.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    pub(super) fn unknown(packet: &Packet, reason: String) -> Self {
        Trace {
            packet: packet.clone(),
            steps: Vec::new(),
            alternatives: Vec::new(),
            outcomes: [Outcome::Unknown { reason }].into(),
            lookups: BTreeSet::new(),
            evaluations: 0,
        }
    }

    /// The Mapping whose rules the packet met last, as their comments tell: `namespace/name:protocol/port`.
    pub fn mapping(&self) -> Option<&str> {
        let steps = self.steps.iter().chain(self.alternatives.iter().flat_map(|a| &a.steps));
        steps.filter_map(Step::mapping).next_back()
    }
}

impl Step {
    /// The Mapping that this step's rule belongs to.
    pub fn mapping(&self) -> Option<&str> {
        let Step::Rule { place, .. } = self else { return None };
        place.mapping.as_deref()
    }
}

/// The first Mapping that a comment among rules names.
pub(super) fn mapping_of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Option<&'a str> {
    rules.into_iter().flat_map(|rule| &rule.matches).find_map(|m| match m {
        Match::Comment(text) if names_mapping(text) => Some(text.as_str()),
        _ => None,
    })
}

/// `namespace/name`, or the same with `:protocol/port`.
fn names_mapping(comment: &str) -> bool {
    let (key, port) = comment.split_once(':').map_or((comment, None), |(key, port)| (key, Some(port)));
    let is_name = |s: &str| {
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
    };
    let key_fits = key.split_once('/').is_some_and(|(namespace, name)| is_name(namespace) && is_name(name));
    key_fits && port.is_none_or(|p| p.starts_with("tcp/") || p.starts_with("udp/"))
}
