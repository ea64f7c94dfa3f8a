//! Policy rules for what the box itself sends from external addresses: few, because every packet that is forwarded passes all of them,
//! twice.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::Context;
use crate::plan::topology::External;
use crate::ruleset::RuleSelector;

/// Addresses of a subnet that are worth no rule for several of them.
const FEW: usize = 2;

/// The addresses of an external interface, as rules ask for them.
pub fn selectors(context: &Context, e: &External) -> Vec<RuleSelector> {
    let mut left: Vec<Ipv4Addr> = e.addresses.iter().filter_map(v4).collect();
    left.sort();
    left.dedup();
    let others = Others::of(context, e);
    let mut selectors = Vec::new();
    for (subnet, _) in &e.subnets {
        let (within, rest) = left.into_iter().partition::<Vec<_>, _>(|address| subnet.contains(address));
        left = rest;
        if within.len() > FEW {
            cover(&within, &others, &mut selectors);
        } else {
            selectors.extend(within.into_iter().map(single));
        }
    }
    selectors.extend(left.into_iter().map(single));
    let networks = e.networks.iter().copied().filter(|net| net.addr().is_ipv4());
    selectors.extend(networks.map(RuleSelector::From));
    selectors
}

fn single(address: Ipv4Addr) -> RuleSelector {
    RuleSelector::From(IpNet::from(IpAddr::V4(address)))
}

/// Networks of one subnet that hold these addresses of the box (sorted) and no other one of its own. What else lies in them sends nothing
/// from here.
fn cover(addresses: &[Ipv4Addr], others: &Others, selectors: &mut Vec<RuleSelector>) {
    let (first, last) = match addresses {
        [] => return,
        [one] => return selectors.push(single(*one)),
        [first, .., last] => (u32::from(*first), u32::from(*last)),
    };
    let length = (first ^ last).leading_zeros() as u8;
    let net = Ipv4Net::new_assert(Ipv4Addr::from(first), length).trunc();
    if !others.within(net) {
        return selectors.push(RuleSelector::FromHere(IpNet::V4(net)));
    }
    let split = addresses.partition_point(|address| u32::from(*address) >> (31 - length) & 1 == 0);
    let (zeros, ones) = addresses.split_at(split);
    cover(zeros, others, selectors);
    cover(ones, others, selectors);
}

/// What the box has elsewhere than on the interface.
struct Others {
    /// Sorted.
    single: Vec<Ipv4Addr>,
    networks: Vec<Ipv4Net>,
}

impl Others {
    fn of(context: &Context, e: &External) -> Self {
        let own: BTreeSet<&IpAddr> = e.addresses.iter().collect();
        let of_externals = context.topology.externals.iter().flat_map(|other| &other.addresses);
        let all: BTreeSet<&IpAddr> = context.topology.own_addresses().chain(of_externals).collect();
        let single = all.difference(&own).copied().filter_map(v4).collect();
        let networks = context.topology.local_elsewhere(&e.name).filter_map(|net| match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        });
        Others { single, networks: networks.collect() }
    }

    fn within(&self, net: Ipv4Net) -> bool {
        let at = self.single.partition_point(|address| *address < net.network());
        self.single.get(at).is_some_and(|address| net.contains(address))
            || self.networks.iter().any(|other| other.contains(&net) || net.contains(other))
    }
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covered(own: &[u32], others: &[u32]) -> Vec<IpNet> {
        let others = Others { single: others.iter().copied().map(Ipv4Addr::from).collect(), networks: Vec::new() };
        let own: Vec<Ipv4Addr> = own.iter().copied().map(Ipv4Addr::from).collect();
        let mut selectors = Vec::new();
        cover(&own, &others, &mut selectors);
        let net = |selector: RuleSelector| match selector {
            RuleSelector::From(net) | RuleSelector::FromHere(net) => net,
            other => panic!("{other}"),
        };
        selectors.into_iter().map(net).collect()
    }

    proptest! {
        #[test]
        fn each_address_is_in_one_network_and_no_other_of_the_box_in_any(
            own in prop::collection::btree_set(0xcb007100u32..0xcb007200, 1..100),
            others in prop::collection::btree_set(0xcb007100u32..0xcb007200, 0..20),
        ) {
            let own: Vec<u32> = own.into_iter().filter(|address| !others.contains(address)).collect();
            let others: Vec<u32> = others.into_iter().collect();
            let nets = covered(&own, &others);
            let hits = |address: u32| nets.iter().filter(|net| net.contains(&IpAddr::V4(address.into()))).count();
            prop_assert!(own.iter().all(|address| hits(*address) == 1));
            prop_assert!(others.iter().all(|address| hits(*address) == 0));
            prop_assert!(!others.is_empty() || nets.len() <= 1);
        }
    }
}
