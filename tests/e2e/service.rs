//! Mode service, and Services without anybody behind them.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::peer::Failure;
use bed::{Bed, Endpoints, PodState, eventually};

use crate::support::{PORTS, assert_dropped, assert_refused, assert_served, daemon, manifests, mapping, try_ports};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

#[test]
fn mode_service_leads_to_the_cluster_ip_on_this_box() {
    let bed = Bed::new();
    bed.border.ip(&format!("address add {CLUSTER_IP}/32 dev lo"));
    bed.serve("border", "vip", &[SocketAddrV4::new(CLUSTER_IP, 80)], &[SocketAddrV4::new(CLUSTER_IP, 53)]);
    let manifests = manifests([mapping("web", &[Bed::EXT1]).by_cluster_ip().source("192.0.2.0/25")]);
    let daemon = daemon(&bed, &manifests).start();
    for (proto, port) in PORTS {
        let answer = bed.client1.get(proto, Bed::EXT1, port).unwrap();
        assert_eq!((answer.name.as_str(), answer.at.ip()), ("vip", CLUSTER_IP.into()));
    }
    assert_dropped(&bed.attacker1, Bed::EXT1);
    assert_dropped(&bed.attacker1, CLUSTER_IP);
    assert_eq!(daemon.mapping("web").unwrap()["status"]["serviceVIP"], CLUSTER_IP.to_string());
}

#[test]
fn mode_service_refuses_allowed_clients_at_once_while_the_cluster_ip_is_not_here() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1]).by_cluster_ip().source("192.0.2.0/25")]);
    bed.border.ip(&format!("address add {CLUSTER_IP}/32 dev lo"));
    bed.serve("border", "vip", &[SocketAddrV4::new(CLUSTER_IP, 80)], &[SocketAddrV4::new(CLUSTER_IP, 53)]);
    bed.border.ip(&format!("address del {CLUSTER_IP}/32 dev lo"));
    let daemon = daemon(&bed, &manifests).start();
    assert_refused(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT1);
    let told = daemon.mapping("web").unwrap();
    assert_eq!((&told["accepted"], &told["programmed"]["reason"]), (&true.into(), &"ServiceAddressNotLocal".into()));

    bed.border.ip(&format!("address add {CLUSTER_IP}/32 dev lo"));
    eventually("the ClusterIP is served once it is here", || {
        try_ports(&bed.client1, Bed::EXT1).iter().all(|a| a.as_ref().is_ok_and(|a| a.name == "vip")).then_some(())
    });
}

#[test]
fn a_service_without_ready_pods_refuses_allowed_clients_and_drops_others() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1]).source("192.0.2.0/25")]);
    manifests.put_endpoints(Endpoints::of("web").pod(Bed::POD1, PodState::Unready)).write();
    let daemon = daemon(&bed, &manifests).start();
    assert_refused(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT1);
    assert_eq!(daemon.mapping("web").unwrap()["programmed"]["reason"], "NoReadyEndpoints");

    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1)).write();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn a_local_server_on_the_mapped_port_never_answers_for_absent_pods() {
    let bed = Bed::new();
    let any = Ipv4Addr::UNSPECIFIED;
    bed.serve("border", "sshd", &[SocketAddrV4::new(any, 80)], &[SocketAddrV4::new(any, 53)]);
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(Endpoints::of("web")).write();
    let _daemon = daemon(&bed, &manifests).start();
    assert_refused(&bed.client1, Bed::EXT1);
    // An administrator's ACCEPT before our refusal: a silent drop is all that may come of it.
    bed.border.run("iptables -I INPUT -j ACCEPT");
    for answer in try_ports(&bed.client1, Bed::EXT1) {
        assert!(matches!(answer, Err(Failure::Refused | Failure::Timeout)), "{answer:?}");
    }
}
