//! Kernel parameters that stand once for all interfaces and once for each.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::packet::{Ipv4, Mac, Sniffer, Wire, ethernet, flags, ip, number, tcp_packet, udp_packet};
use bed::peer::Proto;
use bed::{Bed, Daemon, eventually};

use crate::support::{
    assert_alive, assert_dropped, assert_served, daemon, heard, manifests, mapping, open_stream, put_ears,
};

const ALL: &str = "net/ipv4/conf/all";

fn forwarding(bed: &Bed, interface: &str) -> String {
    bed.border.sysctl(&format!("net/ipv4/conf/{interface}/forwarding"))
}

fn set_forwarding(bed: &Bed, interface: &str, value: &str) {
    bed.border.set_sysctl(&format!("net/ipv4/conf/{interface}/forwarding"), value);
}

/// The lines of `check` that begin with a level.
fn check(daemon: &Daemon<'_>, level: &str) -> String {
    let text = String::from_utf8(daemon.command(&["check"]).stdout).unwrap();
    assert!(text.contains("failures: "), "{text}");
    text.lines().filter(|line| line.starts_with(level)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn forwarding_is_switched_on_where_clients_and_pods_come_in_and_put_back_by_cleanup() {
    let bed = Bed::new();
    bed.border.set_sysctl("net/ipv4/ip_forward", "1");
    bed.border.ip("link add side type veth peer name edis\naddress add 10.77.0.1/24 dev side\nlink set side up");
    for interface in ["eth0", "eth1", "side"] {
        set_forwarding(&bed, interface, "0");
    }
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    // By event: the periodic look is a minute away.
    let mut daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_served(&bed.client2, Bed::EXT2);
    let stream = open_stream(&bed.client1, Bed::EXT1);
    for interface in ["eth1", "eth0", "eth2"] {
        let before = daemon.metric("smartnat_repairs_total", "");
        set_forwarding(&bed, interface, "0");
        eventually("it is on again", || {
            ["eth0", "eth1", "eth2"].iter().all(|name| forwarding(&bed, name) == "1").then_some(())
        });
        eventually("it is counted", || (daemon.metric("smartnat_repairs_total", "") > before).then_some(()));
        assert_alive(&stream);
        assert_served(&bed.client1, Bed::EXT1);
    }
    assert_eq!(forwarding(&bed, "side"), "0", "nothing of ours goes by it");
    let told = check(&daemon, "WARN");
    assert!(told.contains("net/ipv4/conf/side/forwarding is 0") && told.contains("10.77.0.0/24"), "{told}");

    // What comes later takes the default, and is switched on all the same.
    set_forwarding(&bed, "default", "0");
    bed.unplug("eth2");
    bed.plug_again("eth2");
    eventually("the newcomer forwards", || (forwarding(&bed, "eth2") == "1").then_some(()));
    assert!(check(&daemon, "WARN").contains("net/ipv4/conf/default/forwarding is 0"));
    set_forwarding(&bed, "default", "1");

    assert_eq!(stream.stop().broken, None);
    daemon.stop();
    let cleanup = daemon.command(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    let left = ["eth0", "eth1", "side", "all"].map(|interface| forwarding(&bed, interface));
    assert_eq!(left, ["0", "0", "0", "1"], "as they were before");
}

#[test]
fn cleanup_puts_switches_back_that_ip_forward_overwrote() {
    let bed = Bed::new();
    bed.border.ip("link add side type veth peer name edis");
    for (path, value) in [("ip_forward", "0"), ("conf/side/forwarding", "1"), ("conf/all/accept_redirects", "0")] {
        bed.border.set_sysctl(&format!("net/ipv4/{path}"), value);
    }
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    daemon.stop();
    let cleanup = daemon.command(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    let left = ["eth0", "eth1", "side", "all", "default"].map(|interface| forwarding(&bed, interface));
    assert_eq!(left, ["0", "0", "1", "0", "0"]);
    assert_eq!(bed.border.sysctl("net/ipv4/conf/all/accept_redirects"), "0");
}

#[test]
fn the_border_alone_switches_no_forwarding_on() {
    let bed = Bed::new();
    bed.border.set_sysctl("net/ipv4/ip_forward", "1");
    set_forwarding(&bed, "eth1", "0");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests);
    let border = daemon.command(&["border"]);
    assert!(border.status.success(), "{border:?}");
    assert!(bed.border.run("iptables -t mangle -S FORWARD").contains("SMARTNAT-BORDER"));
    assert_eq!(forwarding(&bed, "eth1"), "0");
    let daemon = daemon.start();
    eventually("the daemon does", || (forwarding(&bed, "eth1") == "1").then_some(()));
    assert_served(&bed.client1, Bed::EXT1);
    drop(daemon);
}

/// Everything that stands for `all` and could let strangers in.
#[test]
fn what_stands_for_all_interfaces_opens_nothing() {
    let bed = Bed::new();
    bed.serve("border", "sshd", &[SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 22)], &[]);
    let manifests = manifests([mapping("web", &[Bed::EXT1]).source("192.0.2.0/25")]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "tcp/22@192.0.2.0/25,udp/22").start();
    for key in ["route_localnet", "accept_local", "bc_forwarding", "proxy_arp", "accept_source_route", "bootp_relay"] {
        bed.border.set_sysctl(&format!("{ALL}/{key}"), "1");
    }
    assert_served(&bed.client1, Bed::EXT1);
    put_ears(&bed);
    let home = Ipv4Addr::LOCALHOST;
    let to = |address, port| SocketAddrV4::new(address, port);
    let stranger = to(Bed::CLIENT1, 40_000);
    let mut packets = Vec::new();
    for target in [home, Ipv4Addr::new(127, 8, 8, 8), Ipv4Addr::new(10, 0, 0, 255), Bed::POD1, Bed::BORDER] {
        for port in [22, 80, 8080] {
            packets.push(tcp_packet(stranger, to(target, port), flags::SYN, b""));
            packets.push(udp_packet(stranger, to(target, port), b"hello"));
        }
    }
    // As the box itself, as its loopback, as a pod.
    for source in [home, Bed::BORDER, Bed::POD1] {
        packets.push(tcp_packet(to(source, 40_000), to(Bed::EXT1, 22), flags::SYN, b""));
        packets.push(udp_packet(to(source, 40_000), to(Bed::EXT1, 22), b"hello"));
    }
    // DHCP relays and the unspecified source.
    packets.push(ip(Ipv4::new(Ipv4Addr::UNSPECIFIED, Bed::POD1, number::UDP), &[0; 16]));
    let inside = Sniffer::start(&bed.core, "cluster");
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        for packet in &packets {
            wire.send(&ethernet(wire.mac(), Mac::of(Bed::EXT1), number::IPV4, packet)).unwrap();
        }
    });
    assert_dropped(&bed.attacker1, Bed::EXT1);
    // Behind all of them on the same way: what this opening lets in is heard.
    assert_eq!(bed.client1.get(Proto::Tcp, Bed::EXT1, 22).unwrap().name, "sshd");
    let through = inside.seen(|s| !s.outgoing && (s.is_from(Bed::CLIENT1) || s.is_from(home)));
    assert_eq!(through, [], "inside");
    assert_eq!(heard(&bed, "iptables", "FORWARD"), 0);
    let told = check(&daemon, "WARN");
    for key in ["proxy_arp", "accept_local"] {
        assert!(told.contains(&format!("{ALL}/{key} is 1")), "{key}: {told}");
    }
}

#[test]
fn clients_of_the_inside_are_not_redirected_past_the_box() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    for interface in ["all", "eth0"] {
        bed.border.set_sysctl(&format!("net/ipv4/conf/{interface}/send_redirects"), "1");
    }
    let _daemon = daemon(&bed, &manifests).start();
    bed.core.ip("route add 203.0.113.0/24 via 10.0.0.2");
    let wire = Sniffer::start(&bed.core, "cluster");
    for _ in 0..5 {
        assert_served(&bed.core, Bed::EXT1);
    }
    let redirects = wire.seen(|s| s.protocol == number::ICMP && s.icmp_type == Some(5));
    assert_eq!(redirects, []);
}

#[test]
fn a_strict_reverse_path_by_mark_keeps_no_pods_answer_away() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").start();
    bed.serve("client1", "client1", &[SocketAddrV4::new(Bed::CLIENT1, 7000)], &[]);
    bed.border.set_sysctl("net/ipv4/conf/eth0/rp_filter", "1");
    assert!(!check(&daemon, "WARN").contains("rp_filter"));
    // As programs for tunnels set it: the way back to a pod is looked up with the mark that leads out to the client.
    bed.border.set_sysctl(&format!("{ALL}/src_valid_mark"), "1");
    assert_served(&bed.client1, Bed::EXT1);
    assert_served(&bed.pod1, Bed::EXT1);
    assert_eq!(bed.pod1.get(Proto::Tcp, Bed::CLIENT1, 7000).unwrap().saw.ip(), Bed::EXT1);
    let told = check(&daemon, "WARN");
    assert!(told.contains("net/ipv4/conf/eth0/rp_filter is 1 and src_valid_mark is on"), "{told}");
    bed.border.set_sysctl("net/ipv4/conf/eth0/rp_filter", "2");
    assert_served(&bed.client1, Bed::EXT1);
    assert!(!check(&daemon, "WARN").contains("rp_filter"));
}
