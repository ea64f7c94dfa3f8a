//! Who stands above an external interface: its bridge, bond or VRF, a VLAN or macvlan on it, a tunnel bound to it, and what stands above
//! these. Packets of the outside come out there under another interface's name.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Host, InterfaceName};

/// What stands above external interfaces, each with those external interfaces.
pub type Above = BTreeMap<InterfaceName, BTreeSet<InterfaceName>>;

/// Follows masters and lower links upwards. `is_external` and `is_stated` (known to be inside by its exact name) end the way: the
/// former has a border of its own, and of the latter the operator knows what lies below.
pub fn above(host: &Host, is_external: impl Fn(&str) -> bool, is_stated: impl Fn(&str) -> bool) -> Above {
    let uppers = uppers(host);
    let mut above = Above::new();
    for external in host.links.keys().filter(|name| is_external(name)) {
        let mut next = vec![external.as_str()];
        while let Some(name) = next.pop() {
            for upper in uppers.get(name).into_iter().flatten().copied() {
                if !is_external(upper)
                    && !is_stated(upper)
                    && above.entry(upper.to_owned()).or_default().insert(external.clone())
                {
                    next.push(upper);
                }
            }
        }
    }
    above
}

/// The external interfaces below one that is inside by its exact name.
pub fn below(host: &Host, inside: &str, is_external: impl Fn(&str) -> bool) -> BTreeSet<InterfaceName> {
    let above = above(host, is_external, |_| false);
    above.get(inside).cloned().unwrap_or_default()
}

/// For each link those that directly take its frames.
fn uppers(host: &Host) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut uppers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut add = |lower, upper| _ = uppers.entry(lower).or_default().insert(upper);
    for (name, link) in &host.links {
        for lower in &link.stack.lower {
            add(lower.as_str(), name.as_str());
        }
        let Some(master) = &link.stack.master else { continue };
        add(name.as_str(), master.as_str());
        let Some(master_link) = host.links.get(master) else { continue };
        // A port that is one end of a pair brings the bridge's frames to the other end. A VRF has no frames of its own.
        if let Some(peer) = link.stack.peer.as_deref()
            && master_link.stack.kind != "vrf"
        {
            add(master.as_str(), peer);
        }
        // The internal ports of an Open vSwitch datapath are not told as such.
        if master_link.stack.kind == OPEN_VSWITCH {
            let internal = host.links.iter().filter(|(other, l)| l.stack.kind == OPEN_VSWITCH && *other != master);
            internal.for_each(|(other, _)| add(master.as_str(), other.as_str()));
        }
    }
    uppers
}

const OPEN_VSWITCH: &str = "openvswitch";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Link, LinkStack};

    /// `NAME KIND [master=NAME] [over=NAME]... [peer=NAME]`, one link a line.
    fn host(text: &str) -> Host {
        let links = text.lines().map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            let mut stack = LinkStack { kind: words.next().unwrap_or_default().to_owned(), ..LinkStack::default() };
            for word in words {
                match word.split_once('=') {
                    Some(("master", other)) => stack.master = Some(other.to_owned()),
                    Some(("over", other)) => _ = stack.lower.insert(other.to_owned()),
                    Some(("peer", other)) => stack.peer = Some(other.to_owned()),
                    _ => panic!("{word}"),
                }
            }
            (name, Link { stack, ..Link::default() })
        });
        Host { links: links.collect(), ..Host::default() }
    }

    fn names(text: &str) -> Vec<(String, String)> {
        let above = above(&host(text), |name| name.starts_with("ext"), |name| name.starts_with("in"));
        above.into_iter().map(|(name, below)| (name, below.into_iter().collect::<Vec<_>>().join("+"))).collect()
    }

    fn expect(text: &str, wanted: &[(&str, &str)]) {
        let wanted: Vec<_> = wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(names(text), wanted, "{text}");
    }

    #[test]
    fn masters_and_lower_links_are_followed_through_all_storeys() {
        expect(
            "ext1 - master=bond0\next2 - master=bond0\nbond0 bond master=br0\nbr0 bridge\nbr0.5 vlan over=br0\n\
             tun0 vxlan over=br0.5\neth0 -\neth0.5 vlan over=eth0",
            &[("bond0", "ext1+ext2"), ("br0", "ext1+ext2"), ("br0.5", "ext1+ext2"), ("tun0", "ext1+ext2")],
        );
    }

    #[test]
    fn an_external_one_above_another_stays_external_and_what_is_named_inside_ends_the_way() {
        expect(
            "ext1 -\next1.5 vlan over=ext1\nmv0 macvlan over=ext1.5\nin0 vlan over=ext1\nin0.7 vlan over=in0\n\
             other vlan over=in0",
            &[("mv0", "ext1.5")],
        );
    }

    #[test]
    fn a_pair_carries_the_frames_of_a_bridge_but_not_of_a_vrf() {
        expect(
            "ext1 - master=br0\nbr0 bridge\nva veth master=br0 peer=vb\nvb veth peer=va",
            &[("br0", "ext1"), ("vb", "ext1")],
        );
        expect("ext1 - master=red\nred vrf\nva veth master=red peer=vb\nvb veth peer=va", &[("red", "ext1")]);
        expect("ext1 veth peer=vb\nvb veth peer=ext1", &[]);
    }

    #[test]
    fn internal_ports_of_open_vswitch_stand_above_its_datapath() {
        expect(
            "ext1 - master=ovs-system\novs-system openvswitch\nbr-ex openvswitch\neth0 -",
            &[("br-ex", "ext1"), ("ovs-system", "ext1")],
        );
    }

    #[test]
    fn rings_end() {
        expect("ext1 - master=a\na bridge over=b\nb vlan over=a", &[("a", "ext1"), ("b", "ext1")]);
    }
}
