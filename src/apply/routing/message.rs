//! From our vocabulary to the kernel's route and rule messages. The opposite direction is [`crate::sources::host`]'s.

use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::IPV6_DEFAULT_METRIC;
use crate::model::{Family, OwnStray, StrayKind};
use crate::ruleset::ownership::ROUTE_PROTOCOL;
use crate::ruleset::{PolicyRule, Route, RouteTarget, RuleAction as Action, RuleSelector};

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

/// `index` is the route's interface; none for an unreachable one.
pub(super) fn route(route: &Route, index: Option<u32>) -> RouteMessage {
    let family = Family::of(route.destination.addr());
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    // The header has eight bits for the table; the attribute counts.
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination.addr())));
    message.header.kind = RouteType::Unicast;
    match &route.target {
        RouteTarget::Link { source, .. } => {
            if family == Family::Ipv4 {
                message.header.scope = RouteScope::Link;
            }
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(*source)));
        }
        RouteTarget::Gateway { gateway, .. } => {
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(*gateway)));
        }
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    message.attributes.extend(index.map(RouteAttribute::Oif));
    match (family, route.metric) {
        (Family::Ipv4, 0) => {}
        // Named, because a deletion without metric would take a route of any.
        (Family::Ipv6, 0) => message.attributes.push(RouteAttribute::Priority(IPV6_DEFAULT_METRIC)),
        (_, metric) => message.attributes.push(RouteAttribute::Priority(metric)),
    }
    message
}

pub(super) fn rule(rule: &PolicyRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.attributes =
        vec![RuleAttribute::Priority(rule.priority), RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL))];
    match rule.action {
        Action::Lookup(table) => {
            message.header.action = RuleAction::ToTable;
            message.attributes.push(RuleAttribute::Table(table));
        }
        Action::Goto(priority) => {
            message.header.action = RuleAction::Goto;
            message.attributes.push(RuleAttribute::Goto(priority));
        }
        Action::Nop => message.header.action = RuleAction::Nop,
    }
    match &rule.selector {
        RuleSelector::All => {}
        RuleSelector::FwMark { mark, mask } => {
            message.attributes.extend([RuleAttribute::FwMark(*mark), RuleAttribute::FwMask(*mask)]);
        }
        RuleSelector::InInterface(name) => message.attributes.push(RuleAttribute::Iifname(name.clone())),
        RuleSelector::OutInterface(name) => message.attributes.push(RuleAttribute::Oifname(name.clone())),
        RuleSelector::From(net) | RuleSelector::FromHere(net) => {
            message.header.src_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Source(net.network()));
            if matches!(rule.selector, RuleSelector::FromHere(_)) {
                message.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
            }
        }
    }
    message
}

/// The deletion of a stray: the kernel's own message sent back.
pub(super) fn delete_stray(stray: &OwnStray) -> Result<RouteNetlinkMessage, DecodeError> {
    Ok(match stray.kind {
        StrayKind::Route => RouteNetlinkMessage::DelRoute(RouteMessage::parse(stray.message.as_slice())?),
        StrayKind::Rule => RouteNetlinkMessage::DelRule(RuleMessage::parse(stray.message.as_slice())?),
    })
}
