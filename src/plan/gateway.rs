//! Where the router of an external interface is: `SNCTRLR_GW_ADDRESS`, else `SNCTRLR_GW_ADDRESS_OFFSET`.

mod offset;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::model::{InterfaceAddress, Link};
use offset::OffsetError;

/// What the settings say about one interface's router.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Named; wins over the offset.
    pub address: Option<Ipv4Addr>,
    pub offset: i32,
}

/// The gateway of an interface, and what is to be said about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub gateway: Option<Ipv4Addr>,
    /// No subnet of the interface holds the gateway: a route of its own leads to it, with this source.
    pub on_link: Option<Ipv4Addr>,
    /// Why there is none.
    pub error: Option<GatewayError>,
    pub notes: Vec<String>,
}

/// Why an interface has no usable gateway. Concerns that interface alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Offset(#[from] OffsetError),
    #[error(
        "{gateway} is this box's own address; set SNCTRLR_GW_ADDRESS to the address of the router, or move the address"
    )]
    Own { gateway: Ipv4Addr },
    #[error(
        "{gateway} is the network or broadcast address of {net}; set SNCTRLR_GW_ADDRESS to the address of the router"
    )]
    NoHost { gateway: Ipv4Addr, net: Ipv4Net },
}

/// The gateway of the interface `name`. Its first primary address whose subnet has room for a router decides, unless the router is
/// named.
///
/// `routed` are the local routes of the interface.
pub fn choose(name: &str, link: &Link, wish: Wish, routed: &[IpNet], is_own: impl Fn(Ipv4Addr) -> bool) -> Choice {
    let mut choice = match wish.address {
        Some(gateway) => named(gateway, link, routed, is_own),
        None => by_subnets(name, link, wish.offset, is_own),
    };
    choice.notes.extend(silent(name, link));
    choice.notes.extend(without_arp(name, link, routed));
    choice
}

/// With arp_ignore=1 the kernel answers for addresses of the interface alone.
fn without_arp(name: &str, link: &Link, routed: &[IpNet]) -> Option<String> {
    let first = routed.first().filter(|net| net.addr().is_ipv4() && !link.without_arp)?;
    let more = if routed.len() > 1 { format!(" and {} more", routed.len() - 1) } else { String::new() };
    Some(format!(
        "nobody gets an ARP answer for {first}{more}, local by a route and no address of {name}, so it is served only where the router routes it to this box; leave it if the router does, else assign it (ip address add ADDRESS/32 dev {name})"
    ))
}

/// With arp_ignore=1 the kernel answers for an address only where it lies in the subnet of its own entry, which is its peer's
/// (confirm_addr_indev in net/ipv4/devinet.c).
fn silent(name: &str, link: &Link) -> Option<String> {
    if link.without_arp {
        return None;
    }
    let (_, net, address) = subnets(link).find(|(a, net, address)| a.peer.is_some() && !net.contains(address))?;
    Some(format!(
        "nobody gets an ARP answer for {address}, because its peer's network {net} does not hold it, so it is served only where the router knows its hardware address; assign it as {address}/32 without a peer, and name the router by SNCTRLR_GW_ADDRESS={name}=ADDRESS"
    ))
}

fn subnets(link: &Link) -> impl Iterator<Item = (&InterfaceAddress, Ipv4Net, Ipv4Addr)> {
    link.addresses.iter().filter_map(|a| match (a.subnet(), a.address) {
        (IpNet::V4(net), IpAddr::V4(address)) => Some((a, net, address)),
        _ => None,
    })
}

fn named(gateway: Ipv4Addr, link: &Link, routed: &[IpNet], is_own: impl Fn(Ipv4Addr) -> bool) -> Choice {
    let refused = |error| Choice { error: Some(error), ..Choice::default() };
    if is_own(gateway) {
        return refused(GatewayError::Own { gateway });
    }
    let no_host = |net: &Ipv4Net| net.prefix_len() < 31 && (gateway == net.network() || gateway == net.broadcast());
    if let Some((_, net, _)) = subnets(link).find(|(_, net, _)| no_host(net)) {
        return refused(GatewayError::NoHost { gateway, net });
    }
    // Without an address nothing is served, and no route could name its source.
    let routed = routed.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let Some(source) = subnets(link).next().map(|(_, _, source)| source).or(routed) else { return Choice::default() };
    let covered = subnets(link).any(|(_, net, _)| net.contains(&gateway));
    Choice { gateway: Some(gateway), on_link: (!covered).then_some(source), ..Choice::default() }
}

fn by_subnets(name: &str, link: &Link, offset: i32, is_own: impl Fn(Ipv4Addr) -> bool) -> Choice {
    let mut found: Vec<(Ipv4Net, Ipv4Addr)> = Vec::new();
    let mut failed = Vec::new();
    let primaries = || subnets(link).filter(|(a, ..)| !a.secondary);
    // An address that a machine gives itself (RFC 3927) tells of no router while there is another.
    let of_its_own = |(_, net, _): &(_, Ipv4Net, _)| net.addr().is_link_local();
    for (address, net, _) in primaries().filter(|s| !of_its_own(s)).chain(primaries().filter(of_its_own)) {
        let gateway = match address.peer {
            // The other end is the only neighbour.
            Some(IpAddr::V4(peer)) if net.prefix_len() == 32 && !is_own(peer) => Ok(peer),
            _ => offset::gateway(net, offset, &is_own),
        };
        match gateway {
            Ok(_) if !found.is_empty() && net.addr().is_link_local() => {}
            Ok(gateway) => found.push((net, gateway)),
            Err(error) => failed.push(error),
        }
    }
    let Some((net, gateway)) = found.first().copied() else {
        // That an address has no subnet says less than what is wrong in one.
        let telling = failed.iter().find(|error| !matches!(error, OffsetError::HostPrefix { .. }));
        let error = telling.or(failed.first()).cloned().map(GatewayError::from);
        return Choice { error, ..Choice::default() };
    };
    let mut notes = Vec::new();
    let choose = format!("choose by SNCTRLR_GW_ADDRESS={name}=ADDRESS");
    if found.iter().any(|(_, other)| *other != gateway) {
        let all: Vec<String> = found.iter().map(|(net, gateway)| format!("{gateway} in {net}")).collect();
        notes.push(format!(
            "its subnets lead to different gateways ({}), and {gateway} is used for all that leaves here; {choose}",
            all.join(", ")
        ));
    }
    if let Some(error) = failed.iter().find(|error| !matches!(error, OffsetError::HostPrefix { .. })) {
        let reason = error.to_string();
        let reason = reason.split("; ").next().unwrap_or_default();
        notes.push(format!("{reason}, so the gateway is {gateway} in {net}; {choose}"));
    }
    if net.addr().is_link_local() {
        notes.push(format!("its only subnet is {net}, which tells of no router, and {gateway} is a guess; {choose}"));
    }
    Choice { gateway: Some(gateway), notes, ..Choice::default() }
}

#[cfg(test)]
mod tests;
