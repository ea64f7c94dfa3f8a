//! Addresses of a Mapping that this box has, and on which it serves nobody all the same.

use std::net::IpAddr;

use super::topology::Topology;

/// So many are told one by one.
const MAX_NAMED: usize = 5;

/// Why nobody is served on these addresses, of those that this box has.
pub(super) fn reasons(addresses: &[IpAddr], topology: &Topology) -> Vec<String> {
    let mut reasons: Vec<String> = addresses.iter().filter_map(|address| reason(*address, topology)).collect();
    if reasons.len() > MAX_NAMED {
        let more = reasons.split_off(MAX_NAMED).len();
        reasons.push(format!("{more} more addresses are not served"));
    }
    reasons
}

fn reason(address: IpAddr, topology: &Topology) -> Option<String> {
    if topology.serving(address).is_some() {
        return None;
    }
    if let Some(external) = topology.refused(address) {
        return Some(format!("nobody is served on {address}: the gateway of {} is refused", external.name));
    }
    if let Some(interface) = topology.held_by(address) {
        return Some(format!("nobody is served on {address}: it is an address of {interface}, which is not external"));
    }
    let interface = topology.local_by(address).filter(|name| topology.externals.iter().all(|e| e.name != **name))?;
    Some(format!("{address} is a local route of {interface}, which is not external: name an external interface in it"))
}
