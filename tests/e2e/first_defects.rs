//! What the first SmartNat got wrong, where no other test shows the opposite; docs/design/first-smartnat.md has the whole list.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use bed::peer::Proto;
use bed::{Bed, Endpoints, Options, Service, eventually};

use crate::support::{PORTS, assert_served, daemon, manifests, mapping};

fn policy_rules(bed: &Bed) -> Vec<String> {
    bed.border.run("ip -N rule").lines().map(str::to_owned).collect()
}

#[test]
fn starts_and_refreshes_add_no_policy_rule_twice() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let mut daemon = daemon(&bed, &manifests).refreshing().start();
    let before = policy_rules(&bed);
    assert!(before.iter().any(|l| l.contains("from 203.0.113.10 lookup 1001")), "{before:?}");
    for round in 0..3 {
        daemon.passes(2);
        if round % 2 == 0 {
            daemon.kill();
        } else {
            daemon.stop();
        }
        daemon.start_again();
    }
    assert_eq!(policy_rules(&bed), before);
}

#[test]
fn an_empty_table_is_filled_and_a_blackhole_in_it_disturbs_nothing() {
    let bed = Bed::new();
    bed.border.ip("route add blackhole 192.0.2.99/32 table 1001");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).refreshing().start();
    assert_served(&bed.client1, Bed::EXT1);
    bed.border.ip("route flush table 1001\nroute add blackhole 192.0.2.99/32 table 1001");
    eventually("the table is filled again", || {
        let routes = bed.border.run("ip route show table 1001");
        let kept = routes.contains("blackhole 192.0.2.99");
        (kept && routes.contains("default via 203.0.113.1") && routes.contains("203.0.113.0/24 dev eth1")).then_some(())
    });
    daemon.passes(2);
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn ten_refused_mappings_do_not_hold_up_a_good_change() {
    let bed = Bed::new();
    let bad = (0..10).map(|n| mapping(&format!("bad-{n}"), &[Bed::EXT1]).service("nowhere"));
    let mut manifests = manifests(bad);
    let daemon = daemon(&bed, &manifests).start();
    let passes = || daemon.metric("smartnat_passes_total", "");
    let before = passes();
    manifests.put(mapping("good", &[Bed::EXT1B])).write();
    daemon.settle(&manifests);
    // Not a pass, and a second, for each of them, as it was.
    assert!(passes() <= before + 3.0, "{before} {}", passes());
    assert_served(&bed.client1, Bed::EXT1B);
}

#[test]
fn another_service_behind_a_mapping_is_followed_also_while_the_daemon_is_away() {
    let bed = Bed::new();
    let addresses = [10, 11, 12].map(|n| Ipv4Addr::new(10, 96, 0, n));
    let services = ["web", "second", "third"];
    let mut manifests = manifests([]);
    for (name, address) in services.into_iter().zip(addresses) {
        bed.border.ip(&format!("address add {address}/32 dev lo"));
        bed.serve("border", name, &[SocketAddrV4::new(address, 80)], &[SocketAddrV4::new(address, 53)]);
        manifests.put_service(Service::new(name, address)).put_endpoints(Endpoints::of(name).ready(Bed::POD1));
    }
    let leads_to = |name: &str| mapping("web", &[Bed::EXT1]).by_cluster_ip().service(name);
    let answering = || PORTS.map(|(proto, port)| bed.client1.get(proto, Bed::EXT1, port).unwrap().name);
    manifests.put(leads_to("web")).write();
    let mut daemon = daemon(&bed, &manifests).start();
    daemon.settle(&manifests);
    assert_eq!(answering(), ["web", "web"]);
    manifests.put(leads_to("second")).write();
    daemon.settle(&manifests);
    assert_eq!(answering(), ["second", "second"]);
    daemon.stop();
    manifests.put(leads_to("third")).write();
    daemon.start_again();
    daemon.settle(&manifests);
    assert_eq!(answering(), ["third", "third"]);
}

#[test]
fn interfaces_whose_indexes_share_bits_keep_their_replies_apart() {
    // 0x803 and 0x804, or-ed 0x807.
    let bed = Bed::with(Options { indexes: Some((3, 4)), ..Options::default() });
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").start();
    for _ in 0..4 {
        assert_served(&bed.client1, Bed::EXT1);
        assert_served(&bed.client2, Bed::EXT2);
    }
}

#[test]
fn translation_of_pods_own_connections_is_written_once() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").refreshing().start();
    daemon.settle(&manifests);
    let translations = || bed.border.run("iptables -t nat -S");
    let rules = translations();
    assert!(rules.contains("--to-source 203.0.113.10"), "{rules}");
    let writes = daemon.metric("smartnat_writes_total", "");
    daemon.passes(3);
    assert_eq!(daemon.metric("smartnat_writes_total", ""), writes);
    assert_eq!(translations(), rules);
}

#[test]
fn the_administrators_names_of_routing_tables_are_not_touched() {
    let bed = Bed::new();
    // Of this machine: namespaces of the network share its files.
    let names = || {
        let names = fs::read("/etc/iproute2/rt_tables").expect("iproute2 comes with it: apt-get install iproute2");
        (names, fs::metadata("/etc/iproute2/rt_tables").unwrap().modified().unwrap())
    };
    let before = names();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    manifests.put(mapping("web", &[Bed::EXT1, Bed::EXT2])).write();
    daemon.settle(&manifests);
    assert_eq!(bed.client1.get(Proto::Tcp, Bed::EXT1, 80).unwrap().at.port(), 8080);
    daemon.stop();
    assert!(daemon.command(&["cleanup"]).status.success());
    assert_eq!(names(), before);
}
