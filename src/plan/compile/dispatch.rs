//! nat PREROUTING: from a mapped endpoint to what stands behind it.

use std::net::{IpAddr, SocketAddr};

use super::backends::Pool;
use super::tree::{self, Entry, Key};
use super::{Context, backends, hook, in_set, sources};
use crate::api::MappingMode;
use crate::model::{ObjectKey, Protocol};
use crate::plan::topology::Topology;
use crate::plan::{ResolvedMapping, ResolvedPort};
use crate::ruleset::{
    Builtin, Dataplane, Match, Rule, SetDirection, TableRules, Target,
    ownership::{self, DNAT, MAX_CHAIN_DEPTH, SET_ENDPOINTS},
};

/// What happens to an allowed client of one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Translated to the Service's ClusterIP; kube-proxy's IPVS balances.
    Service(SocketAddr),
    /// Translated to one of the pods.
    Pods,
    /// Refused at once: no pod to go to.
    NoPods,
    /// Refused at once: no ClusterIP, or none that this box reaches other than by a default route.
    ServiceUnreachable,
}

impl Handling {
    /// How a port of a Mapping is handled on this host.
    pub fn of(mapping: &ResolvedMapping, port: &ResolvedPort, topology: &Topology) -> Self {
        match (mapping.mode, mapping.service_vip) {
            _ if port.backends.chosen.is_empty() => Handling::NoPods,
            (MappingMode::Direct, _) => Handling::Pods,
            (MappingMode::Service, Some(vip)) if topology.is_local(vip) || topology.reaches_inside(vip) => {
                Handling::Service(SocketAddr::new(vip, port.service_port))
            }
            (MappingMode::Service, _) => Handling::ServiceUnreachable,
        }
    }
}

/// Chains that a Mapping's port takes at the most: its own and those of its pods.
const HANDLER_DEPTH: usize = 1 + backends::MAX_DEPTH;
/// What is left for the tree below the hook's chain.
const TREE_DEPTH: usize = MAX_CHAIN_DEPTH - 1 - HANDLER_DEPTH;

/// Finds the handler of a port below one address: the rules that go on to it, without their address match, and the chains behind them.
/// `ports` is sorted by protocol and port.
pub fn entry(address: IpAddr, ports: &[(Protocol, u16, &str)]) -> (Entry, TableRules) {
    let mut chains = TableRules::default();
    let (rules, depth) = tree::port_rules(&mut chains, ports);
    (Entry { address, rules, depth }, chains)
}

/// The way from the hook to the entry of an address: sorted by address, one entry an address. Without entries it leads nowhere.
pub fn compile(context: &Context, entries: &[&Entry]) -> TableRules {
    let mut nat = TableRules::default();
    // Without a slot it came from an interface not classified yet, or with a forged source.
    let mut root = vec![Rule::new([context.no_slot()], Target::Return)];
    root.extend(tree::grow(&mut nat, Key::Destination, entries, TREE_DEPTH));
    nat.add(DNAT, root);
    // A connection that a conntrack helper expects has the mark of the one that it belongs to; see sources.
    let undecided = Match::ConnMark { value: 0, mask: context.marks().mapped(), invert: false };
    let endpoint = in_set(SET_ENDPOINTS, SetDirection::DestinationPort);
    hook(&mut nat, Builtin::Prerouting, [endpoint, undecided], DNAT);
    nat
}

/// The ClusterIP that a port leads to.
pub fn vip(mapping: &ResolvedMapping, port: &ResolvedPort, topology: &Topology) -> Option<IpAddr> {
    match Handling::of(mapping, port, topology) {
        Handling::Service(address) => Some(address.ip()),
        _ => None,
    }
}

/// The chain of one port of a Mapping: source, mark, translation.
pub fn handler(
    context: &Context,
    mapping: &ResolvedMapping,
    port: &ResolvedPort,
    nat: &mut TableRules,
    dataplane: &mut Dataplane,
) -> String {
    let identity = format!("{}:{}/{}", mapping.key, port.protocol, port.port);
    let chain = ownership::chain_of("M", &identity);

    // Says in every listing and trace whose chain this is.
    let named = Match::Comment(comment(&mapping.key, port));
    let mut rules = sources::filter(context, &mapping.sources, named, dataplane);
    rules.extend(match Handling::of(mapping, port, context.topology) {
        Handling::Service(address) => vec![Rule::new([Match::Protocol(port.protocol)], Target::Dnat(address))],
        Handling::Pods => backends::compile(&Pool::of(mapping, port), nat, dataplane),
        // Nothing is translated; filter INPUT answers with a refusal.
        Handling::NoPods | Handling::ServiceUnreachable => vec![Rule::new([], Target::Accept)],
    });
    nat.add(&chain, rules);
    chain
}

/// Longest text that xt_comment keeps (XT_MAX_COMMENT_LEN with its end).
const MAX_COMMENT: usize = 255;

/// `namespace/name:protocol/port`; of a name that is too long for a comment, its beginning.
fn comment(key: &ObjectKey, port: &ResolvedPort) -> String {
    let suffix = format!(":{}/{}", port.protocol, port.port);
    let mut key = key.to_string();
    while key.len() + suffix.len() > MAX_COMMENT {
        key.pop();
    }
    key + &suffix
}
