//! A dataplane as input of the kernel's tools.

use std::fmt::Write;

use smartnat::model::{Family, Host};
use smartnat::ruleset::{Dataplane, RouteTarget, SetKind};

/// For `iptables-restore --noflush`, or `ip6tables-restore`.
pub fn tables(plane: &Dataplane, family: Family) -> String {
    let mut text = String::new();
    for ((_, table), rules) in plane.tables.iter().filter(|((f, _), _)| *f == family) {
        _ = writeln!(text, "*{table}");
        for chain in rules.chains.keys() {
            _ = writeln!(text, ":{chain} - [0:0]");
        }
        for (chain, rules) in &rules.chains {
            for rule in rules.iter() {
                _ = writeln!(text, "-A {chain} {rule}");
            }
        }
        for hook in rules.builtins() {
            for rule in rules.of_builtin(hook) {
                _ = writeln!(text, "-A {hook} {rule}");
            }
        }
        _ = writeln!(text, "COMMIT");
    }
    text
}

/// For `ipset restore`: lists after what they hold.
pub fn sets(plane: &Dataplane) -> String {
    let family = |family: Family| if family == Family::Ipv4 { "inet" } else { "inet6" };
    let (lists, plain): (Vec<_>, Vec<_>) = plane.sets.iter().partition(|(_, set)| set.kind == SetKind::List);
    let mut text = String::new();
    for (name, set) in plain.into_iter().chain(lists) {
        let kind = match set.kind {
            SetKind::HashNet(f) => format!("hash:net family {}", family(f)),
            SetKind::HashIp(f) => format!("hash:ip family {}", family(f)),
            SetKind::HashIpPort(f) => format!("hash:ip,port family {}", family(f)),
            SetKind::HashIpMark(f) => format!("hash:ip family {} skbinfo", family(f)),
            SetKind::Affinity(f) => format!("hash:ip family {} timeout 0 forceadd", family(f)),
            SetKind::List => "list:set".to_owned(),
        };
        _ = writeln!(text, "create {name} {kind}");
        for member in set.members.iter() {
            _ = writeln!(text, "add {name} {member}");
        }
    }
    text
}

/// For `ip -batch`: addresses, routes and rules. Routes of a link's own subnet come with its addresses.
pub fn addresses_and_routing(plane: &Dataplane, host: &Host) -> String {
    let mut text = String::new();
    for (name, address) in host.addresses() {
        let ours_already = name == "lo" && address.address.is_loopback();
        if !ours_already {
            _ = writeln!(text, "address add {}/{} dev {name}", address.address, address.prefix_len);
        }
    }
    let via_gateway = host.main_routes.iter().filter_map(|r| Some((r, r.interface.as_ref()?, r.gateway?)));
    for (route, interface, gateway) in via_gateway {
        _ = writeln!(text, "route add {} via {gateway} dev {interface} metric {}", route.destination, route.metric);
    }
    for route in &plane.routes {
        let (kind, way) = match &route.target {
            RouteTarget::Link { interface, source } => ("", format!("dev {interface} scope link src {source}")),
            RouteTarget::Gateway { interface, gateway } => ("", format!("via {gateway} dev {interface}")),
            RouteTarget::Unreachable => ("unreachable ", String::new()),
        };
        let (destination, table, metric) = (route.destination, route.table, route.metric);
        _ = writeln!(text, "route add {kind}{destination} {way} table {table} metric {metric}");
    }
    for rule in &plane.rules {
        _ = writeln!(text, "rule add {} priority {} {}", rule.selector, rule.priority, rule.action);
    }
    text
}
