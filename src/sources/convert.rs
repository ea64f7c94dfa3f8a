//! From the Kubernetes API's objects to the snapshot's: only the fields that a plan uses. Every object source goes through here.
//!
//! What cannot be used (an address that does not parse, a port out of range) is left out and said in a [`Converted`]'s `dropped`; it never
//! takes the rest of the object, or another object, with it.

use std::net::IpAddr;

use k8s_openapi::api::{core::v1, discovery::v1 as discovery};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::MappingSpec;
use crate::model::{EndpointSlice, Mapping, ObjectKey, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The API server's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
const HEADLESS: &str = "None";

/// An object and what was left out of it, each as a field with its value and the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted<T> {
    pub object: T,
    pub dropped: Vec<String>,
}

/// namespace/name; without a namespace `default`, as kubectl does. `None` without a name.
pub fn key(metadata: &ObjectMeta) -> Option<ObjectKey> {
    let name = metadata.name.as_deref().filter(|n| !n.is_empty())?;
    let namespace = metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    Some(ObjectKey::new(namespace, name))
}

/// Whether Kubernetes would take these as names: a namespace is a DNS label, a name a DNS subdomain (RFC 1123). Names go on into logs and rule
/// comments, so nothing else may come from a file either.
pub fn is_valid(key: &ObjectKey) -> bool {
    let word = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let label = |s: &str| !s.is_empty() && word(s) && !s.starts_with('-') && !s.ends_with('-');
    key.namespace.len() <= 63 && label(&key.namespace) && key.name.len() <= 253 && key.name.split('.').all(label)
}

/// Values in no more memory than they take: lists of one or two are kept by the ten thousand, and a list that grows has room for four.
fn exact<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = values.collect();
    list.shrink_to_fit();
    list
}

pub fn mapping(metadata: &ObjectMeta, mut spec: MappingSpec) -> Mapping {
    spec.addresses.shrink_to_fit();
    spec.allowed_sources.shrink_to_fit();
    spec.ports.shrink_to_fit();
    Mapping {
        spec,
        created: metadata.creation_timestamp.as_ref().map(|t| t.0.as_second()),
        deleting: metadata.deletion_timestamp.is_some(),
        generation: metadata.generation,
        uid: metadata.uid.clone(),
        unreadable: None,
        held: true,
    }
}

pub fn service(service: &v1::Service) -> Converted<Service> {
    let mut dropped = Vec::new();
    let empty = v1::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let addresses: Vec<&str> = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips.iter().map(String::as_str).collect(),
        _ => spec.cluster_ip.iter().map(String::as_str).collect(),
    };
    let headless = addresses.contains(&HEADLESS) || spec.cluster_ip.as_deref() == Some(HEADLESS);
    let addresses = addresses.into_iter().filter(|text| !text.is_empty() && *text != HEADLESS);
    let cluster_ips = exact(addresses.filter_map(|text| parse_address("spec.clusterIPs", text, &mut dropped)));
    let ports = exact(spec.ports.iter().flatten().filter_map(|p| {
        Some(ServicePort {
            name: non_empty(p.name.as_deref()),
            protocol: protocol(p.protocol.as_deref()),
            port: parse_port("spec.ports[].port", p.port, &mut dropped)?,
        })
    }));
    let object = Service {
        kind: match spec.type_.as_deref() {
            Some("ExternalName") => ServiceType::ExternalName,
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            _ => ServiceType::ClusterIp,
        },
        headless,
        cluster_ips,
        ports,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        affinity_seconds: affinity(spec),
    };
    Converted { object, dropped }
}

fn affinity(spec: &v1::ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let configured = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    Some(configured.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS))
}

/// `None` for a slice that belongs to no Service: nothing can refer to it.
pub fn endpoint_slice(slice: &discovery::EndpointSlice) -> Option<Converted<EndpointSlice>> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?.clone();
    let mut dropped = Vec::new();
    let ports = exact(slice.ports.iter().flatten().filter_map(|p| {
        // A port without a number means all ports; no Service port selects it.
        Some(SlicePort {
            name: non_empty(p.name.as_deref()),
            protocol: protocol(p.protocol.as_deref()),
            port: parse_port("ports[].port", p.port?, &mut dropped)?,
        })
    }));
    let endpoints = exact(slice.endpoints.iter().flatten().map(|e| endpoint(e, &mut dropped)));
    Some(Converted { object: EndpointSlice { service: service.into(), ports, endpoints }, dropped })
}

fn endpoint(endpoint: &discovery::Endpoint, dropped: &mut Vec<String>) -> SliceEndpoint {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    SliceEndpoint {
        addresses: exact(
            endpoint.addresses.iter().filter_map(|text| parse_address("endpoints[].addresses", text, dropped)),
        ),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        uid: endpoint.target_ref.as_ref().and_then(|t| t.uid.as_deref()).filter(|u| !u.is_empty()).map(Into::into),
    }
}

fn parse_address(field: &str, text: &str, dropped: &mut Vec<String>) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        dropped.push(format!("{field}: {text:?} is no IP address"));
    }
    address
}

fn parse_port(field: &str, number: i32, dropped: &mut Vec<String>) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|p| *p > 0);
    if port.is_none() {
        dropped.push(format!("{field}: {number} is no port (1 to 65535)"));
    }
    port
}

fn non_empty(text: Option<&str>) -> Option<String> {
    text.filter(|t| !t.is_empty()).map(str::to_owned)
}

/// The API server's default is TCP.
fn protocol(text: Option<&str>) -> String {
    non_empty(text).unwrap_or_else(|| "TCP".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn converted_service(spec: Value) -> Converted<Service> {
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec});
        service(&serde_json::from_value(object).unwrap())
    }

    fn converted_slice(labels: Value, rest: Value) -> Option<Converted<EndpointSlice>> {
        let mut object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web-1", "labels": labels},
            "addressType": "IPv4", "endpoints": [],
        });
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        endpoint_slice(&serde_json::from_value(object).unwrap())
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn a_service_has_the_addresses_and_ports_of_its_spec() {
        let Converted { object, dropped } = converted_service(json!({
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"],
            "ports": [{"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        }));
        assert_eq!(dropped, [""; 0]);
        assert_eq!(object.kind, ServiceType::ClusterIp);
        assert!(!object.headless && !object.internal_local);
        assert_eq!(object.cluster_ips, ips(&["10.96.0.10", "fd00::10"]));
        assert_eq!(object.ports[0], ServicePort { name: None, protocol: "TCP".to_owned(), port: 80 });
        assert_eq!(object.ports[1], ServicePort { name: Some("dns".to_owned()), protocol: "UDP".to_owned(), port: 53 });
        assert_eq!(object.affinity_seconds, None);
    }

    #[test]
    fn cluster_ip_alone_counts_and_none_means_headless() {
        assert_eq!(converted_service(json!({"clusterIP": "10.96.0.10"})).object.cluster_ips, ips(&["10.96.0.10"]));
        for spec in [json!({"clusterIP": "None"}), json!({"clusterIP": "None", "clusterIPs": ["None"]})] {
            let converted = converted_service(spec);
            assert!(converted.object.headless);
            assert_eq!((converted.object.cluster_ips, converted.dropped), (Vec::new(), Vec::new()));
        }
    }

    #[test]
    fn session_affinity_has_the_api_servers_default_timeout() {
        let seconds = |spec| converted_service(spec).object.affinity_seconds;
        assert_eq!(seconds(json!({"sessionAffinity": "None"})), None);
        assert_eq!(seconds(json!({"sessionAffinity": "ClientIP"})), Some(10_800));
        let config = json!({"clientIP": {"timeoutSeconds": 60}});
        assert_eq!(seconds(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})), Some(60));
    }

    #[test]
    fn types_and_policies_are_told_apart() {
        assert_eq!(converted_service(json!({"type": "ExternalName"})).object.kind, ServiceType::ExternalName);
        assert_eq!(converted_service(json!({"type": "LoadBalancer"})).object.kind, ServiceType::LoadBalancer);
        assert!(converted_service(json!({"internalTrafficPolicy": "Local"})).object.internal_local);
    }

    #[test]
    fn what_cannot_be_used_is_dropped_with_its_reason() {
        let converted = converted_service(json!({"clusterIP": "10.96.0", "ports": [{"port": 70_000}, {"port": 80}]}));
        assert_eq!(converted.object.ports.len(), 1);
        assert_eq!(
            converted.dropped,
            [r#"spec.clusterIPs: "10.96.0" is no IP address"#, "spec.ports[].port: 70000 is no port (1 to 65535)"]
        );
        let converted = converted_slice(
            json!({SERVICE_NAME_LABEL: "web"}),
            json!({"endpoints": [{"addresses": ["pod.example.com", "10.244.1.2"]}]}),
        )
        .unwrap();
        assert_eq!(converted.object.endpoints[0].addresses, ips(&["10.244.1.2"]));
        assert_eq!(converted.dropped, [r#"endpoints[].addresses: "pod.example.com" is no IP address"#]);
    }

    #[test]
    fn conditions_left_out_have_their_documented_meaning() {
        let endpoints = json!([
            {"addresses": ["10.244.1.2"]},
            {"addresses": ["10.244.1.3"], "conditions": {"ready": false}},
            {"addresses": ["10.244.1.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ]);
        let slice = converted_slice(json!({SERVICE_NAME_LABEL: "web"}), json!({"endpoints": endpoints})).unwrap();
        let conditions: Vec<_> = slice.object.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
        assert_eq!(conditions, [(true, true, false), (false, false, false), (false, true, true)]);
    }

    #[test]
    fn an_endpoint_says_which_pod_it_is() {
        let endpoints = json!([
            {"addresses": ["10.244.1.2"], "targetRef": {"kind": "Pod", "name": "web-0", "uid": "u-1"}},
            {"addresses": ["10.244.1.3"], "targetRef": {"kind": "Pod", "name": "web-1", "uid": ""}},
            {"addresses": ["10.244.1.4"]},
        ]);
        let slice = converted_slice(json!({SERVICE_NAME_LABEL: "web"}), json!({"endpoints": endpoints})).unwrap();
        let uids: Vec<_> = slice.object.endpoints.iter().map(|e| e.uid.as_deref()).collect();
        assert_eq!(uids, [Some("u-1"), None, None]);
    }

    #[test]
    fn ports_of_a_slice_are_its_own_and_one_without_a_number_is_none() {
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": ""}]);
        let slice = converted_slice(json!({SERVICE_NAME_LABEL: "web"}), json!({"ports": ports})).unwrap().object;
        assert_eq!(&*slice.service, "web");
        assert_eq!(slice.ports, [SlicePort { name: Some("http".to_owned()), protocol: "TCP".to_owned(), port: 8080 }]);
    }

    #[test]
    fn a_slice_without_a_service_is_nobodys() {
        assert_eq!(converted_slice(json!({}), json!({})), None);
    }

    #[test]
    fn a_mapping_keeps_its_age_and_deletion() {
        let metadata: ObjectMeta = serde_json::from_value(json!({
            "name": "web", "namespace": "shop", "creationTimestamp": "1970-01-01T00:01:00Z",
            "deletionTimestamp": "1970-01-01T00:02:00Z", "generation": 3, "uid": "u",
        }))
        .unwrap();
        let spec = MappingSpec { service_name: "web".to_owned(), ..MappingSpec::default() };
        assert_eq!(key(&metadata), Some(ObjectKey::new("shop", "web")));
        assert_eq!(
            mapping(&metadata, spec.clone()),
            Mapping {
                spec,
                created: Some(60),
                deleting: true,
                generation: Some(3),
                uid: Some("u".to_owned()),
                unreadable: None,
                held: true
            }
        );
        assert_eq!(key(&ObjectMeta::default()), None);
    }
}
