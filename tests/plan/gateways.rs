//! Names, addresses and gateways of external interfaces.

use smartnat::model::{BorderConfig, Host, InterfaceAddress, MainRoute, PerInterface, World};
use smartnat::plan::{InterfaceKind, InterfaceOutcome, Plan, ProgrammedReason, plan};

use crate::world::{config, key, mapping_mut, reference};

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
    let rules = lost.dataplane.tables.values().flat_map(|t| t.chains.values()).flat_map(|chain| chain.iter());
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

/// Destination and way of every route in the table of eth1.
fn routes(plan: &Plan) -> Vec<String> {
    plan.dataplane.routes.iter().filter(|r| r.table == 1001).map(ToString::to_string).collect()
}

#[test]
fn a_named_gateway_outside_of_every_subnet_has_a_route_of_its_own() {
    let mut world = reference();
    set_addresses(&mut world.host, "eth1", &["203.0.113.10/32", "203.0.113.11/32"]);
    let refused = plan(&config(), &world);
    assert!(interface(&refused, "eth1").problem.as_ref().unwrap().contains("SNCTRLR_GW_ADDRESS"));
    assert_eq!(refused.mappings[&key("web")].configured.len(), 1, "eth2 serves on");

    let mut config = config();
    config.gateway_addresses = PerInterface::new(None, [("eth1".into(), Some("100.64.0.1".parse().unwrap()))].into());
    let named = plan(&config, &world);
    assert_eq!((interface(&named, "eth1").problem.as_ref(), named.mappings[&key("web")].configured.len()), (None, 3));
    let routes = routes(&named);
    for expected in [
        "100.64.0.1/32 dev eth1 table 1001 scope link src 203.0.113.10",
        "0.0.0.0/0 via 100.64.0.1 dev eth1 table 1001",
    ] {
        assert!(routes.iter().any(|r| r == expected), "{expected}: {routes:?}");
    }
    assert_eq!(interface(&named, "eth2").gateway, Some("198.51.100.1".parse().unwrap()), "by the offset");
}

#[test]
fn a_single_address_ahead_of_the_subnets_takes_nothing_out() {
    let mut world = reference();
    let before = plan(&config(), &world);
    set_addresses(&mut world.host, "eth1", &["203.0.113.99/32", "203.0.113.10/24", "203.0.113.11/24"]);
    let after = plan(&config(), &world);
    assert_eq!(interface(&after, "eth1").gateway, interface(&before, "eth1").gateway);
    assert_eq!(after.mappings, before.mappings);
}

#[test]
fn two_subnets_with_routers_of_their_own_are_told() {
    let mut world = reference();
    set_addresses(&mut world.host, "eth1", &["203.0.113.10/24", "192.0.2.10/28"]);
    let plan = plan(&config(), &world);
    let eth1 = interface(&plan, "eth1");
    assert_eq!((eth1.gateway, eth1.problem.as_ref()), (Some("203.0.113.1".parse().unwrap()), None));
    assert!(eth1.notes[0].contains("192.0.2.1") && eth1.notes[0].contains("SNCTRLR_GW_ADDRESS"), "{eth1:?}");
    let defaults = routes(&plan).into_iter().filter(|r| r.starts_with("0.0.0.0/0 via")).count();
    assert_eq!(defaults, 1, "one way out for the interface's connections");
}

fn set_addresses(host: &mut Host, interface: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|a| InterfaceAddress::of(a.parse().unwrap()));
    host.links.get_mut(interface).unwrap().addresses = addresses.collect();
}

#[test]
fn a_mapping_whose_pods_are_reached_from_outside_is_not_programmed() {
    let mut world = reference();
    let mut config = config();
    config.external_pattern = regex::Regex::new("^(?:eth.*)$").unwrap();
    let served = plan(&config, &world);
    assert_eq!(served.mappings[&key("web")].programmed.reason, ProgrammedReason::Programmed);
    // No interface is the gateway one, and the pattern makes eth0 external.
    config.gateway_interface = "enp1s0".into();
    let barred = plan(&config, &world);
    assert_eq!(barred.mappings[&key("web")].programmed.reason, ProgrammedReason::NoReadyEndpoints);
    // The same where the default route alone leads to the pods.
    let mut by_default = world.clone();
    by_default.host.main_routes.retain(|r| r.destination.prefix_len() == 0);
    let lost = plan(&config, &by_default);
    let programmed = &lost.mappings[&key("web")].programmed;
    assert_eq!((programmed.ok, programmed.reason), (false, ProgrammedReason::EndpointsOutside), "{programmed:?}");
    assert!(programmed.message.contains("SNCTRLR_DEFAULT_GW_INTERFACE"), "{programmed:?}");
    // Pods behind a cluster interface are reached all the same, by a better route or by an equal one.
    world.host.links.insert("cluster0".into(), world.host.links["eth0"].clone());
    let route = world.host.main_routes.iter().find(|r| r.destination.prefix_len() == 16).unwrap();
    let route = MainRoute { interface: Some("cluster0".into()), ..route.clone() };
    for destination in ["10.244.1.0/24", "10.244.0.0/16"] {
        let mut world = world.clone();
        world.host.main_routes.push(MainRoute { destination: destination.parse().unwrap(), ..route.clone() });
        let reached = plan(&config, &world);
        assert_eq!(reached.mappings[&key("web")].programmed.reason, ProgrammedReason::Programmed);
    }
}

#[test]
fn an_address_within_a_local_network_is_served_and_the_network_is_no_set_of_addresses() {
    let mut world = reference();
    let web = mapping_mut(&mut world, "web");
    web.spec.addresses = vec!["192.0.2.249".into(), "192.0.2.252".into(), "192.0.2.253".into()];
    world.host.local_routes.insert("192.0.2.248/29".parse().unwrap(), "eth1".into());
    // More specific than the network: another local route, and an address.
    world.host.local_routes.insert("192.0.2.252/32".parse().unwrap(), "lo".into());
    world.host.links.get_mut("eth0").unwrap().addresses.push(InterfaceAddress::of("192.0.2.253/32".parse().unwrap()));
    let plan = plan(&config(), &world);
    let addresses: Vec<String> = plan.mappings[&key("web")].configured.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.249"]);
    assert_eq!(plan.dataplane.sets["SN-EXT-NET"].members.len(), 1);
    let from: Vec<String> = plan.dataplane.rules.iter().map(ToString::to_string).collect();
    assert!(from.contains(&"from 192.0.2.248/29 lookup 1001 pref 123".to_owned()), "{from:?}");
    assert!(interface(&plan, "eth1").notes[0].contains("192.0.2.248/29"));
}

#[test]
fn many_addresses_of_a_subnet_are_few_policy_rules() {
    let mut world = reference();
    let address = |text: String| InterfaceAddress::of(text.parse().unwrap());
    let more = (64..192).filter(|n| *n != 130).map(|n| address(format!("203.0.113.{n}/24")));
    world.host.links.get_mut("eth1").unwrap().addresses.extend(more);
    let from = |world: &World| -> Vec<String> {
        let rules = plan(&config(), world).dataplane.rules;
        let texts = rules.iter().map(ToString::to_string);
        texts.filter(|text| text.starts_with("from 203.") && text.contains("lookup 1001")).collect()
    };
    assert_eq!(from(&world), ["from 203.0.113.0/24 iif lo lookup 1001 pref 128"]);
    // What the box has there on another interface is not answered by this one.
    world.host.links.get_mut("eth0").unwrap().addresses.push(address("203.0.113.130/32".to_owned()));
    world.host.local_routes.insert("203.0.113.16/28".parse().unwrap(), "lo".into());
    let nets: Vec<ipnet::IpNet> =
        from(&world).iter().map(|text| text.split(' ').nth(1).unwrap()).map(net_of_words).collect();
    let hits = |n: u8| nets.iter().filter(|net| net.contains(&std::net::IpAddr::from([203, 0, 113, n]))).count();
    assert!((64..192).filter(|n| *n != 130).chain([10, 11]).all(|n| hits(n) == 1), "{nets:?}");
    assert!((16..32).chain([130]).all(|n| hits(n) == 0), "{nets:?}");
    assert!(nets.len() < 15, "{nets:?}");
}

/// An address without a length stands for itself.
fn net_of_words(text: &str) -> ipnet::IpNet {
    text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from)).unwrap()
}
