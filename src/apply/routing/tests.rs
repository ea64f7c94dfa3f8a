use std::collections::BTreeMap;

use netlink_packet_route::route::{RouteAttribute, RouteScope, RouteType};

use super::*;
use crate::model::{Family, StrayKind};
use crate::ruleset::{LOCAL_TABLE, RuleSelector};

fn gateway(gateway: &str) -> Route {
    Route {
        table: 1001,
        destination: "0.0.0.0/0".parse().unwrap(),
        target: RouteTarget::Gateway { interface: "eth1".into(), gateway: gateway.parse().unwrap() },
        metric: 0,
    }
}

fn link() -> Route {
    Route {
        table: 1001,
        destination: "203.0.113.0/24".parse().unwrap(),
        target: RouteTarget::Link { interface: "eth1".into(), source: "203.0.113.10".parse().unwrap() },
        metric: 0,
    }
}

fn unreachable(destination: &str, metric: u32) -> Route {
    Route { table: 1001, destination: destination.parse().unwrap(), target: RouteTarget::Unreachable, metric }
}

fn rule(priority: u32) -> PolicyRule {
    let selector = RuleSelector::FwMark { mark: 0x10000, mask: 0x0fff_0000 };
    PolicyRule::lookup(Family::Ipv4, priority, selector, 1001)
}

fn plan(routes: &[Route], rules: &[PolicyRule]) -> Dataplane {
    Dataplane {
        routes: routes.iter().cloned().collect(),
        rules: rules.iter().cloned().collect(),
        tables: BTreeMap::new(),
        sets: BTreeMap::new(),
        sysctls: BTreeMap::new(),
    }
}

fn host(routes: &[Route], rules: &[PolicyRule]) -> Host {
    Host { own_routes: routes.iter().cloned().collect(), own_rules: rules.to_vec(), ..Host::default() }
}

#[test]
fn equal_states_need_no_change() {
    let (routes, rules) = ([gateway("203.0.113.1"), link(), unreachable("0.0.0.0/0", 9)], [rule(100)]);
    assert!(diff(&plan(&routes, &rules), &host(&routes, &rules)).is_empty());
}

#[test]
fn routes_are_added_unreachable_first_and_gateway_last_and_removed_the_other_way() {
    let routes = [gateway("203.0.113.1"), link(), unreachable("0.0.0.0/0", 9)];
    let order = [unreachable("0.0.0.0/0", 9), link(), gateway("203.0.113.1")];
    assert_eq!(diff(&plan(&routes, &[]), &host(&[], &[])).add_routes, order);
    let mut reverse = order;
    reverse.reverse();
    assert_eq!(diff(&plan(&[], &[]), &host(&routes, &[])).del_routes, reverse);
}

#[test]
fn a_route_of_the_same_key_is_replaced_and_not_deleted() {
    let change = diff(&plan(&[gateway("203.0.113.254")], &[]), &host(&[gateway("203.0.113.1")], &[]));
    assert_eq!(change, RoutingChange { add_routes: vec![gateway("203.0.113.254")], ..RoutingChange::default() });
}

#[test]
fn a_route_of_another_metric_is_deleted() {
    let change = diff(&plan(&[unreachable("0.0.0.0/0", 9)], &[]), &host(&[unreachable("0.0.0.0/0", 8)], &[]));
    assert_eq!(change.add_routes, [unreachable("0.0.0.0/0", 9)]);
    assert_eq!(change.del_routes, [unreachable("0.0.0.0/0", 8)]);
}

#[test]
fn of_a_duplicated_rule_one_stays_when_it_is_wanted_and_none_otherwise() {
    let three = [rule(100), rule(100), rule(100)];
    let change = diff(&plan(&[], &[rule(100)]), &host(&[], &three));
    assert_eq!(change, RoutingChange { del_rules: vec![rule(100), rule(100)], ..RoutingChange::default() });
    assert_eq!(diff(&plan(&[], &[]), &host(&[], &three)).del_rules, three);
}

#[test]
fn twins_come_first_and_go_last_and_a_goto_never_lacks_its_target() {
    let twin = |priority| PolicyRule::lookup(Family::Ipv4, priority, rule(0).selector, LOCAL_TABLE);
    let outside = RuleSelector::InInterface("eth1".into());
    let goto = PolicyRule { family: Family::Ipv4, priority: 88, selector: outside, action: RuleAction::Goto(101) };
    let nop = PolicyRule { family: Family::Ipv4, priority: 101, selector: RuleSelector::All, action: RuleAction::Nop };
    let all = [goto.clone(), twin(89), rule(90), twin(99), rule(100), nop.clone()];
    let order = [nop.clone(), goto.clone(), twin(89), rule(90), twin(99), rule(100)];
    assert_eq!(diff(&plan(&[], &all), &host(&[], &[])).add_rules, order);
    let order = [rule(100), twin(99), rule(90), twin(89), goto, nop];
    assert_eq!(diff(&plan(&[], &[]), &host(&[], &all)).del_rules, order);
}

#[test]
fn the_default_metric_of_ipv6_is_none() {
    assert!(diff(&plan(&[unreachable("::/0", 1024)], &[]), &host(&[unreachable("::/0", 0)], &[])).is_empty());
    let ipv4 = diff(&plan(&[unreachable("0.0.0.0/0", 1024)], &[]), &host(&[unreachable("0.0.0.0/0", 0)], &[]));
    assert_eq!(ipv4.len(), 2, "IPv4 has no default metric");
}

#[test]
fn strays_are_deleted() {
    let stray = OwnStray { kind: StrayKind::Route, description: "odd".into(), message: vec![] };
    let host = Host { own_strays: vec![stray.clone()], ..Host::default() };
    assert_eq!(diff(&plan(&[], &[]), &host).del_strays, [stray]);
}

#[test]
fn messages_name_table_scope_and_metric() {
    let message = message::route(&link(), Some(5000));
    assert_eq!((message.header.kind, message.header.scope), (RouteType::Unicast, RouteScope::Link));
    assert!(message.attributes.contains(&RouteAttribute::Table(1001)));
    assert!(message.attributes.contains(&RouteAttribute::Oif(5000)));
    assert!(!message.attributes.iter().any(|a| matches!(a, RouteAttribute::Priority(_))));
    let ipv6 = message::route(&unreachable("::/0", 0), None);
    assert!(ipv6.attributes.contains(&RouteAttribute::Priority(1024)), "a deletion would take any metric");
}
