//! Which link stands on which, from what rtnetlink tells of each.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::link::{InfoData, LinkAttribute, LinkInfo, LinkMessage};

use super::look::Names;
use crate::model::{InterfaceName, LinkStack};
use crate::netlink::numbers;

/// What one link says of others, by index.
#[derive(Default)]
struct Told {
    kind: String,
    master: Option<u32>,
    link: Option<u32>,
    /// Indexes are those of another namespace (IFLA_LINK_NETNSID).
    elsewhere: bool,
    /// Lower links that stand in the data of the kind.
    bound: Vec<u32>,
}

/// The links' stacks by name.
pub(super) fn stacks(links: &[LinkMessage], names: &Names) -> BTreeMap<InterfaceName, LinkStack> {
    let told: BTreeMap<u32, Told> = links.iter().map(|message| (message.header.index, told(message))).collect();
    let stack = |index: u32, told_of: &Told| {
        let name = |other: u32| names.get(&other).filter(|_| other != index).cloned();
        let other = told_of.link.filter(|_| !told_of.elsewhere);
        let mut stack = LinkStack {
            kind: told_of.kind.clone(),
            master: told_of.master.and_then(name),
            lower: BTreeSet::new(),
            peer: None,
        };
        if is_pair(&told_of.kind) {
            // A pair's link is the index of its other end, which may be in another namespace: it is here when it says the same.
            let here = |other: &u32| {
                told.get(other).is_some_and(|o| is_pair(&o.kind) && !o.elsewhere && o.link == Some(index))
            };
            stack.peer = other.filter(here).and_then(name);
        } else if !told_of.elsewhere {
            stack.lower = other.into_iter().chain(told_of.bound.iter().copied()).filter_map(name).collect();
        }
        stack
    };
    told.iter().filter_map(|(index, told)| Some((names.get(index)?.clone(), stack(*index, told)))).collect()
}

fn told(message: &LinkMessage) -> Told {
    let mut told = Told::default();
    let mut data: &[u8] = &[];
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(index) => told.master = Some(*index),
            LinkAttribute::Link(index) => told.link = Some(*index).filter(|index| *index != 0),
            LinkAttribute::LinkNetNsId(_) => told.elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => told.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Other(bytes)) => data = bytes,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let bound = bound_by(&told.kind);
    told.bound = numbers(data).filter(|(kind, index)| bound.contains(kind) && *index != 0).map(|(_, i)| i).collect();
    told
}

/// Two ends of a wire, of which neither stands on the other.
fn is_pair(kind: &str) -> bool {
    matches!(kind, "veth" | "netkit" | "vxcan")
}

/// The attributes of a kind's data that are indexes of lower links (linux/if_link.h, linux/if_tunnel.h). Kinds that are not here
/// (vlan, macvlan, ipvlan, macsec...) tell their lower link by IFLA_LINK alone.
fn bound_by(kind: &str) -> &'static [u16] {
    match kind {
        // IFLA_VXLAN_LINK
        "vxlan" => &[3],
        // IFLA_AMT_LINK
        "amt" => &[4],
        // IFLA_HSR_SLAVE1, IFLA_HSR_SLAVE2, IFLA_HSR_INTERLINK
        "hsr" => &[1, 2, 8],
        // IFLA_GRE_LINK, IFLA_IPTUN_LINK, IFLA_VTI_LINK, IFLA_XFRM_LINK
        "gre" | "gretap" | "erspan" | "ip6gre" | "ip6gretap" | "ip6erspan" | "ipip" | "sit" | "ip6tnl" | "vti"
        | "vti6" | "xfrm" => &[1],
        _ => &[],
    }
}
