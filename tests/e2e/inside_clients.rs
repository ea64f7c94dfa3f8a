//! Networks of the inside that cover clients, and default routes that are written as many.

use bed::{Bed, Daemon, Endpoints, Mapping, eventually};
use serde_json::Value;

use crate::support::{assert_dropped, assert_served, daemon, manifests, mapping};

/// What the daemon says of a Mapping.
fn told(daemon: &Daemon<'_>, name: &str) -> Value {
    let status = daemon.status();
    let mappings = status["mappings"].as_array().cloned().unwrap_or_default();
    mappings.into_iter().find(|m| m["name"] == name).unwrap_or_default()
}

/// Until its message says, or does not say, what makes sources inside; it is programmed in any case.
#[track_caller]
fn await_note(daemon: &Daemon<'_>, name: &str, parts: &[&str]) {
    eventually(&format!("{name} is told about {parts:?}"), || {
        let mapping = told(daemon, name);
        let text = mapping.to_string();
        assert!(text.contains("\"reason\":\"Programmed\""), "{mapping:#}");
        let as_it_should = match parts {
            [] => !text.contains("note: "),
            parts => parts.iter().all(|part| text.contains(part)),
        };
        as_it_should.then_some(())
    });
}

fn filtered(name: &str, sources: &[&str]) -> Mapping {
    sources.iter().fold(mapping(name, &[Bed::EXT1]), |m, source| m.source(source))
}

#[test]
fn a_route_by_the_inside_over_an_allowed_source_is_told_and_its_clients_are_dropped() {
    let bed = Bed::new();
    let manifests = manifests([filtered("web", &["192.0.2.0/25", "192.0.2.128/25"])]);
    let daemon = daemon(&bed, &manifests).start();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1);
    await_note(&daemon, "web", &[]);

    // Wholly inside is the first half alone: its neighbour goes on.
    bed.border.ip("route add 192.0.2.0/25 via 10.0.0.1 dev eth0");
    let why = "192.0.2.0/25 (inside network 192.0.2.0/25, routed by eth0 via 10.0.0.1)";
    await_note(&daemon, "web", &[why, "from outside by eth1"]);
    assert!(!told(&daemon, "web").to_string().contains("192.0.2.128/25"));
    assert_dropped(&bed.client1, Bed::EXT1);
    assert_served(&bed.client2, Bed::EXT1);

    bed.border.ip("route del 192.0.2.0/25 via 10.0.0.1 dev eth0");
    await_note(&daemon, "web", &[]);
    assert_served(&bed.client1, Bed::EXT1);

    // As a container engine's bridge.
    bed.border.ip("link add docker0 type bridge\naddress add 192.0.2.1/24 dev docker0\nlink set docker0 up");
    await_note(&daemon, "web", &["inside network 192.0.2.0/24, a subnet of docker0", "192.0.2.128/25"]);
    assert_dropped(&bed.client2, Bed::EXT1);
    bed.border.ip("link del docker0");
    await_note(&daemon, "web", &[]);
    assert_served(&bed.client2, Bed::EXT1);
}

#[test]
fn a_client_that_is_an_endpoint_elsewhere_is_told() {
    let bed = Bed::new();
    let mut manifests = manifests([filtered("web", &["192.0.2.10", "192.0.2.128/25"])]);
    let daemon = daemon(&bed, &manifests).start();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1);
    manifests.put_endpoints(Endpoints::of("other").ready(Bed::CLIENT1)).write();
    daemon.settle(&manifests);
    await_note(&daemon, "web", &["192.0.2.10/32 (the address of an endpoint or a Service of the cluster)"]);
    assert_dropped(&bed.client1, Bed::EXT1);
    assert_served(&bed.client2, Bed::EXT1);
}

#[test]
fn a_default_route_in_pieces_by_the_inside_makes_nobody_an_impostor() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let mut daemon = daemon(&bed, &manifests);
    // Pieces finer than a half, an overlap, and one route of several ways.
    for net in ["0.0.0.0/2", "64.0.0.0/3", "96.0.0.0/3", "96.0.0.0/4", "128.0.0.0/2", "192.0.0.0/3", "224.0.0.0/4"] {
        bed.border.ip(&format!("route add {net} via 10.0.0.1 dev eth0"));
    }
    daemon.start_again();
    daemon.settle(&manifests);
    for client in [&bed.client1, &bed.client2] {
        assert_served(client, Bed::EXT1);
        assert_served(client, Bed::EXT2);
    }
    // The pods' networks among them stay inside: their addresses are forged from outside.
    let set = bed.border.run("ipset list SN-INNER");
    assert!(set.contains("10.244.") && !set.contains("192.0.0.0/3"), "{set}");
    await_note(&daemon, "web", &[]);
}

#[test]
fn routes_by_nexthop_objects_count_as_any_other() {
    let bed = Bed::new();
    let manifests = manifests([filtered("web", &["192.0.2.0/25", "192.0.2.128/25"])]);
    let daemon = daemon(&bed, &manifests).start();
    daemon.settle(&manifests);
    // Where it is 0, the kernel names the object alone.
    for compatible in ["1", "0"] {
        bed.border.set_sysctl("net/ipv4/nexthop_compat_mode", compatible);
        bed.border.ip("nexthop add id 7 via 10.0.0.1 dev eth0\nnexthop add id 9 group 7\n\
                       route add 192.0.2.0/25 nhid 7\nroute add 192.0.2.128/25 nhid 9");
        let from = "routed by eth0 via 10.0.0.1";
        await_note(
            &daemon,
            "web",
            &[
                &format!("192.0.2.0/25 (inside network 192.0.2.0/25, {from})"),
                &format!("192.0.2.128/25 (inside network 192.0.2.128/25, {from})"),
            ],
        );
        assert_dropped(&bed.client1, Bed::EXT1);
        assert_dropped(&bed.client2, Bed::EXT1);
        bed.border.ip("route del 192.0.2.0/25\nroute del 192.0.2.128/25\nnexthop del id 9\nnexthop del id 7");
        await_note(&daemon, "web", &[]);
        assert_served(&bed.client1, Bed::EXT1);
    }
}
