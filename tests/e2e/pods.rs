//! Pods and Mappings that come, change and go while connections are up.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::Instant;

use bed::packet::{Mac, Seen, Sniffer};
use bed::peer::{Proto, Request, Upload};
use bed::{Bed, Endpoints, Options, PodState};

use crate::support::{
    assert_alive, assert_cut, assert_dropped, assert_ends_in_time, assert_refused, assert_served, daemon, manifests,
    mapping, open_stream, pods_answering,
};

#[test]
fn a_udp_flow_follows_when_its_pod_is_replaced() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1)).write();
    let daemon = daemon(&bed, &manifests).start();
    let flow = Request {
        from: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 5353),
        ..Request::new(Proto::Udp, SocketAddrV4::new(Bed::EXT1, 53))
    };
    assert_eq!(bed.client1.within(|| flow.send()).unwrap().name, "pod1");
    // A pod that terminates serves on; one that does not serve is left, and then it goes altogether.
    manifests.put_endpoints(Endpoints::of("web").pod(Bed::POD1, PodState::Terminating).ready(Bed::POD2)).write();
    daemon.settle(&manifests);
    assert_eq!(bed.client1.within(|| flow.send()).unwrap().name, "pod1");
    let both = Endpoints::of("web").pod(Bed::POD1, PodState::Unready).ready(Bed::POD2);
    for endpoints in [both, Endpoints::of("web").ready(Bed::POD2)] {
        manifests.put_endpoints(endpoints).write();
        daemon.settle(&manifests);
        assert_eq!(bed.client1.within(|| flow.send()).unwrap().name, "pod2");
    }
}

#[test]
fn a_tcp_connection_to_a_pod_that_terminates_and_is_gone_goes_on_for_half_a_minute() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1)).write();
    let daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    assert_eq!(stream.answer.name, "pod1");
    for state in [PodState::Terminating, PodState::Unready] {
        manifests.put_endpoints(Endpoints::of("web").pod(Bed::POD1, state).ready(Bed::POD2)).write();
        daemon.settle(&manifests);
        assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 10).into_iter().collect::<Vec<_>>(), ["pod2"]);
        assert_alive(&stream);
    }
    let gone = Instant::now();
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD2)).write();
    daemon.settle(&manifests);
    assert_ends_in_time(stream, gone);
}

#[test]
fn terminating_pods_serve_new_connections_when_no_pod_is_ready() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests
        .put_endpoints(Endpoints::of("web").pod(Bed::POD1, PodState::Terminating).pod(Bed::POD2, PodState::Unready));
    manifests.write();
    let _daemon = daemon(&bed, &manifests).start();
    assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 10).into_iter().collect::<Vec<_>>(), ["pod1"]);
}

#[test]
fn a_deleted_mapping_cuts_its_own_connections_and_no_others() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("goes", &[Bed::EXT1]), mapping("stays", &[Bed::EXT1B])]);
    let daemon = daemon(&bed, &manifests).start();
    let (goes, stays) = (open_stream(&bed.client1, Bed::EXT1), open_stream(&bed.client1, Bed::EXT1B));
    assert_alive(&goes);
    manifests.remove("goes").write();
    daemon.settle(&manifests);
    assert_dropped(&bed.client1, Bed::EXT1);
    assert_cut(goes);
    assert_alive(&stays);
    assert_served(&bed.client1, Bed::EXT1B);
    assert_eq!(stays.stop().broken, None);
}

#[test]
fn a_port_taken_out_of_a_mapping_cuts_its_connections_alone() {
    let bed = Bed::new();
    let web = bed::Mapping::new("web").address(Bed::EXT1);
    let mut manifests = manifests([web.clone().usual_ports().port(Proto::Tcp, 81, 80)]);
    let daemon = daemon(&bed, &manifests).start();
    let goes = SocketAddrV4::new(Bed::EXT1, 81);
    let goes = bed.client1.within(|| bed::peer::Stream::open(goes)).unwrap();
    let stays = open_stream(&bed.client1, Bed::EXT1);
    manifests.put(web.usual_ports()).write();
    daemon.settle(&manifests);
    assert_cut(goes);
    assert_alive(&stays);
}

#[test]
fn the_older_mapping_keeps_a_contested_endpoint_and_the_younger_takes_over_when_it_goes() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("older", &[Bed::EXT1]).source("192.0.2.0/25")]);
    manifests.put(mapping("younger", &[Bed::EXT1, Bed::EXT1B])).write();
    let daemon = daemon(&bed, &manifests).start();
    let told = daemon.mapping("younger").unwrap();
    assert_eq!((&told["accepted"], &told["reason"]), (&false.into(), &"Conflict".into()));
    assert!(told["message"].as_str().unwrap().contains("default/older"), "{told}");
    assert_served(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT1);
    assert_dropped(&bed.client1, Bed::EXT1B);

    manifests.remove("older").write();
    daemon.settle(&manifests);
    assert_eq!(daemon.mapping("younger").unwrap()["accepted"], true);
    for client in [&bed.client1, &bed.attacker1] {
        assert_served(client, Bed::EXT1);
        assert_served(client, Bed::EXT1B);
    }
}

#[test]
fn a_refused_mapping_does_not_hold_up_a_good_one() {
    let bed = Bed::new();
    let bad = mapping("bad", &[Bed::EXT1]).service("nowhere");
    let worse = mapping("worse", &[Bed::EXT1]).source("not a network");
    let manifests = manifests([bad, worse, mapping("good", &[Bed::EXT1B])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1B);
    for (name, reason) in [("bad", "ServiceNotFound"), ("worse", "InvalidSource")] {
        assert_eq!(daemon.mapping(name).unwrap()["reason"], reason);
    }
}

#[test]
fn a_service_that_goes_away_keeps_its_address_from_another_mapping() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("tenant", &[Bed::EXT1]), mapping("other", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    manifests.put_endpoints(Endpoints::of("web")).write();
    daemon.settle(&manifests);
    assert_refused(&bed.client1, Bed::EXT1);
    assert_eq!(daemon.mapping("other").unwrap()["reason"], "Conflict");
}

/// A narrow place on the way to the pods, of which neither end knows.
fn upload_through(options: Options, mtu: u16) {
    for masquerade in ["true", "false"] {
        let bed = Bed::with(options.clone());
        // The cluster's router, too, has something to tell the clients, when it sees them.
        bed.core.ip(&format!("route add 192.0.2.0/24 via {}", Bed::BORDER));
        let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
        let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_MASQUERADE", masquerade).start();
        let routers = [Sniffer::start(&bed.r1, "eth0"), Sniffer::start(&bed.r2, "eth0")];
        let ways = [(0, &bed.client1, Bed::CLIENT1, Bed::EXT1), (1, &bed.client2, Bed::CLIENT2, Bed::EXT2)];
        for (n, client, at, address) in ways {
            let upload = Upload { to: SocketAddrV4::new(address, 80), bytes: 8 << 20, timeout: bed::BOUND };
            assert_eq!(client.within(|| upload.send()).unwrap(), format!("{} ok", 8 << 20));
            let told = |s: &Seen| s.is_fragmentation_needed() && s.is_to(at);
            let seen = routers[n].await_seen("the ICMP error", |s| told(s) && !s.outgoing);
            assert_eq!((seen.icmp_mtu, seen.from_mac), (mtu, Mac::of(address)), "{seen:?}");
            assert_eq!(routers[1 - n].seen(told), []);
        }
    }
}

#[test]
fn a_large_upload_completes_through_a_narrow_way_behind_the_border() {
    upload_through(Options { pod_mtu: 1200, ..Options::default() }, 1200);
}

#[test]
fn a_large_upload_completes_when_the_borders_own_way_to_the_pods_is_narrow() {
    upload_through(Options { cluster_mtu: 1300, ..Options::default() }, 1300);
}

/// Has a pod send that many bytes: those that it was sent.
fn download(from: SocketAddrV4, bytes: usize) {
    let mut stream = TcpStream::connect(from).unwrap();
    stream.set_read_timeout(Some(bed::BOUND)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    answers.read_line(&mut String::new()).unwrap();
    stream.write_all(b"echo\n").unwrap();
    let sender = thread::spawn(move || stream.write_all(&vec![b'x'; bytes]));
    answers.read_exact(&mut vec![0; bytes]).unwrap();
    sender.join().unwrap().unwrap();
}

#[test]
fn a_large_download_completes_through_a_narrow_way_behind_the_clients_router() {
    for masquerade in ["true", "false"] {
        let bed = Bed::new();
        // The router forwards no more than this to the client, who does not know.
        bed.r1.ip("route replace 192.0.2.0/25 dev eth1 mtu lock 1200");
        let manifests = manifests([mapping("web", &[Bed::EXT1])]);
        let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_MASQUERADE", masquerade).start();
        let pods = Sniffer::start(&bed.core, "cluster");
        bed.client1.within(|| download(SocketAddrV4::new(Bed::EXT1, 80), 4 << 20));
        let told = pods.await_seen("the ICMP error", |s| s.is_fragmentation_needed());
        assert_eq!(told.icmp_mtu, 1200, "{told:?}");
    }
}
