//! Names, gateways and addresses of external interfaces as hosting providers give them.

use std::net::Ipv4Addr;

use bed::packet::{Mac, Sniffer};
use bed::{Bed, Daemon, Namespace, eventually};
use serde_json::Value;

use crate::support::{assert_served, daemon, manifests, mapping, try_ports};

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
    let answers = sniffer.seen(|s| s.outgoing && s.is_from(address) && (s.is_tcp() || s.is_udp()));
    assert!(answers.iter().any(|s| s.is_tcp()) && answers.iter().any(|s| s.is_udp()), "{answers:#?}");
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
