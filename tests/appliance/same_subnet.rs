//! The guide's EC2 example: three interfaces in one subnet, two external ones with two addresses each.

use std::net::Ipv4Addr;
use std::time::Duration;

use bed::packet::{Mac, Seen, Sniffer, Wire, arp_request};
use bed::peer::Proto;
use bed::{Bed, Layout, eventually_within};

use crate::support::{PATIENCE, Stage, ask, assert_served, await_served, web};

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
    let neighbour = bed.attacker1.within(|| Wire::open("eth0")).expect("a neighbour has its interface");
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
        who_has(&neighbour);
        assert_owners_answer(&wire, round);
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

    // Not for a moment after a boot does another interface answer: a router would keep what it said.
    vm.shut_down();
    let wire = Sniffer::start(&bed.attacker1, "eth0");
    vm.power_on();
    eventually_within(PATIENCE * 2, "it serves again", || {
        for _ in 0..10 {
            who_has(&neighbour);
            std::thread::sleep(Duration::from_millis(100));
        }
        ask(&bed.client1, Proto::Tcp, Bed::SAME_EXT1[0], 80).ok()
    });
    assert_owners_answer(&wire, "while it boots");
    vm.await_answer();
}

/// Asks for every address of the box.
fn who_has(neighbour: &Wire) {
    for address in external().map(|(address, _)| address).into_iter().chain([Bed::SAME_BORDER]) {
        neighbour.send(&arp_request(neighbour.mac(), Bed::SAME_NEIGHBOUR, address)).expect("a wire takes frames");
    }
}

/// Every address was answered for, each external one by the interface that holds it alone.
#[track_caller]
fn assert_owners_answer(wire: &Sniffer, when: &str) {
    let answer_for = |address: Ipv4Addr| move |s: &Seen| s.arp_operation == 2 && s.is_from(address);
    wire.await_seen("the answer for the gateway interface", answer_for(Bed::SAME_BORDER));
    for (address, nic) in external() {
        wire.await_seen("an answer", answer_for(address));
        for seen in wire.seen(answer_for(address)) {
            assert_eq!(seen.from_mac, nic, "{when}: {address} is answered for by its owner alone");
        }
    }
}
