//! Routes and policy rules: the difference between what is planned and what the kernel holds under our protocol number, and its way into
//! the kernel.

mod apply;
mod message;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipnet::IpNet;

use super::routing_memory::WrittenRouting;
use crate::model::{Host, OwnStray};
use crate::ruleset::{Dataplane, PolicyRule, Route, RouteTarget, RuleAction};

pub use apply::{Routing, RoutingError, RoutingFailure};

/// What has to be written, each list in the order of writing. An equal key (table, destination, metric) of an added route replaces what
/// we had there, without a moment in between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutingChange {
    pub add_routes: Vec<Route>,
    pub del_routes: Vec<Route>,
    pub add_rules: Vec<PolicyRule>,
    /// A rule stands here as often as it must be deleted.
    pub del_rules: Vec<PolicyRule>,
    pub del_strays: Vec<OwnStray>,
}

impl RoutingChange {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of kernel objects to be written or deleted.
    pub fn len(&self) -> usize {
        self.add_routes.len()
            + self.del_routes.len()
            + self.add_rules.len()
            + self.del_rules.len()
            + self.del_strays.len()
    }
}

/// What brings the routes and rules of the kernel, as the host shows them, to those of the plan.
pub fn diff(desired: &Dataplane, host: &Host) -> RoutingChange {
    let wanted: BTreeSet<Route> = desired.routes.iter().map(as_read_back).collect();

    // A table must not be without its unreachable default for a moment, else packets fall through to the main table; a gateway can be
    // added only when its link route is there.
    let mut add_routes: Vec<Route> = wanted.difference(&host.own_routes).cloned().collect();
    add_routes.sort_by_key(|route| write_order(&route.target));

    let mut holders: BTreeMap<RouteKey, usize> = BTreeMap::new();
    for route in &host.own_routes {
        *holders.entry(key(route)).or_default() += 1;
    }
    let replacing: BTreeSet<RouteKey> =
        // Where IPv6 holds several under one key, it is not said which one goes.
        add_routes.iter().map(key).filter(|key| holders.get(key) == Some(&1)).collect();
    let mut del_routes: Vec<Route> =
        host.own_routes.difference(&wanted).filter(|route| !replacing.contains(&key(route))).cloned().collect();
    del_routes.sort_by_key(|route| Reverse(write_order(&route.target)));

    let mut present: BTreeMap<&PolicyRule, usize> = BTreeMap::new();
    for rule in &host.own_rules {
        *present.entry(rule).or_default() += 1;
    }
    // Twins first. The target of a goto is there before it, and goes after it: until then the goto counts for nothing.
    let mut add_rules: Vec<PolicyRule> =
        desired.rules.iter().filter(|rule| !present.contains_key(rule)).cloned().collect();
    add_rules.sort_by_key(|rule| (rule.action != RuleAction::Nop, rule.priority));
    let mut del_rules: Vec<PolicyRule> = present
        .into_iter()
        .flat_map(|(rule, count)| {
            let surplus = count - usize::from(desired.rules.contains(rule));
            std::iter::repeat_n(rule, surplus).cloned()
        })
        .collect();
    del_rules.sort_by_key(|rule| (rule.action == RuleAction::Nop, Reverse(rule.priority)));

    RoutingChange { add_routes, del_routes, add_rules, del_rules, del_strays: host.own_strays.clone() }
}

/// What a look shows of ours once all of a plan is written.
pub(super) fn as_looked_at(desired: &Dataplane, at: Instant) -> WrittenRouting {
    WrittenRouting {
        routes: desired.routes.iter().map(as_read_back).collect(),
        rules: desired.rules.iter().cloned().collect(),
        at,
    }
}

type RouteKey = (u32, IpNet, u32);

/// By this the kernel tells routes apart.
fn key(route: &Route) -> RouteKey {
    (route.table, route.destination, route.metric)
}

fn write_order(target: &RouteTarget) -> u8 {
    match target {
        RouteTarget::Unreachable => 0,
        RouteTarget::Link { .. } => 1,
        RouteTarget::Gateway { .. } => 2,
    }
}

/// The metric that the kernel gives an IPv6 route without one (IP6_RT_PRIO_USER); a look shows it as none.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// As a look shows a route once it is written: networks without host bits, the default metric of IPv6 as none.
fn as_read_back(route: &Route) -> Route {
    let mut route = route.clone();
    route.destination = route.destination.trunc();
    if matches!(route.destination, IpNet::V6(_)) && route.metric == IPV6_DEFAULT_METRIC {
        route.metric = 0;
    }
    route
}

#[cfg(test)]
mod tests;
