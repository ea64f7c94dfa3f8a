//! What is remembered of one Service: its pods and ClusterIPs, and since when one of them is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::identity::{Listing, Newcomer, is_another, uids};
use crate::model::{FewByKey, ObjectKey};

#[derive(Debug, Clone, Default)]
pub struct ServiceMemory {
    pub pods: FewByKey<IpAddr, Pod>,
    /// ClusterIPs, each with the moment since which it is missing.
    vips: FewByKey<IpAddr, Option<Instant>>,
}

#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// As it was listed last.
    listing: Listing,
    /// A condition of now: listed as serving.
    pub serving: bool,
    absent: Option<Instant>,
    /// When another Service last began to name another pod at this address.
    rival: Option<Instant>,
}

/// What the objects say of a Service now.
#[derive(Debug, Default)]
pub struct Sight {
    /// There is a Service that can have pods.
    pub exists: bool,
    pub vip: Option<IpAddr>,
    /// Addresses in its slices, each with whether it serves.
    pub pods: BTreeMap<IpAddr, (Listing, bool)>,
}

/// Everything that a look depends on besides the Service itself.
pub struct Look<'a> {
    pub now: Instant,
    pub grace: Duration,
    pub newcomers: &'a BTreeMap<IpAddr, BTreeSet<Newcomer>>,
}

impl ServiceMemory {
    /// Takes in what is there now. Returns the addresses at which another pod has taken over.
    pub fn look(&mut self, key: &ObjectKey, sight: &Sight, look: &Look) -> BTreeSet<IpAddr> {
        let mut replaced = BTreeSet::new();
        for (address, (listing, serving)) in &sight.pods {
            let pod = match self.pods.get_mut(address) {
                Some(pod) => pod,
                None if sight.exists => self.pods.get_or_insert_with(*address, Pod::default),
                None => continue,
            };
            if is_another(&pod.listing, listing) {
                replaced.insert(*address);
            }
            // A slice that names no pod does not make the known one forgotten.
            if pod.listing.is_empty() || !uids(listing).is_empty() {
                pod.listing.clone_from(listing);
            }
            pod.serving = *serving;
            if sight.exists {
                pod.absent = None;
            }
        }
        for (address, pod) in self.pods.iter_mut() {
            let is_listed = sight.pods.contains_key(address);
            if !(sight.exists && is_listed) {
                pod.absent.get_or_insert(look.now);
            }
            pod.serving &= is_listed;
            if pod.meets(key, look.newcomers.get(address), look.now) && is_listed {
                replaced.insert(*address);
            }
        }
        self.pods.retain(|address, pod| match pod.absent {
            None => true,
            // The address is another Service's now.
            Some(_) if !sight.pods.contains_key(address) && pod.is_anothers(key, look, address) => false,
            Some(since) => look.now < since + look.grace,
        });
        self.look_at_vips(sight, look);
        replaced
    }

    fn look_at_vips(&mut self, sight: &Sight, look: &Look) {
        let present = sight.vip.filter(|_| sight.exists);
        if let Some(vip) = present {
            *self.vips.get_or_insert_with(vip, || None) = None;
        }
        for (vip, absent) in self.vips.iter_mut() {
            if present != Some(*vip) {
                absent.get_or_insert(look.now);
            }
        }
        self.vips.retain(|_, absent| absent.is_none_or(|since| look.now < since + look.grace));
    }

    /// Forgets missing ClusterIPs that another Service has now.
    pub fn give_up_vips(&mut self, is_anothers: impl Fn(IpAddr) -> bool) {
        self.vips.retain(|vip, absent| absent.is_none() || !is_anothers(*vip));
    }

    pub fn has_missing_vips(&self) -> bool {
        self.vips.values().any(Option::is_some)
    }

    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.vips.keys().copied()
    }

    pub fn knows(&self, address: IpAddr) -> bool {
        self.pods.contains_key(&address) || self.vips.contains_key(&address)
    }

    /// When the first of what is missing is to be given up.
    pub fn due(&self, grace: Duration) -> Option<Instant> {
        let missing = self.pods.values().filter_map(|p| p.absent).chain(self.vips.values().flatten().copied());
        missing.min().map(|since| since + grace)
    }
}

impl Pod {
    /// Whether a newcomer at its address took its port over. One on another port may share the node's address, and is remembered.
    fn meets(&mut self, key: &ObjectKey, newcomers: Option<&BTreeSet<Newcomer>>, now: Instant) -> bool {
        let known = uids(&self.listing);
        if known.is_empty() {
            return false;
        }
        let others = newcomers.into_iter().flatten().filter(|n| n.service != *key);
        let strangers: Vec<_> = others.filter(|n| n.uid.as_ref().is_some_and(|uid| !known.contains(uid))).collect();
        let same_port = strangers.iter().any(|n| self.listing.iter().any(|(port, _)| *port == n.port));
        if !strangers.is_empty() {
            self.rival = Some(now);
        }
        same_port
    }

    /// Whether the address, missing in the Service's own slices, has become another pod's.
    fn is_anothers(&self, key: &ObjectKey, look: &Look, address: &IpAddr) -> bool {
        let known = uids(&self.listing);
        let not_ours = |n: &&Newcomer| n.service != *key && n.uid.as_ref().is_none_or(|uid| !known.contains(uid));
        let just_now = look.newcomers.get(address).is_some_and(|new| new.iter().any(|n| not_ours(&n)));
        // Slices of two Services come in any order: the new pod may have been named before the old one was gone.
        just_now || self.rival.is_some_and(|rival| look.now < rival + look.grace)
    }
}
