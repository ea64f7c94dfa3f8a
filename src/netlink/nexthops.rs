//! Nexthop objects (`ip nexthop`). A route may name one instead of interface and gateway; the kernel fills those in too, unless
//! net.ipv4.nexthop_compat_mode is 0. rtnetlink has no messages for them.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::dump::dump;

// linux/rtnetlink.h
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
const HEADER: usize = 16;
/// struct nhmsg of linux/nexthop.h
const NHMSG: usize = 8;
// linux/nexthop.h
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// struct nexthop_grp: the id of a member, its weight.
const MEMBER: usize = 8;

/// A way out: interface index and gateway.
pub(crate) type Way = (u32, Option<IpAddr>);

/// The nexthop objects of the network namespace.
#[derive(Debug, Default)]
pub(crate) struct Nexthops(BTreeMap<u32, Nexthop>);

#[derive(Debug)]
enum Nexthop {
    Single(Way),
    Group(Vec<u32>),
}

impl Nexthops {
    /// Reads all of them.
    pub(crate) async fn read() -> io::Result<Self> {
        let mut found = BTreeMap::new();
        let take = |kind, body: &[u8]| found.extend((kind == RTM_NEWNEXTHOP).then(|| parse(body)).flatten());
        dump(NETLINK_ROUTE, &request(), take).await?;
        Ok(Nexthops(found))
    }

    /// The ways of an object; none of one that leads nowhere, or that is gone.
    pub(crate) fn ways(&self, id: u32) -> Vec<Way> {
        let single = |id: &u32| match self.0.get(id) {
            Some(Nexthop::Single(way)) => Some(*way),
            _ => None,
        };
        match self.0.get(&id) {
            // No group is a member of another.
            Some(Nexthop::Group(members)) => members.iter().filter_map(single).collect(),
            Some(Nexthop::Single(way)) => vec![*way],
            None => Vec::new(),
        }
    }
}

fn request() -> Vec<u8> {
    let length = (HEADER + NHMSG) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(RTM_GETNEXTHOP.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.resize(HEADER + NHMSG, 0);
    bytes
}

/// The body of a message: its id and what it is. What is neither (a blackhole) leads nowhere.
fn parse(body: &[u8]) -> Option<(u32, Nexthop)> {
    let (mut id, mut interface, mut gateway, mut members) = (None, None, None, None);
    for attribute in NlasIterator::new(body.get(NHMSG..)?).flatten() {
        let value = attribute.value();
        let number = || value.get(..4)?.try_into().ok().map(u32::from_ne_bytes);
        match attribute.kind() {
            NHA_ID => id = number(),
            NHA_OIF => interface = number(),
            NHA_GATEWAY => gateway = address(value),
            NHA_GROUP => {
                let ids =
                    value.chunks_exact(MEMBER).filter_map(|m| m.get(..4)?.try_into().ok().map(u32::from_ne_bytes));
                members = Some(ids.collect());
            }
            _ => {}
        }
    }
    let nexthop = match members {
        Some(members) => Nexthop::Group(members),
        None => Nexthop::Single((interface?, gateway)),
    };
    Some((id?, nexthop))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
