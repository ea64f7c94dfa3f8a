//! Which pod stands behind an address.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Changed, EndpointSlice, Few, ObjectKey, Objects, changes};

/// targetRef.uid of a pod, as far as a slice names it.
pub type Uid = Option<Arc<str>>;

/// What the slices of one Service say of one address: ports and who serves them. Port 0 stands for a slice without ports.
pub type Listing = Few<(u16, Uid)>;

/// Whether another pod has taken the address over. Two pods may share one (the node's), on ports of their own.
pub fn is_another(before: &Listing, now: &Listing) -> bool {
    let (old, new) = (uids(before), uids(now));
    if old.is_empty() || new.is_empty() {
        return false;
    }
    let same_port = |port: u16| before.iter().any(|(p, uid)| *p == port && uid.is_some());
    let taken = |(port, uid): &(u16, Uid)| uid.as_ref().is_some_and(|uid| !old.contains(uid)) && same_port(*port);
    old.is_disjoint(&new) || now.iter().any(taken)
}

pub fn uids(listing: &Listing) -> BTreeSet<&Arc<str>> {
    listing.iter().filter_map(|(_, uid)| uid.as_ref()).collect()
}

/// What a slice says of its addresses: each with its ports, and whether it serves.
pub fn listed(slice: &EndpointSlice) -> impl Iterator<Item = (IpAddr, u16, &Uid, bool)> {
    let ports = || slice.ports.iter().map(|p| p.port).chain(slice.ports.is_empty().then_some(0));
    slice.endpoints.iter().flat_map(move |endpoint| {
        let serves = endpoint.ready || endpoint.serving;
        let at = move |address: &IpAddr| {
            let address = *address;
            ports().map(move |port| (address, port, &endpoint.uid, serves))
        };
        endpoint.addresses.iter().flat_map(at)
    })
}

/// A pod that a Service's slices have named since the last look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Newcomer {
    pub service: ObjectKey,
    pub port: u16,
    pub uid: Uid,
}

/// Every address with the Services that name it now and did not before, or name another pod there.
pub fn newcomers(before: &Objects, now: &Objects) -> BTreeMap<IpAddr, BTreeSet<Newcomer>> {
    let mut found: BTreeMap<IpAddr, BTreeSet<Newcomer>> = BTreeMap::new();
    let mut services: HashSet<(&str, &str)> = HashSet::new();
    for Changed { key, now, .. } in changes(&before.slices, &now.slices) {
        let Some(slice) = now else { continue };
        services.insert((&key.namespace, &slice.service));
        let service = key.beside(Arc::clone(&slice.service));
        for (address, port, uid, _) in listed(slice) {
            found.entry(address).or_default().insert(Newcomer { service: service.clone(), port, uid: uid.clone() });
        }
    }
    // An address that moves from one slice of its Service to another, or gets another port, is not new.
    let of_them = |key: &ObjectKey, slice: &EndpointSlice| services.contains(&(&*key.namespace, &*slice.service));
    for (key, slice) in before.slices.iter().filter(|(key, slice)| of_them(key, slice)) {
        for (address, _, uid, _) in listed(slice) {
            if let Some(new) = found.get_mut(&address) {
                let same = |n: &Newcomer| {
                    n.service.name == slice.service && n.service.namespace == key.namespace && n.uid == *uid
                };
                new.retain(|n| !same(n));
            }
        }
    }
    found.retain(|_, new| !new.is_empty());
    found
}
