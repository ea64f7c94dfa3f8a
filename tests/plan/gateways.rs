//! Names, addresses and gateways of external interfaces.

use smartnat::model::{BorderConfig, Host, PerInterface};
use smartnat::plan::{InterfaceKind, InterfaceOutcome, Plan, plan};

use crate::world::{config, reference};

fn interface<'a>(plan: &'a Plan, name: &str) -> &'a InterfaceOutcome {
    plan.interfaces.iter().find(|i| i.name == name).unwrap_or_else(|| panic!("{name}: {:?}", plan.interfaces))
}

fn add_altname(host: &mut Host, interface: &str, altname: &str) {
    host.links.get_mut(interface).unwrap().altnames.insert(altname.to_owned());
}

#[test]
fn settings_name_interfaces_by_altnames_too() {
    let mut world = reference();
    add_altname(&mut world.host, "eth0", "enp1s0");
    add_altname(&mut world.host, "eth2", "wan-with-a-name-of-more-than-fifteen");
    let by_name =
        plan(&BorderConfig { gateway_offsets: PerInterface::new(1, [("eth2".into(), -1)].into()), ..config() }, &world);
    let mut config = config();
    config.gateway_interface = "enp1s0".into();
    config.gateway_offsets = PerInterface::new(1, [("wan-with-a-name-of-more-than-fifteen".into(), -1)].into());
    let by_altname = plan(&config, &world);
    assert_eq!(by_altname, by_name);
    assert_eq!(interface(&by_altname, "eth2").gateway, Some("198.51.100.254".parse().unwrap()));

    // It is gone again: nothing is the gateway interface, and no rule holds what the kernel would refuse as a name.
    config.gateway_interface = "a-gateway-of-more-than-fifteen".into();
    let lost = plan(&config, &world);
    let outcome = interface(&lost, "a-gateway-of-more-than-fifteen");
    assert_eq!(outcome.kind, InterfaceKind::Gateway);
    assert!(outcome.problem.as_ref().unwrap().contains("SNCTRLR_DEFAULT_GW_INTERFACE"), "{outcome:?}");
    let rules = lost.dataplane.tables.values().flat_map(|t| t.chains.values()).flatten();
    assert!(rules.into_iter().all(|rule| !rule.to_string().contains("a-gateway-of")));
}

#[test]
fn an_altname_matches_no_pattern() {
    let mut world = reference();
    let mut cluster = world.host.links["eth0"].clone();
    cluster.addresses.clear();
    cluster.altnames.insert("eth7".into());
    world.host.links.insert("cluster0".into(), cluster);
    let plan = plan(&config(), &world);
    assert_eq!(interface(&plan, "cluster0").kind, InterfaceKind::Inside);
}

#[test]
fn one_interface_under_two_names_is_told() {
    let mut world = reference();
    add_altname(&mut world.host, "eth2", "a-first-name");
    let mut config = config();
    config.gateway_offsets =
        PerInterface::new(1, [("eth2".into(), -1), ("a-first-name".into(), 2), ("eth9".into(), 2)].into());
    let plan = plan(&config, &world);
    let eth2 = interface(&plan, "eth2");
    assert_eq!(eth2.gateway, Some("198.51.100.254".parse().unwrap()), "the kernel's name counts");
    assert!(eth2.notes[0].contains("a-first-name") && eth2.notes[0].contains("eth2 in"), "{eth2:?}");
    assert_eq!(interface(&plan, "eth1").notes, Vec::<String>::new());
}
