//! Endpoints at which nobody can answer clients of this box.

use bed::peer::Flood;
use bed::{Bed, Daemon, Endpoints, Manifests, eventually};

use crate::support::{
    assert_nothing_lost, assert_refused, assert_served, daemon, flood, manifests, mapping, pods_answering,
};

/// So many flows that one in two or three to nobody would show.
fn assert_all_answered(floods: [Flood; 2]) {
    eventually("there are flows", || floods.iter().all(|f| f.flows() > 20).then_some(()));
    assert_nothing_lost(floods, 20);
}

fn message(daemon: &Daemon) -> String {
    daemon.mapping("web").unwrap()["programmed"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn an_endpoint_that_is_an_address_of_the_box_is_not_chosen_and_named() {
    let bed = Bed::new();
    let addresses = [Bed::BORDER, Bed::EXT1, Bed::EXT2, "10.0.255.7".parse().unwrap()];
    bed.border.ip("address add 10.0.255.7/32 dev lo");
    for address in addresses {
        let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
        manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1).ready(address)).write();
        let mut daemon = daemon(&bed, &manifests).start();
        let floods = flood(&bed.client1, Bed::EXT1);
        assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 20).into_iter().collect::<Vec<_>>(), ["pod1"]);
        assert_all_answered(floods);
        let told = message(&daemon);
        assert!(told.contains(&format!("{address} (an address of this box")), "{told}");

        // Alone it is as good as none.
        alone(&bed, &mut daemon, &mut manifests, Endpoints::of("web").ready(address));
        let told = message(&daemon);
        assert!(told.contains("that can answer") && told.contains(&address.to_string()), "{told}");
        daemon.stop();
    }
}

fn alone(bed: &Bed, daemon: &mut Daemon, manifests: &mut Manifests, endpoints: Endpoints) {
    manifests.put_endpoints(endpoints).write();
    daemon.settle(manifests);
    assert_refused(&bed.client1, Bed::EXT1);
    assert_eq!(daemon.mapping("web").unwrap()["programmed"]["reason"], "NoReadyEndpoints");
}

#[test]
fn endpoints_are_judged_anew_as_addresses_come_and_go() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1).ready(Bed::POD2)).write();
    let daemon = daemon(&bed, &manifests).start();
    assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 40).len(), 2);
    bed.border.ip(&format!("address add {}/32 dev lo", Bed::POD2));
    eventually("the pod's address is the box's own", || message(&daemon).contains("not chosen").then_some(()));
    let floods = flood(&bed.client1, Bed::EXT1);
    assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 20).into_iter().collect::<Vec<_>>(), ["pod1"]);
    assert_all_answered(floods);
    bed.border.ip(&format!("address del {}/32 dev lo", Bed::POD2));
    eventually("it is a pod's again", || (!message(&daemon).contains("not chosen")).then_some(()));
    assert_served(&bed.client1, Bed::EXT1);
    assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 40).len(), 2);
}

#[test]
fn an_endpoint_behind_an_external_interface_or_a_broadcast_address_is_not_chosen() {
    let bed = Bed::new();
    let broadcast = Bed::EXT1.octets();
    for address in [Bed::R1, [broadcast[0], broadcast[1], broadcast[2], 255].into()] {
        let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
        manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1).ready(address)).write();
        let mut daemon = daemon(&bed, &manifests).start();
        let floods = flood(&bed.client1, Bed::EXT1);
        assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 20).into_iter().collect::<Vec<_>>(), ["pod1"]);
        assert_all_answered(floods);
        assert!(message(&daemon).contains(&format!("{address} (")), "{}", message(&daemon));
        alone(&bed, &mut daemon, &mut manifests, Endpoints::of("web").ready(address));
        daemon.stop();
    }
}
