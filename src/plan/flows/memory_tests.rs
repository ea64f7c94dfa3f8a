//! What becomes of flows while Services, slices and Mappings change, in virtual time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Flow, FlowMemory, FlowVerdict, GRACE};
use crate::api::{MappingSpec, ServicePortRef};
use crate::model::{
    Endpoint, EndpointSlice, ObjectKey, Objects, Protocol, Service, ServiceType, SliceEndpoint, SlicePort,
};
use crate::plan::resolve_tests::{
    config, key, mapping, objects, pod, port, resolve, service, service_port, slice, spec, strings,
};

const SECOND: Duration = Duration::from_secs(1);
const POD1: &str = "10.244.1.2:9090";
const POD2: &str = "10.244.2.2:9090";
const UDP1: &str = "10.244.1.2:5353";

/// 203.0.113.10:80/tcp and :53/udp lead to Service web with two pods.
struct Scene {
    memory: FlowMemory,
    objects: Objects,
    now: Instant,
}

impl Scene {
    /// Just started: the first snapshot has been looked at.
    fn started() -> Scene {
        let mut spec = spec();
        spec.ports.push(port(53, 53, "udp"));
        let mut objects = objects([("web", mapping(1, spec))]);
        objects.slices.insert(key("web-1"), web(vec![pod("10.244.1.2"), pod("10.244.2.2")]).into());
        let mut scene = Scene { memory: FlowMemory::new(GRACE), objects, now: Instant::now() };
        scene.look();
        scene
    }

    /// Up for so long that the start does not matter any more.
    fn settled() -> Scene {
        let mut scene = Scene::started();
        scene.after(GRACE);
        scene
    }

    fn look(&mut self) {
        let flows = resolve(&config(), &self.objects).flows;
        self.memory.look(&flows, &Arc::new(self.objects.clone()), self.now);
    }

    /// Time passes without a change.
    fn after(&mut self, time: Duration) {
        self.now += time;
        self.look();
    }

    fn change(&mut self, change: impl FnOnce(&mut Objects)) {
        change(&mut self.objects);
        self.look();
    }

    fn edit(&mut self, edit: impl FnOnce(&mut MappingSpec)) {
        self.change(|o| edit(&mut Arc::make_mut(o.mappings.get_mut(&key("web")).unwrap()).spec));
    }

    fn slices(&mut self, slices: impl IntoIterator<Item = (&'static str, EndpointSlice)>) {
        self.change(|o| o.slices = slices.into_iter().map(|(name, s)| (key(name), Arc::new(s))).collect());
    }

    fn verdict(&self, protocol: Protocol, server: &str) -> FlowVerdict {
        self.memory.policy().verdict(&flow(protocol, server))
    }

    fn lives(&self, server: &str) -> bool {
        self.verdict(Protocol::Tcp, server) == FlowVerdict::Keep
    }

    fn udp_lives(&self, server: &str) -> bool {
        self.verdict(Protocol::Udp, server) == FlowVerdict::Keep
    }

    fn is_replaced(&self, server: &str) -> bool {
        self.memory.is_replaced(&flow(Protocol::Tcp, server))
    }

    /// Lives for the grace time from now on and not a moment longer, and says when that is.
    fn assert_ends_after_grace(&mut self, server: &str) {
        let began = self.now;
        assert!(self.lives(server), "{server} at once");
        assert_eq!(self.memory.due(), Some(began + GRACE));
        self.after(GRACE - SECOND);
        assert!(self.lives(server), "{server} before its time");
        self.after(SECOND);
        assert!(!self.lives(server), "{server} when its time is up");
    }
}

fn flow(protocol: Protocol, server: &str) -> Flow {
    let port = if protocol == Protocol::Tcp { 80 } else { 53 };
    Flow {
        protocol,
        client: "192.0.2.1".parse().unwrap(),
        destination: format!("203.0.113.10:{port}").parse().unwrap(),
        server: server.parse().unwrap(),
    }
}

fn slice_ports(http: (&str, u16)) -> Vec<SlicePort> {
    let port =
        |name: &str, protocol: &str, port| SlicePort { name: Some(name.into()), protocol: protocol.into(), port };
    vec![port(http.0, "TCP", http.1), port("dns", "UDP", 5353)]
}

fn web(endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    EndpointSlice { ports: slice_ports(("http", 9090)), ..slice(9090, endpoints) }
}

fn of(service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    EndpointSlice { service: service.into(), ..slice(9090, endpoints) }
}

fn known(address: &str, uid: &str) -> SliceEndpoint {
    SliceEndpoint { uid: Some(uid.into()), ..pod(address) }
}

#[test]
fn a_pod_that_is_gone_keeps_its_connections_for_the_grace_time() {
    let mut scene = Scene::settled();
    assert_eq!(scene.memory.due(), None);
    scene.slices([("web-1", web(vec![pod("10.244.2.2")]))]);
    assert!(!scene.udp_lives(UDP1), "UDP follows at once");
    scene.assert_ends_after_grace(POD1);
    assert!(scene.lives(POD2));
    assert_eq!(scene.memory.due(), None);
}

#[test]
fn a_pod_that_comes_back_has_the_whole_time_again() {
    let mut scene = Scene::settled();
    let both = || web(vec![pod("10.244.1.2"), pod("10.244.2.2")]);
    scene.slices([]);
    scene.after(GRACE - SECOND);
    scene.slices([("web-1", both())]);
    scene.after(GRACE);
    assert!(scene.lives(POD1));
    scene.slices([]);
    scene.assert_ends_after_grace(POD1);
}

#[test]
fn a_renamed_port_cuts_nobody_in_whichever_order_service_and_slices_follow() {
    let rename_service = |o: &mut Objects| {
        Arc::make_mut(o.services.get_mut(&key("web")).unwrap()).ports[0].name = Some("web".to_owned())
    };
    let rename_slice = |o: &mut Objects| {
        Arc::make_mut(o.slices.get_mut(&key("web-1")).unwrap()).ports = slice_ports(("web", 9090));
    };
    let by_name = |s: &mut MappingSpec| s.ports[0].service_port = Some(ServicePortRef::Name("http".to_owned()));
    for named in [false, true] {
        for service_first in [false, true] {
            let mut scene = Scene::started();
            if named {
                // In other words, and still the same port.
                scene.edit(by_name);
            }
            scene.after(GRACE);
            scene.change(|o| if service_first { rename_service(o) } else { rename_slice(o) });
            scene.after(GRACE * 3);
            assert!(scene.lives(POD1) && scene.udp_lives(UDP1), "{named} {service_first}");
            scene.change(|o| if service_first { rename_slice(o) } else { rename_service(o) });
            scene.after(GRACE * 3);
            assert!(scene.lives(POD1) && scene.udp_lives(UDP1), "{named} {service_first}");
        }
    }
}

#[test]
fn connections_to_an_old_port_number_live_as_long_as_the_pod_is_in_the_service() {
    let mut scene = Scene::settled();
    let renumbered = EndpointSlice { ports: slice_ports(("http", 7070)), ..web(vec![pod("10.244.1.2")]) };
    scene.slices([("web-2", renumbered)]);
    scene.after(GRACE * 3);
    assert!(scene.lives(POD1) && scene.lives("10.244.1.2:7070") && !scene.lives(POD2));
}

#[test]
fn a_service_that_is_replaced_cuts_nobody_and_one_that_stays_away_everybody() {
    let mut scene = Scene::settled();
    let web = scene.objects.services[&key("web")].clone();
    scene.change(|o| _ = o.services.remove(&key("web")));
    scene.after(GRACE - SECOND);
    assert!(scene.lives(POD1) && scene.udp_lives(UDP1), "its slices still say that the pod serves");
    scene.change(|o| {
        let mut another = Service::clone(&web);
        another.cluster_ips = vec!["10.96.0.99".parse().unwrap()];
        o.services.insert(key("web"), another.into());
        o.slices.clear();
    });
    scene.after(GRACE - SECOND * 2);
    let slices: Vec<_> = vec![pod("10.244.1.2")];
    scene.slices([("web-x", self::web(slices))]);
    scene.after(GRACE);
    assert!(scene.lives(POD1));
    // The slices stay, as they do for a moment: what counts is the Service.
    scene.change(|o| _ = o.services.remove(&key("web")));
    scene.assert_ends_after_grace(POD1);
}

#[test]
fn a_service_that_becomes_a_name_elsewhere_ends_after_the_grace_time() {
    let mut scene = Scene::settled();
    scene.change(|o| Arc::make_mut(o.services.get_mut(&key("web")).unwrap()).kind = ServiceType::ExternalName);
    scene.assert_ends_after_grace(POD1);
}

#[test]
fn mode_service_keeps_the_cluster_ip_and_for_the_grace_time_the_old_one() {
    let (old, new) = ("10.96.0.10:8080", "10.96.0.11:8080");
    let mut scene = Scene::started();
    scene.edit(|s| s.mode = Some("service".to_owned()));
    scene.after(GRACE);
    assert!(scene.lives(old) && scene.lives(POD1) && !scene.lives(new));
    let address = |text: &str| vec![text.parse().unwrap()];
    scene.change(|o| Arc::make_mut(o.services.get_mut(&key("web")).unwrap()).cluster_ips = address("10.96.0.11"));
    assert!(scene.lives(new) && scene.lives(POD1));
    scene.assert_ends_after_grace(old);
    // Another Service that gets the address is another server.
    scene.change(|o| Arc::make_mut(o.services.get_mut(&key("web")).unwrap()).cluster_ips = address("10.96.0.12"));
    assert!(scene.lives(new));
    scene.change(|o| {
        let mut api = service();
        api.cluster_ips = address("10.96.0.11");
        o.services.insert(key("api"), api.into());
    });
    assert!(!scene.lives(new) && scene.lives("10.96.0.12:8080"));
    // The mode is an edit: to the ClusterIP nothing leads any more.
    scene.edit(|s| s.mode = Some("direct".to_owned()));
    assert!(!scene.lives("10.96.0.12:8080") && scene.lives(POD1));
}

#[test]
fn slices_that_are_split_and_merged_cut_nobody() {
    let mut scene = Scene::settled();
    // The address is in none for a moment, then in two, then in another one.
    scene.slices([("web-1", web(vec![pod("10.244.2.2")]))]);
    scene.after(SECOND);
    scene.slices([("web-1", web(vec![pod("10.244.2.2")])), ("web-2", web(vec![pod("10.244.1.2")]))]);
    scene.slices([("web-1", web(vec![pod("10.244.2.2"), pod("10.244.1.2")])), ("web-2", web(vec![pod("10.244.1.2")]))]);
    scene.slices([("web-2", web(vec![pod("10.244.1.2"), pod("10.244.2.2")]))]);
    scene.after(GRACE);
    assert!(scene.lives(POD1) && scene.lives(POD2) && !scene.is_replaced(POD1));
}

#[test]
fn what_an_edit_takes_away_goes_at_once() {
    let edits: [fn(&mut MappingSpec); 5] = [
        |s| s.service_name = "api".to_owned(),
        |s| s.ports[0].service_port = Some(ServicePortRef::Number(8081)),
        |s| s.ports[0].port = Some(81),
        |s| s.allowed_sources = strings(&["198.51.100.0/24"]),
        |s| s.addresses = strings(&["203.0.113.11"]),
    ];
    for edit in edits {
        let mut scene = Scene::started();
        scene.change(|o| {
            let web = Arc::make_mut(o.services.get_mut(&key("web")).unwrap());
            web.ports.push(service_port("admin", 8081, "TCP"));
        });
        // While everything is well, while a pod is missing, and right after the start.
        for state in 0..3 {
            let mut scene = if state == 2 { Scene::started() } else { Scene::settled() };
            if state == 1 {
                scene.slices([]);
                assert!(scene.lives(POD1));
            }
            scene.edit(edit);
            assert!(!scene.lives(POD1), "{state}");
        }
    }
}

#[test]
fn an_edit_keeps_what_it_does_not_take_away() {
    let mut scene = Scene::settled();
    // Another Service with the same pods, on the same port.
    scene.change(|o| {
        o.services.insert(key("blue"), service().into());
        o.slices.insert(key("blue-1"), of("blue", vec![pod("10.244.1.2")]).into());
    });
    scene.edit(|s| s.service_name = "blue".to_owned());
    assert!(scene.lives(POD1) && !scene.lives(POD2));
    // From now on its pods are those of blue: that they leave web is nothing to it.
    scene.change(|o| _ = o.slices.remove(&key("web-1")));
    scene.after(GRACE);
    assert!(scene.lives(POD1));
    scene.change(|o| _ = o.slices.remove(&key("blue-1")));
    scene.assert_ends_after_grace(POD1);
}

#[test]
fn an_edit_while_a_pod_is_missing_leaves_the_others_their_time() {
    let mut scene = Scene::settled();
    scene.slices([("web-1", web(vec![pod("10.244.2.2")]))]);
    scene.after(SECOND);
    scene.edit(|s| s.allowed_sources = strings(&["192.0.2.0/24"]));
    assert!(scene.lives(POD1), "its source is still allowed");
    scene.after(GRACE - SECOND);
    assert!(!scene.lives(POD1) && scene.lives(POD2));
}

#[test]
fn a_mapping_that_is_refused_or_deleted_loses_its_connections_at_once_and_only_its_own() {
    let faults: [fn(&mut MappingSpec); 2] =
        [|s| s.addresses = strings(&["nonsense"]), |s| s.ports = (1..=51).map(|n| port(n, 8080, "tcp")).collect()];
    for fault in faults {
        let mut scene = Scene::settled();
        scene.edit(fault);
        assert_eq!(scene.verdict(Protocol::Tcp, POD1), FlowVerdict::NotMapped);
    }
    let mut scene = Scene::settled();
    scene.change(|o| Arc::make_mut(o.mappings.get_mut(&key("web")).unwrap()).deleting = true);
    assert_eq!(scene.verdict(Protocol::Tcp, POD1), FlowVerdict::NotMapped);
    // An older one takes the endpoint, and leads elsewhere.
    let mut scene = Scene::settled();
    scene.change(|o| {
        o.services.insert(key("api"), service().into());
        let mut spec = spec();
        spec.service_name = "api".to_owned();
        o.mappings.insert(key("older"), mapping(0, spec).into());
    });
    assert_eq!(scene.verdict(Protocol::Tcp, POD1), FlowVerdict::ServerGone);
    assert_eq!(scene.verdict(Protocol::Udp, UDP1), FlowVerdict::NotMapped);
    // Renamed: another Mapping with the same spec.
    let mut scene = Scene::settled();
    scene.change(|o| {
        let mapping = o.mappings.remove(&key("web")).unwrap();
        o.mappings.insert(key("renamed"), mapping);
    });
    assert!(scene.lives(POD1));
}

#[test]
fn another_pod_at_the_same_address_takes_over_at_once() {
    let one = |uid| [("web-1", web(vec![known("10.244.1.2", uid)]))];
    let mut scene = Scene::settled();
    scene.slices(one("a"));
    assert!(!scene.is_replaced(POD1), "it was not known which pod it was");
    scene.after(SECOND);
    scene.slices(one("b"));
    assert!(scene.is_replaced(POD1) && scene.memory.has_replaced());
    assert!(scene.lives(POD1), "from now on flows there are its own");
    scene.look();
    assert!(!scene.is_replaced(POD1), "once");
    // Also after having been away, and beside the old one.
    scene.slices([]);
    scene.after(SECOND);
    scene.slices(one("c"));
    assert!(scene.is_replaced(POD1));
    scene.slices([("web-1", web(vec![known("10.244.1.2", "c"), known("10.244.1.2", "d")]))]);
    assert!(scene.is_replaced(POD1));
    // The same one, away and back, or named by nobody for a moment, is no other.
    let mut scene = Scene::settled();
    scene.slices(one("a"));
    for between in [vec![], vec![("web-1", web(vec![pod("10.244.1.2")]))]] {
        scene.slices(between);
        scene.slices(one("a"));
        assert!(!scene.is_replaced(POD1));
    }
}

#[test]
fn an_address_that_is_newly_another_services_goes_at_once() {
    for uid in [None, Some("b")] {
        let stranger = SliceEndpoint { uid: uid.map(Into::into), ..pod("10.244.1.2") };
        let mut scene = Scene::settled();
        scene.slices([("web-1", web(vec![known("10.244.1.2", "a"), pod("10.244.2.2")]))]);
        // In one step, or while it is missing.
        scene.slices([("web-1", web(vec![pod("10.244.2.2")])), ("api-1", of("api", vec![stranger.clone()]))]);
        assert!(!scene.lives(POD1) && scene.lives(POD2), "{uid:?}");

        let mut scene = Scene::settled();
        scene.slices([("web-1", web(vec![pod("10.244.2.2")]))]);
        scene.after(SECOND);
        scene.change(|o| _ = o.slices.insert(key("api-1"), of("api", vec![stranger]).into()));
        assert!(!scene.lives(POD1) && scene.lives(POD2), "{uid:?}");
    }
}

#[test]
fn a_new_pod_may_be_named_before_the_old_one_is_gone() {
    let mut scene = Scene::settled();
    let both = |o: &mut Objects, port| {
        let mut api = of("api", vec![known("10.244.1.2", "b")]);
        api.ports[0].port = port;
        o.slices.insert(key("api-1"), api.into());
    };
    scene.slices([("web-1", web(vec![known("10.244.1.2", "a")]))]);
    scene.change(|o| both(o, 9090));
    assert!(scene.is_replaced(POD1), "on the same port there is room for one");
    let mut scene = Scene::settled();
    scene.slices([("web-1", web(vec![known("10.244.1.2", "a")]))]);
    scene.change(|o| both(o, 7000));
    assert!(!scene.is_replaced(POD1) && scene.lives(POD1), "they may share the node's address");
    scene.change(|o| _ = o.slices.remove(&key("web-1")));
    assert!(!scene.lives(POD1));
}

#[test]
fn another_service_with_the_same_pods_cuts_nobody() {
    for uid in [None, Some("a")] {
        let ours = || SliceEndpoint { uid: uid.map(Into::into), ..pod("10.244.1.2") };
        let mut scene = Scene::settled();
        scene.slices([("web-1", web(vec![ours()]))]);
        scene.after(GRACE);
        scene.slices([("web-1", web(vec![ours()])), ("metrics-1", of("metrics", vec![ours()]))]);
        assert!(!scene.is_replaced(POD1) && scene.lives(POD1));
        scene.slices([("metrics-1", of("metrics", vec![ours()]))]);
        scene.assert_ends_after_grace(POD1);
    }
}

#[test]
fn pods_that_share_the_nodes_address_do_not_cut_each_other() {
    let mut scene = Scene::settled();
    let other = |uid| {
        let mut other = of("other", vec![known("10.244.1.2", uid)]);
        other.ports[0].port = 7000;
        other
    };
    scene.slices([("web-1", web(vec![known("10.244.1.2", "a")])), ("other-1", other("b"))]);
    scene.after(GRACE);
    scene.slices([("web-1", web(vec![known("10.244.1.2", "a")])), ("other-1", other("c"))]);
    assert!(!scene.is_replaced(POD1) && scene.lives(POD1));
    scene.after(GRACE);
    scene.slices([("other-1", other("c"))]);
    scene.assert_ends_after_grace(POD1);
}

#[test]
fn after_a_start_the_time_runs_anew_for_what_is_not_known() {
    let gone = "10.244.9.9:1234";
    let mut scene = Scene::started();
    assert!(!scene.udp_lives("10.244.9.9:5353"));
    scene.assert_ends_after_grace(gone);
    assert!(scene.lives(POD1) && scene.lives("10.244.1.2:1111"), "its number may have been another one");
    // Only what was mapped at the start; and not what becomes another Service's.
    let mut scene = Scene::started();
    scene.edit(|s| s.ports.push(port(81, 8080, "tcp")));
    let late = Endpoint { address: "203.0.113.10".parse().unwrap(), protocol: Protocol::Tcp, port: 81 };
    assert!(scene.memory.policy().endpoints[&late].servers.all_but.is_none());
    scene.change(|o| _ = o.slices.insert(key("api-1"), of("api", vec![pod("10.244.9.9")]).into()));
    assert!(!scene.lives(gone) && scene.lives("10.244.9.8:1234"));
    scene.slices([("web-1", web(vec![pod("10.244.9.9")]))]);
    assert!(scene.lives(gone), "it is a pod of the Service again");
}

#[test]
fn a_start_without_the_service_waits_for_it() {
    let mut scene = Scene::started();
    let mut memory = FlowMemory::new(GRACE);
    std::mem::swap(&mut scene.memory, &mut memory);
    let service = scene.objects.services.remove(&key("web")).unwrap();
    scene.look();
    assert!(scene.lives(POD1) && scene.lives("10.244.9.9:1234"));
    scene.after(GRACE - SECOND);
    scene.change(|o| _ = o.services.insert(key("web"), service));
    scene.after(GRACE);
    assert!(scene.lives(POD1) && !scene.lives("10.244.9.9:1234"));
}

#[test]
fn udp_follows_when_its_pod_stops_serving_not_when_it_begins_to_terminate() {
    let mut scene = Scene::settled();
    let state = |ready, serving, terminating| {
        let old = SliceEndpoint { ready, serving, terminating, ..pod("10.244.1.2") };
        [("web-1", web(vec![old, pod("10.244.2.2")]))]
    };
    scene.slices(state(false, true, true));
    assert!(scene.udp_lives(UDP1) && scene.lives(POD1));
    scene.slices(state(false, false, true));
    assert!(!scene.udp_lives(UDP1) && scene.lives(POD1));
    scene.slices(state(true, false, false));
    assert!(scene.udp_lives(UDP1), "a Service may publish pods that are not ready");
}

#[test]
fn udp_goes_on_while_only_some_slices_follow_and_follows_another_number() {
    let dns = |name: &str, number| {
        let mut ports = slice_ports(("http", 9090));
        ports[1] = SlicePort { name: Some(name.into()), protocol: "UDP".into(), port: number };
        ports
    };
    let udp2 = "10.244.2.2:5353";
    for restarted in [false, true] {
        let mut scene = Scene::settled();
        let slices = |first: Vec<SlicePort>, second: Vec<SlicePort>| {
            let of = |ports, address| EndpointSlice { ports, ..web(vec![pod(address)]) };
            [("web-1", of(first, "10.244.1.2")), ("web-2", of(second, "10.244.2.2"))]
        };
        scene
            .change(|o| Arc::make_mut(o.services.get_mut(&key("web")).unwrap()).ports[1].name = Some("udp".to_owned()));
        scene.slices(slices(dns("udp", 5353), dns("dns", 5353)));
        if restarted {
            scene.memory = FlowMemory::new(GRACE);
            scene.look();
        }
        for _ in 0..2 {
            assert!(scene.udp_lives(UDP1) && scene.udp_lives(udp2), "the second slice has the old name");
            scene.after(GRACE * 2);
        }
        scene.slices(slices(dns("udp", 5353), dns("udp", 6000)));
        assert!(scene.udp_lives(UDP1) && !scene.udp_lives(udp2) && scene.udp_lives("10.244.2.2:6000"));
        scene.slices([("web-1", EndpointSlice { ports: dns("udp", 5353), ..web(vec![pod("10.244.1.2")]) })]);
        assert!(scene.udp_lives(UDP1) && !scene.udp_lives("10.244.2.2:6000"), "no longer listed");
    }
}

#[test]
fn udp_to_a_cluster_ip_outlives_a_port_that_is_renamed_and_a_service_that_is_replaced() {
    let vip = "10.96.0.10:53";
    let mut scene = Scene::settled();
    scene.edit(|s| {
        s.mode = Some("service".to_owned());
        s.ports[1].service_port = Some(ServicePortRef::Name("dns".to_owned()));
    });
    let web = scene.objects.services[&key("web")].clone();
    scene.after(GRACE);
    assert!(scene.udp_lives(vip));
    scene.change(|o| Arc::make_mut(o.services.get_mut(&key("web")).unwrap()).ports[1].name = Some("udp".to_owned()));
    assert!(scene.udp_lives(vip));
    scene.change(|o| _ = o.services.remove(&key("web")));
    scene.after(GRACE - SECOND);
    assert!(scene.udp_lives(vip));
    scene.after(SECOND);
    assert!(!scene.udp_lives(vip));
    scene.change(|o| _ = o.services.insert(key("web"), web));
    assert!(scene.udp_lives(vip));
}

/// The work grows with the number of pods, not with its square, which would take hours.
#[test]
fn ten_thousand_pods_are_looked_at_quickly_and_forgotten() {
    let mut scene = Scene::settled();
    let address = |n: u32| pod(&std::net::Ipv4Addr::from(0x0a80_0000 + n).to_string());
    let fleet = |from: u32| -> Vec<(ObjectKey, Arc<EndpointSlice>)> {
        let slice = |n: u32| web((0..100).map(|i| address(from + n * 100 + i)).collect());
        (0..100).map(|n| (key(&format!("web-{n}")), Arc::new(slice(n)))).collect()
    };
    let start = Instant::now();
    for round in 0..2 {
        scene.change(|o| o.slices = fleet(round * 10_000).into_iter().collect());
        scene.after(GRACE);
    }
    let took = start.elapsed();
    let remembered: usize = scene.memory.remembered();
    assert_eq!(remembered, 10_000);
    assert!(took < Duration::from_secs(60), "took {took:?}");
}
