//! Sets of networks that are asked often: sorted, so that a question takes a binary search.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// Networks of both families, sorted, none within another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetSet(Vec<IpNet>);

impl NetSet {
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    /// The network that holds an address.
    pub fn covering(&self, address: IpAddr) -> Option<&IpNet> {
        covering(&self.0, address)
    }

    /// Whether one of the networks holds all of another.
    pub fn contains(&self, net: &IpNet) -> bool {
        self.covering(net.network()).is_some_and(|wide| wide.prefix_len() <= net.prefix_len())
    }

    /// Those that lie within a network.
    pub fn within(&self, net: &IpNet) -> &[IpNet] {
        let from = self.0.partition_point(|own| (own.network(), own.prefix_len()) < (net.network(), net.prefix_len()));
        let behind = self.0.partition_point(|own| own.network() <= net.broadcast());
        self.0.get(from..behind).unwrap_or_default()
    }

    pub fn overlaps(&self, net: &IpNet) -> bool {
        self.contains(net) || !self.within(net).is_empty()
    }

    /// Whether every address of a network is in one of these.
    pub fn covers(&self, net: &IpNet) -> bool {
        self.contains(net)
            || self.within(net).iter().try_fold(0u128, |sum, own| sum.checked_add(size(own))) == size_of(net)
    }
}

/// Of networks that are sorted, none within another, the one that holds an address.
pub fn covering(nets: &[IpNet], address: IpAddr) -> Option<&IpNet> {
    let behind = nets.partition_point(|net| net.network() <= address);
    nets[..behind].last().filter(|net| net.contains(&address))
}

/// Addresses in a network; of ::/0 one too few.
pub fn size(net: &IpNet) -> u128 {
    size_of(net).unwrap_or(u128::MAX)
}

fn size_of(net: &IpNet) -> Option<u128> {
    1u128.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len()))
}

impl FromIterator<IpNet> for NetSet {
    fn from_iter<T: IntoIterator<Item = IpNet>>(nets: T) -> Self {
        let sorted: BTreeSet<(IpAddr, u8)> = nets.into_iter().map(|n| (n.network(), n.prefix_len())).collect();
        let mut kept: Vec<IpNet> = Vec::new();
        for (address, prefix_len) in sorted {
            // The length came from a network of the same family.
            let Ok(net) = IpNet::new(address, prefix_len) else { continue };
            if !kept.last().is_some_and(|last| last.contains(&net)) {
                kept.push(net);
            }
        }
        NetSet(kept)
    }
}

/// The networks that remain of one without others, which lie within it: sorted, none within another.
pub fn without(net: IpNet, holes: &NetSet) -> Vec<IpNet> {
    let mut left = Vec::new();
    split(net.trunc(), holes.within(&net), &mut left);
    left
}

fn split(net: IpNet, holes: &[IpNet], left: &mut Vec<IpNet>) {
    match holes {
        [] => left.push(net),
        [all] if *all == net => {}
        // A network that holds a smaller one has halves.
        _ => {
            for half in net.subnets(net.prefix_len() + 1).into_iter().flatten() {
                let from = holes.partition_point(|hole| hole.network() < half.network());
                let behind = holes.partition_point(|hole| hole.network() <= half.broadcast());
                split(half, &holes[from..behind], left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        prop::collection::vec(net(), 0..12)
    }

    /// Few bits, so that they meet.
    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0u8..16, 26u8..=32)
                .prop_map(|(a, len)| format!("10.0.0.{}/{len}", a * 4).parse::<IpNet>().unwrap().trunc()),
            (0u8..16, 122u8..=128)
                .prop_map(|(a, len)| format!("fd00::{:x}/{len}", a * 4).parse::<IpNet>().unwrap().trunc()),
        ]
    }

    fn addresses() -> impl Iterator<Item = IpAddr> {
        (0..64).flat_map(|n: u8| [format!("10.0.0.{n}").parse().unwrap(), format!("fd00::{n:x}").parse().unwrap()])
    }

    proptest! {
        #[test]
        fn a_question_is_answered_as_by_looking_at_each(nets in nets(), asked in net()) {
            let set: NetSet = nets.iter().copied().collect();
            for address in addresses() {
                prop_assert_eq!(set.covering(address).is_some(), nets.iter().any(|n| n.contains(&address)));
            }
            prop_assert_eq!(set.contains(&asked), nets.iter().any(|n| n.contains(&asked)));
            prop_assert_eq!(set.overlaps(&asked), nets.iter().any(|n| n.contains(&asked) || asked.contains(n)));
            let all = addresses().filter(|a| asked.contains(a)).all(|a| nets.iter().any(|n| n.contains(&a)));
            prop_assert_eq!(set.covers(&asked), all);
            for (one, other) in set.iter().zip(set.iter().skip(1)) {
                prop_assert!(!one.contains(other) && !other.contains(one));
            }
        }

        #[test]
        fn what_is_left_is_all_but_the_holes_in_as_few_networks_as_possible(net in net(), nets in nets()) {
            let holes: NetSet = nets.into_iter().filter(|n| net.contains(n)).collect();
            let left = without(net, &holes);
            for address in addresses().filter(|a| net.contains(a)) {
                let is_left = left.iter().filter(|n| n.contains(&address)).count();
                prop_assert_eq!(is_left, usize::from(holes.covering(address).is_none()));
            }
            for piece in left.iter().filter(|piece| **piece != net) {
                prop_assert!(holes.overlaps(&piece.supernet().unwrap()));
            }
        }
    }

    #[test]
    fn all_addresses_have_a_size() {
        let all: NetSet =
            ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"].map(|n| n.parse().unwrap()).into_iter().collect();
        assert!(all.covers(&"0.0.0.0/0".parse().unwrap()) && !all.contains(&"0.0.0.0/0".parse().unwrap()));
        assert_eq!(size(&"::/0".parse().unwrap()), u128::MAX);
    }
}
