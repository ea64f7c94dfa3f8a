//! Switches that snoop multicast, and what they have to hear from the border.

use bed::Bed;
use bed::packet::{Icmp, Mac, Seen, Sniffer, Wire, ethernet, icmp6_packet, ip6, number};

use super::{solicitation, v6};
use crate::support::{daemon, manifests, mapping};

/// Type of a listener message behind its hop-by-hop header.
fn listener_message(s: &Seen) -> Option<u8> {
    (s.ethertype == number::IPV6 && s.protocol == 0).then(|| s.payload.get(8).copied()).flatten()
}

#[test]
fn neighbours_behind_a_snooping_switch_find_the_box() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let border = Sniffer::start(&bed.border, "eth1");
    bed.snoop("ext1");
    // Two answers lie at least a query apart; a port that is silent is forgotten after three.
    let queries = |n: usize| {
        bed::eventually(&format!("{n} queries have come"), || {
            (border.seen(|s| !s.outgoing && listener_message(s) == Some(130)).len() >= n).then_some(())
        });
    };
    queries(1);
    let group = "ff02::1:ff00:10";
    bed::eventually("the switch knows the listener", || {
        bed.listeners("ext1").iter().find(|l| l.contains("b-eth1") && l.contains(group)).map(drop)
    });
    border.clear();
    queries(6);
    border.await_seen("a report", |s| s.outgoing && listener_message(s) == Some(143));
    let known = bed.listeners("ext1");
    assert!(known.iter().any(|l| l.contains("b-eth1") && l.contains(group)), "{known:?}");
    let ears = Sniffer::start(&bed.attacker1, "eth0");
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        wire.send(&solicitation(&wire, v6("2001:db8:1::66"), v6("2001:db8:1::10"))).unwrap();
    });
    ears.await_seen("the advertisement", |s| s.icmp_type == Some(136) && s.from_mac == Mac::of(Bed::EXT1));
}

#[test]
fn only_the_link_itself_may_ask_for_listeners() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let ears = Sniffer::start(&bed.attacker1, "eth0");
    let ask = |from: &str, hop_limit: u8| {
        // 10 ms to answer, every group (RFC 3810, 5.1).
        let query =
            icmp6_packet(v6(from), v6("ff02::1"), hop_limit, Icmp { kind: 130, code: 0, rest: 10 << 16 }, &[0; 20]);
        let alert = [&[number::ICMPV6, 0, 5, 2, 0, 0, 1, 0][..], &query[40..]].concat();
        let header = bed::packet::Ipv6 { from: v6(from), to: v6("ff02::1"), next_header: 0, hop_limit };
        let packet = ip6(header, &alert);
        bed.attacker1.within(|| {
            let wire = Wire::open("eth0").unwrap();
            wire.send(&ethernet(wire.mac(), Mac([0x33, 0x33, 0, 0, 0, 1]), number::IPV6, &packet)).unwrap();
        });
    };
    // The first three meet a rule of ours, or the kernel's own check; the last is a querier's.
    for (from, hop_limit) in [("2001:db8:1::66", 1), ("2001:db8:ffff::1", 1), ("fe80::66", 64)] {
        ask(from, hop_limit);
    }
    ask("fe80::66", 1);
    let report = |s: &Seen| listener_message(s) == Some(143) && s.from_mac == Mac::of(Bed::EXT1);
    ears.await_seen("the report", report);
    let rules = bed.border.run("ip6tables-save -c -t mangle");
    let query = rules.lines().find(|l| l.contains("--icmpv6-type 130 ")).expect("a rule for queries");
    assert!(query.starts_with("[1:"), "one query alone passed: {query}");
}
