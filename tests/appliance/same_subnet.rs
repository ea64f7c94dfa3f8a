//! The guide's EC2 example: three interfaces in one subnet, two external ones with two addresses each.

use std::net::Ipv4Addr;

use bed::packet::{Mac, Seen, Sniffer, Wire, arp_request};
use bed::{Bed, Layout};

use crate::support::{Stage, assert_served, await_served, web};

/// (address, MAC of the interface that holds it)
fn external() -> [(Ipv4Addr, Mac); 4] {
    let [a, b] = Bed::SAME_EXT1;
    let [c, d] = Bed::SAME_EXT2;
    [(a, Mac::of(a)), (b, Mac::of(a)), (c, Mac::of(c)), (d, Mac::of(c))]
}

#[test]
fn three_interfaces_in_one_subnet_serve_each_its_own_addresses_whichever_came_up_first() {
    let stage = Stage::set(Layout::SameSubnet);
    stage.node("appliance");
    let (bed, vm) = (&stage.bed, stage.installed());
    stage.put(&web("web", &external().map(|(address, _)| address)));
    stage.await_programmed("web");
    await_served(&bed.client1, Bed::SAME_EXT1[0]);
    for round in ["as they came", "eth0 last"] {
        let router = Sniffer::start(&bed.r1, "eth0");
        for (client, at) in [(&bed.client1, Bed::CLIENT1), (&bed.client2, Bed::CLIENT2)] {
            for (address, nic) in external() {
                assert_eq!(assert_served(client, address).saw.ip(), Bed::SAME_BORDER, "{round}");
                for proto in [Seen::is_tcp, Seen::is_udp] {
                    let reply = |s: &Seen| s.is_from(address) && s.is_to(at) && proto(s);
                    router.await_seen("the reply", reply);
                    for seen in router.seen(reply) {
                        assert_eq!((seen.from_mac, seen.to_mac), (nic, Mac::of(Bed::SAME_ROUTER)), "{round}: {seen:?}");
                    }
                }
            }
        }
        let wire = Sniffer::start(&bed.attacker1, "eth0");
        bed.attacker1.within(|| {
            let raw = Wire::open("eth0").unwrap();
            for (address, _) in external() {
                raw.send(&arp_request(raw.mac(), Bed::SAME_NEIGHBOUR, address)).unwrap();
            }
            raw.send(&arp_request(raw.mac(), Bed::SAME_NEIGHBOUR, Bed::SAME_BORDER)).unwrap();
        });
        let answer_for = |address: Ipv4Addr| move |s: &Seen| s.arp_operation == 2 && s.is_from(address);
        wire.await_seen("the answer for the gateway interface", answer_for(Bed::SAME_BORDER));
        for (address, nic) in external() {
            wire.await_seen("an answer", answer_for(address));
            for seen in wire.seen(answer_for(address)) {
                assert_eq!(seen.from_mac, nic, "{round}: {address} is answered for by its owner alone");
            }
        }
        let main = vm.must("ip -o route get 10.22.66.11; ip route show table main");
        assert!(main.lines().next().unwrap().contains("dev eth0"), "{round}: {main}");
        // The gateway interface goes away and comes back behind the external ones.
        vm.must("networkctl down eth0 && networkctl up eth0");
        vm.eventually(
            "eth0 is configured again",
            "ip -o -4 address show dev eth0 | grep -q 10.22.66.97 && ip route show default | grep -q eth0",
        );
        await_served(&bed.client1, Bed::SAME_EXT1[0]);
    }
}
