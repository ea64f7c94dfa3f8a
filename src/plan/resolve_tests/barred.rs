use std::collections::BTreeMap;

use super::*;
use crate::model::{Family, Host, InterfaceAddress, Link, MainRoute, World};
use crate::plan::{MappingOutcome, ProgrammedReason, plan};

/// eth0 inside, eth1 external with the Mapping's address, and more addresses of eth0.
fn host(more: &[(&str, &str)]) -> Host {
    let mut host = Host::default();
    for (name, address) in
        [("lo", "127.0.0.1/8"), ("eth0", "10.0.0.2/24"), ("eth1", "203.0.113.10/24")].iter().chain(more)
    {
        let link = host.links.entry((*name).to_owned()).or_insert(Link { up: true, carrier: true, ..Link::default() });
        let net: ipnet::IpNet = address.parse().unwrap();
        link.addresses.push(InterfaceAddress {
            address: net.addr(),
            prefix_len: net.prefix_len(),
            peer: None,
            secondary: false,
        });
    }
    host.main_routes = vec![
        route("0.0.0.0/0", Some("eth0"), 0),
        route("10.0.0.0/24", Some("eth0"), 0),
        route("203.0.113.0/24", Some("eth1"), 0),
    ];
    host
}

fn route(destination: &str, interface: Option<&str>, metric: u32) -> MainRoute {
    MainRoute { destination: destination.parse().unwrap(), interface: interface.map(Into::into), gateway: None, metric }
}

/// What is said of a Mapping whose Service has these endpoints.
fn outcome(mode: &str, host: Host, endpoints: Vec<SliceEndpoint>) -> (MappingOutcome, String) {
    let mut objects = objects([("web", mapping(1, MappingSpec { mode: Some(mode.to_owned()), ..spec() }))]);
    objects.slices.insert(key("web-1"), slice(9090, endpoints).into());
    let plan = plan(&config(), &World { host, objects: Some(objects.into()), slots: BTreeMap::new() });
    let chains = plan.dataplane.tables.values().flat_map(|t| t.chains.values()).flat_map(|chain| chain.iter());
    let rules: Vec<String> = chains.map(|rule| rule.spelled(Family::Ipv4)).collect();
    (MappingOutcome::clone(&plan.mappings[&key("web")]), rules.join("\n"))
}

fn pods(addresses: &[&str]) -> Vec<SliceEndpoint> {
    addresses.iter().map(|a| pod(a)).collect()
}

#[test]
fn an_address_at_which_nobody_can_answer_is_not_chosen_and_named_with_its_reason() {
    let cases = [
        ("10.0.0.2", "an address of this box, on eth0"),
        ("203.0.113.10", "an address of this box, on eth1"),
        ("10.96.0.77", "an address of this box, on kube-ipvs0"),
        ("10.99.0.5", "an address of this box"),
        ("10.0.0.255", "the broadcast address of 10.0.0.0/24 on eth0"),
        ("203.0.113.77", "reached through eth1, which is not inside"),
        ("127.0.0.1", "a loopback address"),
        ("0.0.0.0", "the unspecified address"),
        ("224.0.0.1", "a multicast address"),
        ("255.255.255.255", "the broadcast address"),
        ("169.254.1.1", "a link-local address"),
    ];
    for (address, why) in cases {
        let here = || host(&[("kube-ipvs0", "10.96.0.77/32"), ("lo", "10.99.0.1/24")]);
        let (told, rules) = outcome("direct", here(), pods(&["10.244.1.2", address]));
        assert!(told.programmed.ok, "{told:?}");
        let (message, named) = (&told.programmed.message, format!("{address} ({why}"));
        assert!(message.contains(&named) && message.contains("not chosen"), "{message}");
        assert!(rules.contains("10.244.1.2:9090") && !rules.contains(&format!("{address}:9090")), "{rules}");
        assert_eq!(told.configured.get(&ip("203.0.113.10")).unwrap(), &[ip("10.244.1.2")]);

        // Alone it is as good as none.
        for mode in ["direct", "service"] {
            let (told, rules) = outcome(mode, here(), pods(&[address]));
            let (programmed, message) = (&told.programmed, &told.programmed.message);
            assert_eq!(programmed.reason, ProgrammedReason::NoReadyEndpoints);
            assert!(message.contains(&named) && message.contains("that can answer"), "{message}");
            assert!(!rules.contains("--to-destination"), "{rules}");
        }
    }
}

#[test]
fn an_address_that_is_not_here_now_is_chosen() {
    // Another router's, a route that is as good by the inside, and a more specific one.
    let mut here = host(&[]);
    here.main_routes.push(route("203.0.113.0/24", Some("eth0"), 0));
    here.main_routes.push(route("198.51.100.0/24", Some("eth1"), 0));
    here.main_routes.push(route("198.51.100.7/32", Some("eth0"), 100));
    let addresses = ["203.0.113.99", "198.51.100.7", "10.0.0.3"];
    let (told, rules) = outcome("direct", here, pods(&addresses));
    assert_eq!(told.programmed.message, "1 endpoints on this box");
    assert!(addresses.iter().all(|a| rules.contains(&format!("{a}:9090"))), "{rules}");
}

#[test]
fn pods_that_terminate_take_over_when_no_ready_one_can_answer() {
    let draining = SliceEndpoint { ready: false, terminating: true, ..pod("10.244.1.2") };
    let (told, rules) = outcome("direct", host(&[]), vec![pod("10.0.0.2"), draining]);
    assert!(told.programmed.ok && rules.contains("10.244.1.2:9090"), "{told:?}");
}

#[test]
fn in_mode_service_the_choice_is_kube_proxys_and_it_is_said_where_it_fails() {
    let (told, rules) = outcome("service", host(&[("lo", "10.96.0.10/32")]), pods(&["10.244.1.2", "10.0.0.2"]));
    let message = &told.programmed.message;
    assert!(told.programmed.ok && message.contains("kube-proxy may choose"), "{message}");
    assert!(message.contains("10.0.0.2 (an address of this box, on eth0)"), "{message}");
    assert!(rules.contains("10.96.0.10:8080"), "{rules}");
}
