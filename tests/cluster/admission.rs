//! What the API server refuses by itself: the schema and the rules of the CustomResourceDefinition.

use std::sync::OnceLock;

use bed::cluster::ControlPlane;
use bed::eventually;
use serde_json::{Value, json};
use smartnat::api::crd_yaml;

const API: &str = "/apis/smartnat.aureacentral.com/v1alpha1/namespaces";

/// The shared control plane, which knows Mappings.
pub(crate) fn control() -> &'static ControlPlane {
    static READY: OnceLock<()> = OnceLock::new();
    let control = ControlPlane::shared();
    READY.get_or_init(|| define(control, &crd_yaml()));
    control
}

/// Brings a definition and waits until it is the one by which the API server judges.
fn define(control: &ControlPlane, crd: &str) {
    control.apply(crd);
    let wanted = crd.contains("isIP(self)");
    eventually("the API server judges by the definition", || {
        let (code, answer) = create(control, "default", &with(json!({"addresses": ["no address"]})));
        (if wanted { code == 422 } else { code == 201 }).then_some(()).ok_or(answer).ok()
    });
}

/// A valid spec with some fields replaced; `null` takes one away.
pub(crate) fn with(fields: Value) -> Value {
    let mut spec = json!({"addresses": ["203.0.113.10"], "serviceName": "web", "ports": [{"port": 80}]});
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
        if value.is_null() {
            spec.as_object_mut().unwrap().remove(name);
        }
    }
    spec
}

pub(crate) fn mapping(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// Asks for a Mapping without storing it: the HTTP status and the answer's message.
pub(crate) fn create(control: &ControlPlane, namespace: &str, spec: &Value) -> (u16, String) {
    let path = format!("{API}/{namespace}/mappings?dryRun=All");
    let body = mapping(namespace, "tried", spec).to_string();
    let (code, answer) = control.request("POST", &path, "application/json", &body);
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn what_one_mapping_shows_to_be_wrong_is_refused_with_its_value_and_what_to_do() {
    let port = |port: i32| json!({"port": port});
    let cases = [
        (
            json!({"addresses": ["203.0.113.10", "203.0.113"]}),
            "spec.addresses[1]",
            r#""203.0.113" is no IP address; write four"#,
        ),
        (json!({"addresses": ["203.0.113.010"]}), "spec.addresses[0]", r#""203.0.113.010" is no IP address"#),
        (json!({"addresses": [""]}), "spec.addresses[0]", r#""" is no IP address"#),
        (
            json!({"addresses": ["203.0.113.10/24"]}),
            "spec.addresses[0]",
            r#""203.0.113.10/24" is a network; write single addresses, without a prefix length"#,
        ),
        (
            json!({"addresses": ["2001:db8::1"]}),
            "spec.addresses[0]",
            "2001:db8::1 is an IPv6 address, which is not served yet; use IPv4 addresses",
        ),
        (
            json!({"addresses": ["0.0.0.0"]}),
            "spec.addresses[0]",
            "0.0.0.0 is the unspecified address; name an address of an external interface",
        ),
        (json!({"addresses": ["127.0.0.1"]}), "spec.addresses[0]", "127.0.0.1 is a loopback address; name"),
        (json!({"addresses": ["239.1.2.3"]}), "spec.addresses[0]", "239.1.2.3 is a multicast address; name"),
        (json!({"addresses": ["224.0.0.1"]}), "spec.addresses[0]", "224.0.0.1 is a multicast address; name"),
        (
            json!({"addresses": ["255.255.255.255"]}),
            "spec.addresses[0]",
            "255.255.255.255 is the broadcast address; name",
        ),
        (
            json!({"allowedSources": ["192.0.2.0/24", "192.0.2.0/33"]}),
            "spec.allowedSources[1]",
            r#""192.0.2.0/33" is neither a network nor an address; write 192.0.2.0/24 or 192.0.2.1"#,
        ),
        (json!({"allowedSources": ["all"]}), "spec.allowedSources[0]", r#""all" is neither a network nor an address"#),
        (
            json!({"allowedSources": ["2001:db8::/32"]}),
            "spec.allowedSources[0]",
            "2001:db8::/32 is IPv6, which is not served yet; use IPv4 networks or addresses",
        ),
        (
            json!({"allowedSources": ["2001:db8::1"]}),
            "spec.allowedSources[0]",
            "2001:db8::1 is IPv6, which is not served",
        ),
        (
            json!({"ports": [port(80), {"servicePort": 8080}]}),
            "spec.ports[1]",
            "port is missing: write the port that clients connect to, 1 to 65535",
        ),
        (
            json!({"ports": [port(80), port(443), {"port": 80, "protocol": "TCP"}]}),
            "spec.ports:",
            r#"["80/tcp", "80/tcp"]: the same port and protocol more than once; remove all but one of each"#,
        ),
        (
            json!({"ports": [{"port": 53, "protocol": "Udp"}, {"port": 53, "protocol": "uDP", "servicePort": "dns"}]}),
            "spec.ports:",
            r#"["53/udp", "53/udp"]: the same port"#,
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "sctp"}]}),
            "spec.ports[0].protocol",
            r#""sctp" is not served; use tcp or udp"#,
        ),
        (json!({"mode": "nat"}), "spec.mode", r#""nat" is no mode; use service or direct"#),
        (json!({"ports": [port(65536)]}), "spec.ports[0].port", "Invalid value: 65536"),
        (json!({"ports": [{"port": 80, "servicePort": 0}]}), "spec.ports[0].servicePort", "Invalid value: 0"),
        (json!({"addresses": []}), "spec.addresses", "should have at least 1 items"),
        (json!({"serviceName": null}), "spec.serviceName", "Required value"),
    ];
    for (fields, field, said) in cases {
        let (code, message) = create(control(), "default", &with(fields.clone()));
        assert_eq!(code, 422, "{fields}: {message}");
        assert!(message.contains(field) && message.contains(said), "{fields}: {message}");
    }
}

#[test]
fn everything_that_is_wrong_with_a_mapping_is_named_at_once() {
    let spec = with(json!({
        "addresses": ["127.0.0.1", "x"], "allowedSources": ["y"], "mode": "z", "ports": [{"port": 80}, {"port": 80}, {}],
    }));
    let (code, message) = create(control(), "default", &spec);
    assert_eq!(code, 422);
    for said in [
        "127.0.0.1 is a loopback",
        r#""x" is no IP"#,
        r#""y" is neither"#,
        r#""z" is no mode"#,
        "80/tcp",
        "port is missing",
    ] {
        assert!(message.contains(said), "{said} is not in: {message}");
    }
}

/// As the first SmartNat served it, its samples among them.
#[test]
fn what_the_first_smartnat_served_is_still_taken() {
    for fields in [
        json!({}),
        json!({"allowedSources": ["0.0.0.0/0"], "mode": "service", "ports": [{"port": 80, "protocol": "tcp", "servicePort": 8080}]}),
        json!({"allowedSources": ["192.0.2.7"]}),
        json!({"allowedSources": ["192.0.2.7", "198.51.100.0/24"], "ports": [{"port": 53, "protocol": "UDP"}]}),
        json!({"allowedSources": ["10.0.0.1/8"]}),
        json!({"allowedSources": []}),
        json!({"mode": "direct"}),
        json!({"mode": "Direct", "ports": [{"port": 53, "protocol": "Tcp"}, {"port": 53, "protocol": "udp", "servicePort": "dns"}]}),
        json!({"addresses": ["169.254.1.1", "10.10.1.1", "10.10.1.1"]}),
    ] {
        let (code, message) = create(control(), "default", &with(fields.clone()));
        assert_eq!(code, 201, "{fields}: {message}");
    }
}

#[test]
fn the_examples_of_the_documentation_are_taken() {
    let control = control();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/manifests");
    let said = control.kubectl(&["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", examples]);
    assert!(said.contains("mapping.smartnat.aureacentral.com/web serverside-applied"), "{said}");
}

#[test]
fn the_longest_lists_that_are_allowed_cost_the_api_server_not_too_much() {
    let addresses: Vec<String> = (0..1024).map(|i| format!("203.113.{}.{}", 100 + i / 256, i % 256)).collect();
    let sources: Vec<String> = (0..65_536).map(|i| format!("203.113.{}.{}/32", i / 256, i % 256)).collect();
    let ports = |n: i32| (0..n).map(|i| json!({"port": 60_000 + i, "protocol": "UDP"})).collect::<Vec<_>>();
    let mut twice = ports(255);
    twice.push(json!({"port": 60_000, "protocol": "udp"}));
    for (fields, code, said) in [
        (json!({"addresses": addresses}), 201, ""),
        (json!({"allowedSources": sources}), 201, ""),
        (json!({"ports": ports(256)}), 201, ""),
        (json!({"ports": twice}), 422, r#"["60000/udp", "60000/udp"]: the same port"#),
        (json!({"ports": ports(257)}), 422, "must have at most 256 items"),
    ] {
        let answer = create(control(), "default", &with(fields));
        assert_eq!(answer.0, code, "{}", answer.1);
        assert!(answer.1.contains(said), "{}", answer.1);
    }
}

/// The definition without its rules, as it was before there were any.
fn crd_without_rules() -> String {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.shift_remove("x-kubernetes-validations");
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut crd: Value = serde_saphyr::from_str(&crd_yaml()).unwrap();
    strip(&mut crd);
    crd.to_string()
}

#[test]
fn an_object_from_before_the_rules_still_gets_finalizers_and_status_and_can_be_put_right() {
    let control = ControlPlane::start();
    define(&control, &crd_without_rules());
    let old = with(json!({
        "addresses": ["203.0.113.10/24", "127.0.0.1"], "allowedSources": ["everyone"],
        "ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}, {"servicePort": 8080}],
    }));
    control.create(&mapping("default", "old", &old));
    define(&control, &crd_yaml());
    let path = format!("{API}/default/mappings/old");

    let metadata = control.get("mapping", "default", "old")["metadata"].clone();
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/finalizers", "value": ["mapping.finalizers.aureacentral.com"]},
    ]);
    let (code, said) = control.request("PATCH", &path, "application/json-patch+json", &patch.to_string());
    assert_eq!(code, 200, "finalizer: {said}");

    let status = json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping", "metadata": {"name": "old"},
        "status": {
            "invalid": "127.0.0.1 is a loopback address",
            "conditions": [{
                "type": "Accepted", "status": "False", "reason": "InvalidAddress", "message": "127.0.0.1 is a loopback address",
                "lastTransitionTime": "2026-11-23T22:00:00Z", "observedGeneration": 1,
            }],
            "instances": [{"name": "border-1", "programmed": false, "reason": "InvalidAddress", "observedGeneration": 1}],
        },
    });
    let apply = format!("{path}/status?fieldManager=border-1&force=true");
    let (code, said) = control.request("PATCH", &apply, "application/apply-patch+yaml", &status.to_string());
    assert_eq!(code, 200, "status: {said}");
    assert_eq!(said["status"]["instances"][0]["name"], "border-1");

    // Lists that stay as they are keep their faults, a list that changes must be right.
    control.patch("mapping", "default", "old", &json!({"spec": {"serviceName": "web2"}}));
    let merge = "application/merge-patch+json";
    let worse = json!({"spec": {"allowedSources": ["everyone", "192.0.2.1"]}}).to_string();
    let (code, said) = control.request("PATCH", &path, merge, &worse);
    assert_eq!(code, 422, "{said}");
    assert!(said["message"].as_str().unwrap().contains(r#""everyone" is neither"#), "{said}");
    control.patch("mapping", "default", "old", &json!({"spec": {"allowedSources": ["192.0.2.1"]}}));

    control.delete("mapping", "default", "old");
    let release = json!([{"op": "remove", "path": "/metadata/finalizers/0"}]).to_string();
    let (code, said) = control.request("PATCH", &path, "application/json-patch+json", &release);
    assert_eq!(code, 200, "release: {said}");
    assert_eq!(control.try_get("mapping", "default", "old"), None);
}
