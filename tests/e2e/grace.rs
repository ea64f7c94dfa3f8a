//! Services, slices and Mappings that change one after the other while connections are up.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use bed::peer::{Proto, Request};
use bed::{Bed, Daemon, Endpoints, Manifests, PodState, Service};

use crate::support::{
    assert_alive, assert_cut, assert_ends_in_time, assert_served, daemon, manifests, mapping, open_stream,
    pods_answering,
};

const OTHER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

fn old() -> Service {
    Service::new("web", Ipv4Addr::new(10, 96, 0, 10))
}

/// One pod behind the Service `web`.
fn pod1() -> Endpoints {
    Endpoints::of("web").ready(Bed::POD1)
}

fn settled(daemon: &Daemon, manifests: &mut Manifests) {
    manifests.write();
    daemon.settle(manifests);
}

#[test]
fn a_connection_lives_while_its_service_and_slices_do_not_fit_each_other() {
    let bed = Bed::new();
    bed.serve("pod1", "pod1", &[SocketAddrV4::new(Bed::POD1, 8081)], &[]);
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(pod1()).write();
    let daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    type Step = fn(&mut Manifests);
    let steps: [(&str, Step); 11] = [
        ("the Service's port has another name", |m| _ = m.put_service(Service { http: "web".to_owned(), ..old() })),
        ("its slice, too", |m| _ = m.put_endpoints(pod1().http("web", 8080))),
        ("another number", |m| _ = m.put_endpoints(pod1().http("web", 8081))),
        ("no such port", |m| _ = m.put_endpoints(pod1().http("metrics", 9100))),
        ("the Service is away", |m| _ = m.remove_service("web")),
        ("its slice, too", |m| _ = m.remove_slice("web-1")),
        ("another Service of that name", |m| _ = m.put_service(Service::new("web", OTHER_IP))),
        ("another slice", |m| _ = m.put_endpoints(pod1().slice("web-2").http("http", 8081))),
        ("a second one", |m| _ = m.put_endpoints(pod1())),
        ("the first goes", |m| _ = m.remove_slice("web-2")),
        ("the old Service again", |m| _ = m.put_service(old())),
    ];
    for (what, step) in steps {
        step(&mut manifests);
        settled(&daemon, &mut manifests);
        assert!(stream.broken().is_none(), "{what}");
        assert_alive(&stream);
    }
    assert_served(&bed.client1, Bed::EXT1);
    assert_eq!(stream.stop().broken, None);
}

#[test]
fn udp_flows_stay_with_pods_that_serve_while_one_slice_follows_after_the_other() {
    let bed = Bed::new();
    let slice = |pod, number: u8, name: &str| Endpoints::of("web").ready(pod).slice(&format!("web-{number}")).dns(name);
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(slice(Bed::POD1, 1, "dns")).put_endpoints(slice(Bed::POD2, 2, "dns")).write();
    let daemon = daemon(&bed, &manifests).start();
    let ask = |port| {
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let to = SocketAddrV4::new(Bed::EXT1, 53);
        bed.client1.within(|| Request { from, ..Request::new(Proto::Udp, to) }.send()).unwrap().name
    };
    let begun: Vec<(u16, String)> = (5400..5420).map(|port| (port, ask(port))).collect();
    assert_eq!(begun.iter().map(|(_, pod)| pod.as_str()).collect::<BTreeSet<_>>(), ["pod1", "pod2"].into());
    type Step<'a> = Box<dyn Fn(&mut Manifests) + 'a>;
    let steps: [(&str, Step); 3] = [
        ("the Service", Box::new(|m| _ = m.put_service(Service { dns: "udp".to_owned(), ..old() }))),
        ("one slice", Box::new(|m| _ = m.put_endpoints(slice(Bed::POD1, 1, "udp")))),
        ("the other", Box::new(|m| _ = m.put_endpoints(slice(Bed::POD2, 2, "udp")))),
    ];
    for (what, step) in steps {
        step(&mut manifests);
        settled(&daemon, &mut manifests);
        for (port, pod) in &begun {
            assert_eq!(ask(*port), *pod, "{what}");
        }
    }
}

#[test]
fn what_an_edit_takes_away_is_cut_at_once_also_while_the_pod_is_missing() {
    for is_missing in [false, true] {
        let bed = Bed::new();
        let web = || mapping("web", &[Bed::EXT1]);
        let mut manifests = manifests([web(), mapping("stays", &[Bed::EXT1B])]);
        manifests.put_service(Service::new("other", Ipv4Addr::new(10, 96, 0, 12)));
        manifests.put_endpoints(pod1()).put_endpoints(Endpoints::of("other").ready(Bed::POD2)).write();
        let daemon = daemon(&bed, &manifests).start();
        let (goes, stays) = (open_stream(&bed.client1, Bed::EXT1), open_stream(&bed.client1, Bed::EXT1B));
        assert_eq!(goes.answer.name, "pod1");
        if is_missing {
            manifests.put_endpoints(Endpoints::of("web"));
            settled(&daemon, &mut manifests);
            assert_alive(&goes);
        }
        manifests.put(web().service("other"));
        settled(&daemon, &mut manifests);
        assert_cut(goes);
        assert_alive(&stays);
        assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 3).into_iter().collect::<Vec<_>>(), ["pod2"]);
    }
}

#[test]
fn connections_to_a_pod_that_is_another_one_are_cut_at_once_and_its_own_are_not() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(pod1().uid("a")).write();
    let daemon = daemon(&bed, &manifests).refreshing().start();
    let old = open_stream(&bed.client1, Bed::EXT1);
    // As a new pod is at first. The segment after the cut goes to the other pod, which resets it.
    let starting = Endpoints::of("web").pod(Bed::POD1, PodState::Unready).uid("b").ready(Bed::POD2);
    manifests.put_endpoints(starting);
    settled(&daemon, &mut manifests);
    assert_cut(old);
    manifests.put_endpoints(pod1().uid("b"));
    settled(&daemon, &mut manifests);
    let new = open_stream(&bed.client1, Bed::EXT1);
    assert_eq!(new.answer.name, "pod1");
    daemon.passes(2);
    assert_alive(&new);
    // Its address becomes another Service's, with another pod.
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD2));
    manifests.put_endpoints(Endpoints::of("other").ready(Bed::POD1).uid("c"));
    settled(&daemon, &mut manifests);
    assert_cut(new);
}

#[test]
fn after_a_restart_the_time_runs_anew_for_a_pod_that_went_meanwhile() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(pod1()).write();
    let mut daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    daemon.stop();
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD2)).write();
    let begun = Instant::now();
    daemon.start_again();
    daemon.settle(&manifests);
    assert_ends_in_time(stream, begun);
}
