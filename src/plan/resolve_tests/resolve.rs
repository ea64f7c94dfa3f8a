use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::model::Few;
use crate::plan::{Refusal, RefusalReason, ResolvedMapping};

fn slice_mut<'a>(objects: &'a mut Objects, name: &str) -> &'a mut EndpointSlice {
    std::sync::Arc::make_mut(objects.slices.get_mut(&key(name)).unwrap())
}

fn served(objects: &Objects) -> ResolvedMapping {
    let mut resolution = resolve(&config(), objects);
    assert_eq!(resolution.refused, Default::default());
    assert_eq!(resolution.served.len(), 1);
    resolution.served.remove(0)
}

fn refused(objects: &Objects) -> Refusal {
    let mut resolution = resolve(&config(), objects);
    assert_eq!(resolution.served, []);
    resolution.refused.pop_first().unwrap().1
}

fn web(change: impl FnOnce(&mut MappingSpec)) -> Objects {
    let mut spec = spec();
    change(&mut spec);
    objects([("web", mapping(1, spec))])
}

fn sockets(texts: &[&str]) -> Few<SocketAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[test]
fn a_mapping_reaches_the_pods_of_its_service() {
    let resolved = served(&web(|_| {}));
    assert_eq!(resolved.key, key("web"));
    assert_eq!(resolved.service, key("web"));
    assert_eq!(resolved.service_vip, Some(ip("10.96.0.10")));
    let port = &resolved.ports[0];
    assert_eq!((port.port, port.service_port, port.service_port_name.as_deref()), (80, 8080, Some("http")));
    let pods = sockets(&["10.244.1.2:9090", "10.244.2.2:9090"]);
    assert_eq!(port.backends.chosen, pods);
    assert_eq!(port.backends.serving, pods);
    assert_eq!(port.backends.known, pods);
}

#[test]
fn a_named_service_port_is_found() {
    let resolved = served(&web(|s| s.ports[0].service_port = Some(ServicePortRef::Name("http".to_owned()))));
    assert_eq!(resolved.ports[0].service_port, 8080);
}

#[test]
fn a_missing_service_is_named() {
    let refusal = refused(&web(|s| s.service_name = "shopfront".into()));
    assert_eq!(refusal.reason, RefusalReason::ServiceNotFound);
    assert!(refusal.message.contains("spec.serviceName") && refusal.message.contains("shop/shopfront"));
}

#[test]
fn a_service_of_another_namespace_does_not_count() {
    let mut objects = web(|_| {});
    let service = objects.services.remove(&key("web")).unwrap();
    objects.services.insert(ObjectKey::new("other", "web"), service);
    assert_eq!(refused(&objects).reason, RefusalReason::ServiceNotFound);
}

#[test]
fn a_port_that_the_service_lacks_is_refused_with_the_ports_it_has() {
    // 53 is there, but for UDP.
    let refusal = refused(&web(|s| s.ports.push(port(53, 53, "tcp"))));
    assert_eq!(refusal.reason, RefusalReason::ServicePortNotFound);
    for part in ["spec.ports[1].servicePort", "53/tcp", "8080/tcp (http)", "53/udp (dns)"] {
        assert!(refusal.message.contains(part), "{part} is not in {}", refusal.message);
    }
    let refusal = refused(&web(|s| s.ports[0].service_port = Some(ServicePortRef::Name("8080".to_owned()))));
    assert!(refusal.message.contains("without quotes"), "{}", refusal.message);
}

#[test]
fn mode_service_refuses_what_has_no_cluster_ip_to_forward_to() {
    type Change = fn(&mut Service);
    let cases: [(&str, Change); 3] = [
        ("headless", |s| {
            s.headless = true;
            s.cluster_ips.clear();
        }),
        ("internalTrafficPolicy Local", |s| s.internal_local = true),
        ("no IPv4 ClusterIP", |s| s.cluster_ips = vec![ip("fd00::10")]),
    ];
    for (what, change) in cases {
        let mut objects = web(|s| s.mode = None);
        change(Arc::make_mut(objects.services.get_mut(&key("web")).unwrap()));
        let refusal = refused(&objects);
        assert_eq!(refusal.reason, RefusalReason::ServiceNotSupported);
        assert!(refusal.message.contains(what), "{what} is not in {}", refusal.message);
        assert!(refusal.message.contains("use mode direct"), "{}", refusal.message);

        Arc::make_mut(objects.mappings.get_mut(&key("web")).unwrap()).spec.mode = Some("direct".to_owned());
        assert_eq!(served(&objects).ports[0].backends.chosen.len(), 2, "{what} in mode direct");
    }
}

#[test]
fn an_external_name_is_refused_in_both_modes() {
    for mode in ["service", "direct"] {
        let mut objects = web(|s| s.mode = Some(mode.to_owned()));
        Arc::make_mut(objects.services.get_mut(&key("web")).unwrap()).kind = ServiceType::ExternalName;
        let refusal = refused(&objects);
        assert_eq!(refusal.reason, RefusalReason::ServiceNotSupported);
        assert!(refusal.message.contains("ExternalName"), "{}", refusal.message);
    }
}

#[test]
fn port_numbers_are_those_of_each_slice() {
    let mut objects = web(|_| {});
    objects.slices.insert(key("web-2"), slice(7070, vec![pod("10.244.3.2")]).into());
    let backends = served(&objects).ports.remove(0).backends;
    assert_eq!(backends.chosen, sockets(&["10.244.1.2:9090", "10.244.2.2:9090", "10.244.3.2:7070"]));
}

#[test]
fn a_port_without_a_name_matches_an_empty_one() {
    let mut objects = web(|_| {});
    Arc::make_mut(objects.services.get_mut(&key("web")).unwrap()).ports = vec![service_port("", 8080, "TCP")];
    slice_mut(&mut objects, "web-1").ports[0].name = Some(String::new());
    assert_eq!(served(&objects).ports[0].backends.chosen.len(), 2);
}

#[test]
fn slices_of_other_services_namespaces_and_protocols_are_left_out() {
    let mut objects = web(|_| {});
    let mut other = slice(9090, vec![pod("10.244.9.1")]);
    objects.slices.insert(ObjectKey::new("other", "web-1"), other.clone().into());
    other.service = "shopfront".into();
    objects.slices.insert(key("shopfront-1"), other.clone().into());
    other.service = "web".into();
    other.ports[0].protocol = "UDP".to_owned();
    objects.slices.insert(key("web-2"), other.into());
    assert_eq!(served(&objects).ports[0].backends.known.len(), 2);
}

#[test]
fn serving_pods_that_terminate_are_used_only_when_none_is_ready() {
    let draining = SliceEndpoint { ready: false, serving: true, terminating: true, ..pod("10.244.1.3") };
    let gone = SliceEndpoint { ready: false, serving: false, terminating: true, ..pod("10.244.1.4") };
    let starting = SliceEndpoint { ready: false, serving: false, terminating: false, ..pod("10.244.1.5") };
    let mut objects = web(|_| {});
    let endpoints = vec![pod("10.244.1.2"), draining.clone(), gone.clone(), starting.clone()];
    objects.slices.insert(key("web-1"), slice(9090, endpoints).into());
    let backends = served(&objects).ports.remove(0).backends;
    assert_eq!(backends.chosen, sockets(&["10.244.1.2:9090"]));
    assert_eq!(backends.serving, sockets(&["10.244.1.2:9090", "10.244.1.3:9090"]));
    assert_eq!(backends.known.len(), 4);

    objects.slices.insert(key("web-1"), slice(9090, vec![draining, gone, starting]).into());
    let backends = served(&objects).ports.remove(0).backends;
    assert_eq!(backends.chosen, sockets(&["10.244.1.3:9090"]));
    assert_eq!(backends.serving, sockets(&["10.244.1.3:9090"]));
    assert_eq!(backends.known.len(), 3);
}

#[test]
fn a_service_without_pods_is_served_without_backends() {
    let mut objects = web(|_| {});
    objects.slices.clear();
    assert_eq!(served(&objects).ports[0].backends, Default::default());
}

#[test]
fn endpoints_that_are_no_pod_addresses_are_left_out() {
    let mut objects = web(|_| {});
    let texts = ["fd00::2", "127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "10.244.1.2"];
    objects.slices.insert(key("web-1"), slice(9090, texts.iter().map(|t| pod(t)).collect()).into());
    assert_eq!(served(&objects).ports[0].backends.known, sockets(&["10.244.1.2:9090"]));
}

#[test]
fn session_affinity_is_handed_on() {
    let mut objects = web(|_| {});
    Arc::make_mut(objects.services.get_mut(&key("web")).unwrap()).affinity_seconds = Some(600);
    assert_eq!(served(&objects).ports[0].affinity_seconds, Some(600));
}

#[test]
fn one_refused_mapping_does_not_concern_another() {
    let bad = MappingSpec { addresses: strings(&["nonsense"]), ..spec() };
    let objects = objects([("bad", mapping(1, bad)), ("good", mapping(2, spec()))]);
    let resolution = resolve(&config(), &objects);
    assert_eq!(resolution.served.iter().map(|m| &m.key).collect::<Vec<_>>(), [&key("good")]);
    assert_eq!(resolution.refused[&key("bad")].reason, RefusalReason::InvalidAddress);
}

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/manifests");

#[test]
fn the_example_manifests_are_served() {
    let objects = crate::sources::manifests::load_dir(EXAMPLES.as_ref()).unwrap();
    let resolved = served(&objects);
    assert_eq!(resolved.addresses, [ip("203.0.113.10"), ip("203.0.113.11"), ip("198.51.100.10")]);
    assert!(resolved.sources.allows(ip("192.0.2.130")) && !resolved.sources.allows(ip("203.0.113.66")));
    let pods: Vec<_> =
        resolved.ports.iter().map(|p| (p.port, p.protocol.as_str(), p.backends.chosen.clone())).collect();
    let http = sockets(&["10.244.1.2:8080", "10.244.2.2:8080"]);
    let dns = sockets(&["10.244.1.2:9090", "10.244.2.2:9090"]);
    assert_eq!(pods, [(80, "tcp", http), (53, "udp", dns)]);
}
