//! The four combinations of `SNCTRLR_SETUP_MASQUERADE` and `SNCTRLR_SETUP_SNAT`.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::packet::{Mac, Seen, Sniffer};
use bed::peer::Proto;
use bed::{Bed, Endpoints, Service};

use crate::support::{PORTS, assert_served, daemon, manifests, mapping, try_port};

fn combination(masquerade: bool, snat: bool) {
    let bed = Bed::new();
    for (role, at) in [("client1", Bed::CLIENT1), ("client2", Bed::CLIENT2)] {
        bed.serve(role, role, &[SocketAddrV4::new(at, 7000)], &[SocketAddrV4::new(at, 7000)]);
    }
    // pod1 is behind EXT1, pod2 behind EXT2.
    let second = mapping("second", &[Bed::EXT2]).service("second");
    let mut manifests = manifests([mapping("first", &[Bed::EXT1]), second]);
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1));
    manifests.put_service(Service::new("second", Ipv4Addr::new(10, 96, 0, 11)));
    manifests.put_endpoints(Endpoints::of("second").ready(Bed::POD2)).write();
    let _daemon = daemon(&bed, &manifests)
        .set("SNCTRLR_SETUP_MASQUERADE", &masquerade.to_string())
        .set("SNCTRLR_SETUP_SNAT", &snat.to_string())
        .start();

    let pods = [
        (&bed.client1, &bed.r1, Bed::CLIENT1, Bed::EXT1, &bed.pod1, Bed::POD1),
        (&bed.client2, &bed.r2, Bed::CLIENT2, Bed::EXT2, &bed.pod2, Bed::POD2),
    ];
    for (client, router, client_at, address, pod, pod_at) in pods {
        for (proto, port) in PORTS {
            let answer = client.get(proto, address, port).unwrap();
            let seen_by_pod = if masquerade { Bed::BORDER } else { client_at };
            assert_eq!((answer.at.ip(), answer.saw.ip()), (pod_at.into(), seen_by_pod.into()));
        }
        assert_eq!(assert_served(pod, address).saw.ip(), Bed::BORDER, "hairpins are always masqueraded");

        let (outside, inside) = (Sniffer::start(router, "eth0"), Sniffer::start(&bed.core, "cluster"));
        for proto in [Proto::Tcp, Proto::Udp] {
            if snat {
                let answer = pod.get(proto, client_at, 7000);
                assert_eq!(answer.expect("a mapped pod reaches the world").saw.ip(), address);
                continue;
            }
            let answer = try_port(pod, proto, client_at, 7000);
            answer.expect_err("without SNAT a pod's way is the box's default route, where nobody knows the client");
            let returned = |s: &Seen| s.from_mac == Mac::of(Bed::BORDER) && s.is_from(pod_at) && s.is_to(client_at);
            inside.await_seen("the pod's packet leaving by the default route", returned);
            assert_eq!(outside.seen(|s| s.is_to(client_at) && s.to_port == 7000), []);
        }
    }
}

#[test]
fn masquerade_on_snat_off_pods_see_the_border_and_their_own_connections_are_left_alone() {
    combination(true, false);
}

#[test]
fn masquerade_on_snat_on_pods_see_the_border_and_connect_from_their_mapped_address() {
    combination(true, true);
}

#[test]
fn masquerade_off_snat_off_pods_see_the_client_and_their_own_connections_are_left_alone() {
    combination(false, false);
}

#[test]
fn masquerade_off_snat_on_pods_see_the_client_and_connect_from_their_mapped_address() {
    combination(false, true);
}

#[test]
fn with_snat_pods_still_reach_pods_and_the_cluster_without_translation() {
    let bed = Bed::new();
    bed.serve("core", "core", &[SocketAddrV4::new(Bed::CORE, 7000)], &[]);
    // A node that the pod reaches through the border, whose main table knows it inside.
    let node = Ipv4Addr::new(192, 0, 2, 200);
    bed.core.ip(&format!("rule add iif pod1 to {node} priority 100 lookup 100\nroute add {node}/32 via {}", Bed::POD2));
    bed.border.ip(&format!("route add {node}/32 via {}", Bed::CORE));
    bed.pod2.ip(&format!("address add {node}/32 dev lo"));
    bed.serve("pod2", "node", &[], &[SocketAddrV4::new(node, 7000)]);
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").start();
    assert_eq!(bed.pod1.get(Proto::Tcp, Bed::POD2, 8080).unwrap().saw.ip(), Bed::POD1);
    assert_eq!(bed.pod1.get(Proto::Tcp, Bed::CORE, 7000).unwrap().saw.ip(), Bed::POD1);
    assert_eq!(bed.pod1.get(Proto::Udp, node, 7000).unwrap().saw.ip(), Bed::POD1);
}
