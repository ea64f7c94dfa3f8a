//! A host described in a YAML file, for `plan` and `trace` on a machine that is not the border router. The format is documented in
//! `docs/examples/host.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::Position;
use super::yaml;
use crate::model::{
    Family, Host, InterfaceAddress, InterfaceName, Link, LinkStack, MAX_ALTNAME, MAX_INTERFACE_NAME, MainRoute,
};

const LOOPBACK: &str = "lo";
const LOOPBACK_INDEX: u32 = 1;
const LOOPBACK_MTU: u32 = 65_536;
const DEFAULT_MTU: u32 = 1_500;

/// What is wrong with a description, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    #[error("{position}: {reason}")]
    At { position: Position, reason: String },
    /// The place is not known.
    #[error("{0}")]
    Somewhere(String),
}

impl DescribeError {
    fn new(position: Option<Position>, reason: String) -> Self {
        match position {
            Some(position) => DescribeError::At { position, reason },
            None => DescribeError::Somewhere(reason),
        }
    }

    fn at<T>(value: &Spanned<T>, reason: String) -> Self {
        DescribeError::new(Position::of(value.referenced), reason)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    interfaces: BTreeMap<Name, Option<Interface>>,
    #[serde(default)]
    routes: Vec<Route>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct Name(InterfaceName);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let too_long = text.is_empty() || text.len() > MAX_INTERFACE_NAME;
        if too_long || text.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Err(format!(
                "{text:?} is no interface name; use up to {MAX_INTERFACE_NAME} characters without slash or space"
            ));
        }
        Ok(Name(text))
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Interface {
    addresses: Vec<Spanned<String>>,
    up: Option<bool>,
    carrier: Option<bool>,
    mtu: Option<u32>,
    altnames: Vec<Spanned<String>>,
    local: Vec<Spanned<String>>,
    kind: String,
    master: Option<Spanned<String>>,
    over: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    to: Spanned<String>,
    via: Option<Spanned<String>>,
    dev: Spanned<String>,
    #[serde(default)]
    onlink: bool,
    #[serde(default)]
    metric: u32,
}

/// Reads a description.
///
/// Implied as the kernel does it: `lo` with 127.0.0.1/8, the route to every subnet of an interface that is up, and that a later IPv4
/// address in the subnet of an earlier one of the same interface is secondary.
pub fn parse_host(text: &str) -> Result<Host, DescribeError> {
    let description: Description = serde_saphyr::from_str_with_options(text, yaml::options()).map_err(|e| {
        let (position, reason) = yaml::explain(&e, text);
        DescribeError::new(position, reason)
    })?;
    let mut host = Host::default();
    let known: BTreeSet<InterfaceName> = description.interfaces.keys().map(|Name(name)| name.clone()).collect();
    for (Name(name), interface) in description.interfaces {
        let interface = interface.unwrap_or_default();
        for other in interface.master.iter().chain(&interface.over) {
            if other.value == name || !known.contains(&other.value) {
                let reason = format!(
                    "{name} names {:?}, which is no other interface of this file; describe it under interfaces",
                    other.value
                );
                return Err(DescribeError::at(other, reason));
            }
        }
        let (altnames, local) = (interface.altnames.clone(), interface.local.clone());
        let link = link(&name, interface)?;
        host.links.insert(name.clone(), link);
        add_altnames(&mut host, &name, &altnames)?;
        add_local_routes(&mut host, &name, &local)?;
    }
    if !host.links.contains_key(LOOPBACK) {
        host.links.insert(LOOPBACK.to_owned(), link(LOOPBACK, Interface::default())?);
    }
    // As after boot: lo first, the others in the order of their names.
    let others = host.links.iter_mut().filter(|(name, _)| *name != LOOPBACK).map(|(_, link)| link);
    others.zip(LOOPBACK_INDEX + 1..).for_each(|(link, index)| link.index = index);
    host.main_routes = connected_routes(&host.links);
    for route in description.routes {
        let route = check_route(&route, &host)?;
        host.main_routes.push(route);
    }
    host.main_routes.sort();
    host.main_routes.dedup();
    Ok(host)
}

fn link(name: &str, interface: Interface) -> Result<Link, DescribeError> {
    let mut addresses: Vec<InterfaceAddress> = Vec::new();
    let (mut taken, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    for text in &interface.addresses {
        let mut address = parse_address(text)?;
        if !taken.insert(address.address) {
            let taken = address.address;
            return Err(DescribeError::at(text, format!("{taken} is on {name} already; remove one of them")));
        }
        // IPv6 knows no secondary addresses in this sense: the same flag means temporary there.
        address.secondary = !subnets.insert(address.subnet()) && address.address.is_ipv4();
        addresses.push(address);
    }
    if name == LOOPBACK && !addresses.iter().any(|a| a.address.is_loopback() && a.address.is_ipv4()) {
        addresses
            .insert(0, InterfaceAddress { prefix_len: 8, ..InterfaceAddress::of(IpAddr::from([127, 0, 0, 1]).into()) });
    }
    // The kernel keeps secondaries behind all primaries of their family.
    addresses.sort_by_key(|a| (Family::of(a.address), a.secondary));
    let up = interface.up.unwrap_or(true);
    Ok(Link {
        index: LOOPBACK_INDEX,
        up,
        carrier: interface.carrier.unwrap_or(up),
        mtu: interface.mtu.unwrap_or(if name == LOOPBACK { LOOPBACK_MTU } else { DEFAULT_MTU }),
        without_arp: false,
        altnames: BTreeSet::new(),
        stack: LinkStack {
            kind: interface.kind,
            master: interface.master.map(|name| name.value),
            lower: interface.over.into_iter().map(|name| name.value).collect(),
            peer: None,
        },
        addresses,
    })
}

/// `10.0.0.2/24`, or `10.0.0.1 peer 10.0.0.2/32`.
fn parse_address(text: &Spanned<String>) -> Result<InterfaceAddress, DescribeError> {
    let wrong =
        || DescribeError::at(text, format!("{:?} is no address with its prefix; write 10.0.0.2/24", text.value));
    let net = |text: &str| text.contains('/').then(|| text.parse::<IpNet>().ok()).flatten();
    let Some((address, peer)) = text.value.split_once(" peer ") else {
        return net(&text.value).map(InterfaceAddress::of).ok_or_else(wrong);
    };
    let (address, peer) = address.trim().parse::<IpAddr>().ok().zip(net(peer.trim())).ok_or_else(wrong)?;
    if Family::of(address) != Family::of(peer.addr()) {
        return Err(wrong());
    }
    Ok(InterfaceAddress { address, peer: Some(peer.addr()), ..InterfaceAddress::of(peer) })
}

/// No two interfaces share a name of either kind, as in the kernel.
fn add_altnames(host: &mut Host, name: &str, altnames: &[Spanned<String>]) -> Result<(), DescribeError> {
    for altname in altnames {
        let text = &altname.value;
        if text.is_empty() || text.len() > MAX_ALTNAME || text.contains(|c: char| c == '/' || c.is_whitespace()) {
            let reason = format!("{text:?} is no altname; use up to {MAX_ALTNAME} characters without slash or space");
            return Err(DescribeError::at(altname, reason));
        }
        if let Some(other) = host.interface_named(text) {
            return Err(DescribeError::at(altname, format!("{other} is named {text} already; remove one of them")));
        }
        if let Some(link) = host.links.get_mut(name) {
            link.altnames.insert(text.clone());
        }
    }
    Ok(())
}

fn add_local_routes(host: &mut Host, name: &str, local: &[Spanned<String>]) -> Result<(), DescribeError> {
    for route in local {
        let net = route.value.parse::<IpNet>().or_else(|_| route.value.parse::<IpAddr>().map(IpNet::from));
        let net = net.map_err(|_| {
            let reason = format!("{:?} is no address or network; write 198.51.100.7 or 198.51.100.0/28", route.value);
            DescribeError::at(route, reason)
        })?;
        host.local_routes.insert(net, name.to_owned());
    }
    Ok(())
}

/// What the kernel puts into the main table by itself. Routes of lo stand in the table `local`.
fn connected_routes(links: &BTreeMap<InterfaceName, Link>) -> Vec<MainRoute> {
    let mut routes = Vec::new();
    for (name, link) in links.iter().filter(|(name, link)| link.up && *name != LOOPBACK) {
        for address in &link.addresses {
            let subnet = address.subnet();
            if subnet.prefix_len() == subnet.max_prefix_len() {
                continue;
            }
            // IP6_RT_PRIO_ADDRCONF; IPv4 has no metric here.
            let metric = if subnet.addr().is_ipv6() { 256 } else { 0 };
            routes.push(MainRoute { destination: subnet, interface: Some(name.clone()), gateway: None, metric });
        }
    }
    routes
}

fn check_route(route: &Route, host: &Host) -> Result<MainRoute, DescribeError> {
    let via = match &route.via {
        None => None,
        Some(via) => Some(via.value.parse::<IpAddr>().map_err(|_| {
            DescribeError::at(via, format!("{:?} is no address; write the gateway's, for example 10.0.0.1", via.value))
        })?),
    };
    let destination = match route.to.value.as_str() {
        // Of the gateway's family; IPv4 without one.
        "default" if via.is_some_and(|v| v.is_ipv6()) => IpNet::V6(ipnet::Ipv6Net::default()),
        "default" => IpNet::V4(ipnet::Ipv4Net::default()),
        text => text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
            DescribeError::at(
                &route.to,
                format!("{text:?} is no destination; write default, 10.244.1.0/24 or 192.0.2.1"),
            )
        })?,
    };
    let dev = &route.dev.value;
    let missing =
        || DescribeError::at(&route.dev, format!("there is no interface {dev:?}; describe it under interfaces"));
    let name = host.interface_named(dev).ok_or_else(missing)?;
    let link = host.links.get(name).ok_or_else(missing)?;
    if let (Some(gateway), Some(via)) = (via, &route.via) {
        if Family::of(gateway) != Family::of(destination.addr()) {
            return Err(DescribeError::at(
                via,
                format!("gateway {gateway} and destination {destination} are not of the same family"),
            ));
        }
        let on_link = |a: &InterfaceAddress| a.subnet().contains(&gateway);
        if !route.onlink && !link.addresses.iter().any(on_link) {
            return Err(DescribeError::at(
                via,
                format!(
                    "gateway {gateway} is in no subnet of {name}, and the kernel would refuse the route; correct one of them, or write onlink: true"
                ),
            ));
        }
    }
    Ok(MainRoute {
        destination: destination.trunc(),
        interface: Some(name.clone()),
        gateway: via,
        metric: route.metric,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/host.yaml");

    fn route(to: &str, via: Option<&str>, dev: &str) -> MainRoute {
        MainRoute {
            destination: to.parse().unwrap(),
            interface: Some(dev.to_owned()),
            gateway: via.map(|v| v.parse().unwrap()),
            metric: 0,
        }
    }

    fn texts(link: &Link) -> Vec<(String, bool)> {
        link.addresses.iter().map(|a| (format!("{}/{}", a.address, a.prefix_len), a.secondary)).collect()
    }

    fn error(text: &str) -> (Position, String) {
        match parse_host(text).unwrap_err() {
            DescribeError::At { position, reason } => (position, reason),
            DescribeError::Somewhere(reason) => panic!("no place is given for: {reason}"),
        }
    }

    #[test]
    fn the_example_describes_the_documented_host() {
        let host = parse_host(&std::fs::read_to_string(EXAMPLE).unwrap()).unwrap();
        assert_eq!(host.links.keys().map(String::as_str).collect::<Vec<_>>(), ["eth0", "eth1", "eth2", "lo"]);
        assert_eq!(
            texts(&host.links["eth1"]),
            [("203.0.113.10/24".to_owned(), false), ("203.0.113.11/24".to_owned(), true)]
        );
        assert!(host.links.values().all(|l| l.up && l.carrier));
        let mut expected = vec![
            route("0.0.0.0/0", Some("10.0.0.1"), "eth0"),
            route("10.0.0.0/24", None, "eth0"),
            route("203.0.113.0/24", None, "eth1"),
            route("198.51.100.0/24", None, "eth2"),
            route("10.244.1.0/24", Some("10.0.0.11"), "eth0"),
            route("10.244.2.0/24", Some("10.0.0.12"), "eth0"),
            route("10.96.0.0/16", None, "eth0"),
        ];
        expected.sort();
        assert_eq!(host.main_routes, expected);
        assert!(host.is_local("203.0.113.11".parse().unwrap()) && host.is_local("127.0.0.5".parse().unwrap()));
    }

    #[test]
    fn loopback_is_implied_and_may_carry_more() {
        let host = parse_host("interfaces: {}\n").unwrap();
        assert_eq!(texts(&host.links["lo"]), [("127.0.0.1/8".to_owned(), false)]);
        assert_eq!(host.links["lo"].index, 1);
        let host = parse_host("interfaces:\n  lo: {addresses: [10.96.0.10/32]}\n").unwrap();
        assert_eq!(texts(&host.links["lo"]), [("127.0.0.1/8".to_owned(), false), ("10.96.0.10/32".to_owned(), false)]);
        assert_eq!(host.main_routes, []);
    }

    #[test]
    fn secondaries_follow_all_primaries() {
        let host =
            parse_host("interfaces:\n  eth1:\n    addresses: [10.1.0.1/24, 10.1.0.2/24, 10.2.0.1/24, 10.1.0.3/25]\n")
                .unwrap();
        let expected = [("10.1.0.1/24", false), ("10.2.0.1/24", false), ("10.1.0.3/25", false), ("10.1.0.2/24", true)];
        assert_eq!(texts(&host.links["eth1"]), expected.map(|(a, s)| (a.to_owned(), s)));
    }

    #[test]
    fn an_interface_that_is_down_has_no_routes_of_its_own() {
        let host = parse_host("interfaces:\n  eth1: {addresses: [10.1.0.1/24], up: false}\n").unwrap();
        assert!(!host.links["eth1"].up && !host.links["eth1"].carrier);
        assert_eq!(host.main_routes, []);
    }

    #[test]
    fn an_interface_may_be_only_a_name() {
        let host = parse_host("interfaces:\n  eth0:\n  eth1: {mtu: 9001, carrier: false}\n").unwrap();
        let facts = |name: &str| (host.links[name].index, host.links[name].mtu, host.links[name].carrier);
        assert_eq!(
            (facts("lo"), facts("eth0"), facts("eth1")),
            ((1, 65_536, true), (2, 1_500, true), (3, 9_001, false))
        );
    }

    #[test]
    fn what_stands_on_what_is_described() {
        let host = parse_host(
            "interfaces:\n  eth1: {master: br0}\n  br0: {kind: bridge}\n  br0.5: {kind: vlan, over: [br0]}\n",
        )
        .unwrap();
        assert_eq!(host.links["eth1"].stack.master.as_deref(), Some("br0"));
        assert_eq!(host.links["br0"].stack.kind, "bridge");
        assert_eq!(host.links["br0.5"].stack.lower, BTreeSet::from(["br0".to_owned()]));
        for text in ["interfaces:\n  eth1: {master: br0}\n", "interfaces:\n  eth1: {over: [eth1]}\n"] {
            let (position, reason) = error(text);
            assert_eq!(position.line, 2);
            assert!(reason.contains("no other interface"), "{reason}");
        }
    }

    #[test]
    fn ipv6_is_described_alike() {
        let host = parse_host(
            "interfaces:\n  eth0: {addresses: [\"2001:db8::2/64\"]}\nroutes:\n- {to: default, via: \"2001:db8::1\", dev: eth0}\n",
        )
        .unwrap();
        let routes: Vec<_> = host.main_routes.iter().map(|r| (r.destination.to_string(), r.metric)).collect();
        assert_eq!(routes, [("::/0".to_owned(), 0), ("2001:db8::/64".to_owned(), 256)]);
    }

    #[test]
    fn local_routes_belong_to_an_interface_without_being_addresses_of_it() {
        let host = parse_host(
            "interfaces:\n  eth1:\n    local: [198.51.100.7, 198.51.100.0/28]\n  eth2: {local: [198.51.100.0/30]}\n",
        );
        let host = host.unwrap();
        let found = |text: &str| {
            host.local_routes.find(text.parse().unwrap()).map(|(net, name)| (net.to_string(), name.as_str()))
        };
        assert_eq!(found("198.51.100.7"), Some(("198.51.100.7/32".to_owned(), "eth1")));
        assert_eq!(found("198.51.100.8"), Some(("198.51.100.0/28".to_owned(), "eth1")));
        assert_eq!(found("198.51.100.3"), Some(("198.51.100.0/30".to_owned(), "eth2")));
        assert_eq!(found("198.51.100.16"), None);
        assert!(host.is_local("198.51.100.15".parse().unwrap()) && host.links["eth1"].addresses.is_empty());
    }

    #[test]
    fn altnames_peers_and_gateways_outside_of_subnets_are_described() {
        let host = parse_host(
            "interfaces:\n  eth1:\n    altnames: [enp2s0, wan-with-a-long-name]\n    addresses: [10.0.0.1 peer 10.0.0.2/32]\n\
             routes:\n- {to: default, via: 100.64.0.1, dev: enp2s0, onlink: true}\n",
        )
        .unwrap();
        for name in ["eth1", "enp2s0", "wan-with-a-long-name"] {
            assert_eq!(host.interface_named(name).map(String::as_str), Some("eth1"));
        }
        assert_eq!(host.interface_named("enp2"), None);
        let address = host.links["eth1"].addresses[0];
        assert_eq!(
            (address.address.to_string(), address.subnet().to_string()),
            ("10.0.0.1".into(), "10.0.0.2/32".into())
        );
        assert_eq!(host.main_routes, [route("0.0.0.0/0", Some("100.64.0.1"), "eth1")]);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let head = "interfaces:\n  eth0: {addresses: [10.0.0.2/24]}\n";
        for (text, line, part) in [
            ("interfaces:\n  eth0:\n    addresses:\n    - 10.0.0.2\n".to_owned(), 4, "10.0.0.2/24"),
            ("interfaces:\n  eth0:\n    addresses:\n    - 10.0.0.2/33\n".to_owned(), 4, "no address"),
            ("interfaces:\n  eth0:\n    addresses: [10.0.0.2/24,\n    10.0.0.2/24]\n".to_owned(), 4, "already"),
            ("interfaces:\n  a-name-that-is-too-long: {}\n".to_owned(), 2, "interface name"),
            ("interfaces:\n  eth0:\n    adresses: []\n".to_owned(), 3, "adresses"),
            ("interfaces:\n  eth0:\n    addresses: [10.0.0.1 peer 10.0.0.2]\n".to_owned(), 3, "no address"),
            ("interfaces:\n  eth0:\n    addresses: [\"10.0.0.1 peer fe80::1/64\"]\n".to_owned(), 3, "no address"),
            ("interfaces:\n  eth0:\n  eth1:\n    altnames: [eth0]\n".to_owned(), 4, "eth0 already"),
            ("interfaces:\n  eth0:\n    altnames: [a b]\n".to_owned(), 3, "no altname"),
            ("interfaces:\n  eth0:\n    local: [198.51.100.0/33]\n".to_owned(), 3, "no address or network"),
            ("interfaces:\n  eth0:\n    up: maybe\n".to_owned(), 3, "up: maybe"),
            (format!("{head}routes:\n- {{to: everywhere, dev: eth0}}\n"), 4, "everywhere"),
            (format!("{head}routes:\n- {{to: default, via: 10.0.0.1, dev: eth7}}\n"), 4, "eth7"),
            (format!("{head}routes:\n- {{to: default, via: 10.0.1.1, dev: eth0}}\n"), 4, "10.0.1.1"),
            (format!("{head}routes:\n- {{to: default, via: gateway, dev: eth0}}\n"), 4, "gateway"),
            (format!("{head}routes:\n- {{to: 10.0.0.0/8, via: \"fe80::1\", dev: eth0}}\n"), 4, "family"),
            (format!("{head}routes:\n- {{to: default}}\n"), 4, "dev"),
        ] {
            let (position, reason) = error(&text);
            assert_eq!(position.line, line, "{text}: {reason}");
            assert!(reason.contains(part), "{part:?} is not in {reason:?}");
        }
    }
}
