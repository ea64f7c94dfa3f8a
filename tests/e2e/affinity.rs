//! `sessionAffinity: ClientIP`.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use bed::peer::Proto;
use bed::{Bed, Endpoints, Manifests, Service, eventually};

use crate::support::{daemon, manifests, mapping, pods_answering};

fn with_affinity(seconds: u32) -> Manifests {
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let service = Service::new("web", Ipv4Addr::new(10, 96, 0, 10));
    manifests.put_service(Service { affinity: Some(seconds), ..service }).write();
    manifests
}

#[track_caller]
fn sticks(bed: &Bed) -> String {
    let pods: Vec<String> = pods_answering(&bed.client1, Bed::EXT1, 20).into_iter().collect();
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods[0].clone()
}

#[test]
fn a_client_stays_with_its_pod_over_a_restart_and_a_change_of_other_pods() {
    let bed = Bed::new();
    let mut manifests = with_affinity(600);
    let mut daemon = daemon(&bed, &manifests).start();
    let pod = sticks(&bed);
    let (mine, other) = if pod == "pod1" { (Bed::POD1, Bed::POD2) } else { (Bed::POD2, Bed::POD1) };

    daemon.kill();
    assert_eq!(sticks(&bed), pod);
    daemon.start_again();
    assert_eq!(sticks(&bed), pod);

    for endpoints in [Endpoints::of("web").ready(mine), Endpoints::of("web").ready(other).ready(mine)] {
        manifests.put_endpoints(endpoints).write();
        daemon.settle(&manifests);
        assert_eq!(sticks(&bed), pod);
    }
    manifests.put_endpoints(Endpoints::of("web").ready(other)).write();
    daemon.settle(&manifests);
    assert_ne!(sticks(&bed), pod, "its pod is gone");
}

#[test]
fn affinity_ends_after_its_timeout() {
    let bed = Bed::new();
    let manifests = with_affinity(1);
    let _daemon = daemon(&bed, &manifests).start();
    let first = sticks(&bed);
    eventually("another pod after a pause longer than the timeout", || {
        thread::sleep(Duration::from_millis(1300));
        let answer = bed.client1.get(Proto::Tcp, Bed::EXT1, 80).unwrap();
        (answer.name != first).then_some(())
    });
}
