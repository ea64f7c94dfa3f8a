//! Choosing one of m pods in O(log m) rule evaluations, with ClientIP affinity where the Service asks for it.
//!
//! Pods form a tree of groups of nearly equal size. Without affinity a chain picks one of its groups at random, weighted by size. With
//! affinity each pod has a set of its recent clients; lists of these sets, one a group, lead a returning client down the same tree.

use std::net::SocketAddr;

use super::{goto, in_set, jump, tree};
use crate::model::{Family, ObjectKey, Protocol};
use crate::plan::{ResolvedMapping, ResolvedPort};
use crate::ruleset::{
    Dataplane, IpSet, Match, Probability, Rule, SetDirection, SetKind, SetMember, TableRules, Target, ownership,
};

/// Chains on the longest way: four levels of the tree, and the leaf that remembers the client.
pub const MAX_DEPTH: usize = LEVELS as usize + 1;
const LEVELS: u32 = 4;
const FANOUT: usize = 4;
/// Rules of a pool that are not worth a chain: as many as one node of the tree has.
const FEW: usize = FANOUT;

/// The pods behind one port of a Service: shared by all Mappings that lead there.
pub struct Pool<'a> {
    service: &'a ObjectKey,
    port: u16,
    protocol: Protocol,
    affinity_seconds: Option<u32>,
    pods: Vec<SocketAddr>,
}

impl<'a> Pool<'a> {
    pub fn of(mapping: &'a ResolvedMapping, port: &ResolvedPort) -> Self {
        Pool {
            service: &mapping.service,
            port: port.service_port,
            protocol: port.protocol,
            affinity_seconds: port.affinity_seconds,
            pods: port.backends.chosen.iter().copied().collect(),
        }
    }

    /// Children a chain has: enough that no way is longer than [`LEVELS`].
    fn fanout(&self) -> usize {
        (FANOUT..).find(|f| f.pow(LEVELS) >= self.pods.len()).unwrap_or(FANOUT)
    }

    /// Few enough to stand in every chain that leads to them: with affinity each pod takes two rules.
    fn is_small(&self) -> bool {
        let rules = if self.affinity_seconds.is_some() { 2 } else { 1 };
        self.pods.len() * rules <= FEW
    }

    fn dnat(&self, pod: SocketAddr) -> Rule {
        Rule::new([Match::Protocol(self.protocol)], Target::Dnat(pod))
    }
}

/// The rules that lead to a pool's pods, with the chains behind them. While they are few they stand in the chain of whoever asks; a chain of
/// their own would cost each port one, and each new connection a step. More stand in one chain, which all Mappings to the port share.
pub fn compile(pool: &Pool, nat: &mut TableRules, dataplane: &mut Dataplane) -> Vec<Rule> {
    if pool.is_small() {
        return choice(pool, nat, dataplane);
    }
    let chain = ownership::chain_of("B", &format!("{}:{}/{}", pool.service, pool.protocol, pool.port));
    if !nat.chains.contains_key(chain.as_str()) {
        let rules = choice(pool, nat, dataplane);
        nat.add(&chain, rules);
    }
    vec![Rule::new([], goto(&chain))]
}

/// The pod that knows the client, else one at random.
fn choice(pool: &Pool, nat: &mut TableRules, dataplane: &mut Dataplane) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(timeout) = pool.affinity_seconds {
        rules = remembered(pool, &pool.pods, timeout, nat, dataplane);
        // Back to the random choice should the client's entry expire on the way.
        for rule in &mut rules {
            if let Target::Goto(to) = &rule.target {
                rule.target = jump(to);
            }
        }
    }
    rules.extend(at_random(pool, &pool.pods, nat));
    rules
}

/// One of the groups, each with a chance in proportion to its size.
fn at_random(pool: &Pool, pods: &[SocketAddr], nat: &mut TableRules) -> Vec<Rule> {
    let mut left = pods.len();
    groups(pods, pool.fanout())
        .map(|group| {
            let mut rule = match (group, pool.affinity_seconds) {
                ([pod], None) => pool.dnat(*pod),
                ([pod], Some(timeout)) => Rule::new([], goto(&leaf(pool, *pod, timeout, nat))),
                _ => {
                    let inner = at_random(pool, group, nat);
                    Rule::new([], goto(&tree::add(nat, "P", inner)))
                }
            };
            if group.len() < left {
                let chance = Probability { weight: group.len() as u32, of: left as u32 };
                rule.matches.push(Match::Statistic(chance));
            }
            left -= group.len();
            rule
        })
        .collect()
}

/// The group whose pods know the client.
fn remembered(
    pool: &Pool,
    pods: &[SocketAddr],
    timeout: u32,
    nat: &mut TableRules,
    dataplane: &mut Dataplane,
) -> Vec<Rule> {
    groups(pods, pool.fanout())
        .map(|group| {
            if let [pod] = group {
                let clients = client_set(pool, *pod);
                dataplane.add_set(&clients, IpSet::new(SetKind::Affinity(Family::of(pod.ip()))));
                return Rule::new([in_set(&clients, SetDirection::Source)], goto(&leaf(pool, *pod, timeout, nat)));
            }
            let inner = remembered(pool, group, timeout, nat, dataplane);
            let members: Vec<SetMember> = group.iter().map(|pod| SetMember::Set(client_set(pool, *pod))).collect();
            let text: Vec<String> = members.iter().map(SetMember::to_string).collect();
            let list = ownership::set_of("L", &text.join(","));
            dataplane.add_set(&list, IpSet::of(SetKind::List, members));
            Rule::new([in_set(&list, SetDirection::Source)], goto(&tree::add(nat, "A", inner)))
        })
        .collect()
}

/// Remembers the client, then translates.
fn leaf(pool: &Pool, pod: SocketAddr, timeout: u32, nat: &mut TableRules) -> String {
    let rules = vec![Rule::new([], Target::AddSource { set: client_set(pool, pod), timeout }), pool.dnat(pod)];
    tree::add(nat, "A", rules)
}

/// Clients of a pod, whatever the port: affinity is per Service and pod.
fn client_set(pool: &Pool, pod: SocketAddr) -> String {
    ownership::set_of("A", &format!("{}@{}", pool.service, pod.ip()))
}

/// At most `fanout` groups of nearly equal size.
fn groups(pods: &[SocketAddr], fanout: usize) -> impl Iterator<Item = &[SocketAddr]> {
    let parts = fanout.min(pods.len()).max(1);
    let (size, larger) = (pods.len() / parts, pods.len() % parts);
    let mut rest = pods;
    (0..parts).filter(move |_| !pods.is_empty()).map(move |i| {
        let (group, after) = rest.split_at(size + usize::from(i < larger));
        rest = after;
        group
    })
}
