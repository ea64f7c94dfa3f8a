//! What leaves the border because of packets that no rule lets pass: nothing but neighbour discovery and listener
//! reports.

mod four;
mod listeners;
mod neighbours;
mod six;
mod told;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

use bed::packet::{
    Icmp, Ipv4, Mac, Seen, Sniffer, Wire, arp_request, ethernet, flags, icmp6_packet, ip, ip_with_options, number,
    tcp_packet, udp_packet,
};
use bed::{Bed, Layout, Namespace, Options, eventually};

use crate::support::{assert_served, daemon, manifests, mapping};

/// How long fragments wait for their rest in these tests.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn v6(address: &str) -> Ipv6Addr {
    address.parse().expect("an address of these tests")
}

/// A bed whose border forwards in both families, answers as often as it likes, and has little room behind eth0.
fn bed() -> Bed {
    let bed = bed_of(Options { cluster_mtu: 1300, ..Options::default() });
    // What the box sends to these of its neighbours is to be seen, not to wait for a hardware address.
    for (interface, address, lladdr) in [
        ("eth0", "10.0.0.1", Mac::of(Bed::CORE)),
        ("eth0", "2001:db8:a::1", Mac::of(Bed::CORE)),
        ("eth1", "203.0.113.1", Mac::of(Bed::R1)),
        ("eth2", "198.51.100.1", Mac::of(Bed::R2)),
    ] {
        bed.border.ip(&format!("neigh replace {address} lladdr {lladdr} nud permanent dev {interface}"));
    }
    bed
}

/// As [`bed`], in another shape.
fn bed_of(options: Options) -> Bed {
    let bed = Bed::with(options);
    for (parameter, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/icmp_ratemask", "0"),
        ("ipv4/icmp_msgs_per_sec", "1000000"),
        ("ipv4/icmp_msgs_burst", "1000000"),
        ("ipv6/icmp/ratelimit", "0"),
        ("ipv4/ipfrag_time", "1"),
        ("ipv6/ip6frag_time", "1"),
        ("netfilter/nf_conntrack_frag6_timeout", "1"),
        ("ipv4/conf/eth0/send_redirects", "1"),
    ] {
        bed.border.set_sysctl(&format!("net/{parameter}"), value);
    }
    bed
}

/// Neighbour discovery, ARP and reports of multicast listeners, which stand behind a hop-by-hop header (RFC 3810, 5).
fn may_leave(s: &Seen) -> bool {
    let report = |s: &Seen| s.protocol == 0 && matches!(s.payload.get(8), Some(131 | 132 | 143));
    s.ethertype == number::ARP || s.ethertype == number::IPV6 && (matches!(s.icmp_type, Some(135 | 136)) || report(s))
}

/// Link-local address that the kernel makes of a hardware address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

fn index_of_eth0(at: &Namespace) -> u32 {
    at.within(|| nix::net::if_::if_nametoindex("eth0").unwrap())
}

/// Neighbour solicitation for a target, from the sender's hardware address.
fn solicitation(wire: &Wire, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = v6("ff02::1:ff00:0").octets();
    let group = Ipv6Addr::from(u128::from_be_bytes(group) | u128::from(u32::from_be_bytes([0, a, b, c])));
    let body = [&target.octets()[..], &[1, 1], &wire.mac().0].concat();
    let packet = icmp6_packet(from, group, 255, Icmp { kind: 135, code: 0, rest: 0 }, &body);
    ethernet(wire.mac(), Mac([0x33, 0x33, 0xff, a, b, c]), number::IPV6, &packet)
}

/// An attacker on a wire with the border.
struct Attacker<'a> {
    at: &'a Namespace,
    own: Ipv4Addr,
    own6: Ipv6Addr,
    nic: Ipv4Addr,
}

impl<'a> Attacker<'a> {
    fn both(bed: &'a Bed) -> [Attacker<'a>; 2] {
        let (one, two) = (v6("2001:db8:1::66"), v6("2001:db8:2::66"));
        [
            Attacker { at: &bed.attacker1, own: Bed::ATTACKER1, own6: one, nic: Bed::EXT1 },
            Attacker { at: &bed.attacker2, own: Bed::ATTACKER2, own6: two, nic: Bed::EXT2 },
        ]
    }

    /// Sends packets, then asks for the border's hardware address: with the answer, what was sent before is through.
    fn throw(&self, ethertype: u16, packets: &[Vec<u8>]) {
        let ears = Sniffer::start(self.at, "eth0");
        for wave in packets.chunks(512) {
            self.at.within(|| {
                let wire = Wire::open("eth0").unwrap();
                for packet in wave {
                    wire.send(&ethernet(wire.mac(), Mac::of(self.nic), ethertype, packet)).unwrap();
                }
                wire.send(&arp_request(wire.mac(), self.own, self.nic)).unwrap();
            });
            ears.await_seen("the border's hardware address", |s| s.arp_operation == 2 && s.is_from(self.nic));
            ears.clear();
        }
    }

    fn attack4(&self) {
        let text = |a: &[&str]| a.iter().map(|a| a.parse().unwrap()).collect::<Vec<Ipv4Addr>>();
        let forged =
            ["192.0.2.99", "10.0.0.1", "10.0.0.2", "0.0.0.0", "127.0.0.1", "203.0.113.255", "224.0.0.1", "0.1.2.3"];
        let more =
            ["10.0.0.1", "10.96.0.10", "100.64.0.1", "203.0.113.255", "10.0.0.255", "255.255.255.255", "224.0.0.1"];
        let last = ["224.0.0.18", "239.1.2.3", "0.0.0.0", "0.1.2.3", "127.0.0.1", "240.0.0.1", "203.0.113.99"];
        let targets = [Bed::EXT1, Bed::EXT1B, Bed::EXT2, Bed::BORDER, Bed::POD1, Bed::CLIENT1];
        for from in [self.own, Bed::POD2, Bed::EXT1, Bed::EXT2].into_iter().chain(text(&forged)) {
            let to = targets.into_iter().chain(text(&more)).chain(text(&last));
            self.throw(number::IPV4, &to.flat_map(|to| four::barrage(from, to)).collect::<Vec<_>>());
        }
    }

    fn attack6(&self) {
        let inner = link_local(Mac::of(Bed::BORDER));
        let outer = link_local(Mac::of(self.nic));
        let forged = [
            "2001:db8:ffff::1",
            "2001:db8:a::77",
            "2001:db8:a::1",
            "2001:db8:a::2",
            "2001:db8:1::10",
            "2001:db8:2::10",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "fe80::66",
            "ff02::1",
            "64:ff9b::1",
        ];
        let targets = [
            "2001:db8:1::10",
            "2001:db8:2::10",
            "2001:db8:a::2",
            "2001:db8:a::1",
            "2001:db8:a::77",
            "2001:db8:244::5",
            "2001:db8:1::",
            "2001:db8:a::",
            "2001:db8:1::99",
            "2001:db8:dead::1",
            "fe80::77",
            "ff01::1",
            "ff02::1",
            "ff02::2",
            "ff02::16",
            "ff02::12",
            "ff02::1:2",
            "ff02::1:ff00:10",
            "ff05::2",
            "ff0e::1",
            "::",
            "::1",
            "::ffff:10.0.0.1",
        ];
        for from in [self.own6, inner].into_iter().chain(forged.map(v6)) {
            let to = targets.map(v6).into_iter().chain([inner, outer]);
            self.throw(number::IPV6, &to.flat_map(|to| six::barrage(from, to)).collect::<Vec<_>>());
        }
    }
}

/// Ears on all sides of the border, outgoing.
struct Ears<'a> {
    bed: &'a Bed,
    sniffers: [(&'static str, Sniffer); 3],
}

impl<'a> Ears<'a> {
    fn open(bed: &'a Bed) -> Ears<'a> {
        bed.border.run("conntrack -F");
        Ears { bed, sniffers: ["eth0", "eth1", "eth2"].map(|name| (name, Sniffer::start(&bed.border, name))) }
    }

    /// By kind and the first of each, because thousands say no more than one.
    #[track_caller]
    fn nothing_left(&self) {
        let mut kinds = std::collections::BTreeMap::new();
        for (name, sniffer) in &self.sniffers {
            for seen in sniffer.seen(|s| s.outgoing && !may_leave(s)) {
                let kind = (*name, seen.ethertype, seen.protocol, seen.icmp_type, seen.icmp_code);
                kinds.entry(kind).or_insert((0, seen)).0 += 1;
            }
        }
        assert!(kinds.is_empty(), "left the border: {kinds:#?}");
        for family in ["ipv4", "ipv6"] {
            let entries = self.bed.border.run(&format!("conntrack -L -f {family}"));
            let strange: Vec<_> = entries.lines().filter(|e| !e.contains("src=127.0.0.1 dst=127.0.0.1")).collect();
            assert_eq!(strange, [""; 0], "is remembered");
        }
    }
}

/// Packets that a rule of ours has dropped.
fn dropped(border: &Namespace, tool: &str, rule: &str) -> u64 {
    let rules = border.run(&format!("{tool}-save -c -t mangle"));
    let line = rules.lines().find(|l| l.contains(rule)).unwrap_or_else(|| panic!("no {rule:?} among\n{rules}"));
    let count = line.trim_start_matches('[').split(':').next().and_then(|n| n.parse().ok());
    count.unwrap_or_else(|| panic!("no counter: {line}"))
}

#[track_caller]
fn assert_fragments_given_up(bed: &Bed) {
    eventually("no fragment waits any longer", || {
        let stat = bed.border.run("cat /proc/thread-self/net/sockstat");
        stat.contains("FRAG: inuse 0 ").then_some(())
    });
    // Of IPv6 fragments in connection tracking nothing tells how many wait.
    std::thread::sleep(PATIENCE * 2);
}

/// Both attackers throw everything; fragments get their time to be given up.
#[track_caller]
fn assert_silent_under_attack(bed: &Bed) {
    let ears = Ears::open(bed);
    for attacker in Attacker::both(bed) {
        attacker.attack4();
        attacker.attack6();
    }
    assert_fragments_given_up(bed);
    ears.nothing_left();
    // The kernel had something to say, and our rules were what kept it back.
    for (tool, kinds) in
        [("iptables", ["--icmp-type 11/1 ", "--u32 "]), ("ip6tables", ["--icmpv6-type 3/1 ", "--icmpv6-type 4 "])]
    {
        for kind in kinds {
            assert!(dropped(&bed.border, tool, kind) > 0, "{tool} {kind}");
        }
    }
}

#[test]
fn nothing_leaves_the_daemons_border_under_attack() {
    let bed = bed();
    let allowed = "192.0.2.77";
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source(allowed)]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "").start();
    assert_silent_under_attack(&bed);
}

#[test]
fn nothing_leaves_the_border_alone_under_attack() {
    let bed = bed();
    let manifests = manifests([]);
    let border = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "").command(&["border"]);
    assert!(border.status.success(), "{border:?}");
    bed.border.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    assert_silent_under_attack(&bed);
}

#[test]
fn nothing_leaves_a_bridge_above_an_external_interface_under_attack() {
    let bed = bed();
    bed.border.ip("link add name br0 type bridge forward_delay 0 mcast_snooping 0\n\
         link set eth1 master br0\n\
         address flush dev eth1\n\
         link set br0 up\n\
         address add 203.0.113.10/24 dev br0\n\
         address add 2001:db8:1::10/64 dev br0");
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.77")]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "").start();
    assert_silent_under_attack(&bed);
}

#[test]
fn nothing_leaves_a_border_in_one_subnet_with_its_neighbours_under_attack() {
    let bed = bed_of(Options { layout: Layout::SameSubnet, ..Options::default() });
    for (interface, n) in [("eth0", 97), ("eth1", 41), ("eth2", 51)] {
        bed.border.ip(&format!("address add 2001:db8:5::{n}/64 dev {interface}"));
    }
    let manifests = manifests([mapping("web", &[Bed::SAME_EXT1[0], Bed::SAME_EXT2[0]]).source("192.0.2.77")]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "").start();
    bed.border.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    let own = v6("2001:db8:5::200");
    let attacker = Attacker { at: &bed.attacker1, own: Bed::SAME_NEIGHBOUR, own6: own, nic: Bed::SAME_EXT1[0] };
    let ears = Ears::open(&bed);
    let outsider = Ipv4Addr::new(198, 18, 0, 1);
    let nowhere = [outsider, Ipv4Addr::new(10, 22, 67, 255), Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 22, 66, 99)];
    let targets = [Bed::SAME_EXT1[0], Bed::SAME_EXT2[0], Bed::SAME_BORDER, Bed::SAME_CORE, Bed::POD1];
    for from in [Bed::SAME_NEIGHBOUR, Bed::SAME_CORE, Bed::POD2, Bed::SAME_BORDER, Bed::CLIENT1, outsider] {
        let to = targets.into_iter().chain(nowhere);
        attacker.throw(number::IPV4, &to.flat_map(|to| four::barrage(from, to)).collect::<Vec<_>>());
    }
    let targets =
        ["2001:db8:5::41", "2001:db8:5::51", "2001:db8:5::97", "2001:db8:5::99", "2001:db8:dead::1", "ff02::1"];
    for from in ["2001:db8:5::200", "2001:db8:5::97", "2001:db8:ffff::1", "fe80::66"].map(v6) {
        let to = targets.map(v6).into_iter().chain([link_local(Mac::of(Bed::SAME_BORDER))]);
        attacker.throw(number::IPV6, &to.flat_map(|to| six::barrage(from, to)).collect::<Vec<_>>());
    }
    assert_fragments_given_up(&bed);
    ears.nothing_left();
}

#[test]
fn what_a_client_is_told_names_the_mapped_address_alone() {
    for masquerade in ["true", "false"] {
        let bed = bed();
        let manifests = manifests([mapping("web", &[Bed::EXT1])]);
        let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_MASQUERADE", masquerade).start();
        let [attacker, _] = Attacker::both(&bed);
        let from = SocketAddrV4::new(Bed::ATTACKER1, 42_000);
        let syn = tcp_packet(from, SocketAddrV4::new(Bed::EXT1, 80), flags::SYN, b"");
        let mut big = udp_packet(from, SocketAddrV4::new(Bed::EXT1, 53), &[0; 1400]);
        big[6] = 0x40;
        let ears = Ears::open(&bed);
        let last_hop = ip(Ipv4 { ttl: 1, ..Ipv4::new(Bed::ATTACKER1, Bed::EXT1, number::TCP) }, &syn[20..]);
        attacker.throw(number::IPV4, &[last_hop, four::checksummed(big)]);
        let [(_, inside), (_, eth1), (_, eth2)] = &ears.sniffers;
        for (kind, code) in [(11, 0), (3, 4)] {
            let told = eth1.await_seen("an error", |s| (s.icmp_type, s.icmp_code) == (Some(kind), code));
            assert!(told.is_from(Bed::EXT1), "{told:?}");
            // The destination of the packet that it is about.
            assert_eq!(told.payload[16..20], Bed::EXT1.octets(), "{told:?}");
        }
        assert_eq!(inside.seen(|s| s.outgoing && !may_leave(s)), []);
        assert_eq!(eth2.seen(|s| s.outgoing && !may_leave(s)), []);
    }
}

#[test]
fn options_of_a_client_do_not_write_down_the_way_inside() {
    let bed = bed();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.attacker1, Bed::EXT1);
    let [attacker, _] = Attacker::both(&bed);
    let (from, web) = (SocketAddrV4::new(Bed::ATTACKER1, 41_000), SocketAddrV4::new(Bed::EXT1, 80));
    let syn = tcp_packet(from, web, flags::SYN, b"");
    let datagram = udp_packet(from, SocketAddrV4::new(Bed::EXT1, 53), b"who are you?\n");
    let ears = Ears::open(&bed);
    let with = |options: &[u8]| {
        [(number::TCP, &syn), (number::UDP, &datagram)].map(|(protocol, whole)| {
            ip_with_options(Ipv4::new(Bed::ATTACKER1, Bed::EXT1, protocol), options, &whole[20..])
        })
    };
    let record_route = [&[7, 39, 4][..], &[0; 36]].concat();
    let timestamp = [&[68, 36, 5, 1][..], &[0; 32]].concat();
    let options: [&[u8]; 6] = [&record_route, &timestamp, &[148, 4, 0, 0], &[30, 4, 0, 0], &[7, 2], &[1, 1, 1, 1]];
    attacker.throw(number::IPV4, &options.map(with).concat());
    ears.nothing_left();
}
