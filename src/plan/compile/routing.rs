//! Policy rules, the routing table of each external interface, and sysctls.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::Context;
use crate::model::Family;
use crate::plan::topology::External;
use crate::ruleset::{Dataplane, MAIN_TABLE, PolicyRule, Route, RouteTarget, RuleSelector, Sysctl, ownership};

const DEFAULT: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

pub fn compile(context: &Context, dataplane: &mut Dataplane) {
    let marks = context.marks();
    let rule = |priority, selector, table| PolicyRule { family: Family::Ipv4, priority, selector, table };
    let by_mark = |mark| RuleSelector::FwMark { mark, mask: marks.slot_mask() };

    dataplane.rules.insert(rule(ownership::PRIORITY_INSIDE, by_mark(marks.inside()), MAIN_TABLE));
    for e in &context.topology.externals {
        dataplane.rules.insert(rule(ownership::PRIORITY_MARK, by_mark(marks.slot(e.slot)), e.table));
        let bound = RuleSelector::OutInterface(e.name.clone());
        dataplane.rules.insert(rule(ownership::PRIORITY_INTERFACE, bound, e.table));
        for address in e.addresses.iter().filter(|a| a.is_ipv4()) {
            let net = IpNet::from(*address);
            dataplane.rules.insert(rule(ownership::priority_from(&net), RuleSelector::From(net), e.table));
        }
        routes(e, dataplane);
        if e.present {
            interface_sysctls(&e.name, dataplane);
        }
    }
    global_sysctls(context, dataplane);
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
    for (key, value) in [
        ("rp_filter", "0"),
        ("accept_redirects", "0"),
        ("send_redirects", "0"),
        ("accept_source_route", "0"),
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
    if context.has_shared() {
        // The inside interface must not answer for the external ones beside it.
        set(dataplane, Family::Ipv4, "all", "arp_ignore", "1");
        set(dataplane, Family::Ipv4, "all", "arp_announce", "2");
    }
    // A packet out of window must not become INVALID, untranslated, and leave with a pod's address.
    dataplane.sysctls.insert(Sysctl::Net("netfilter/nf_conntrack_tcp_be_liberal"), "1".to_owned());
    dataplane.sysctls.insert(Sysctl::IpForward, "1".to_owned());
}
