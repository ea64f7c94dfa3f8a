//! Names, gateways and addresses of external interfaces as hosting providers give them.

use std::net::Ipv4Addr;

use bed::packet::{Mac, Sniffer, Wire, arp_request};
use bed::peer::{Failure, Proto};
use bed::{Bed, Daemon, Namespace, eventually};
use serde_json::Value;

use crate::support::{assert_served, daemon, manifests, mapping, try_port, try_ports};

#[track_caller]
fn eventually_served(from: &Namespace, address: Ipv4Addr) {
    eventually(&format!("{address} is served"), || try_ports(from, address).iter().all(Result::is_ok).then_some(()));
    assert_served(from, address);
}

/// What the daemon says about one interface.
fn interface(daemon: &Daemon, name: &str) -> Value {
    let status = daemon.status();
    let interfaces = status["interfaces"].as_array().unwrap();
    interfaces.iter().find(|i| i["name"] == name).unwrap_or_else(|| panic!("{name}: {status:#}")).clone()
}

/// What a subcommand prints.
fn said(daemon: &Daemon, subcommand: &[&str]) -> String {
    String::from_utf8_lossy(&daemon.command(subcommand).stdout).into_owned()
}

/// eth1 has addresses of /32 alone; its router is somewhere on the link, outside of every subnet.
fn single_addresses(bed: &Bed, router: Ipv4Addr) {
    bed.border.ip("address flush dev eth1\naddress add 203.0.113.10/32 dev eth1\naddress add 203.0.113.11/32 dev eth1");
    bed.r1.ip(&format!(
        "address del 203.0.113.1/24 dev eth0\naddress add {router}/32 dev eth0\nroute add 203.0.113.10/32 dev eth0\n\
         route add 203.0.113.11/32 dev eth0"
    ));
}

/// Frames of an answer that left the border's eth1, seen by the router.
#[track_caller]
fn assert_leaves_by(bed: &Bed, client: &Namespace, address: Ipv4Addr, router: Mac) {
    let sniffer = Sniffer::start(&bed.border, "eth1");
    assert_served(client, address);
    sniffer.await_seen("an answer by TCP", |s| s.outgoing && s.is_from(address) && s.is_tcp());
    sniffer.await_seen("an answer by UDP", |s| s.outgoing && s.is_from(address) && s.is_udp());
    let answers = sniffer.seen(|s| s.outgoing && s.is_from(address) && (s.is_tcp() || s.is_udp()));
    assert!(answers.iter().all(|s| s.to_mac == router), "{answers:#?}");
}

#[test]
fn addresses_without_a_subnet_are_served_by_a_named_router_on_the_link() {
    for router in [Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(169, 254, 7, 1), Ipv4Addr::new(203, 0, 113, 1)] {
        let bed = Bed::new();
        single_addresses(&bed, router);
        let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT1B, Bed::EXT2])]);
        // Without a name there is no router to be found.
        let silent = daemon(&bed, &manifests).start();
        assert!(interface(&silent, "eth1")["problem"].as_str().unwrap().contains("SNCTRLR_GW_ADDRESS"));
        assert_served(&bed.client2, Bed::EXT2);
        drop(silent);

        let daemon = daemon(&bed, &manifests).set("SNCTRLR_GW_ADDRESS", &format!("eth1={router}")).start();
        eventually_served(&bed.client1, Bed::EXT1);
        eventually_served(&bed.client1, Bed::EXT1B);
        eventually_served(&bed.client2, Bed::EXT2);
        assert_leaves_by(&bed, &bed.client1, Bed::EXT1, Mac::of(Bed::R1));
        let eth1 = interface(&daemon, "eth1");
        assert_eq!((&eth1["gateway"], &eth1["problem"]), (&router.to_string().into(), &Value::Null));

        // The box's own sockets go the same way, by their address and by their interface.
        let own = bed.border.run(&format!("ip route get {} from {}", Bed::CLIENT1, Bed::EXT1));
        assert!(own.contains(&format!("via {router} dev eth1")), "{own}");
        let bound = bed.border.run(&format!("ip route get {} oif eth1", Bed::CLIENT1));
        assert!(bound.contains(&format!("via {router} dev eth1")), "{bound}");

        // The kernel takes the routes with the link and with the address that is their source.
        bed.border.ip("link set eth1 down\nlink set eth1 up");
        eventually_served(&bed.client1, Bed::EXT1);
        bed.border.ip("address del 203.0.113.10/32 dev eth1");
        eventually_served(&bed.client1, Bed::EXT1B);
    }
}

#[test]
fn a_single_address_ahead_of_the_subnet_takes_nothing_out() {
    let bed = Bed::new();
    bed.border.ip("address flush dev eth1\naddress add 198.18.0.1/32 dev eth1\naddress add 203.0.113.10/24 dev eth1\n\
         address add 203.0.113.11/24 dev eth1");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    let eth1 = interface(&daemon, "eth1");
    assert_eq!((&eth1["gateway"], &eth1["problem"]), (&"203.0.113.1".into(), &Value::Null));

    // What gives another gateway is told as soon as it is there, and goes with it.
    assert_eq!(eth1["notes"], serde_json::json!([]));
    bed.border.ip("address add 192.0.2.200/29 dev eth1");
    let note = eventually("two gateways are told", || {
        interface(&daemon, "eth1")["notes"].as_array()?.first().map(ToString::to_string)
    });
    assert!(note.contains("203.0.113.1") && note.contains("SNCTRLR_GW_ADDRESS=eth1="), "{note}");
    let check = said(&daemon, &["check"]);
    assert!(check.contains("eth1: its subnets lead to different gateways"), "{check}");
    assert_served(&bed.client1, Bed::EXT1);
    bed.border.ip("address del 192.0.2.200/29 dev eth1");
    eventually("nothing is left to tell", || {
        (interface(&daemon, "eth1")["notes"] == serde_json::json!([])).then_some(())
    });
}

#[test]
fn the_other_end_of_a_point_to_point_link_is_the_router() {
    let bed = Bed::new();
    bed.border.ip("address flush dev eth1\naddress add 203.0.113.10 peer 203.0.113.1/32 dev eth1");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    let eth1 = interface(&daemon, "eth1");
    assert_eq!(eth1["gateway"], "203.0.113.1");
    // The kernel does not answer ARP for such an address under arp_ignore=1: the router has to know who has it.
    assert!(try_ports(&bed.client1, Bed::EXT1).iter().all(Result::is_err));
    assert!(eth1["notes"][0].as_str().is_some_and(|n| n.contains("ARP") && n.contains("SNCTRLR_GW_ADDRESS")), "{eth1}");
    bed.r1.ip(&format!("neigh replace 203.0.113.10 lladdr {} dev eth0 nud permanent", Mac::of(Bed::EXT1)));
    assert_served(&bed.client1, Bed::EXT1);
    assert_leaves_by(&bed, &bed.client1, Bed::EXT1, Mac::of(Bed::R1));
}

#[test]
fn an_altname_is_a_name_wherever_a_setting_names_one_interface() {
    let bed = Bed::new();
    let long = "wan-port-of-the-second-provider";
    bed.border.ip(&format!(
        "link property add dev eth0 altname enp1s0\nlink property add dev eth2 altname {long}\n\
         link property add dev eth0 altname eth9"
    ));
    bed.r2.ip(
        "address del 198.51.100.1/24 dev eth0\naddress add 198.51.100.77/24 dev eth0\nroute replace default via 198.51.100.10",
    );
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    // The pattern matches the gateway interface too, which is told by its altname alone.
    let daemon = daemon(&bed, &manifests)
        .set("SNCTRLR_DEFAULT_GW_INTERFACE", "enp1s0")
        .set("SNCTRLR_INTERFACES_PATTERN", "eth.*")
        .set("SNCTRLR_GW_ADDRESS", &format!("{long}=198.51.100.77"))
        .start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_served(&bed.client2, Bed::EXT2);
    assert_eq!(interface(&daemon, "eth0")["kind"], "gateway");

    let dir = manifests.dir().to_str().unwrap();
    let packet = ["--interface", long, "--source", "192.0.2.130", "--destination", "198.51.100.10", "--port", "80"];
    let trace = said(&daemon, &[&["trace", "--manifests", dir], &packet[..]].concat());
    assert!(trace.contains("default/web"), "{trace}");

    // The altname goes: nobody can be served, and nothing says that it is well. It comes back: all is as before.
    bed.border.ip("link property del dev eth0 altname enp1s0");
    eventually("the Mapping is told not to be served", || {
        (daemon.mapping("web")?["programmed"]["ok"] == false).then_some(())
    });
    assert!(interface(&daemon, "enp1s0")["problem"].as_str().unwrap().contains("altname"));
    bed.border.ip("link property add dev eth0 altname enp1s0");
    eventually_served(&bed.client1, Bed::EXT1);
    eventually_served(&bed.client2, Bed::EXT2);
}

/// A server on an address of the box that no interface has: what r1 routes to the border.
const ROUTED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 247);
/// 192.0.2.248/30 is local as a whole.
const IN_NETWORK: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 249), Ipv4Addr::new(192, 0, 2, 251)];

/// r1 and r2 route the additional addresses to the box's main addresses, as a provider does.
fn route_additional(bed: &Bed) {
    bed.r1.ip("route add 192.0.2.247/32 via 203.0.113.10\nroute add 192.0.2.248/30 via 203.0.113.10");
}

#[test]
fn local_routes_of_an_external_interface_are_its_addresses_where_the_router_routes_them() {
    let bed = Bed::new();
    route_additional(&bed);
    let manifests = manifests([mapping("routed", &[ROUTED]), mapping("network", &IN_NETWORK)]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "icmp-echo,tcp/2222").start();
    assert_eq!(daemon.mapping("routed").unwrap()["programmed"]["reason"], "NoAddressHere");

    // They come while the daemon runs, and an event tells: the periodic look is a minute away.
    bed.border.ip("route add local 192.0.2.247 dev eth1\nroute add local 192.0.2.248/30 dev eth1");
    eventually_served(&bed.client1, ROUTED);
    for address in IN_NETWORK {
        eventually_served(&bed.client1, address);
    }
    assert_leaves_by(&bed, &bed.client1, ROUTED, Mac::of(Bed::R1));
    assert_leaves_by(&bed, &bed.client1, IN_NETWORK[0], Mac::of(Bed::R1));

    // The box's own sockets go out by the interface too, and what is opened on the box answers on each of the addresses.
    let rules = bed.border.run("ip rule");
    for source in ["192.0.2.247", "192.0.2.248/30"] {
        assert!(rules.lines().any(|l| l.contains(&format!("from {source} ")) && l.contains("lookup 1001")), "{rules}");
    }
    for address in [ROUTED, IN_NETWORK[1]] {
        let way = bed.border.run(&format!("ip route get {} from {address}", Bed::CLIENT1));
        assert!(way.contains("via 203.0.113.1 dev eth1"), "{way}");
        assert_eq!(bed.client1.get(Proto::Tcp, address, 2222), Err(Failure::Refused), "nobody listens there");
        assert_eq!(try_port(&bed.client1, Proto::Tcp, address, 2223), Err(Failure::Timeout), "not opened");
    }

    // No ARP answer is given for them, which is told.
    let eth1 = interface(&daemon, "eth1");
    let note = eth1["notes"][0].as_str().unwrap().to_owned();
    assert!(note.contains("192.0.2.247/32 and 1 more") && note.contains("ARP"), "{note}");
    assert!(eth1["addresses"].as_array().unwrap().contains(&"192.0.2.248/30".into()), "{eth1}");
    let answers = Sniffer::start(&bed.attacker1, "eth0");
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        for target in [ROUTED, IN_NETWORK[0], Bed::EXT1] {
            wire.send(&arp_request(wire.mac(), Bed::ATTACKER1, target)).unwrap();
        }
    });
    answers.await_seen("an answer for the address of the interface", |s| s.arp_operation == 2 && s.is_from(Bed::EXT1));
    for silent in [ROUTED, IN_NETWORK[0]] {
        assert_eq!(answers.seen(|s| s.arp_operation == 2 && s.is_from(silent)), []);
    }

    // They go, and are served no longer.
    bed.border.ip("route del local 192.0.2.247 dev eth1\nroute del local 192.0.2.248/30 dev eth1");
    for name in ["routed", "network"] {
        eventually("the address is reported as gone", || {
            (daemon.mapping(name)?["programmed"]["reason"] == "NoAddressHere").then_some(())
        });
    }
    let rules = bed.border.run("ip rule");
    assert!(!rules.contains("192.0.2.24"), "{rules}");
}

#[test]
fn what_is_local_by_loopback_belongs_to_no_external_interface() {
    let bed = Bed::new();
    route_additional(&bed);
    bed.border.ip("route add local 192.0.2.248/30 dev lo");
    let manifests = manifests([mapping("network", &IN_NETWORK)]);
    let daemon = daemon(&bed, &manifests).start();
    let programmed = daemon.mapping("network").unwrap()["programmed"].clone();
    assert_eq!(programmed["reason"], "NoAddressHere");
    assert!(programmed["message"].as_str().unwrap().contains("local route of lo"), "{programmed}");
    // Named for the external interface, it is served.
    bed.border.ip("route replace local 192.0.2.248/30 dev eth1");
    eventually_served(&bed.client1, IN_NETWORK[0]);
}
