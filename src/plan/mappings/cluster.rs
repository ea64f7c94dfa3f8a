//! The addresses of the cluster: pods and ClusterIPs. They are inside, whatever network they are in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{ChangedObject, EndpointSlice, Family, Service};
use crate::plan::topology::Topology;
use crate::ruleset::SetMember;

/// How often each address is named by an object, and the members of the sets of inside networks that follow.
#[derive(Default)]
pub struct Cluster {
    named: HashMap<IpAddr, u32>,
    /// Inside networks, and addresses of the cluster that none of them covers. Filled by the first [`Cluster::take`].
    inner: BTreeMap<Family, Arc<BTreeSet<SetMember>>>,
}

impl Cluster {
    /// Takes changed objects in. Returns the addresses that have come to the cluster or gone from it.
    pub fn take(
        &mut self,
        slices: &[ChangedObject<EndpointSlice>],
        services: &[ChangedObject<Service>],
        topology: &Topology,
    ) -> Vec<IpAddr> {
        if self.inner.is_empty() {
            for family in Family::ALL {
                let nets = topology.inner.iter().filter(|net| Family::of(net.addr()) == family);
                self.inner.insert(family, Arc::new(nets.copied().map(SetMember::Net).collect()));
            }
        }
        let mut touched = BTreeMap::new();
        let of_slice = |slice: &Arc<EndpointSlice>| -> Vec<IpAddr> {
            slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
        };
        let of_service = |service: &Arc<Service>| service.cluster_ips.clone();
        let before = slices.iter().filter_map(|c| c.before).flat_map(of_slice);
        for address in before.chain(services.iter().filter_map(|c| c.before).flat_map(of_service)) {
            self.touch(address, &mut touched);
            match self.named.get_mut(&address) {
                Some(1) | None => drop(self.named.remove(&address)),
                Some(times) => *times -= 1,
            }
        }
        let now = slices.iter().filter_map(|c| c.now).flat_map(of_slice);
        for address in now.chain(services.iter().filter_map(|c| c.now).flat_map(of_service)) {
            self.touch(address, &mut touched);
            *self.named.entry(address).or_default() += 1;
        }
        touched.retain(|address, was| self.named.contains_key(address) != *was);
        for address in touched.keys().filter(|address| !is_outside(**address, topology)) {
            self.follow(*address, topology);
        }
        touched.into_keys().collect()
    }

    fn touch(&self, address: IpAddr, touched: &mut BTreeMap<IpAddr, bool>) {
        touched.entry(address).or_insert_with(|| self.named.contains_key(&address));
    }

    fn follow(&mut self, address: IpAddr, topology: &Topology) {
        // An inside network covers it, also one of this address alone.
        if topology.inner.reaches(address) {
            return;
        }
        let Some(members) = self.inner.get_mut(&Family::of(address)) else { return };
        let member = SetMember::Net(IpNet::from(address));
        if self.named.contains_key(&address) {
            Arc::make_mut(members).insert(member);
        } else {
            Arc::make_mut(members).remove(&member);
        }
    }

    /// Whether an address is a pod's or a Service's.
    pub fn has(&self, address: IpAddr, topology: &Topology) -> bool {
        self.named.contains_key(&address) && !is_outside(address, topology)
    }

    /// Members of the sets of inside networks.
    pub fn inner(&self) -> impl Iterator<Item = (Family, &Arc<BTreeSet<SetMember>>)> {
        self.inner.iter().map(|(family, members)| (*family, members))
    }
}

/// An address that is ours on an external interface stays one, whatever an object says of it.
fn is_outside(address: IpAddr, topology: &Topology) -> bool {
    topology.has_external(address) || topology.external_nets().any(|net| net.contains(&address))
}
