//! What is known of the packets of a mapped connection, and whether a condition holds for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::rule::{Base, Condition};
use crate::model::{BorderConfig, Host, InterfaceName, MarkLayout};
use crate::plan::Plan;

/// Where mapped connections go on this box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Scene {
    pub marks: MarkLayout,
    /// External interfaces that are there.
    pub external: BTreeSet<InterfaceName>,
    /// Interfaces by which the pods are reached. Empty: not known.
    pub inside: BTreeSet<InterfaceName>,
    pub pods: BTreeSet<IpAddr>,
    /// Addresses on which Mappings are served here.
    pub served: BTreeSet<IpAddr>,
    /// Whom pods answer: the addresses of the box. Empty: not known, as clients keep theirs.
    pub answered: BTreeSet<IpAddr>,
    /// A Mapping of mode service has an address here: its packets pass INPUT and OUTPUT.
    pub by_service: bool,
    /// Jumps to our chains that accept mapped packets will be there once the daemon runs.
    pub accepts: bool,
}

impl Scene {
    pub fn of(border: &BorderConfig, host: &Host, plan: &Plan, by_service: bool) -> Self {
        let pods: BTreeSet<IpAddr> =
            plan.mappings.values().flat_map(|m| m.configured.values().flatten().copied()).collect();
        let way = |pod: &IpAddr| {
            let covering = host.main_routes.iter().filter(|r| r.destination.contains(pod));
            covering.max_by_key(|r| (r.destination.prefix_len(), std::cmp::Reverse(r.metric)))?.interface.clone()
        };
        let external = plan.interfaces.iter().filter(|i| i.kind == crate::plan::InterfaceKind::External);
        Scene {
            marks: border.marks,
            served: plan.mappings.values().flat_map(|m| m.configured.keys().copied()).collect(),
            answered: if border.masquerade { host.addresses().map(|(_, a)| a.address).collect() } else { [].into() },
            external: external.map(|i| i.name.clone()).filter(|name| host.links.contains_key(name)).collect(),
            inside: pods.iter().filter_map(way).collect(),
            pods,
            by_service,
            accepts: border.accept,
        }
    }
}

/// One way through the box: the client's interface and the pod's. `None`: not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Lane<'a> {
    pub external: Option<&'a str>,
    pub inside: Option<&'a str>,
}

impl Scene {
    /// Every way through the box.
    pub fn lanes(&self) -> Vec<Lane<'_>> {
        let externals = some_or_none(&self.external);
        let insides = some_or_none(&self.inside);
        let pairs = externals.iter().flat_map(|e| insides.iter().map(|i| Lane { external: *e, inside: *i }));
        pairs.collect()
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Truth {
    Yes,
    No,
    Maybe,
}

impl Truth {
    pub fn and(self, other: Truth) -> Truth {
        match (self, other) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Yes, Truth::Yes) => Truth::Yes,
            _ => Truth::Maybe,
        }
    }

    fn not_if(self, invert: bool) -> Truth {
        match (self, invert) {
            (Truth::Yes, true) => Truth::No,
            (Truth::No, true) => Truth::Yes,
            (same, _) => same,
        }
    }

    /// Of `all` possible values those that fit.
    fn of<T>(all: impl IntoIterator<Item = T>, fits: impl Fn(T) -> bool) -> Truth {
        let (mut yes, mut no) = (false, false);
        for value in all {
            if fits(value) { yes = true } else { no = true }
        }
        match (yes, no) {
            (true, false) => Truth::Yes,
            (false, true) => Truth::No,
            _ => Truth::Maybe,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Kind {
    /// The client's first packet.
    First,
    /// A later one of the client.
    Later,
    /// The pod's answer.
    Answer,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::First, Kind::Later, Kind::Answer];

    pub fn of_whom(self) -> &'static str {
        match self {
            Kind::First => "new connections of Mappings",
            Kind::Later => "later packets of clients",
            Kind::Answer => "answers of pods",
        }
    }
}

/// A packet of a mapped connection in one base chain.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Mapped<'a> {
    pub scene: &'a Scene,
    pub lane: Lane<'a>,
    pub kind: Kind,
    pub base: &'a Base,
}

/// Connection tracking of prerouting (NF_IP_PRI_CONNTRACK).
pub(in crate::cli) const CONNTRACK: i64 = -200;
/// mangle, in which packets from the inside get the mark of their way.
pub(in crate::cli) const MANGLE: i64 = -150;
/// Translation of prerouting, where a connection becomes a mapped one.
pub(in crate::cli) const DNAT: i64 = -100;
/// Translation of postrouting.
pub(in crate::cli) const SNAT: i64 = 100;

impl Mapped<'_> {
    /// Connection tracking has seen it.
    pub fn tracked(&self) -> bool {
        match self.base.hook.as_str() {
            "ingress" => false,
            "prerouting" => self.base.priority > CONNTRACK,
            _ => true,
        }
    }

    /// The connection carries the mapped flag.
    pub fn marked(&self) -> bool {
        self.tracked() && (self.kind != Kind::First || self.base.hook != "prerouting" || self.base.priority > DNAT)
    }

    pub fn holds(&self, condition: &Condition) -> Truth {
        match condition {
            Condition::State { any, invert } => self.state(any).not_if(*invert),
            Condition::ConnMark { .. } if !self.tracked() => Truth::No,
            Condition::ConnMark { mask, value, invert } => self.conn_mark(*mask, *value).not_if(*invert),
            // Neither the expression nor the match says yes without a connection.
            Condition::Original { .. } if !self.tracked() => Truth::No,
            Condition::Original { invert } => {
                if (self.kind == Kind::Answer) == *invert {
                    Truth::Yes
                } else {
                    Truth::No
                }
            }
            Condition::In { names, invert } => {
                let from = if self.kind == Kind::Answer { self.lane.inside } else { self.lane.external };
                let known = ["ingress", "prerouting", "input", "forward"].contains(&self.base.hook.as_str());
                if known { one_of(from, names).not_if(*invert) } else { Truth::Maybe }
            }
            Condition::Out { names, invert } => {
                let to = if self.kind == Kind::Answer { self.lane.external } else { self.lane.inside };
                let known = ["forward", "postrouting"].contains(&self.base.hook.as_str());
                if known { one_of(to, names).not_if(*invert) } else { Truth::Maybe }
            }
            Condition::Source { nets, invert } => {
                let pods = self.kind == Kind::Answer && self.base.hook != "output";
                self.address(pods.then_some(&self.scene.pods), nets).not_if(*invert)
            }
            Condition::Destination { nets, invert } => {
                let hook = self.base.hook.as_str();
                let as_sent = hook == "ingress" || hook == "prerouting" && self.base.priority < DNAT;
                let known = match self.kind {
                    Kind::Answer => as_sent.then_some(&self.scene.answered),
                    _ if as_sent => Some(&self.scene.served),
                    _ => ["forward", "postrouting"].contains(&hook).then_some(&self.scene.pods),
                };
                self.address(known, nets).not_if(*invert)
            }
            Condition::Protocol { any, invert } => {
                let named = |names: [&str; 2]| any.iter().any(|p| names.contains(&p.as_str()));
                Truth::of([["tcp", "6"], ["udp", "17"]], named).not_if(*invert)
            }
            Condition::Ipv4 { invert } => Truth::Yes.not_if(*invert),
            Condition::Mark { .. } | Condition::Unknown => Truth::Maybe,
        }
    }

    fn state(&self, any: &[String]) -> Truth {
        // Without connection tracking the kernel says "invalid".
        let state = match self.kind {
            _ if !self.tracked() => "invalid",
            Kind::First => "new",
            _ => "established",
        };
        let has = |name: &str| any.iter().any(|s| s == name);
        let translated = self.marked() && has("dnat");
        match has(state) || translated {
            true => Truth::Yes,
            // Whether it is masqueraded depends on settings.
            false if has("snat") && self.tracked() => Truth::Maybe,
            false => Truth::No,
        }
    }

    fn conn_mark(&self, mask: u32, value: u32) -> Truth {
        let marks = self.scene.marks;
        let known = (marks.mapped() | marks.begun_inside()) & mask;
        let actual = if self.marked() { marks.mapped() & mask } else { 0 };
        if (value ^ actual) & known != 0 || value & !mask != 0 {
            Truth::No
        } else if mask & !known == 0 {
            Truth::Yes
        } else {
            Truth::Maybe
        }
    }

    /// `known`: the addresses that it may be. Without any it may be every one.
    fn address(&self, known: Option<&BTreeSet<IpAddr>>, nets: &[IpNet]) -> Truth {
        if let Some(known) = known.filter(|known| !known.is_empty()) {
            return Truth::of(known, |address| nets.iter().any(|net| net.contains(address)));
        }
        match nets.iter().all(|net| net.addr().is_loopback()) {
            true => Truth::No,
            false if nets.iter().any(|net| net.prefix_len() == 0) => Truth::Yes,
            false => Truth::Maybe,
        }
    }
}

fn one_of(interface: Option<&str>, names: &[String]) -> Truth {
    let Some(interface) = interface else {
        return if names.iter().all(|n| n == "lo") { Truth::No } else { Truth::Maybe };
    };
    let fits = names.iter().any(|name| match name.strip_suffix('*') {
        Some(beginning) => interface.starts_with(beginning),
        None => name == interface,
    });
    if fits { Truth::Yes } else { Truth::No }
}

fn some_or_none(names: &BTreeSet<InterfaceName>) -> Vec<Option<&str>> {
    match names.is_empty() {
        true => vec![None],
        false => names.iter().map(|name| Some(name.as_str())).collect(),
    }
}
