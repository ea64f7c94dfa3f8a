//! Reading the kernel: dumps, and what of them a plan needs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, Prop};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as Nud,
};
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::HostError;
use super::own::{self, Own, Parts};
use super::stack;
use crate::model::{
    Family, Host, InterfaceAddress, InterfaceName, Link, LinkStack, LocalRoutes, MainRoute, Neighbour, NeighbourState,
    OwnStray, is_default_route,
};
use crate::netlink::{Nexthops, RouteSocket, RouteSocketError};
use crate::ruleset::ownership::ROUTE_PROTOCOL;
use crate::ruleset::{LOCAL_TABLE, PolicyRule, Route};

/// Interface names by index.
pub(crate) type Names = BTreeMap<u32, InterfaceName>;

pub(super) const ATTEMPTS: u32 = 10;
/// Pause before the second attempt; grows by as much each time.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
const ENOENT: i32 = 2;

/// Looks until no dump was interrupted by a change.
pub(super) async fn steady_look(socket: &mut RouteSocket) -> Result<Host, HostError> {
    for attempt in 1..=ATTEMPTS {
        match look(socket).await {
            Err(HostError::Read { source: RouteSocketError::Interrupted, .. }) => {
                tokio::time::sleep(PAUSE * attempt).await;
            }
            settled => return settled,
        }
    }
    Err(HostError::Unsteady { attempts: ATTEMPTS })
}

async fn look(socket: &mut RouteSocket) -> Result<Host, HostError> {
    let link_messages = dump_links(socket).await?;
    let names = names_of(&link_messages);
    let mut links: BTreeMap<InterfaceName, Link> =
        link_messages.iter().filter_map(|m| Some((names.get(&m.header.index)?.clone(), link(m)))).collect();
    for (name, stack) in stack::stacks(&link_messages, &names) {
        links.entry(name).and_modify(|link| link.stack = stack);
    }

    for message in read(socket, "addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default())).await? {
        if let RouteNetlinkMessage::NewAddress(message) = message
            // An index without a name belongs to a link younger than the dump of links; its event is on the way.
            && let Some(link) = names.get(&message.header.index).and_then(|name| links.get_mut(name))
            && let Some(address) = address(&message)
        {
            link.addresses.push(address);
        }
    }

    let mut messages = Vec::new();
    for family in Family::ALL {
        let mut request = RouteMessage::default();
        request.header.address_family = own::address_family(family);
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        messages.extend(routes(socket, "routes of the main table", request).await?);
    }
    let nexthops = match messages.iter().any(|message| own::ways(message).is_none()) {
        true => Nexthops::read().await.map_err(HostError::Nexthops)?,
        false => Nexthops::default(),
    };
    let mut main: Vec<MainRoute> = messages.iter().flat_map(|m| main_routes(m, &names, &nexthops)).collect();
    main.sort();

    let local_routes = local_routes(socket, &names, &links).await?;
    let own = own_entries(socket, &names).await?;

    let gateways = gateways(&main, &own.routes);
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Inet;
    let mut neighbours: Vec<Neighbour> = read(socket, "neighbours", RouteNetlinkMessage::GetNeighbour(request))
        .await?
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message, &names),
            _ => None,
        })
        .filter(|n| gateways.contains(&(n.interface.as_str(), n.address)))
        .collect();
    neighbours.sort();

    Ok(Host {
        links,
        main_routes: main,
        local_routes,
        own_routes: own.routes,
        own_rules: own.rules,
        own_strays: own.strays,
        neighbours,
    })
}

/// Routes of type local that no address of an interface brought, nor loopback.
async fn local_routes(
    socket: &mut RouteSocket,
    names: &Names,
    links: &BTreeMap<InterfaceName, Link>,
) -> Result<LocalRoutes, HostError> {
    let addresses: HashSet<IpAddr> = links.values().flat_map(|link| &link.addresses).map(|a| a.address).collect();
    let mut found = LocalRoutes::default();
    for family in Family::ALL {
        let mut request = RouteMessage::default();
        request.header.address_family = own::address_family(family);
        request.header.table = LOCAL_TABLE as u8;
        request.header.kind = RouteType::Local;
        for message in routes(socket, "routes of the local table", request).await? {
            let Some(Parts { destination, .. }) = Parts::of(&message) else { continue };
            let of_an_address =
                destination.prefix_len() == destination.max_prefix_len() && addresses.contains(&destination.addr());
            let ways = own::ways(&message).unwrap_or_default();
            let interface = ways.first().and_then(|(index, _)| names.get(index));
            if let Some(interface) = interface
                && message.header.kind == RouteType::Local
                && !of_an_address
                && !destination.addr().is_loopback()
                && !is_default_route(&destination)
            {
                found.insert(destination, interface.clone());
            }
        }
    }
    Ok(found)
}

/// What carries our protocol number.
#[derive(Debug, Default)]
pub(crate) struct OwnEntries {
    pub(crate) routes: BTreeSet<Route>,
    /// Sorted; duplicates stand here as often as in the kernel.
    pub(crate) rules: Vec<PolicyRule>,
    pub(crate) strays: Vec<OwnStray>,
}

/// Reads the routes and rules that carry our protocol number, in whatever table.
pub(crate) async fn own_entries(socket: &mut RouteSocket, names: &Names) -> Result<OwnEntries, HostError> {
    let mut entries = OwnEntries::default();
    for family in Family::ALL {
        let mut request = RouteMessage::default();
        request.header.address_family = own::address_family(family);
        request.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        for message in routes(socket, "our routes", request).await? {
            match own::route(&message, names) {
                Own::Known(route) => _ = entries.routes.insert(route),
                Own::Stray(stray) => entries.strays.push(stray),
                Own::NotOurs => {}
            }
        }
    }
    for message in read(socket, "policy rules", RouteNetlinkMessage::GetRule(RuleMessage::default())).await? {
        if let RouteNetlinkMessage::NewRule(message) = message {
            match own::rule(&message) {
                Own::Known(rule) => entries.rules.push(rule),
                Own::Stray(stray) => entries.strays.push(stray),
                Own::NotOurs => {}
            }
        }
    }
    entries.rules.sort();
    entries.strays.sort();
    Ok(entries)
}

/// Interface names by index, fresh from the kernel.
pub(crate) async fn names(socket: &mut RouteSocket) -> Result<Names, HostError> {
    Ok(names_of(&dump_links(socket).await?))
}

async fn dump_links(socket: &mut RouteSocket) -> Result<Vec<LinkMessage>, HostError> {
    Ok(read(socket, "links", RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .await?
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Some(message),
            _ => None,
        })
        .collect())
}

pub(super) async fn read(
    socket: &mut RouteSocket,
    what: &'static str,
    request: RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, HostError> {
    socket.dump(request).await.map_err(|source| HostError::Read { what, source })
}

pub(super) async fn routes(
    socket: &mut RouteSocket,
    what: &'static str,
    request: RouteMessage,
) -> Result<Vec<RouteMessage>, HostError> {
    let family = request.header.address_family;
    match read(socket, what, RouteNetlinkMessage::GetRoute(request)).await {
        Ok(messages) => Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                // A kernel without IPv6 answers with the routes of all families.
                RouteNetlinkMessage::NewRoute(message)
                    if message.header.address_family == family
                        // An entry of IPv6's cache, no route.
                        && !message.header.flags.contains(RouteFlags::Cloned) =>
                {
                    Some(message)
                }
                _ => None,
            })
            .collect()),
        // A table comes into being with its first route.
        Err(HostError::Read { source, .. }) if source.errno() == Some(ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn names_of(links: &[LinkMessage]) -> Names {
    links
        .iter()
        .filter_map(|message| {
            message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some((message.header.index, name.clone())),
                _ => None,
            })
        })
        .collect()
}

fn link(message: &LinkMessage) -> Link {
    Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
            .unwrap_or_default(),
        without_arp: message.header.flags.contains(LinkFlags::Noarp),
        altnames: altnames(message),
        stack: LinkStack::default(),
        addresses: Vec::new(),
    }
}

fn altnames(message: &LinkMessage) -> BTreeSet<InterfaceName> {
    let properties = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::PropList(properties) => Some(properties),
        _ => None,
    });
    properties
        .flatten()
        .filter_map(|property| match property {
            Prop::AltIfName(name) => Some(name.clone()),
            _ => None,
        })
        .collect()
}

fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours; IPv6 has IFA_LOCAL only then.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let address = local.or(any)?;
    Some(InterfaceAddress {
        address,
        prefix_len: message.header.prefix_len,
        // The same bit means "temporary" in IPv6.
        secondary: address.is_ipv4() && message.header.flags.contains(AddressHeaderFlags::Secondary),
        peer: any.filter(|any| *any != address),
    })
}

/// One entry per way out: a multipath route has several.
fn main_routes(message: &RouteMessage, names: &Names, nexthops: &Nexthops) -> Vec<MainRoute> {
    let Some(Parts { destination, metric, .. }) = Parts::of(message) else { return Vec::new() };
    let ways = own::ways(message).or_else(|| Some(nexthops.ways(own::nexthop(message)?))).unwrap_or_default();
    match message.header.kind {
        RouteType::Unicast => ways
            .into_iter()
            .filter_map(|(index, gateway)| {
                Some(MainRoute { destination, interface: Some(names.get(&index)?.clone()), gateway, metric })
            })
            .collect(),
        RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit => {
            vec![MainRoute { destination, interface: None, gateway: None, metric }]
        }
        _ => Vec::new(),
    }
}

/// Interface and address of every IPv4 gateway.
pub(super) fn gateways<'a>(main: &'a [MainRoute], own: &'a BTreeSet<Route>) -> BTreeSet<(&'a str, IpAddr)> {
    let main = main.iter().filter_map(|route| Some((route.interface.as_deref()?, route.gateway?)));
    let own = own.iter().filter_map(|route| match &route.target {
        crate::ruleset::RouteTarget::Gateway { interface, gateway } => Some((interface.as_str(), *gateway)),
        _ => None,
    });
    main.chain(own).filter(|(_, gateway)| gateway.is_ipv4()).collect()
}

/// `None` for what is no neighbour worth telling: another family, proxy entries, entries without a state.
pub(super) fn neighbour(message: &NeighbourMessage, names: &Names) -> Option<Neighbour> {
    let state = match message.header.state {
        Nud::Reachable | Nud::Permanent | Nud::Noarp => NeighbourState::Reachable,
        Nud::Stale | Nud::Delay | Nud::Probe => NeighbourState::Stale,
        Nud::Incomplete | Nud::Failed => NeighbourState::Failed,
        _ => return None,
    };
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    Some(Neighbour {
        interface: names.get(&message.header.ifindex)?.clone(),
        address: neighbour_address(message)?,
        state,
    })
}

pub(super) fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    })
}

/// The network of a destination attribute, "everything" when it is missing.
pub(super) fn network(family: Family, address: Option<IpAddr>, prefix_len: u8) -> Option<IpNet> {
    let address = address.unwrap_or(match family {
        Family::Ipv4 => IpAddr::from([0; 4]),
        Family::Ipv6 => IpAddr::from([0; 16]),
    });
    IpNet::new(address, prefix_len).ok()
}
