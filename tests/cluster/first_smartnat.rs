//! What the first SmartNat left in the API: its definition of Mappings, its objects, its status, its finalizer.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::cluster::ControlPlane;
use bed::peer::{Proto, Request};
use bed::{Bed, Endpoints, Namespace, Service, eventually_within, holds};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{FINALIZER, Lab, PATIENCE, assert_dropped, assert_served, condition, entry, web};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const MAPPINGS: &str = "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/default/mappings";
/// An address of another box of its own.
const ELSEWHERE: &str = "10.22.1.1";

/// As the first one defined it: sources required, protocols in small letters, no status subresource.
fn first_definition() -> Value {
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let port = json!({"type": "object", "properties": {
        "port": {"type": "integer"}, "servicePort": {"type": "integer"},
        "protocol": {"type": "string", "enum": ["tcp", "udp"]},
    }});
    let spec = json!({"type": "object", "required": ["addresses", "allowedSources", "serviceName", "ports"], "properties": {
        "addresses": strings, "allowedSources": strings, "serviceName": {"type": "string"},
        "ports": {"type": "array", "items": port},
    }});
    let pods = json!({"type": "object", "properties": {
        "podIPs": {"type": "array", "nullable": true, "items": {"type": "string"}},
    }});
    let status = json!({"type": "object", "properties": {
        "invalid": {"type": "string"}, "serviceVIP": {"type": "string"},
        "configuredAddresses": {"type": "object", "nullable": true, "additionalProperties": pods},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "mappings.smartnat.aureacentral.com"},
        "spec": {
            "group": "smartnat.aureacentral.com", "scope": "Namespaced",
            "names": {"kind": "Mapping", "listKind": "MappingList", "plural": "mappings", "singular": "mapping"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}},
            }],
        },
    })
}

fn object(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

fn spec(address: &str, port: Value) -> Value {
    json!({"addresses": [address], "allowedSources": ["192.0.2.0/24"], "serviceName": "web", "ports": [port]})
}

fn http() -> Value {
    json!({"port": 80, "servicePort": 80, "protocol": "tcp"})
}

impl Lab {
    /// A cluster in which the first one is installed, and the ClusterIP on the border, where kube-proxy would have it.
    fn of_the_first() -> Lab {
        let bed = Bed::new();
        bed.border.ip(&format!("address add {CLUSTER_IP}/32 dev lo"));
        bed.serve("border", "vip", &[SocketAddrV4::new(CLUSTER_IP, 80)], &[SocketAddrV4::new(CLUSTER_IP, 53)]);
        let control = ControlPlane::for_bed(&bed);
        control
            .kubectl_as(&control.admin_kubeconfig(), &["create", "-f", "-"], &first_definition().to_string())
            .unwrap();
        eventually_within(PATIENCE, "the first definition is served", || {
            holds(control.request("GET", MAPPINGS, "application/json", "").0 == 200)
        });
        // It came by apiextensions/v1beta1, where this was the default. Today's API server makes none such, and keeps it where it stands.
        let name = "mappings.smartnat.aureacentral.com";
        let key = format!("/registry/apiextensions.k8s.io/customresourcedefinitions/{name}");
        control.change_stored(&key, |definition| definition["spec"]["preserveUnknownFields"] = json!(true));
        eventually_within(PATIENCE, "it is as of 2019", || {
            let stored = control.get("customresourcedefinition", "", name);
            holds(stored["spec"]["preserveUnknownFields"] == true)
        });
        control.apply(Service::new("web", CLUSTER_IP).object());
        control.apply(Endpoints::of("web").ready(Bed::POD1).ready(Bed::POD2).object());
        Lab { bed, control }
    }

    /// A PUT of the whole object, as the first daemon wrote.
    #[track_caller]
    fn put_as_the_first(&self, object: &Value) -> Value {
        let name = object["metadata"]["name"].as_str().unwrap();
        let path = format!("{MAPPINGS}/{name}?fieldManager=smartnat-manager");
        let (code, answer) = self.control.request("PUT", &path, "application/json", &object.to_string());
        assert_eq!(code, 200, "{answer}");
        answer
    }

    /// Created by an administrator and configured by the first daemon: finalizer and status.
    #[track_caller]
    fn left_by_the_first(&self, name: &str, spec: &Value, status: Value) {
        let made = object(name, spec).to_string();
        self.control.kubectl_as(&self.control.admin_kubeconfig(), &["create", "-f", "-"], &made).unwrap();
        let mut configured = self.mapping(name);
        configured["metadata"]["finalizers"] = json!([FINALIZER]);
        configured["status"] = status;
        let written = self.put_as_the_first(&configured);
        assert_eq!(written["status"], configured["status"], "its status is stored with the object");
        assert_eq!(status_owners(&written), ["smartnat-manager"]);
    }
}

/// Managers of fields of the status.
fn status_owners(mapping: &Value) -> Vec<&str> {
    let managers = mapping["metadata"]["managedFields"].as_array().into_iter().flatten();
    managers.filter(|m| !m["fieldsV1"]["f:status"].is_null()).filter_map(|m| m["manager"].as_str()).collect()
}

fn first_status(addresses: &Value) -> Value {
    json!({"invalid": "no", "serviceVIP": CLUSTER_IP, "configuredAddresses": addresses})
}

#[track_caller]
fn assert_answered(from: &Namespace, proto: Proto, address: Ipv4Addr, port: u16) {
    let answer = from.within(|| Request::new(proto, SocketAddrV4::new(address, port)).send());
    assert_eq!(answer.map(|a| a.name).as_deref(), Ok("vip"), "{proto} {address}:{port}");
}

#[test]
fn objects_of_the_first_smartnat_are_served_and_of_its_status_nothing_is_left() {
    let lab = Lab::of_the_first();
    let pods = json!([Bed::POD1, Bed::POD2]);
    let old = "10.244.9.9";
    lab.left_by_the_first(
        "served",
        &spec("203.0.113.10", http()),
        first_status(&json!({"203.0.113.10": {"podIPs": [old]}, ELSEWHERE: {"podIPs": pods}})),
    );
    lab.left_by_the_first(
        "without-pods",
        &spec("203.0.113.11", json!({"port": 53, "servicePort": 53, "protocol": "udp"})),
        first_status(&json!({"203.0.113.11": {"podIPs": null}, ELSEWHERE: {"podIPs": null}})),
    );
    let unmanaged = first_status(&json!({"198.51.100.10": {"podIPs": [old]}, ELSEWHERE: {"podIPs": [old]}}));
    lab.left_by_the_first("unmanaged", &spec("198.51.100.10", http()), unmanaged);
    let none = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]).to_string();
    lab.control.kubectl(&["patch", "mapping", "unmanaged", "--type=json", "-p", &none]);
    assert!(lab.mapping("unmanaged")["metadata"]["managedFields"].is_null());
    // In deletion for years, and not even valid any more.
    lab.left_by_the_first("stuck", &spec("border.example.com", http()), first_status(&Value::Null));
    lab.delete("stuck");
    // From its own samples, which its own definition refuses.
    let mut sample = spec("203.0.113.10", json!({"port": 5353, "servicePort": 53, "protocol": "UDP"}));
    sample["allowedSources"] = json!([Bed::CLIENT1]);
    let refused = lab.control.try_create(&object("sample", &sample)).unwrap_err();
    assert!(refused.1.contains("\"UDP\""), "{refused:?}");

    lab.control.install();
    eventually_within(PATIENCE, "the new definition is in force: the sample is taken", || {
        lab.control.try_create(&object("sample", &sample)).ok()
    });
    let before = lab.mapping("served");
    assert!(lab.mapping("stuck")["metadata"]["deletionTimestamp"].is_string());
    let daemon = lab.daemon().refreshing().start();

    for (name, address) in [
        ("served", "203.0.113.10"),
        ("without-pods", "203.0.113.11"),
        ("unmanaged", "198.51.100.10"),
        ("sample", "203.0.113.10"),
    ] {
        // An object without managers of fields has them from the first write on: that one's are dropped with the next.
        let adopted = |m: &Value| {
            entry(m, "border")["programmed"] == true
                && status_owners(m) == ["smartnat.aureacentral.com/border"]
                && m["status"]["configuredAddresses"] == json!({address: {"podIPs": pods}})
        };
        let mapping = lab.await_mapping(name, "it is adopted", adopted);
        let status = &mapping["status"];
        assert_eq!((&status["invalid"], &status["serviceVIP"]), (&json!("no"), &json!(CLUSTER_IP)), "{name}");
        for kind in ["Accepted", "Programmed"] {
            assert_eq!(condition(&mapping, kind)["status"], "True", "{name}: {kind}");
        }
        assert_eq!(mapping["metadata"]["finalizers"], json!([FINALIZER]), "{name}");
    }
    lab.await_gone("stuck");
    assert_answered(&lab.bed.client1, Proto::Tcp, Bed::EXT1, 80);
    assert_answered(&lab.bed.client1, Proto::Udp, Bed::EXT1B, 53);
    assert_answered(&lab.bed.client1, Proto::Udp, Bed::EXT1, 5353);
    assert_answered(&lab.bed.client2, Proto::Tcp, Bed::EXT2, 80);
    let after = lab.mapping("served");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"], before["spec"], "what its owner wrote is as it was");
    assert_quiet(&lab, &daemon);

    // A first daemon that still runs somewhere goes on writing.
    let mut theirs = after.clone();
    theirs["status"] = first_status(&json!({ELSEWHERE: {"podIPs": [old]}}));
    let answer = lab.put_as_the_first(&theirs);
    assert_eq!(answer["status"], after["status"], "it has no effect");
    assert_eq!(status_owners(&answer), ["smartnat.aureacentral.com/border"]);
    assert_quiet(&lab, &daemon);
    assert_eq!(lab.mapping("served")["status"], after["status"]);

    // What was adopted can be deleted like any other.
    for name in ["served", "without-pods", "unmanaged", "sample"] {
        lab.delete(name);
        lab.await_gone(name);
    }
    assert_dropped(&lab.bed.client1, Bed::EXT1);
}

/// Nothing is written about Mappings while the daemon goes over everything a few times.
#[track_caller]
fn assert_quiet(lab: &Lab, daemon: &bed::Daemon) {
    let mark = lab.control.audit_mark();
    daemon.passes(3);
    let mut writes = lab.control.writes_since(&mark);
    writes.retain(|w| w.resource.starts_with("mappings"));
    assert!(writes.is_empty(), "{writes:#?}");
}

#[test]
fn an_endpoint_is_held_by_the_older_of_two_namespaces_and_passes_on_when_it_goes() {
    let lab = Lab::new();
    lab.control.create_namespace("elsewhere");
    let mut service = Service::new("web", Ipv4Addr::new(10, 96, 0, 11)).object();
    let mut endpoints = Endpoints::of("web").ready(Bed::POD1).object();
    for object in [&mut service, &mut endpoints] {
        object["metadata"]["namespace"] = json!("elsewhere");
        lab.control.create(object);
    }
    let _daemon = lab.daemon().start();
    lab.put(&web("web", &[Bed::EXT1]));
    let older = lab.await_programmed("web");
    let created: Timestamp = older["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
    // Stamps are whole seconds.
    eventually_within(PATIENCE, "another second", || holds(Timestamp::now().as_second() > created.as_second()));
    let mut younger = web("web", &[Bed::EXT1]).object();
    younger["metadata"]["namespace"] = json!("elsewhere");
    lab.control.create(&younger);
    let younger = |what: &str, accepted: &str| {
        eventually_within(PATIENCE, what, || {
            let mapping = lab.control.get("mapping", "elsewhere", "web");
            (condition(&mapping, "Accepted")["status"] == accepted).then_some(mapping)
        })
    };
    let refused = younger("the younger one is refused", "False");
    let told = condition(&refused, "Accepted");
    assert_eq!(told["reason"], "Conflict");
    assert!(told["message"].as_str().unwrap().contains("default/web"), "it names the owner: {told}");
    assert_eq!(refused["status"]["invalid"], told["message"]);
    assert_eq!(lab.mapping("web")["status"], older["status"], "the owner hears nothing of it");
    assert_served(&lab.bed.client1, Bed::EXT1);

    lab.delete("web");
    lab.await_gone("web");
    younger("it takes over", "True");
    eventually_within(PATIENCE, "it is served", || {
        holds(lab.bed.client1.get(Proto::Tcp, Bed::EXT1, 80).is_ok_and(|a| a.name == "pod1"))
    });
    eventually_within(PATIENCE, "Events tell of the conflict and its end", || {
        let events = lab.control.list("event", "elsewhere");
        let told = |reason: &str| events.iter().any(|e| e["reason"] == reason);
        holds(told("Conflict") && told("ConflictEnded"))
    });
}
