//! Interfaces above external ones, in plans.

use std::collections::BTreeSet;

use smartnat::model::{BorderConfig, Family};
use smartnat::plan::{InterfaceKind, Plan, plan};
use smartnat::ruleset::{SetMember, Table};
use smartnat::sources::describe::parse_host;

use crate::world::{config, reference};

const HOST: &str = "
interfaces:
  eth0: {addresses: [10.0.0.2/16]}
  eth1: {addresses: [203.0.113.10/24]}
  eth1.5: {kind: vlan, over: [eth1], addresses: [10.0.7.1/24]}
  eth1.6: {kind: vlan, over: [eth1], addresses: [192.168.6.1/24]}
  br6: {kind: bridge, addresses: [192.168.66.1/24]}
  veth6: {kind: veth, master: br6}
routes:
- {to: default, via: 10.0.0.1, dev: eth0}
- {to: 172.16.0.0/12, via: 192.168.6.9, dev: eth1.6}
";

fn planned(config: &BorderConfig) -> Plan {
    let mut world = reference();
    world.host = parse_host(HOST).unwrap();
    plan(config, &world)
}

fn kind(plan: &Plan, name: &str) -> InterfaceKind {
    plan.interfaces.iter().find(|i| i.name == name).unwrap().kind
}

fn inner(plan: &Plan) -> BTreeSet<String> {
    let members = &plan.dataplane.sets["SN-INNER"].members;
    members.iter().filter_map(|m| if let SetMember::Net(net) = m { Some(net.to_string()) } else { None }).collect()
}

fn rules(plan: &Plan, name: &str) -> Vec<String> {
    let mangle = &plan.dataplane.tables[&(Family::Ipv4, Table::Mangle)];
    let texts = mangle.chains.values().flat_map(|chain| chain.iter()).map(ToString::to_string);
    texts.filter(|rule| rule.split(' ').any(|word| word == name)).collect()
}

#[test]
fn their_networks_are_outside_also_within_an_inside_network() {
    let plan = planned(&config());
    assert_eq!(kind(&plan, "eth1.5"), InterfaceKind::AboveExternal);
    let inner = inner(&plan);
    assert!(!inner.iter().any(|net| net.starts_with("192.168.6.") || net.starts_with("172.16.")), "{inner:?}");
    assert!(inner.contains("192.168.66.0/24"), "{inner:?}");
    // The rest of 10.0.0.0/16 without 10.0.7.0/24.
    assert!(
        inner.contains("10.0.128.0/17") && !inner.contains("10.0.0.0/16") && !inner.contains("10.0.7.0/24"),
        "{inner:?}"
    );
    for rule in rules(&plan, "eth1.6") {
        assert!(rule.starts_with("-o eth1.6 ") && rule.ends_with("-j DROP"), "{rule}");
    }
    assert_eq!(rules(&plan, "eth1.6").len(), 2, "forwarded to it, and answered by it");
}

#[test]
fn a_name_in_the_settings_makes_one_inside_with_its_networks() {
    let mut config = config();
    config.inside_interfaces.insert("eth1.6".to_owned());
    let plan = planned(&config);
    assert_eq!((kind(&plan, "eth1.5"), kind(&plan, "eth1.6")), (InterfaceKind::AboveExternal, InterfaceKind::Inside));
    let inner = inner(&plan);
    assert!(inner.contains("192.168.6.0/24") && inner.contains("172.16.0.0/12"), "{inner:?}");
    assert!(rules(&plan, "eth1.6").iter().any(|rule| rule.starts_with("-i eth1.6 ")));
}

#[test]
fn the_name_wins_over_the_pattern_and_both_are_told() {
    let mut config = config();
    config.external_pattern = regex::Regex::new("^(?:eth[1-9].*)$").unwrap();
    config.inside_interfaces.insert("eth1.6".to_owned());
    let plan = planned(&config);
    assert_eq!((kind(&plan, "eth1.5"), kind(&plan, "eth1.6")), (InterfaceKind::External, InterfaceKind::Inside));
    let inside = plan.interfaces.iter().find(|i| i.name == "eth1.6").unwrap();
    assert!(inside.notes[0].contains("SNCTRLR_INTERFACES_PATTERN matches it and it stands above eth1"), "{inside:?}");
}
