//! The bed, before anything is built upon it: what these find broken is no fault of the daemon's.

use std::net::SocketAddrV4;

use bed::packet::{Mac, Sniffer, Wire, ethernet, flags, number, tcp_packet};
use bed::peer::{Failure, Flood, Proto, Request, Stream, Upload};
use bed::{Bed, Layout, Options, eventually};

const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];

fn port(proto: Proto) -> u16 {
    match proto {
        Proto::Tcp => 8080,
        Proto::Udp => 9090,
    }
}

#[test]
fn pods_answer_the_border_from_the_cluster_side() {
    let bed = Bed::new();
    for (name, pod) in [("pod1", Bed::POD1), ("pod2", Bed::POD2)] {
        for proto in BOTH {
            let answer = bed.border.get(proto, pod, port(proto)).unwrap();
            assert_eq!((answer.name.as_str(), answer.saw.ip(), answer.at.ip()), (name, Bed::BORDER.into(), pod.into()));
        }
    }
}

#[test]
fn clients_reach_the_border_through_their_routers_and_nothing_behind_it() {
    let bed = Bed::new();
    let listen = [SocketAddrV4::new(Bed::EXT1, 7000), SocketAddrV4::new(Bed::EXT2, 7000)];
    bed.border.ip("route add 192.0.2.0/25 via 203.0.113.1\nroute add 192.0.2.128/25 via 198.51.100.1");
    bed.serve("border", "border", &listen, &listen);
    for (client, at, address) in [(&bed.client1, Bed::CLIENT1, Bed::EXT1), (&bed.client2, Bed::CLIENT2, Bed::EXT2)] {
        for proto in BOTH {
            let answer = client.get(proto, address, 7000).unwrap();
            assert_eq!((answer.saw.ip(), answer.at.ip()), (at.into(), address.into()));
        }
        assert_eq!(client.get(Proto::Tcp, address, 7001), Err(Failure::Refused));
        let to = SocketAddrV4::new(Bed::POD1, 8080);
        let short = std::time::Duration::from_millis(200);
        let request = Request { timeout: short, ..Request::new(Proto::Tcp, to) };
        assert_eq!(client.within(|| request.send()), Err(Failure::Timeout), "the border does not forward yet");
    }
}

#[test]
fn a_second_border_box_stands_in_the_same_three_networks() {
    let bed = Bed::with(Options { second_border: true, ..Options::default() });
    for (border, at) in [(&bed.border, Bed::BORDER), (bed.second(), Bed::BORDER2)] {
        assert_eq!(border.get(Proto::Tcp, Bed::POD2, 8080).unwrap().saw.ip(), at);
        border.ip("route add 192.0.2.0/25 via 203.0.113.1\nroute add 192.0.2.128/25 via 198.51.100.1");
    }
    let listen = [Bed::SECOND_EXT1, Bed::SECOND_EXT1B, Bed::SECOND_EXT2].map(|a| SocketAddrV4::new(a, 7000));
    bed.serve("border2", "border2", &listen, &listen);
    for at in [Bed::SECOND_EXT1, Bed::SECOND_EXT1B] {
        assert_eq!(bed.client1.get(Proto::Tcp, at, 7000).unwrap().name, "border2");
    }
    assert_eq!(bed.client2.get(Proto::Udp, Bed::SECOND_EXT2, 7000).unwrap().name, "border2");
    assert_eq!(bed.client1.get(Proto::Tcp, Bed::EXT1, 7000), Err(Failure::Refused));
}

#[test]
fn with_forwarding_on_and_no_rules_outsiders_reach_a_pod() {
    let bed = Bed::new();
    bed.border.set_sysctl("net/ipv4/ip_forward", "1");
    bed.border.ip("route add 192.0.2.0/25 via 203.0.113.1");
    for outsider in [&bed.client1, &bed.attacker1] {
        assert_eq!(outsider.get(Proto::Tcp, Bed::POD1, 8080).unwrap().name, "pod1");
    }
}

#[test]
fn raw_packets_arrive_as_they_were_built_and_sniffers_see_them() {
    let bed = Bed::new();
    let sniffer = Sniffer::start(&bed.border, "eth1");
    let (from, to) = (SocketAddrV4::new(Bed::ATTACKER1, 4000), SocketAddrV4::new(Bed::EXT1, 22));
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        assert_eq!(wire.mac(), Mac::of(Bed::ATTACKER1));
        for tcp_flags in [flags::NULL, flags::SYN, flags::XMAS] {
            let packet = tcp_packet(from, to, tcp_flags, b"");
            wire.send(&ethernet(wire.mac(), Mac::of(Bed::EXT1), number::IPV4, &packet)).unwrap();
        }
    });
    let reset = sniffer.await_seen("the border's reset", |s| s.outgoing && s.is_tcp() && s.tcp_flags & flags::RST != 0);
    assert_eq!((reset.from_mac, reset.to_mac), (Mac::of(Bed::EXT1), Mac::of(Bed::ATTACKER1)));
    let arrived = sniffer.seen(|s| !s.outgoing && s.is_tcp());
    assert_eq!(arrived.iter().map(|s| s.tcp_flags).collect::<Vec<_>>(), [flags::NULL, flags::SYN, flags::XMAS]);
    assert!(arrived.iter().all(|s| (s.from_port, s.to_port) == (4000, 22) && s.is_from(Bed::ATTACKER1)));
}

#[test]
fn streams_floods_and_uploads_count_what_they_moved() {
    let bed = Bed::new();
    let to = SocketAddrV4::new(Bed::POD1, 8080);
    let (stream, floods) = bed.border.within(|| {
        let udp = SocketAddrV4::new(Bed::POD1, 9090);
        (Stream::open(to).unwrap(), [Flood::start(Proto::Tcp, to), Flood::start(Proto::Udp, udp)])
    });
    let told = bed.border.within(|| (Upload { to, bytes: 1 << 20, timeout: bed::BOUND }).send());
    assert_eq!(told.unwrap(), format!("{} ok", 1 << 20));
    eventually("some rounds", || (stream.bytes() > 4096 && floods.iter().all(|f| f.flows() > 20)).then_some(()));
    let report = stream.stop();
    assert!(report.broken.is_none() && report.bytes > 4096, "{report:?}");
    for report in floods.map(Flood::stop) {
        assert!(report.lost == 0 && report.flows > 20, "{report:?}");
    }
}

#[test]
fn a_flood_counts_what_is_not_answered() {
    let bed = Bed::new();
    let flood = bed.border.within(|| Flood::start(Proto::Udp, SocketAddrV4::new(Bed::POD1, 9999)));
    eventually("some flows", || (flood.flows() > 5).then_some(()));
    let report = flood.stop();
    assert_eq!(report.lost, report.flows);
    assert!(report.failures[0].contains("refused"), "{report:?}");
}

#[test]
fn a_flood_counts_a_lost_syn_though_its_repetition_is_answered() {
    let bed = Bed::new();
    // Drops the third SYN alone.
    bed.border.run("iptables -A OUTPUT -p tcp --syn -m statistic --mode nth --every 1000 --packet 2 -j DROP");
    let flood = bed.border.within(|| Flood::start(Proto::Tcp, SocketAddrV4::new(Bed::POD1, 8080)));
    eventually("some flows", || (flood.flows() > 5).then_some(()));
    let report = flood.stop();
    assert_eq!(report.lost, 1, "{report:?}");
}

#[test]
fn three_interfaces_share_one_subnet_and_the_router_reaches_each() {
    let bed = Bed::with(Options { layout: Layout::SameSubnet, ..Options::default() });
    let addresses = [Bed::SAME_BORDER, Bed::SAME_EXT1[0], Bed::SAME_EXT1[1], Bed::SAME_EXT2[0], Bed::SAME_EXT2[1]];
    bed.serve("border", "border", &[], &addresses.map(|a| SocketAddrV4::new(a, 7000)));
    for address in addresses {
        assert_eq!(bed.attacker1.get(Proto::Udp, address, 7000).unwrap().saw.ip(), Bed::SAME_NEIGHBOUR);
    }
    assert_eq!(bed.border.get(Proto::Tcp, Bed::POD2, 8080).unwrap().name, "pod2");
    assert_eq!(bed.client1.get(Proto::Udp, Bed::SAME_BORDER, 7000).unwrap().saw.ip(), Bed::CLIENT1);
    assert_eq!(bed.client2.get(Proto::Udp, Bed::SAME_BORDER, 7000).unwrap().saw.ip(), Bed::CLIENT2);
}

#[test]
fn interfaces_get_the_indexes_asked_for_and_new_ones_when_plugged_again() {
    let bed = Bed::with(Options { indexes: Some((5000, 70_000)), ..Options::default() });
    let index = |name: &str| bed.border.run(&format!("ip -o link show {name}")).split(':').next().unwrap().to_owned();
    assert_eq!((index("eth1").as_str(), index("eth2").as_str()), ("5000", "70000"));
    bed.unplug("eth1");
    bed.plug_again("eth1");
    assert_ne!(index("eth1"), "5000");
    assert!(bed.border.run("ip -o address show eth1").contains("203.0.113.11/24"));
}

#[test]
fn nothing_of_a_bed_is_left_when_it_is_dropped_or_its_test_panics() {
    let bed = Bed::new();
    let name = bed.border.name().to_owned();
    let path = std::path::PathBuf::from(format!("/run/netns/{name}"));
    assert!(path.exists());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _bed = bed;
        std::panic::resume_unwind(Box::new("a test that fails"));
    }));
    assert!(panicked.is_err() && !path.exists());
}
