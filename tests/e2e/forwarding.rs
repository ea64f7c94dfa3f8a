//! From a client through a mapped address to a pod, and back.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::packet::{Mac, Seen, Sniffer};
use bed::peer::{Proto, Request};
use bed::{Bed, Options};

use crate::support::{PORTS, assert_dropped, assert_served, daemon, manifests, mapping, pods_answering};

#[test]
fn a_client_gets_answers_over_tcp_and_udp_from_a_pod_at_its_own_port() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let answer = assert_served(&bed.client1, Bed::EXT1);
    assert_eq!(answer.saw.ip(), Bed::BORDER, "masquerading is the default");
}

#[test]
fn ports_of_one_mapping_lead_to_different_ports_of_the_service() {
    let bed = Bed::new();
    let web = bed::Mapping::new("web").address(Bed::EXT1);
    let manifests = manifests([web.port(Proto::Tcp, 8000, 80).port(Proto::Tcp, 8001, 80).port(Proto::Udp, 8000, 53)]);
    let _daemon = daemon(&bed, &manifests).start();
    for (proto, port, at) in [(Proto::Tcp, 8000, 8080), (Proto::Tcp, 8001, 8080), (Proto::Udp, 8000, 9090)] {
        assert_eq!(bed.client1.get(proto, Bed::EXT1, port).unwrap().at.port(), at);
    }
    assert_dropped(&bed.client1, Bed::EXT1);
}

#[test]
fn replies_leave_by_the_interface_of_arrival_to_the_mac_of_its_gateway() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let _daemon = daemon(&bed, &manifests).start();
    let wires =
        [Sniffer::start(&bed.r1, "eth0"), Sniffer::start(&bed.r2, "eth0"), Sniffer::start(&bed.core, "cluster")];
    // Each address answers on both interfaces: what counts is where the client came from.
    for (arrival, client, client_at, nic, gateway) in
        [(0, &bed.client1, Bed::CLIENT1, Bed::EXT1, Bed::R1), (1, &bed.client2, Bed::CLIENT2, Bed::EXT2, Bed::R2)]
    {
        for address in [Bed::EXT1, Bed::EXT2] {
            assert_served(client, address);
            let reply = |s: &Seen| s.from_mac != Mac::of(client_at) && s.is_from(address) && s.is_to(client_at);
            for proto in [Seen::is_tcp, Seen::is_udp] {
                let seen = wires[arrival].await_seen("the reply", |s| reply(s) && proto(s) && !s.outgoing);
                assert_eq!((seen.from_mac, seen.to_mac), (Mac::of(nic), Mac::of(gateway)), "{seen:?}");
            }
            for (n, wire) in wires.iter().enumerate().filter(|(n, _)| *n != arrival) {
                assert_eq!(wire.seen(reply), [], "replies to {client_at} on wire {n}");
            }
        }
    }
}

#[test]
fn a_client_in_the_external_subnet_is_answered_without_the_gateway() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let wire = Sniffer::start(&bed.attacker1, "eth0");
    assert_served(&bed.attacker1, Bed::EXT1);
    let reply = wire.await_seen("the reply", |s| s.is_from(Bed::EXT1) && s.is_syn_ack());
    assert_eq!((reply.from_mac, reply.to_mac), (Mac::of(Bed::EXT1), Mac::of(Bed::ATTACKER1)));
}

#[test]
fn two_addresses_of_one_mapping_on_two_interfaces_are_both_served() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_served(&bed.client2, Bed::EXT2);
    let configured = &daemon.mapping("web").unwrap()["status"]["configuredAddresses"];
    assert_eq!(configured.as_object().unwrap().len(), 2, "{configured}");
}

#[test]
fn two_addresses_of_one_mapping_on_one_interface_are_both_served() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT1B])]);
    let _daemon = daemon(&bed, &manifests).start();
    for address in [Bed::EXT1, Bed::EXT1B] {
        assert_served(&bed.client1, address);
    }
}

#[test]
fn new_connections_are_spread_over_all_ready_pods() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    // Both are missed with a chance of 2^-39.
    assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 40).len(), 2);
}

#[test]
fn a_pod_reaches_itself_and_others_through_the_mapped_address() {
    for masquerade in ["true", "false"] {
        let bed = Bed::new();
        let manifests = manifests([mapping("web", &[Bed::EXT1])]);
        let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_MASQUERADE", masquerade).start();
        let answer = assert_served(&bed.pod1, Bed::EXT1);
        assert_eq!(answer.saw.ip(), Bed::BORDER, "what begins inside is always masqueraded");
        assert_eq!(pods_answering(&bed.pod1, Bed::EXT1, 40).len(), 2);
    }
}

#[test]
fn a_node_reaches_a_mapped_address_and_meets_its_source_filter() {
    let bed = Bed::new();
    let open = mapping("open", &[Bed::EXT1]);
    let manifests = manifests([open, mapping("closed", &[Bed::EXT1B]).source("192.0.2.0/25")]);
    let _daemon = daemon(&bed, &manifests).start();
    bed.core.ip("route add 203.0.113.0/24 via 10.0.0.2");
    assert_eq!(assert_served(&bed.core, Bed::EXT1).saw.ip(), Bed::BORDER);
    for inside in [&bed.core, &bed.pod1] {
        for (proto, port) in PORTS {
            assert!(crate::support::try_port(inside, proto, Bed::EXT1B, port).is_err(), "{}", inside.name());
        }
    }
    assert_served(&bed.client1, Bed::EXT1B);
}

#[test]
fn the_box_connects_by_its_default_gateway_and_from_an_external_address_by_its_interface() {
    let bed = Bed::new();
    let at = |address: Ipv4Addr| [SocketAddrV4::new(address, 7000)];
    bed.serve("client1", "client1", &at(Bed::CLIENT1), &at(Bed::CLIENT1));
    bed.serve("core", "core", &at(Bed::CORE), &at(Bed::CORE));
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    for proto in [Proto::Tcp, Proto::Udp] {
        assert_eq!(bed.border.get(proto, Bed::CORE, 7000).unwrap().saw.ip(), Bed::BORDER);
        let to = SocketAddrV4::new(Bed::CLIENT1, 7000);
        let bound = Request { from: SocketAddrV4::new(Bed::EXT1B, 0), ..Request::new(proto, to) };
        assert_eq!(bed.border.within(|| bound.send()).unwrap().saw.ip(), Bed::EXT1B);
    }
}

#[test]
fn two_boxes_serve_one_mapping_each_at_its_own_addresses() {
    let bed = Bed::with(Options { second_border: true, ..Options::default() });
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::SECOND_EXT1])]);
    let first = daemon(&bed, &manifests).start();
    let second = daemon(&bed, &manifests).on_second().machine_id("0123456789abcdef0123456789abcdef").start();
    for (daemon, name) in [(&first, "border"), (&second, "border2")] {
        daemon.settle(&manifests);
        assert_eq!(daemon.status()["instance"], name);
    }
    assert_served(&bed.client1, Bed::EXT1);
    assert_served(&bed.client1, Bed::SECOND_EXT1);
    assert_dropped(&bed.client1, Bed::SECOND_EXT1B);
}
