//! Interfaces and addresses that come and go while the daemon runs.

use std::net::Ipv4Addr;

use bed::{Bed, Namespace, Options, eventually};

use crate::support::{
    assert_alive, assert_dropped, assert_nothing_lost, assert_served, daemon, flood, manifests, mapping, open_stream,
    try_ports,
};

#[track_caller]
fn eventually_served(from: &Namespace, address: Ipv4Addr) {
    eventually(&format!("{address} is served"), || try_ports(from, address).iter().all(Result::is_ok).then_some(()));
    assert_served(from, address);
}

#[test]
fn an_interface_unplugged_and_back_under_a_new_index_is_served_again() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    let other = open_stream(&bed.client2, Bed::EXT2);
    let floods = flood(&bed.client2, Bed::EXT2);
    let index = || bed.border.run("ip -o link show eth1").split(':').next().map(str::to_owned);
    let (before, rules) = (index(), bed.border.run("ip rule"));

    bed.unplug("eth1");
    eventually("the interface is reported as absent", || {
        let status = daemon.status();
        let eth1 = status["interfaces"].as_array()?.iter().find(|i| i["name"] == "eth1")?.clone();
        (eth1["kind"] == "absent").then_some(())
    });
    bed.plug_again("eth1");
    assert_ne!(index(), before);
    eventually_served(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.client1, Bed::EXT1B);
    eventually("the same rules as before", || (bed.border.run("ip rule") == rules).then_some(()));

    assert_nothing_lost(floods, 5);
    assert_eq!(other.stop().broken, None);
}

#[test]
fn interface_indexes_above_4095_are_no_obstacle() {
    let bed = Bed::with(Options { indexes: Some((4096, 70_000)), ..Options::default() });
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let _daemon = daemon(&bed, &manifests).start();
    for client in [&bed.client1, &bed.client2] {
        assert_served(client, Bed::EXT1);
        assert_served(client, Bed::EXT2);
    }
}

#[test]
fn an_address_is_served_from_when_it_comes_until_it_goes() {
    let bed = Bed::new();
    let late = Ipv4Addr::new(203, 0, 113, 12);
    let manifests = manifests([mapping("late", &[late]), mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_eq!(daemon.mapping("late").unwrap()["programmed"]["reason"], "NoAddressHere");
    let stream = open_stream(&bed.client1, Bed::EXT1);
    for _ in 0..3 {
        bed.border.ip(&format!("address add {late}/24 dev eth1"));
        eventually_served(&bed.client1, late);
        bed.border.ip(&format!("address del {late}/24 dev eth1"));
        eventually("the address is reported as gone", || {
            (daemon.mapping("late")?["programmed"]["reason"] == "NoAddressHere").then_some(())
        });
    }
    let rules = bed.border.run("ip rule");
    assert!(!rules.contains("203.0.113.12"), "{rules}");
    assert_alive(&stream);
    assert_eq!(stream.stop().broken, None);
}

#[test]
fn an_address_that_moves_to_another_interface_is_served_there() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1B])]);
    let _daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1B);
    bed.border.ip("address del 203.0.113.11/24 dev eth1\naddress add 203.0.113.11/32 dev eth2");
    eventually_served(&bed.client2, Bed::EXT1B);
    let table = |line: &str| line.rsplit("lookup ").next().map(|t| t.trim().to_owned());
    eventually("one rule for the address, towards the table of its new interface", || {
        let rules = bed.border.run("ip rule");
        let of = |address: &str| -> Vec<_> {
            let ways = rules.lines().filter(|l| !l.contains("lookup local"));
            ways.filter(|l| l.contains(&format!("from {address} "))).map(table).collect()
        };
        (of("203.0.113.11") == of("198.51.100.10") && of("203.0.113.11").len() == 1).then_some(())
    });
}

#[test]
fn routes_lost_with_a_link_that_went_down_are_back_as_soon_as_it_is_up() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    for _ in 0..3 {
        bed.border.ip("link set eth1 down\nlink set eth1 up");
        // The periodic look is a minute away: an event must have done it.
        eventually_served(&bed.client1, Bed::EXT1);
    }
}

#[test]
fn each_external_interface_may_have_its_router_elsewhere() {
    let bed = Bed::new();
    bed.r1.ip(
        "address del 203.0.113.1/24 dev eth0\naddress add 203.0.113.254/24 dev eth0\nroute replace default via 203.0.113.10",
    );
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_GW_ADDRESS_OFFSET", "1,eth1=-1").start();
    eventually_served(&bed.client1, Bed::EXT1);
    eventually_served(&bed.client2, Bed::EXT2);
}

#[test]
fn a_wrong_gateway_offset_concerns_its_interface_alone() {
    let bed = Bed::new();
    // .254 is the gateway of neither network; eth2 gets a subnet where the offset names the box itself.
    bed.border.ip("address del 198.51.100.10/24 dev eth2\naddress add 198.51.100.10/30 dev eth2");
    bed.r1.ip("address add 203.0.113.254/24 dev eth0");
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_GW_ADDRESS_OFFSET", "-1").start();
    assert_served(&bed.client1, Bed::EXT1);
    let status = daemon.status();
    let eth2 = status["interfaces"].as_array().unwrap().iter().find(|i| i["name"] == "eth2").unwrap();
    assert!(eth2["problem"].as_str().is_some_and(|p| p.contains("SNCTRLR_GW_ADDRESS_OFFSET")), "{eth2}");
}
