use std::net::IpAddr;

use crate::model::{Family, Host, InterfaceName};
use crate::ruleset::{Dataplane, MAIN_PRIORITY, MAIN_TABLE, PolicyRule, RouteTarget, RuleAction, RuleSelector};

/// What the kernel decides for a packet that came by a wire.
pub(super) enum Decision<'a> {
    /// For the box itself (its addresses, broadcast, multicast).
    Local,
    Forward {
        interface: &'a InterfaceName,
        gateway: Option<IpAddr>,
        by: By<'a>,
    },
    /// An unreachable route, or none.
    NoRoute {
        by: Option<By<'a>>,
    },
    Martian(&'static str),
}

/// The policy rule of ours that led to the table; `None` is the kernel's own for the main table.
pub(super) struct By<'a>(pub Option<&'a PolicyRule>);

impl Decision<'_> {
    /// Of the rule that decided. `None`: no rule was asked.
    pub(super) fn priority(&self) -> Option<u32> {
        match self {
            Decision::Local => Some(0),
            Decision::Forward { by, .. } | Decision::NoRoute { by: Some(by) } => {
                Some(by.0.map_or(MAIN_PRIORITY, |rule| rule.priority))
            }
            Decision::NoRoute { by: None } => Some(MAIN_PRIORITY),
            Decision::Martian(_) => None,
        }
    }
}

/// A route of any table, as far as a lookup asks.
struct Candidate<'a> {
    prefix: u8,
    metric: u32,
    /// `None`: unreachable.
    way: Option<(&'a InterfaceName, Option<IpAddr>)>,
}

/// ip_route_input_slow and fib_validate_source; of IPv6 ip6_rcv_core and ip6_forward. The lookup with local addresses comes first
/// (priority 0), then our rules by priority, then the main table.
pub(super) fn decide<'a>(
    dataplane: &'a Dataplane,
    host: &'a Host,
    in_interface: &str,
    (source, destination): (IpAddr, IpAddr),
    mark: u32,
) -> Decision<'a> {
    if let Some(reason) = martian(source, destination) {
        return Decision::Martian(reason);
    }
    if is_link_local6(destination) {
        return on_the_link(host, in_interface, destination);
    }
    let family = Family::of(destination);
    let local = host.is_local(destination) || is_to_many(host, destination) || is_old_broadcast(source, destination);
    // The box's own addresses do not come from outside; IPv6 does not ask.
    if family == Family::Ipv4 && (host.is_local(source) || is_to_many(host, source)) {
        return Decision::Martian("the source is an address of the box itself, or a broadcast address");
    }
    if local {
        return Decision::Local;
    }
    let asked = rules_asked(dataplane, family, |selector| match selector {
        RuleSelector::All => true,
        RuleSelector::FwMark { mark: value, mask } => mark & mask == *value,
        RuleSelector::InInterface(name) => name == in_interface,
        RuleSelector::From(net) => net.contains(&source),
        // What arrives by a wire has no output interface yet, and is not the box's own.
        RuleSelector::OutInterface(_) | RuleSelector::FromHere(_) => false,
    });
    for (table, by) in asked.into_iter().chain([(MAIN_TABLE, By(None))]) {
        match lookup(dataplane, host, table, destination) {
            None => {}
            Some(Candidate { way: Some((interface, _)), .. }) if stays_on_link(source) && interface != in_interface => {
                return Decision::Martian("a link-local source is not forwarded to another link");
            }
            Some(Candidate { way: Some((interface, gateway)), .. }) => {
                return Decision::Forward { interface, gateway, by };
            }
            Some(Candidate { way: None, .. }) => return Decision::NoRoute { by: Some(by) },
        }
    }
    Decision::NoRoute { by: None }
}

/// fib_rules_lookup: the tables that the matching rules of ours lead to, in the order in which they are asked.
fn rules_asked(dataplane: &Dataplane, family: Family, matches: impl Fn(&RuleSelector) -> bool) -> Vec<(u32, By<'_>)> {
    let ours: Vec<&PolicyRule> = dataplane.rules.iter().filter(|rule| rule.family == family).collect();
    let mut asked = Vec::new();
    let mut place = 0;
    while let Some(rule) = ours.get(place) {
        place += 1;
        match rule.action {
            _ if !matches(&rule.selector) => {}
            RuleAction::Lookup(table) => asked.push((table, By(Some(*rule)))),
            // Only ever forwards; one whose target is not there counts for nothing.
            RuleAction::Goto(to) if to > rule.priority => {
                place = ours.iter().position(|rule| rule.priority == to).unwrap_or(place);
            }
            RuleAction::Goto(_) | RuleAction::Nop => {}
        }
    }
    asked
}

/// A link-local address of IPv6 is looked for on the link of arrival alone, also when the box has it on another one.
fn on_the_link<'a>(host: &'a Host, in_interface: &str, destination: IpAddr) -> Decision<'a> {
    let here = host.links.get_key_value(in_interface).filter(|(_, link)| link.up);
    match here {
        Some((_, link)) if link.addresses.iter().any(|a| a.address == destination) => Decision::Local,
        Some((interface, link)) if link.addresses.iter().any(|a| a.subnet().contains(&destination)) => {
            Decision::Forward { interface, gateway: None, by: By(None) }
        }
        _ => Decision::NoRoute { by: None },
    }
}

fn is_link_local6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The longest prefix, then the lowest metric, among routes whose link is up.
fn lookup<'a>(dataplane: &'a Dataplane, host: &'a Host, table: u32, destination: IpAddr) -> Option<Candidate<'a>> {
    let ours = dataplane.routes.iter().filter(|r| r.table == table && r.destination.contains(&destination));
    let ours = ours.map(|r| Candidate {
        prefix: r.destination.prefix_len(),
        metric: r.metric,
        way: match &r.target {
            RouteTarget::Link { interface, .. } => Some((interface, None)),
            RouteTarget::Gateway { interface, gateway } => Some((interface, Some(*gateway))),
            RouteTarget::Unreachable => None,
        },
    });
    let main = host.main_routes.iter().filter(|r| table == MAIN_TABLE && r.destination.contains(&destination));
    let main = main.map(|r| Candidate {
        prefix: r.destination.prefix_len(),
        metric: r.metric,
        way: r.interface.as_ref().map(|interface| (interface, r.gateway)),
    });
    let up = |c: &Candidate<'_>| c.way.is_none_or(|(name, _)| host.links.get(name).is_some_and(|link| link.up));
    ours.chain(main).filter(up).min_by_key(|c| (std::cmp::Reverse(c.prefix), c.metric))
}

/// ip6_forward lets such a source go on only where it came from.
fn stays_on_link(source: IpAddr) -> bool {
    is_link_local6(source) || source.is_ipv6() && source.is_unspecified()
}

/// Broadcast of one of the box's subnets, limited broadcast, or multicast.
fn is_to_many(host: &Host, address: IpAddr) -> bool {
    let broadcast = match address {
        IpAddr::V4(_) => {
            is_limited_broadcast(address)
                || host
                    .addresses()
                    .any(|(_, a)| a.address.is_ipv4() && a.prefix_len < 31 && a.subnet().broadcast() == address)
        }
        IpAddr::V6(_) => false,
    };
    broadcast || address.is_multicast()
}

fn martian(source: IpAddr, destination: IpAddr) -> Option<&'static str> {
    if source.is_multicast() {
        return Some("the source is a multicast address");
    }
    if source.is_loopback() || destination.is_loopback() {
        return Some("loopback addresses do not come by a wire");
    }
    // Of 0.0.0.0/8 the kernel refuses this one address alone. DHCP and IGMP do without a source.
    let without_source =
        is_limited_broadcast(destination) || is_local_multicast(destination) || is_old_broadcast(source, destination);
    if destination.is_ipv4() && source.is_unspecified() && !without_source {
        return Some("the source is 0.0.0.0");
    }
    let to_nobody = destination.is_ipv4() && destination.is_unspecified() && !is_old_broadcast(source, destination);
    to_nobody.then_some("the destination is 0.0.0.0")
}

fn is_limited_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

/// 0.0.0.0 to 0.0.0.0: the broadcast of old BSDs, which the kernel still takes for one.
fn is_old_broadcast(source: IpAddr, destination: IpAddr) -> bool {
    source.is_ipv4() && source.is_unspecified() && destination == source
}

/// 224.0.0.0/24 (RFC 5771).
fn is_local_multicast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [224, 0, 0])
}
