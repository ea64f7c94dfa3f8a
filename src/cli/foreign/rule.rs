//! Rules of others in one vocabulary, whoever made them: what of a rule can be judged for a mapped packet, and what it does.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;

/// Who keeps a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Origin {
    Nft,
    IptablesNft,
    IptablesLegacy,
}

/// A table with all chains that were read.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Table {
    pub origin: Origin,
    /// SmartNat's own rules belong into tables of this origin.
    pub shared: bool,
    /// As nft spells it.
    pub family: String,
    pub name: String,
    pub chains: BTreeMap<String, Chain>,
}

impl Table {
    /// Base chains, in the order of their hooks' priorities.
    pub fn bases(&self) -> Vec<(&str, &Base, &Chain)> {
        let mut bases: Vec<_> =
            self.chains.iter().filter_map(|(name, c)| c.base.as_ref().map(|b| (name.as_str(), b, c))).collect();
        bases.sort_by_key(|(name, base, _)| (base.priority, *name));
        bases
    }

    /// Whether IPv4 packets meet it: mapped ones are.
    pub fn meets(&self, ipv4: bool) -> bool {
        match self.family.as_str() {
            "ip" => ipv4,
            "ip6" => !ipv4,
            "inet" | "netdev" => true,
            _ => false,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.origin, self.family.as_str()) {
            (Origin::Nft, family) => write!(f, "nft table {family} {}", self.name),
            (Origin::IptablesNft, "ip6") => write!(f, "ip6tables table {}", self.name),
            (Origin::IptablesNft, _) => write!(f, "iptables table {}", self.name),
            (Origin::IptablesLegacy, "ip6") => write!(f, "ip6tables-legacy table {}", self.name),
            (Origin::IptablesLegacy, _) => write!(f, "iptables-legacy table {}", self.name),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::cli) struct Chain {
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Base {
    /// `filter`, `nat`, `route`.
    pub kind: String,
    /// `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: String,
    pub priority: i64,
    /// What no rule decides is dropped.
    pub drops: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Rule {
    /// As its tool prints it.
    pub text: String,
    pub steps: Vec<Step>,
}

impl Rule {
    /// Chains that it leads to.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        fn of(action: &Action) -> Vec<&str> {
            match action {
                Action::Jump(to) | Action::Goto(to) => vec![to.as_str()],
                Action::OneOf(Some(actions)) => actions.iter().flat_map(of).collect(),
                _ => vec![],
            }
        }
        self.steps.iter().flat_map(|step| match step {
            Step::Do(action) => of(action),
            Step::If(_) => vec![],
        })
    }
}

/// Parts of a rule, in order: what stands behind a condition is done only if it holds.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) enum Step {
    If(Condition),
    Do(Action),
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) enum Condition {
    /// Connection tracking says one of these (`new`, `established`, `dnat` …).
    State {
        any: Vec<String>,
        invert: bool,
    },
    /// `connection mark & mask == value`.
    ConnMark {
        mask: u32,
        value: u32,
        invert: bool,
    },
    /// `packet mark & mask`, compared with anything.
    Mark {
        mask: u32,
    },
    /// The original direction of the connection.
    Original {
        invert: bool,
    },
    /// A name of an interface, or a beginning with `*` behind it; one of them.
    In {
        names: Vec<String>,
        invert: bool,
    },
    Out {
        names: Vec<String>,
        invert: bool,
    },
    Source {
        nets: Vec<IpNet>,
        invert: bool,
    },
    Destination {
        nets: Vec<IpNet>,
        invert: bool,
    },
    /// One of these transport protocols, by name or number.
    Protocol {
        any: Vec<String>,
        invert: bool,
    },
    /// IPv4, or IPv6.
    Ipv4 {
        invert: bool,
    },
    /// Anything else.
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) enum Action {
    Accept,
    Return,
    Jump(String),
    Goto(String),
    Does(Effect),
    Mark(MarkWrite),
    /// One of these verdicts, looked up by something that is not known here; `None`: any.
    OneOf(Option<Vec<Action>>),
}

/// What matters to a packet that SmartNat leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Effect {
    Drop,
    Reject,
    /// To a program, which may not be there.
    Queue,
    /// Connection tracking does not see it.
    NoTrack,
    /// To a socket of the box.
    Proxy,
    TranslateDestination,
    TranslateSource,
    /// Later packets of the connection pass by all rules.
    Offload,
}

impl Effect {
    /// What a target of iptables does, by its name: `Some(None)` is nothing that matters here, `None` a name that is not known. What
    /// MARK, CONNMARK and CT do hangs on their options.
    pub(super) fn of_target(name: &str) -> Option<Option<Self>> {
        Some(match name {
            "DROP" => Some(Effect::Drop),
            "REJECT" => Some(Effect::Reject),
            "NFQUEUE" | "QUEUE" | "SYNPROXY" => Some(Effect::Queue),
            "NOTRACK" => Some(Effect::NoTrack),
            "TPROXY" => Some(Effect::Proxy),
            "DNAT" | "REDIRECT" | "NETMAP" => Some(Effect::TranslateDestination),
            "SNAT" | "MASQUERADE" => Some(Effect::TranslateSource),
            "FLOWOFFLOAD" => Some(Effect::Offload),
            "LOG" | "NFLOG" | "ULOG" | "TOS" | "DSCP" | "TTL" | "TCPMSS" | "SET" | "CLASSIFY" | "TRACE" | "AUDIT"
            | "CHECKSUM" | "CONNSECMARK" | "SECMARK" | "RATEEST" | "LED" | "IDLETIMER" | "TEE" | "HL" | "ECN"
            | "HMARK" => None,
            _ => return None,
        })
    }

    pub fn verb(self) -> &'static str {
        match self {
            Effect::Drop => "dropped",
            Effect::Reject => "rejected",
            Effect::Queue => "handed to a program",
            Effect::NoTrack => "not tracked, hence not mapped,",
            Effect::Proxy => "handed to a local socket",
            Effect::TranslateDestination => "given another destination",
            Effect::TranslateSource => "given another source",
            Effect::Offload => "taken past all rules later",
        }
    }
}

/// A write to a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct MarkWrite {
    /// To the connection's mark, not the packet's.
    pub connection: bool,
    /// Bits that may be others afterwards.
    pub touched: u32,
    /// Those of them that get the same bit of the other mark (packet's or connection's).
    pub copied: u32,
    /// Those of them that may be 1 afterwards.
    pub raised: u32,
}
