//! Interfaces above external ones: what the outside sends comes out there under another name.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::peer::{Failure, Proto, Stream};
use bed::{Bed, Daemon, Namespace, eventually};
use serde_json::Value;

use crate::support::{assert_served, daemon, manifests, mapping, try_port};

/// The box's address on the interface above.
const UPPER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// A service of the box itself.
const OWN_PORT: u16 = 7000;

/// A bed whose box serves something itself, and whose attacker sends everything to the upper interface.
fn exposed() -> Bed {
    let bed = Bed::new();
    let own = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, OWN_PORT);
    bed.serve("border", "box", &[own], &[own]);
    bed.attacker1.ip(&format!("address add 192.168.50.66/24 dev eth0\nroute add 10.0.0.0/8 via {UPPER}"));
    bed.core.ip("route add 192.168.50.0/24 via 10.0.0.2");
    bed
}

/// What an outsider tries: a pod and the box, each by TCP and UDP.
fn tries(from: &Namespace) -> [Option<Failure>; 4] {
    [
        (Proto::Tcp, Bed::POD1, 8080),
        (Proto::Udp, Bed::POD1, 9090),
        (Proto::Tcp, UPPER, OWN_PORT),
        (Proto::Udp, UPPER, OWN_PORT),
    ]
    .map(|(proto, address, port)| try_port(from, proto, address, port).err())
}

#[track_caller]
fn assert_closed(from: &Namespace) {
    assert_eq!(tries(from), [const { Some(Failure::Timeout) }; 4]);
}

#[track_caller]
fn assert_open(from: &Namespace) {
    eventually("all four answer", || tries(from).iter().all(Option::is_none).then_some(()));
}

fn interface(daemon: &Daemon, name: &str) -> Option<Value> {
    daemon.status()["interfaces"].as_array()?.iter().find(|i| i["name"] == name).cloned()
}

/// Waits until an interface counts as above these, and reads what is said of it everywhere.
#[track_caller]
fn assert_told(daemon: &Daemon, name: &str, below: &[&str]) {
    let told = eventually(&format!("{name} counts as above"), || {
        interface(daemon, name).filter(|i| i["kind"] == "above-external")
    });
    assert_eq!(told["above"], serde_json::json!(below), "{told}");
    let problem = told["problem"].as_str().unwrap_or_default();
    assert!(problem.contains(&below.join(", ")) && problem.contains("SNCTRLR_INSIDE_INTERFACES"), "{told}");
    let text = |subcommand: &[&str]| String::from_utf8(daemon.command(subcommand).stdout).unwrap();
    let (status, check) = (text(&["status"]), text(&["check"]));
    assert!(status.lines().any(|l| l.starts_with(name) && l.contains("above-external")), "{status}");
    assert!(check.lines().any(|l| l.starts_with("WARN") && l.contains(&format!("{name}: it stands above"))), "{check}");
    let log = daemon.log();
    let lines = log.lines().filter(|l| l.contains("it stands above") && l.contains(&format!("interface={name}")));
    assert_eq!(lines.count(), 1, "{log}");
}

fn make_bridge(bed: &Bed) {
    bed.border.ip(&format!(
        "link add name br0 up type bridge forward_delay 0 mcast_snooping 0\naddress add {UPPER}/24 dev br0"
    ));
}

#[test]
fn a_bridge_over_an_external_interface_is_closed_from_the_start() {
    let bed = exposed();
    make_bridge(&bed);
    bed.border.ip("link set eth1 master br0");
    let manifests = manifests([mapping("web", &[Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_closed(&bed.attacker1);
    assert_told(&daemon, "br0", &["eth1"]);
    assert_served(&bed.client2, Bed::EXT2);
    for tool in ["iptables-save", "ip6tables-save"] {
        let rules = bed.border.run(tool);
        assert!(!rules.contains("-i br0 "), "{tool}: {rules}");
        let closed = |rule: &str| rules.lines().any(|line| line == rule);
        assert!(closed("-A SMARTNAT-BORDER -o br0 -j DROP"), "{tool}: {rules}");
        assert!(closed("-A SMARTNAT-OUT -o br0 -m conntrack --ctdir REPLY -j DROP"), "{tool}: {rules}");
    }
    let networks = bed.border.run("ipset list SN-INNER");
    assert!(!networks.contains("192.168.50"), "{networks}");
}

#[test]
fn a_mapping_tells_which_of_its_addresses_went_to_the_bridge() {
    let bed = Bed::new();
    make_bridge(&bed);
    let manifests = manifests([mapping("both", &[Bed::EXT1, Bed::EXT2]), mapping("one", &[Bed::EXT1B])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    let mappings = || String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(!mappings().contains("nobody is served on"), "{}", mappings());
    bed.border.ip(&format!(
        "link set eth1 master br0\n\
         address flush dev eth1\n\
         address add {}/24 dev br0\n\
         address add {}/24 dev br0",
        Bed::EXT1,
        Bed::EXT1B
    ));
    for (mapping, address) in [("default/both", Bed::EXT1), ("default/one", Bed::EXT1B)] {
        let told = format!("nobody is served on {address}: it is an address of br0, which is not external");
        eventually(&format!("{mapping} tells of {address}"), || {
            mappings().lines().any(|l| l.starts_with(mapping) && l.contains(&told)).then_some(())
        });
    }
    assert_served(&bed.client2, Bed::EXT2);
}

#[test]
fn a_bridge_that_gets_an_external_interface_is_closed_at_once_with_its_flows() {
    let bed = exposed();
    make_bridge(&bed);
    // A machine on a port of its own: inside, until the outside comes to stand beside it.
    bed.border.ip(&format!(
        "link add name lan up type veth peer name lan netns {}\nlink set lan master br0",
        bed.attacker2.name()
    ));
    bed.attacker2
        .ip(&format!("address add 192.168.50.77/24 dev lan\nlink set lan up\nroute add 10.0.0.0/8 via {UPPER}"));
    let manifests = manifests([mapping("web", &[Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_open(&bed.attacker2);
    let stream = |address, port| bed.attacker2.within(|| Stream::open(SocketAddrV4::new(address, port)).unwrap());
    let streams = [stream(Bed::POD1, 8080), stream(UPPER, OWN_PORT)];

    bed.border.ip("link set eth1 master br0");
    assert_told(&daemon, "br0", &["eth1"]);
    assert_closed(&bed.attacker1);
    assert_closed(&bed.attacker2);
    for stream in streams {
        let stuck = stream.bytes();
        assert_closed(&bed.attacker2);
        assert_eq!(stream.bytes(), stuck, "a flow goes on");
        stream.stop();
    }

    bed.border.ip("link set eth1 nomaster");
    assert_open(&bed.attacker2);
    assert_eq!(interface(&daemon, "br0").unwrap()["kind"], "inside");
    eventually("the external interface has its way back", || {
        try_port(&bed.client2, Proto::Tcp, Bed::EXT2, 80).is_ok().then_some(())
    });
}

#[test]
fn a_macvlan_on_an_external_interface_is_closed() {
    let bed = exposed();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    let stream = bed.client1.within(|| Stream::open(SocketAddrV4::new(Bed::EXT1, 80)).unwrap());
    // As keepalived's use_vmac makes it.
    bed.border.ip(&format!(
        "link add link eth1 name vrrp.51 address 00:00:5e:00:01:33 up type macvlan mode private\naddress add {UPPER}/24 dev vrrp.51"
    ));
    assert_told(&daemon, "vrrp.51", &["eth1"]);
    assert!(interface(&daemon, "vrrp.51").unwrap()["problem"].as_str().unwrap().contains("use_vmac"));
    assert_closed(&bed.attacker1);
    assert_served(&bed.client1, Bed::EXT1);
    assert_eq!(stream.stop().broken, None, "the connections of Mappings go on");
}

#[test]
fn storeys_and_pairs_of_wires_are_followed() {
    let bed = exposed();
    // eth1 - br0 - macvlan - br1, and eth1 - br0 - va=vb - br2.
    bed.border.ip("link add name br0 up type bridge forward_delay 0 mcast_snooping 0\n\
         link set eth1 master br0\n\
         link add name br1 up type bridge forward_delay 0 mcast_snooping 0\n\
         link add link br0 name mv0 up type macvlan mode bridge\n\
         link set mv0 master br1\n\
         link add name br2 up type bridge forward_delay 0 mcast_snooping 0\n\
         link add name va up type veth peer name vb\n\
         link set vb up\n\
         link set va master br0\n\
         link set vb master br2");
    let manifests = manifests([mapping("web", &[Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).start();
    for name in ["br0", "mv0", "br1", "va", "vb", "br2"] {
        assert_told(&daemon, name, &["eth1"]);
    }
    for upper in ["br1", "br2"] {
        bed.border.ip(&format!("address add {UPPER}/24 dev {upper}"));
        bed.attacker1.run("ip neigh flush dev eth0");
        assert_closed(&bed.attacker1);
        bed.border.ip(&format!("address del {UPPER}/24 dev {upper}"));
    }
}

#[test]
fn an_exact_name_of_an_inside_interface_wins() {
    let bed = exposed();
    bed.border.ip(&format!("link add link eth1 name mv0 up type macvlan mode bridge\naddress add {UPPER}/24 dev mv0"));
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_INSIDE_INTERFACES", "mv0,mv7").start();
    assert_open(&bed.attacker1);
    let mv0 = interface(&daemon, "mv0").unwrap();
    assert_eq!((mv0["kind"].as_str(), &mv0["problem"]), (Some("inside"), &Value::Null), "{mv0}");
    assert!(mv0["notes"].to_string().contains("stands above eth1"), "{mv0}");
    let missing = interface(&daemon, "mv7").unwrap();
    assert!(missing["problem"].as_str().is_some_and(|p| p.contains("does not exist")), "{missing}");
    let check = String::from_utf8(daemon.command(&["check"]).stdout).unwrap();
    assert!(check.lines().any(|l| l.starts_with("FAIL") && l.contains("mv7")), "{check}");
}

#[test]
fn a_prefix_does_not_open_what_stands_above() {
    let bed = exposed();
    let manifests = manifests([mapping("web", &[Bed::EXT2])]);
    make_bridge(&bed);
    bed.border.ip(&format!(
        "link add name brlan up type veth peer name lan netns {}\naddress add 192.168.77.1/24 dev brlan",
        bed.attacker2.name()
    ));
    bed.attacker2.ip("address add 192.168.77.2/24 dev lan\nlink set lan up\nroute add 10.0.0.0/8 via 192.168.77.1");
    bed.core.ip("route add 192.168.77.0/24 via 10.0.0.2");
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_INSIDE_PREFIXES", "br+").start();
    assert!(bed.border.run("iptables -w -t mangle -S SMARTNAT-BORDER").contains("-i br+"));
    bed.border.ip("link set eth1 master br0");
    assert_told(&daemon, "br0", &["eth1"]);
    assert_closed(&bed.attacker1);
    let br0 = interface(&daemon, "br0").unwrap();
    assert!(br0["notes"].to_string().contains("SNCTRLR_INSIDE_PREFIXES"), "{br0}");
    // What the prefix says of others stays true.
    let inside = try_port(&bed.attacker2, Proto::Tcp, Bed::POD1, 8080);
    assert!(inside.is_ok(), "{inside:?}");
}

#[test]
fn the_gateway_interface_is_inside_whatever_its_ports_are_called() {
    let bed = exposed();
    bed.border.ip("link add name bond0 up type bridge forward_delay 0 mcast_snooping 0\n\
         link set eth0 master bond0\n\
         address flush dev eth0\n\
         address add 10.0.0.2/24 dev bond0\n\
         address add 2001:db8:a::2/64 dev bond0\n\
         route add default via 10.0.0.1\n\
         route add 10.244.0.0/16 via 10.0.0.1");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests)
        .set("SNCTRLR_DEFAULT_GW_INTERFACE", "bond0")
        .set("SNCTRLR_INTERFACES_PATTERN", "eth[0-9]")
        .start();
    bed.core.run("ip neigh flush dev cluster");
    eventually("clients are served", || try_port(&bed.client1, Proto::Tcp, Bed::EXT1, 80).is_ok().then_some(()));
    let bond0 = interface(&daemon, "bond0").unwrap();
    assert_eq!((bond0["kind"].as_str(), &bond0["problem"]), (Some("gateway"), &Value::Null), "{bond0}");
    assert!(bond0["notes"].to_string().contains("eth0"), "{bond0}");
    assert_eq!(interface(&daemon, "eth0").unwrap()["kind"], "external");
    let check = String::from_utf8(daemon.command(&["check"]).stdout).unwrap();
    assert!(check.lines().any(|l| l.starts_with("WARN") && l.contains("bond0: inside by")), "{check}");
}
