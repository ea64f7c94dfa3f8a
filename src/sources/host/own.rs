//! From the kernel's route and rule messages to our own vocabulary. What we never make is not forced into it: it becomes an
//! [`OwnStray`]. The opposite direction is [`crate::apply::routing`]'s.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::Emitable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage};

use super::look::{Names, network};
use crate::model::{Family, OwnStray, StrayKind};
use crate::netlink::Way;
use crate::ruleset::ownership::ROUTE_PROTOCOL;
use crate::ruleset::{PolicyRule, Route, RouteTarget, RuleAction, RuleSelector};

/// The metric that the kernel gives an IPv6 route without one (IP6_RT_PRIO_USER).
const IPV6_DEFAULT_METRIC: u32 = 1024;

pub(super) enum Own<T> {
    Known(T),
    Stray(OwnStray),
    /// Another protocol number, another family, or its link is gone.
    NotOurs,
}

pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::Ipv4),
        AddressFamily::Inet6 => Some(Family::Ipv6),
        _ => None,
    }
}

/// What every route message tells.
pub(super) struct Parts {
    family: Family,
    pub(super) destination: IpNet,
    table: u32,
    pub(super) metric: u32,
    interface: Option<u32>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    /// It has something that none of our routes has.
    strange: bool,
}

impl Parts {
    pub(super) fn table(&self) -> u32 {
        self.table
    }

    /// `None` when it is neither IPv4 nor IPv6.
    pub(super) fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let family = family(header.address_family)?;
        let mut destination = None;
        let mut parts = Parts {
            family,
            destination: network(family, None, 0)?,
            table: u32::from(header.table),
            metric: 0,
            interface: None,
            gateway: None,
            source: None,
            strange: header.tos != 0 || header.source_prefix_length != 0 || header.flags.contains(RouteFlags::Onlink),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => destination = ip(to),
                RouteAttribute::Table(table) => parts.table = *table,
                RouteAttribute::Priority(metric) => parts.metric = *metric,
                RouteAttribute::Oif(index) => parts.interface = Some(*index),
                RouteAttribute::Gateway(gateway) => parts.gateway = ip(gateway),
                RouteAttribute::PrefSource(source) => parts.source = ip(source),
                // Bookkeeping of the kernel, and the router preference of IPv6, which we leave at its default.
                RouteAttribute::CacheInfo(_) | RouteAttribute::Preference(_) => {}
                _ => parts.strange = true,
            }
        }
        parts.destination = network(family, destination, header.destination_prefix_length)?;
        Some(parts)
    }
}

/// The ways out of a route; `None` where it names a nexthop object alone.
pub(super) fn ways(message: &RouteMessage) -> Option<Vec<Way>> {
    fn way(attributes: &[RouteAttribute]) -> Option<IpAddr> {
        attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(gateway) => ip(gateway),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => Some(IpAddr::V4(*gateway)),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some(IpAddr::V6(*gateway)),
            _ => None,
        })
    }
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => {
                return Some(hops.iter().map(|hop| (hop.interface_index, way(&hop.attributes))).collect());
            }
            RouteAttribute::Oif(index) => return Some(vec![(*index, way(&message.attributes))]),
            _ => {}
        }
    }
    nexthop(message).is_none().then(Vec::new)
}

/// The nexthop object that a route names.
pub(super) fn nexthop(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::NhId(id) => Some(*id),
        _ => None,
    })
}

pub(super) fn route(message: &RouteMessage, names: &Names) -> Own<Route> {
    if message.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
        return Own::NotOurs;
    }
    let Some(parts) = Parts::of(message) else { return Own::NotOurs };
    // The kernel removes a link's routes with it: this one is gone, or its link is younger than the dump of links.
    if parts.interface.is_some_and(|index| !names.contains_key(&index)) {
        return Own::NotOurs;
    }
    match target(message, &parts, names) {
        Some(target) if !parts.strange => Own::Known(Route {
            table: parts.table,
            destination: parts.destination,
            target,
            metric: match (parts.family, parts.metric) {
                (Family::Ipv6, IPV6_DEFAULT_METRIC) => 0,
                (_, metric) => metric,
            },
        }),
        _ => Own::Stray(stray_route(message, &parts)),
    }
}

fn target(message: &RouteMessage, parts: &Parts, names: &Names) -> Option<RouteTarget> {
    let scope = message.header.scope;
    let interface = || names.get(&parts.interface?).cloned();
    match (message.header.kind, parts.gateway, parts.source) {
        // IPv6 knows no scopes.
        (RouteType::Unicast, None, Some(source)) if scope == RouteScope::Link || parts.family == Family::Ipv6 => {
            Some(RouteTarget::Link { interface: interface()?, source })
        }
        (RouteType::Unicast, Some(gateway), None) if scope == RouteScope::Universe => {
            Some(RouteTarget::Gateway { interface: interface()?, gateway })
        }
        // IPv6 ties it to lo.
        (RouteType::Unreachable, None, None) => Some(RouteTarget::Unreachable),
        _ => None,
    }
}

fn stray_route(message: &RouteMessage, parts: &Parts) -> OwnStray {
    let mut message = message.clone();
    // Ages and link states change by themselves and would make equal looks differ.
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    message.header.flags &= RouteFlags::Onlink;
    OwnStray {
        kind: StrayKind::Route,
        description: format!(
            "route {} table {} metric {} of type {:?}",
            parts.destination, parts.table, parts.metric, message.header.kind
        ),
        message: bytes(&message),
    }
}

pub(super) fn rule(message: &RuleMessage) -> Own<PolicyRule> {
    let ours = RouteProtocol::from(ROUTE_PROTOCOL);
    if !message.attributes.contains(&RuleAttribute::Protocol(ours)) {
        return Own::NotOurs;
    }
    // Rules of multicast routing have families of their own.
    let Some(family) = family(message.header.family) else { return Own::NotOurs };
    match known_rule(message, family) {
        Some(rule) => Own::Known(rule),
        None => Own::Stray(OwnStray {
            kind: StrayKind::Rule,
            description: format!("rule of priority {} ({family:?})", priority(message)),
            message: bytes(message),
        }),
    }
}

fn priority(message: &RuleMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        })
        .unwrap_or_default()
}

fn known_rule(message: &RuleMessage, family: Family) -> Option<PolicyRule> {
    let header = &message.header;
    if header.tos != 0 || header.dst_len != 0 || header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let mut table = u32::from(header.table);
    let (mut mark, mut mask, mut input, mut out, mut from, mut target) = (None, None, None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Iifname(name) => input = Some(name.clone()),
            RuleAttribute::Oifname(name) => out = Some(name.clone()),
            RuleAttribute::Source(address) => from = Some(*address),
            RuleAttribute::Goto(priority) => target = Some(*priority),
            RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) => {}
            // The kernel always names it; all ones means that nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => return None,
        }
    }
    let action = match (header.action, target) {
        (Action::ToTable, None) => RuleAction::Lookup(table),
        (Action::Goto, Some(priority)) => RuleAction::Goto(priority),
        (Action::Nop, None) => RuleAction::Nop,
        _ => return None,
    };
    let selector = match (mark, mask, input, out, from) {
        (None, None, None, None, None) if header.src_len == 0 => RuleSelector::All,
        (Some(mark), Some(mask), None, None, None) if header.src_len == 0 => RuleSelector::FwMark { mark, mask },
        (None, None, Some(name), None, None) if header.src_len == 0 => RuleSelector::InInterface(name),
        (None, None, None, Some(name), None) if header.src_len == 0 => RuleSelector::OutInterface(name),
        (None, None, Some(name), None, Some(address)) if name == "lo" => {
            RuleSelector::FromHere(IpNet::new(address, header.src_len).ok()?)
        }
        (None, None, None, None, Some(address)) => RuleSelector::From(IpNet::new(address, header.src_len).ok()?),
        _ => return None,
    };
    Some(PolicyRule { family, priority: priority(message), selector, action })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn bytes(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}
