//! What a stranger, a hostile pod or bad luck can do to connections that exist, and to the box itself.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use bed::packet::{Ipv4, Mac, Seen, Sniffer, Wire, ethernet, flags, ip, number, tcp_packet, udp_packet};
use bed::peer::Proto;
use bed::{Bed, Endpoints, Mapping, Namespace, Options, eventually};

use crate::support::{assert_alive, assert_served, daemon, manifests, mapping, open_stream, try_ports};

/// Sends IPv4 packets from `eth0` to a neighbour, named by the address that its MAC comes from.
fn throw(from: &Namespace, neighbour: Ipv4Addr, packets: &[Vec<u8>]) {
    from.within(|| {
        let wire = Wire::open("eth0").unwrap();
        for packet in packets {
            wire.send(&ethernet(wire.mac(), Mac::of(neighbour), number::IPV4, packet)).unwrap();
        }
    });
}

fn udp_socket(at: &Namespace, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = at.within(|| UdpSocket::bind((address, port))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

#[test]
fn a_stranger_on_another_interface_cannot_take_over_a_connection_that_was_not_answered_yet() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let (peer, own) = (udp_socket(&bed.client1, Bed::CLIENT1, 5000), udp_socket(&bed.border, Bed::EXT1B, 6000));
    own.send_to(b"a question", (Bed::CLIENT1, 5000)).unwrap();
    assert_eq!(receive(&peer).0, b"a question");
    // As if the box itself had asked again, through eth2; then an answer from there.
    let (here, there) = (SocketAddrV4::new(Bed::EXT1B, 6000), SocketAddrV4::new(Bed::CLIENT1, 5000));
    let forged = [udp_packet(here, there, b"a question"), udp_packet(there, here, b"a forged answer")];
    throw(&bed.attacker2, Bed::EXT2, &forged);
    assert_served(&bed.attacker2, Bed::EXT1);
    peer.send_to(b"the answer", (Bed::EXT1B, 6000)).unwrap();
    assert_eq!(receive(&own).0, b"the answer");
}

#[test]
fn a_pod_that_speaks_for_a_client_does_not_break_the_clients_connection() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    let client = SocketAddrV4::new(Bed::CLIENT1, stream.answer.saw.port());
    let forged = tcp_packet(client, SocketAddrV4::new(Bed::EXT1, 80), flags::ACK, b"forged");
    // A connection that conntrack forgot is taken up again, and may by chance find its pod: not so many times.
    for _ in 0..10 {
        throw(&bed.pod2, Ipv4Addr::new(10, 244, 2, 1), std::slice::from_ref(&forged));
        // Behind it on the same way.
        assert_served(&bed.pod2, Bed::EXT1);
        assert_alive(&stream);
    }
    assert_eq!(stream.stop().broken, None);
}

#[test]
fn a_pods_own_connections_never_use_a_port_that_clients_reach() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").start();
    let peer = udp_socket(&bed.client1, Bed::CLIENT1, 7777);
    for (port, kept) in [(53, false), (40_000, true)] {
        let pod = udp_socket(&bed.pod2, Bed::POD2, port);
        pod.send_to(b"from the pod", (Bed::CLIENT1, 7777)).unwrap();
        let (text, from) = receive(&peer);
        assert_eq!((text.as_slice(), from.ip()), (b"from the pod".as_slice(), Bed::EXT1.into()));
        assert_eq!(from.port() == port, kept, "{from}");
        peer.send_to(b"back", from).unwrap();
        assert_eq!(receive(&pod).0, b"back");
    }
    // What the peer sends to the Mapping goes to the Mapping.
    peer.send_to(b"who are you?\n", (Bed::EXT1, 53)).unwrap();
    let (answer, from) = receive(&peer);
    assert_eq!((from.ip(), from.port()), (Bed::EXT1.into(), 53));
    assert!(String::from_utf8_lossy(&answer).contains(":9090"), "{answer:?}");
}

#[test]
fn a_connection_that_was_cut_does_not_go_on_as_one_of_the_pods_own() {
    let bed = Bed::new();
    // The same port outside and at the pod, and no masquerading: what the pod sends again looks as before the cut.
    let web = || Mapping::new("web").address(Bed::EXT1).port(Proto::Tcp, 8080, 80);
    let mut manifests = manifests([web()]);
    let daemon =
        daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").set("SNCTRLR_SETUP_MASQUERADE", "false").start();
    let mut stream = bed.client1.within(|| TcpStream::connect((Bed::EXT1, 8080))).unwrap();
    let mut buffer = [0; 256];
    assert!(stream.read(&mut buffer).unwrap() > 0);
    stream.write_all(b"echo\n").unwrap();
    // The client hears nothing for a while: the pod has something to send again when the client is allowed no more.
    bed.client1.run("iptables -A INPUT -p tcp -j DROP");
    stream.write_all(b"echo of this").unwrap();
    let again = Sniffer::start(&bed.core, "cluster");
    manifests.put(web().source("203.0.113.66")).write();
    daemon.settle(&manifests);
    let outside = Sniffer::start(&bed.r1, "eth0");
    again.clear();
    bed.client1.run("iptables -D INPUT -p tcp -j DROP");
    let from_pod = |s: &Seen| s.is_tcp() && s.is_to(Bed::CLIENT1) && s.payload == b"echo of this";
    again.await_seen("the pod sends again", |s| from_pod(s) && s.outgoing);
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(stream.read(&mut buffer).is_err(), "the client hears the pod");
    assert_eq!(outside.seen(from_pod), []);
    assert_eq!(again.seen(|s| from_pod(s) && !s.outgoing), [], "nor does it leave by the default gateway");
}

#[test]
fn an_endpoint_slice_opens_no_port_of_the_box() {
    let bed = Bed::new();
    let own = [Bed::BORDER, Bed::EXT1, Bed::EXT2].map(|address| SocketAddrV4::new(address, 8080));
    bed.serve("border", "box", &own, &[SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 9090)]);
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    for named in [Bed::BORDER, Bed::EXT1, Bed::EXT2, Ipv4Addr::new(10, 0, 0, 255)] {
        manifests.put_endpoints(Endpoints::of("web").ready(named)).write();
        daemon.settle(&manifests);
        let answers = try_ports(&bed.client1, Bed::EXT1);
        assert!(answers.iter().all(Result::is_err), "{named}: {answers:?}");
    }
}

/// The same packet with another time to live.
fn with_ttl(packet: &[u8], ttl: u8) -> Vec<u8> {
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    ip(Ipv4 { ttl, ..Ipv4::new(address(12), address(16), packet[9]) }, &packet[20..])
}

#[test]
fn the_box_tells_strangers_nothing_of_the_ways_behind_it() {
    let bed = Bed::with(Options { cluster_mtu: 1300, ..Options::default() });
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    // A kernel without limits tells whatever it would tell.
    bed.border.set_sysctl("net/ipv4/icmp_ratemask", "0");
    let wire = Sniffer::start(&bed.attacker1, "eth0");
    let from = SocketAddrV4::new(Bed::ATTACKER1, 4000);
    let mut packets = Vec::new();
    for to in [Bed::POD1, Bed::CORE, Bed::CLIENT2, Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(100, 64, 0, 1)] {
        let to = SocketAddrV4::new(to, 8080);
        // The last time that it may be forwarded, and more than fits through eth0.
        packets.extend(
            [flags::SYN, flags::ACK, flags::RST, flags::NULL].map(|f| with_ttl(&tcp_packet(from, to, f, b""), 1)),
        );
        packets.push(with_ttl(&udp_packet(from, to, b"who are you?\n"), 1));
        packets.push(tcp_packet(from, to, flags::SYN, &[0; 1400]));
        packets.push(tcp_packet(from, to, flags::RST, &[0; 1400]));
    }
    throw(&bed.attacker1, Bed::EXT1, &packets);
    assert_served(&bed.attacker1, Bed::EXT1);
    let told = |s: &Seen| s.protocol == number::ICMP && s.from_mac == Mac::of(Bed::EXT1);
    assert_eq!(wire.seen(told).len(), 0, "{:?}", wire.seen(told).first());
}

#[test]
fn a_wide_route_to_the_inside_makes_no_impostors_of_an_external_interfaces_neighbours() {
    let bed = Bed::new();
    bed.border.ip("route add 203.0.0.0/8 via 10.0.0.1\nroute add 192.0.0.0/8 via 10.0.0.1\nroute add 192.0.2.0/25 via 203.0.113.1");
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let _daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.attacker1, Bed::EXT1);
    assert_served(&bed.client1, Bed::EXT1);
    // Of client2's network main knows the wide route alone.
    crate::support::assert_dropped(&bed.client2, Bed::EXT2);
}

#[test]
fn a_connection_outlives_the_absence_of_its_interface() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    bed.unplug("eth1");
    eventually("the interface is reported as absent", || {
        let status = daemon.status();
        let eth1 = status["interfaces"].as_array()?.iter().find(|i| i["name"] == "eth1")?.clone();
        (eth1["kind"] == "absent").then_some(())
    });
    bed.plug_again("eth1");
    assert_alive(&stream);
    assert_eq!(stream.stop().broken, None);
}
