//! Decision trees of chains: from an address to the one chain that handles it in O(log n) rule evaluations.
//!
//! A chain tests a few prefixes, the more specific ones first, and goes on to one child; the last step always tests the exact address (and
//! port), so a packet for which there is no entry falls out, whatever prefixes it shares with others. Chains are named by their content: a
//! changed entry renames only the chains on the way to it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Family, Protocol, host_net};
use crate::ruleset::{Match, Ports, Rule, TableRules, Target, ownership};

/// Rules per chain to begin with: fewer children are quicker to pass, more make the tree flatter.
const FANOUT: usize = 4;

/// Something to be found by an address: the rules that handle it, without their address match.
#[derive(Debug, Clone)]
pub struct Entry {
    pub address: IpAddr,
    pub rules: Vec<Rule>,
    /// Chains on the longest way below `rules`, the handler not counted.
    pub depth: usize,
}

/// Which address a tree looks at.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    Source,
    Destination,
}

impl Key {
    fn matches(self, net: IpNet) -> Match {
        match self {
            Key::Source => Match::Source(net),
            Key::Destination => Match::Destination(net),
        }
    }
}

/// Adds the chains of a tree over `entries` (sorted by address, one entry an address, one family) to `table` and returns the rules of its
/// root. No way through it, the root's own chain not counted, is longer than `max_depth` chains: when it would be, the tree grows wider.
pub fn grow(table: &mut TableRules, key: Key, entries: &[&Entry], max_depth: usize) -> Vec<Rule> {
    let mut fanout = FANOUT;
    loop {
        let mut chains = TableRules::default();
        let (rules, depth) = node(&mut chains, key, entries, fanout);
        // At the width of all entries the tree is as flat as it can be.
        if depth <= max_depth || fanout > entries.len() {
            table.chains.extend(chains.chains);
            return rules;
        }
        fanout *= 2;
    }
}

/// A port of an address, and the chain that handles it.
type Port<'a> = (Protocol, u16, &'a str);

/// Chains on the longest way through a tree of ports. Any 256 ports fit into it.
const PORT_DEPTH: usize = 4;

/// A few exact port rules, or a tree of port ranges where there are many, and the number of chains below them on the longest way. `ports`
/// is sorted by protocol and port; each goes to its own chain.
///
/// Ports are parted by the bits of their numbers, so that one more or less changes the chains on the way to it alone. Only where that
/// makes a way too long they are parted by number.
pub fn port_rules(table: &mut TableRules, ports: &[Port]) -> (Vec<Rule>, usize) {
    let mut chains = TableRules::default();
    let (rules, depth) = port_node(&mut chains, ports, by_bits);
    if depth > PORT_DEPTH {
        return port_node(table, ports, by_number);
    }
    table.chains.extend(chains.chains);
    (rules, depth)
}

/// Parts sorted ports of one protocol into at most so many groups that are not empty.
type Parting = for<'p, 'a> fn(&'p [Port<'a>], usize) -> Vec<&'p [Port<'a>]>;

fn port_node(table: &mut TableRules, ports: &[Port], part: Parting) -> (Vec<Rule>, usize) {
    let exact = |(protocol, port, chain): &Port| {
        Rule::new(
            [Match::Protocol(*protocol), Match::DestinationPort(*protocol, Ports::one(*port))],
            Target::Goto((*chain).to_owned()),
        )
    };
    if ports.len() <= FANOUT {
        return (ports.iter().map(exact).collect(), 0);
    }
    let mut rules = Vec::new();
    let mut depth = 0;
    for run in ports.chunk_by(|a, b| a.0 == b.0) {
        for group in part(run, (run.len() * FANOUT).div_ceil(ports.len())) {
            if let [single] = group {
                rules.push(exact(single));
                continue;
            }
            let (protocol, first, last) = (group[0].0, group[0].1, group[group.len() - 1].1);
            let (inner, inner_depth) = port_node(table, group, part);
            depth = depth.max(1 + inner_depth);
            let chain = add(table, "T", inner);
            rules.push(Rule::new(
                [Match::Protocol(protocol), Match::DestinationPort(protocol, Ports { first, last })],
                Target::Goto(chain),
            ));
        }
    }
    (rules, depth)
}

fn by_number<'p, 'a>(run: &'p [Port<'a>], groups: usize) -> Vec<&'p [Port<'a>]> {
    run.chunks(run.len().div_ceil(groups)).collect()
}

/// The largest group is halved again and again at the first bit in which its ports differ.
fn by_bits<'p, 'a>(run: &'p [Port<'a>], groups: usize) -> Vec<&'p [Port<'a>]> {
    let mut parts = vec![run];
    while parts.len() < groups {
        let largest = parts.iter().enumerate().max_by_key(|(i, part)| (part.len(), usize::MAX - i));
        let Some((at, part)) = largest.filter(|(_, part)| part.len() > 1) else { break };
        let (first, last) = (part[0].1, part[part.len() - 1].1);
        let below = u16::BITS - 1 - (first ^ last).leading_zeros();
        let middle = last >> below << below;
        let (zeros, ones) = part.split_at(part.partition_point(|(_, port, _)| *port < middle));
        parts.splice(at..=at, [zeros, ones]);
    }
    parts
}

/// Adds a chain named by its content and returns the name.
pub fn add(table: &mut TableRules, kind: &str, rules: Vec<Rule>) -> String {
    let text: Vec<String> = rules.iter().map(Rule::to_string).collect();
    let name = ownership::chain_of(kind, &text.join("\n"));
    table.add(&name, rules);
    name
}

/// Rules of a node and the number of chains below it on the longest way.
fn node(chains: &mut TableRules, key: Key, entries: &[&Entry], fanout: usize) -> (Vec<Rule>, usize) {
    let mut rules = Vec::new();
    let mut depth = 0;
    for part in partition(entries, fanout) {
        if let [entry] = part.as_slice() {
            let net = host_net(entry.address);
            if let [rule] = entry.rules.as_slice() {
                let mut rule = rule.clone();
                rule.matches.insert(0, key.matches(net));
                rules.push(rule);
                depth = depth.max(entry.depth);
            } else {
                let chain = add(chains, "T", entry.rules.clone());
                depth = depth.max(1 + entry.depth);
                rules.push(Rule::new([key.matches(net)], Target::Goto(chain)));
            }
            continue;
        }
        let net = common_prefix(&part);
        let (inner, inner_depth) = node(chains, key, &part, fanout);
        depth = depth.max(1 + inner_depth);
        let chain = add(chains, "T", inner);
        rules.push(Rule::new([key.matches(net)], Target::Goto(chain)));
    }
    (rules, depth)
}

/// Splits sorted entries into at most `fanout` parts such that, tested in order, the first common prefix that matches is the right one.
///
/// The largest part is split again and again by the prefix of its binary trie that holds nearest to half of it; such a prefix with at
/// least a third always exists, so depth stays logarithmic for any set of addresses. The part inside the prefix is tested before the rest.
fn partition<'a>(entries: &[&'a Entry], fanout: usize) -> Vec<Vec<&'a Entry>> {
    let mut parts = vec![entries.to_vec()];
    while parts.len() < fanout {
        let Some((at, _)) =
            parts.iter().enumerate().filter(|(_, p)| p.len() > 1).max_by_key(|(i, p)| (p.len(), usize::MAX - i))
        else {
            break;
        };
        let prefix = halving_prefix(&parts[at]);
        let (inside, outside) = parts[at].iter().partition(|e| prefix.contains(&e.address));
        parts[at] = outside;
        parts.insert(at, inside);
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// The proper prefix that holds nearest to half of the entries: walk to the heavier child until that is no more than half.
fn halving_prefix(entries: &[&Entry]) -> IpNet {
    let mut run = entries;
    let mut best = common_prefix(run);
    let mut best_distance = usize::MAX;
    while run.len() > 1 {
        let prefix = common_prefix(run);
        let split = run.partition_point(|e| !bit(e.address, prefix.prefix_len()));
        let (zeros, ones) = run.split_at(split);
        run = if zeros.len() >= ones.len() { zeros } else { ones };
        let distance = run.len().abs_diff(entries.len() - run.len());
        if distance < best_distance {
            best_distance = distance;
            best = common_prefix(run);
        }
        if run.len() * 2 <= entries.len() {
            break;
        }
    }
    best
}

/// The longest prefix that all entries share; the exact address for a single one.
fn common_prefix(entries: &[&Entry]) -> IpNet {
    let (first, last) = (entries[0].address, entries[entries.len() - 1].address);
    let family = Family::of(first);
    let same = (widen(first) ^ widen(last)).leading_zeros() as u8;
    // `same` counts from bit 0 of the address: both were shifted to the left.
    IpNet::new(first, same.min(family.bits())).map_or_else(|_| host_net(first), |n| n.trunc())
}

fn widen(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => u128::from(a),
    }
}

/// Bit `index` of an address, counted from the most significant.
fn bit(address: IpAddr, index: u8) -> bool {
    index < Family::of(address).bits() && widen(address) >> (127 - index) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    fn entries(addresses: &BTreeSet<u32>) -> Vec<Entry> {
        addresses
            .iter()
            .map(|a| Entry {
                address: IpAddr::V4(Ipv4Addr::from(*a)),
                rules: vec![Rule::new([], Target::Goto(format!("M-{a}")))],
                depth: 0,
            })
            .collect()
    }

    /// Follows an address; returns where it ends and how many rules and chains were passed.
    fn follow(table: &TableRules, root: &[Rule], address: u32) -> (Option<String>, usize, usize) {
        let address = IpAddr::V4(Ipv4Addr::from(address));
        let (mut rules, mut evaluated, mut depth) = (root, 0, 0);
        'chain: loop {
            for rule in rules {
                evaluated += 1;
                let hit = rule.matches.iter().all(|m| matches!(m, Match::Destination(net) if net.contains(&address)));
                if hit {
                    let target = rule.target.chain().unwrap();
                    match table.chains.get(target) {
                        Some(next) => {
                            rules = next;
                            depth += 1;
                            continue 'chain;
                        }
                        None => return (Some(target.to_owned()), evaluated, depth),
                    }
                }
            }
            return (None, evaluated, depth);
        }
    }

    fn check(addresses: &BTreeSet<u32>, others: &[u32], max_depth: usize) {
        let mut table = TableRules::default();
        let entries = entries(addresses);
        let root = grow(&mut table, Key::Destination, &entries.iter().collect::<Vec<_>>(), max_depth);
        let log = (addresses.len() as f64).log2().ceil() as usize;
        for address in addresses {
            let (to, evaluated, depth) = follow(&table, &root, *address);
            assert_eq!(to, Some(format!("M-{address}")));
            assert!(depth <= max_depth, "{depth} chains for {} addresses", addresses.len());
            assert!(evaluated <= 4 + 5 * log, "{evaluated} rules for {} addresses", addresses.len());
        }
        for other in others {
            if !addresses.contains(other) {
                assert_eq!(follow(&table, &root, *other).0, None);
            }
        }
    }

    proptest! {
        #[test]
        fn every_address_finds_its_own_chain_and_no_other_does(
            scattered in prop::collection::btree_set(any::<u32>(), 1..300),
            dense in prop::collection::btree_set(0xcb007100u32..0xcb007300, 0..200),
            others in prop::collection::vec(prop_oneof![any::<u32>(), 0xcb007100u32..0xcb007300], 50),
        ) {
            check(&scattered.union(&dense).copied().collect(), &others, 8);
        }

        #[test]
        fn any_number_of_ports_is_found_exactly(ports in prop::collection::btree_set((any::<bool>(), any::<u16>()), 1..256), other in any::<u16>()) {
            let list: Vec<(Protocol, u16, String)> = ports.iter()
                .map(|(udp, p)| (if *udp { Protocol::Udp } else { Protocol::Tcp }, *p, format!("{udp}-{p}"))).collect();
            let mut sorted = list.clone();
            sorted.sort();
            let mut table = TableRules::default();
            let borrowed: Vec<_> = sorted.iter().map(|(protocol, port, name)| (*protocol, *port, name.as_str())).collect();
            let (root, depth) = port_rules(&mut table, &borrowed);
            prop_assert!(depth <= 4);
            let find = |protocol: Protocol, port: u16| {
                let mut rules = root.as_slice();
                'chain: loop {
                    for rule in rules {
                        let [Match::Protocol(p), Match::DestinationPort(_, range)] = rule.matches.as_slice() else { panic!() };
                        if *p == protocol && (range.first..=range.last).contains(&port) {
                            let target = rule.target.chain().unwrap();
                            match table.chains.get(target) { Some(next) => { rules = next; continue 'chain } None => return Some(target.to_owned()) }
                        }
                    }
                    return None;
                }
            };
            for (protocol, port, name) in &sorted {
                prop_assert_eq!(find(*protocol, *port), Some(name.clone()));
            }
            if !ports.contains(&(false, other)) {
                prop_assert_eq!(find(Protocol::Tcp, other), None);
            }
        }
    }

    #[test]
    fn one_more_port_changes_the_chains_on_its_way_alone() {
        let names: Vec<String> = (0..200).map(|i| format!("M-{i}")).collect();
        let ports = |gone: Option<usize>| -> Vec<Port> {
            let all = names.iter().enumerate().filter(|(i, _)| Some(*i) != gone);
            all.map(|(i, name)| (Protocol::Tcp, 8_000 + i as u16, name.as_str())).collect()
        };
        let mut whole = TableRules::default();
        port_rules(&mut whole, &ports(None));
        for gone in [0, 77, 199] {
            let mut less = TableRules::default();
            port_rules(&mut less, &ports(Some(gone)));
            let others = whole.chains.keys().filter(|name| !less.chains.contains_key(*name)).count();
            assert!(others <= PORT_DEPTH, "{others} of {} chains", whole.chains.len());
        }
    }

    #[test]
    fn a_set_made_to_be_deep_stays_shallow() {
        // Powers of two: a plain binary trie over them is a list.
        let mut skewed: BTreeSet<u32> = (0..32).map(|i| 1u32 << i).collect();
        skewed.extend((0..32).map(|i| (1u32 << i) + 1));
        check(&skewed, &[0, 7, 12], 4);
    }

    #[test]
    fn ten_thousand_addresses_fit_the_depth() {
        let many: BTreeSet<u32> = (0..10_000u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        check(&many, &[1, 2, 3], 8);
    }
}
