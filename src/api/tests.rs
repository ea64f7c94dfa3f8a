use std::path::Path;

use serde_json::{Value, json};

use super::*;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/crds/mapping.yaml");

#[test]
fn the_file_in_the_repository_is_what_the_program_prints() {
    let file = std::fs::read_to_string(Path::new(FILE)).unwrap_or_default();
    assert!(
        file == crd_yaml(),
        "deploy/crds/mapping.yaml is not up to date; regenerate it: smartnat-manager crd > deploy/crds/mapping.yaml"
    );
}

fn crd() -> Value {
    serde_saphyr::from_str(&crd_yaml()).unwrap()
}

fn schema() -> Value {
    crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn the_definition_is_of_mappings_with_a_status_subresource() {
    let crd = crd();
    assert_eq!(crd["apiVersion"], "apiextensions.k8s.io/v1");
    assert_eq!(crd["metadata"]["name"], "mappings.smartnat.aureacentral.com");
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["snmap"]));
    assert_eq!(crd["spec"]["versions"][0]["name"], "v1alpha1");
    assert_eq!(crd["spec"]["versions"][0]["subresources"], json!({"status": {}}));
}

/// Every schema node with its path.
fn nodes(path: &str, schema: &Value, out: &mut Vec<(String, Value)>) {
    out.push((path.to_owned(), schema.clone()));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        nodes(&format!("{path}.{name}"), property, out);
    }
    for key in ["items", "additionalProperties"] {
        if schema.get(key).is_some() {
            nodes(&format!("{path}.{key}"), &schema[key], out);
        }
    }
}

fn all_nodes() -> Vec<(String, Value)> {
    let mut out = Vec::new();
    nodes("", &schema(), &mut out);
    out
}

#[test]
fn every_string_list_and_map_of_the_schema_is_bounded_and_typed() {
    let nodes = all_nodes();
    assert!(nodes.len() > 30, "the schema lost its fields: {nodes:?}");
    for (path, node) in nodes {
        match node["type"].as_str() {
            // The API server bounds date-time by itself.
            Some("string") if node["format"] == "date-time" => {}
            Some("string") => assert!(node["maxLength"].is_u64(), "{path} has no maxLength"),
            Some("array") => assert!(node["maxItems"].is_u64(), "{path} has no maxItems"),
            Some("object") if node.get("additionalProperties").is_some() => {
                assert!(node["maxProperties"].is_u64(), "{path} has no maxProperties");
                assert!(node.get("properties").is_none(), "{path} has both properties and additionalProperties");
            }
            Some("integer" | "boolean" | "object") => {}
            Some(other) => panic!("{path} has the unexpected type {other}"),
            None => {
                assert_eq!(node["x-kubernetes-int-or-string"], true, "{path} has no type, which is not structural");
                assert!(node["maxLength"].is_u64(), "{path} has no maxLength");
            }
        }
    }
}

#[test]
fn only_mode_has_a_default() {
    let with_default: Vec<String> =
        all_nodes().into_iter().filter(|(_, n)| n.get("default").is_some()).map(|(p, _)| p).collect();
    assert_eq!(with_default, [".spec.mode"]);
}

#[test]
fn a_mapping_has_at_least_one_address_and_one_to_256_ports() {
    let spec = &schema()["properties"]["spec"];
    assert_eq!(spec["required"], json!(["addresses", "ports", "serviceName"]));
    assert_eq!(spec["properties"]["addresses"]["minItems"], 1);
    assert_eq!(spec["properties"]["ports"]["minItems"], 1);
    assert_eq!(spec["properties"]["ports"]["maxItems"], 256);
    assert_eq!(spec["properties"]["ports"]["items"]["properties"]["port"]["maximum"], 65_535);
}

#[test]
fn conditions_and_instances_are_lists_merged_by_their_key() {
    let status = &schema()["properties"]["status"]["properties"];
    for (list, key) in [("conditions", "type"), ("instances", "name")] {
        assert_eq!(status[list]["x-kubernetes-list-type"], "map", "{list}");
        assert_eq!(status[list]["x-kubernetes-list-map-keys"], json!([key]), "{list}");
        assert!(status[list]["items"]["required"].as_array().unwrap().contains(&json!(key)), "{list}");
    }
    assert_eq!(status["instances"]["items"]["properties"]["addresses"]["x-kubernetes-list-type"], "set");
}

/// As the first SmartNat left an object that it served.
#[test]
fn an_object_of_the_first_smartnat_is_read_with_its_status() {
    let mapping: Mapping = serde_json::from_value(json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1",
        "kind": "Mapping",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "finalizers": ["mapping.finalizers.aureacentral.com"],
            "creationTimestamp": "2019-07-01T10:00:00Z",
        },
        "spec": {
            "addresses": ["10.10.1.1"],
            "allowedSources": ["0.0.0.0/0"],
            "serviceName": "web",
            "mode": "service",
            "ports": [{"port": 80, "protocol": "tcp", "servicePort": 8080}],
        },
        "status": {
            "invalid": "no",
            "serviceVIP": "10.96.221.171",
            "configuredAddresses": {"10.10.1.1": {"podIPs": ["10.244.0.11", "10.244.0.12"]}},
        },
    }))
    .unwrap();
    let port = &mapping.spec.ports[0];
    assert_eq!(
        (port.port, port.service_port.clone(), port.protocol.as_deref()),
        (Some(80), Some(ServicePortRef::Number(8080)), Some("tcp"))
    );
    let status = mapping.status.unwrap();
    assert_eq!(status.invalid.as_deref(), Some("no"));
    assert_eq!(status.service_vip.as_deref(), Some("10.96.221.171"));
    assert_eq!(status.configured_addresses["10.10.1.1"].pod_ips, ["10.244.0.11", "10.244.0.12"]);
}

#[test]
fn an_instance_reads_and_writes_its_addresses_and_since_when_it_is_silent() {
    let written = json!({
        "name": "border-1", "programmed": true, "reason": "Programmed", "message": "on eth1", "addresses": ["203.0.113.10"],
        "observedGeneration": 3, "silentSince": "2026-11-23T22:00:00Z",
    });
    let read: MappingInstance = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
    let heard = MappingInstance { silent_since: None, ..read };
    assert_eq!(serde_json::to_value(heard).unwrap().get("silentSince"), None);
}

#[test]
fn nulls_and_missing_fields_are_read_and_left_to_validation() {
    let spec: MappingSpec = serde_json::from_value(json!({
        "addresses": null, "allowedSources": null, "mode": null, "ports": [{"port": null}, {}],
    }))
    .unwrap();
    assert_eq!(spec, MappingSpec { ports: vec![MappingPort::default(); 2], ..MappingSpec::default() });
}

#[test]
fn a_quoted_service_port_is_a_name() {
    let port: MappingPort = serde_json::from_value(json!({"port": 80, "servicePort": "80"})).unwrap();
    assert_eq!(port.service_port, Some(ServicePortRef::Name("80".to_owned())));
}
