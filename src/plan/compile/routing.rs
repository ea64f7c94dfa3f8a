//! Policy rules, the routing table of each external interface, and sysctls.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Context, from};
use crate::model::Family;
use crate::plan::topology::External;
use crate::ruleset::{
    Dataplane, LOCAL_TABLE, MAIN_TABLE, PolicyRule, Route, RouteTarget, RuleAction, RuleSelector, Sysctl, ownership,
};

const DEFAULT: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

pub fn compile(context: &Context, dataplane: &mut Dataplane) {
    let marks = context.marks();
    let by_mark = |mark| RuleSelector::FwMark { mark, mask: marks.slot_mask() };

    add(dataplane, ownership::PRIORITY_INSIDE, by_mark(marks.inside()), RuleAction::Lookup(MAIN_TABLE));
    for e in &context.topology.externals {
        let table = RuleAction::Lookup(e.table);
        // A packet from outside goes by its destination, whatever mark somebody's rules gave it: the slot's would send it back out.
        let from_outside = RuleSelector::InInterface(e.name.clone());
        add(dataplane, ownership::PRIORITY_OUTSIDE, from_outside, RuleAction::Goto(ownership::PRIORITY_BEHIND));
        add(dataplane, ownership::PRIORITY_MARK, by_mark(marks.slot(e.slot)), table);
        add(dataplane, ownership::PRIORITY_INTERFACE, RuleSelector::OutInterface(e.name.clone()), table);
        for selector in from::selectors(context, e) {
            if let RuleSelector::From(net) | RuleSelector::FromHere(net) = selector {
                add(dataplane, ownership::priority_from(&net), selector, table);
            }
        }
        routes(e, dataplane);
        if e.present {
            interface_sysctls(&e.name, dataplane);
        }
    }
    if !context.topology.externals.is_empty() {
        dataplane.rules.insert(PolicyRule {
            family: Family::Ipv4,
            priority: ownership::PRIORITY_BEHIND,
            selector: RuleSelector::All,
            action: RuleAction::Nop,
        });
    }
    global_sysctls(context, dataplane);
}

/// A rule, and its twin ahead of it: where others moved the kernel's rule for the local table (0) behind ours, the box's own addresses
/// are still found first. A rule without selector would do so for the traffic of everybody, which they may not want.
fn add(dataplane: &mut Dataplane, priority: u32, selector: RuleSelector, action: RuleAction) {
    let family = Family::Ipv4;
    let twin = PolicyRule::lookup(family, priority - ownership::TWIN, selector.clone(), LOCAL_TABLE);
    dataplane.rules.extend([twin, PolicyRule { family, priority, selector, action }]);
}

fn routes(e: &External, dataplane: &mut Dataplane) {
    // Stands also while the interface is away: nothing of it leaks through the default gateway.
    dataplane.routes.insert(Route {
        table: e.table,
        destination: DEFAULT,
        target: RouteTarget::Unreachable,
        metric: ownership::UNREACHABLE_METRIC,
    });
    if !e.up {
        return;
    }
    for (net, source) in &e.subnets {
        dataplane.routes.insert(Route {
            table: e.table,
            destination: IpNet::V4(*net),
            target: RouteTarget::Link { interface: e.name.clone(), source: IpAddr::V4(*source) },
            metric: 0,
        });
    }
    if let Some((gateway, source)) = e.gateway.zip(e.gateway_on_link) {
        dataplane.routes.insert(Route {
            table: e.table,
            destination: IpNet::from(IpAddr::V4(gateway)),
            target: RouteTarget::Link { interface: e.name.clone(), source: IpAddr::V4(source) },
            metric: 0,
        });
    }
    if let Some(gateway) = e.gateway {
        dataplane.routes.insert(Route {
            table: e.table,
            destination: DEFAULT,
            target: RouteTarget::Gateway { interface: e.name.clone(), gateway: IpAddr::V4(gateway) },
            metric: 0,
        });
    }
}

fn set(dataplane: &mut Dataplane, family: Family, interface: &str, key: &'static str, value: &str) {
    let sysctl = Sysctl::Interface { family, interface: interface.to_owned(), key };
    dataplane.sysctls.insert(sysctl, value.to_owned());
}

fn interface_sysctls(name: &str, dataplane: &mut Dataplane) {
    dataplane.sysctls.insert(Sysctl::Forwarding(name.to_owned()), "1".to_owned());
    for (key, value) in [
        ("rp_filter", "0"),
        ("accept_redirects", "0"),
        ("send_redirects", "0"),
        ("accept_source_route", "0"),
        // No packet comes from outside with an address of the box, or to one of 127/8.
        ("accept_local", "0"),
        ("route_localnet", "0"),
        // A broadcast to a subnet of the inside is not carried there.
        ("bc_forwarding", "0"),
        // What is routed to others is not answered for in the external network.
        ("proxy_arp", "0"),
        ("proxy_arp_pvlan", "0"),
        // Each interface answers ARP for its own addresses only and asks with them only.
        ("arp_ignore", "1"),
        ("arp_announce", "2"),
    ] {
        set(dataplane, Family::Ipv4, name, key, value);
    }
    for key in ["accept_ra", "accept_redirects", "autoconf"] {
        set(dataplane, Family::Ipv6, name, key, "0");
    }
}

fn global_sysctls(context: &Context, dataplane: &mut Dataplane) {
    // The effective value is the greater one of `all` and the interface.
    set(dataplane, Family::Ipv4, "all", "rp_filter", "0");
    set(dataplane, Family::Ipv4, "all", "send_redirects", "0");
    // Without forwarding on the interface, either one of the two would do.
    set(dataplane, Family::Ipv4, "all", "accept_redirects", "0");
    if context.has_shared() {
        // The inside interface must not answer for the external ones beside it.
        set(dataplane, Family::Ipv4, "all", "arp_ignore", "1");
        set(dataplane, Family::Ipv4, "all", "arp_announce", "2");
    }
    // A client of the inside may be led to a pod by the interface that it came by. Told to go there by itself, it would do so with the
    // mapped address.
    set(dataplane, Family::Ipv4, &context.config.gateway_interface, "send_redirects", "0");
    // A packet out of window must not become INVALID, untranslated, and leave with a pod's address.
    dataplane.sysctls.insert(Sysctl::Net("netfilter/nf_conntrack_tcp_be_liberal"), "1".to_owned());
    dataplane.sysctls.insert(Sysctl::IpForward, "1".to_owned());
}
