//! Three interfaces in one subnet: the operator guide's own example.

use bed::packet::{Mac, Seen, Sniffer, Wire, arp_request};
use bed::{Bed, Layout, Options};

use crate::support::{assert_served, daemon, manifests, mapping, pods_answering};

fn same_subnet() -> Bed {
    Bed::with(Options { layout: Layout::SameSubnet, ..Options::default() })
}

/// (address, MAC of the interface that holds it)
fn external() -> [(std::net::Ipv4Addr, Mac); 4] {
    let [a, b] = Bed::SAME_EXT1;
    let [c, d] = Bed::SAME_EXT2;
    [(a, Mac::of(a)), (b, Mac::of(a)), (c, Mac::of(c)), (d, Mac::of(c))]
}

#[test]
fn clients_beyond_the_router_are_answered_by_the_interface_of_their_address() {
    for masquerade in [true, false] {
        let bed = same_subnet();
        let manifests = manifests([mapping("web", &external().map(|(address, _)| address))]);
        let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_MASQUERADE", &masquerade.to_string()).start();
        let router = Sniffer::start(&bed.r1, "eth0");
        for (client, at) in [(&bed.client1, Bed::CLIENT1), (&bed.client2, Bed::CLIENT2)] {
            for (address, nic) in external() {
                let saw = assert_served(client, address).saw.ip();
                assert_eq!(saw, if masquerade { Bed::SAME_BORDER } else { at });
                for proto in [Seen::is_tcp, Seen::is_udp] {
                    let reply = |s: &Seen| s.is_from(address) && s.is_to(at) && proto(s);
                    router.await_seen("the reply", reply);
                    for seen in router.seen(reply) {
                        assert_eq!((seen.from_mac, seen.to_mac), (nic, Mac::of(Bed::SAME_ROUTER)), "{seen:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_address_is_answered_for_by_its_own_interface_only() {
    let bed = same_subnet();
    let manifests = manifests([mapping("web", &external().map(|(address, _)| address))]);
    let _daemon = daemon(&bed, &manifests).start();
    let wire = Sniffer::start(&bed.attacker1, "eth0");
    bed.attacker1.within(|| {
        let raw = Wire::open("eth0").unwrap();
        // The gateway interface's own address comes last: when its answer is here, so are the others.
        for (address, _) in external() {
            raw.send(&arp_request(raw.mac(), Bed::SAME_NEIGHBOUR, address)).unwrap();
        }
        raw.send(&arp_request(raw.mac(), Bed::SAME_NEIGHBOUR, Bed::SAME_BORDER)).unwrap();
    });
    let answer_for = |address: std::net::Ipv4Addr| move |s: &Seen| s.arp_operation == 2 && s.is_from(address);
    wire.await_seen("the answer for the gateway interface", answer_for(Bed::SAME_BORDER));
    for (address, nic) in external() {
        wire.await_seen("an answer", answer_for(address));
        for seen in wire.seen(answer_for(address)) {
            assert_eq!(seen.from_mac, nic, "{address} is answered for by {seen:?}");
        }
    }
}

#[test]
fn clients_in_the_subnet_itself_are_served_and_masqueraded() {
    for masquerade in ["true", "false"] {
        let bed = same_subnet();
        let manifests = manifests([mapping("web", &external().map(|(address, _)| address))]);
        let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_MASQUERADE", masquerade).start();
        for (address, _) in external() {
            assert_eq!(assert_served(&bed.attacker1, address).saw.ip(), Bed::SAME_BORDER);
        }
    }
}

#[test]
fn pods_reach_themselves_and_others_through_a_mapped_address_of_the_shared_subnet() {
    let bed = same_subnet();
    let manifests = manifests([mapping("web", &external().map(|(address, _)| address))]);
    let _daemon = daemon(&bed, &manifests).start();
    for (address, _) in external() {
        assert_eq!(assert_served(&bed.pod1, address).saw.ip(), Bed::SAME_BORDER);
    }
    assert_eq!(pods_answering(&bed.pod1, Bed::SAME_EXT1[0], 40).len(), 2);
}

#[test]
fn neighbours_in_the_subnet_reach_nothing_but_mapped_endpoints() {
    let bed = same_subnet();
    let manifests = manifests([mapping("web", &[Bed::SAME_EXT1[0]])]);
    let _daemon = daemon(&bed, &manifests).start();
    let cluster = Sniffer::start(&bed.core, "cluster");
    // To the pod by way of an external interface, whatever the neighbour's own routes say.
    bed.attacker1.within(|| {
        let raw = Wire::open("eth0").unwrap();
        for (_, nic) in external() {
            let from = std::net::SocketAddrV4::new(Bed::CLIENT2, 4000);
            let to = std::net::SocketAddrV4::new(Bed::POD1, 8080);
            let syn = bed::packet::tcp_packet(from, to, bed::packet::flags::SYN, b"");
            raw.send(&bed::packet::ethernet(raw.mac(), nic, bed::packet::number::IPV4, &syn)).unwrap();
        }
    });
    assert_served(&bed.client1, Bed::SAME_EXT1[0]);
    assert_eq!(cluster.seen(|s| s.is_from(Bed::CLIENT2) && s.is_to(Bed::POD1)), []);
    crate::support::assert_dropped(&bed.client1, Bed::SAME_EXT1[1]);
}
