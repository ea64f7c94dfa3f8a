//! What a big cluster costs the daemon. As many objects as `BED_SERVICES` and `BED_MAPPINGS` say; creating 10,000 takes minutes.

use std::fs;
use std::net::Ipv4Addr;

use bed::{Daemon, Namespace, eventually_within};
use futures::StreamExt;
use kube::api::{Api, DynamicObject, GroupVersionKind, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::discovery::ApiResource;
use serde_json::{Value, json};

use crate::source::source;
use crate::support::{Lab, PATIENCE};

const ENDPOINTS: u32 = 10;

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Creates many objects at once, as admin, from within the control plane's namespace.
fn create_all(lab: &Lab, objects: impl Iterator<Item = Value> + Send) {
    let kubeconfig = lab.control.admin_kubeconfig();
    let namespace: &Namespace = lab.control.namespace();
    std::thread::scope(|scope| {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let config = Kubeconfig::read_from(kubeconfig).unwrap();
                let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
                let client = kube::Client::try_from(config).unwrap();
                let created = futures::stream::iter(objects).map(|object| {
                    let client = client.clone();
                    async move {
                        let object: DynamicObject = serde_json::from_value(object).unwrap();
                        let types = object.types.clone().unwrap();
                        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).unwrap());
                        let api = Api::namespaced_with(client, "default", &resource);
                        api.create(&PostParams::default(), &object).await.unwrap();
                    }
                });
                created.buffer_unordered(32).for_each(|()| async {}).await;
            });
        };
        scope.spawn(|| namespace.within(work)).join().unwrap();
    });
}

fn service(n: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("service-{n}"), "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
    })
}

fn slice(n: u32) -> Value {
    let endpoint = |i: u32| {
        let pod = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + n * ENDPOINTS + i);
        json!({
            "addresses": [pod], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", i % 7), "zone": "zone-a",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("service-{n}-6d4cf56db6-{i:05}"),
                "uid": "6d5b0dfb-26c1-4a2c-9f0f-0d6a5a0f1d3c"},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("service-{n}-abcde"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("service-{n}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

/// Of an address that is on no border box.
fn mapping(n: u32) -> Value {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + n);
    json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
        "metadata": {"name": format!("mapping-{n}"), "namespace": "default"},
        "spec": {"addresses": [address], "serviceName": format!("service-{n}"), "mode": "direct",
            "allowedSources": ["192.0.2.0/24", "198.51.100.0/24"],
            "ports": [{"port": 80, "protocol": "tcp"}, {"port": 443, "servicePort": 80, "protocol": "tcp"}]},
    })
}

/// Resident memory now and at its highest, in MB.
fn resident(daemon: &Daemon<'_>) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let kb = |field: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (kb("VmRSS:") / 1000, kb("VmHWM:") / 1000)
}

#[test]
fn thousands_of_services_and_slices_fit_into_little_memory_also_while_they_are_listed() {
    let (services, mappings) = (number("BED_SERVICES", 2_000), number("BED_MAPPINGS", 200));
    let lab = Lab::new();
    create_all(&lab, (0..services).map(service));
    create_all(&lab, (0..services).map(slice));
    create_all(&lab, (0..mappings).map(mapping));
    let mut daemon = lab.daemon();
    daemon.launch();
    eventually_within(PATIENCE, "it has everything", || {
        let current = source(&daemon, "kubernetes").0 == "current";
        (current && daemon.metric("smartnat_mappings", "not_programmed") >= f64::from(mappings)).then_some(())
    });
    let (now, peak) = resident(&daemon);
    eprintln!(
        "{services} Services, as many slices of {ENDPOINTS} endpoints, {mappings} Mappings: {now} MB, at most {peak} MB"
    );
    // A build without optimisation needs some 50 MB before it has seen a single object.
    let limit = 65 + u64::from(services) / 100;
    assert!(peak < limit, "{now} MB now, at most {peak} MB; expected less than {limit} MB");
}
