//! The control plane of the tests, before anything is built upon it: what these find broken is no fault of the daemon's.

use std::time::{Duration, Instant};

use bed::cluster::ControlPlane;
use bed::{Bed, Layout, Options, eventually};
use serde_json::{Value, json};

fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
        "data": {"key": value},
    })
}

/// The HTTP status that a watch from there begins with, or the code of its first event when that is an error.
fn watch_from(control: &ControlPlane, resource_version: &str) -> u64 {
    let path =
        format!("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion={resource_version}");
    let (code, event) = control.request("GET", &path, "application/json", "");
    if event["type"] == "ERROR" { event["object"]["code"].as_u64().unwrap() } else { code.into() }
}

#[test]
fn kubectl_and_plain_requests_write_and_read_the_same_objects() {
    let control = ControlPlane::shared();
    assert!(control.kubectl(&["version"]).contains(bed::cluster::version()));
    control.kubectl(&["create", "configmap", "by-kubectl", "--from-literal=key=one"]);
    assert_eq!(control.get("configmap", "default", "by-kubectl")["data"]["key"], "one");
    control.create(&config_map("by-request", "two"));
    assert_eq!(control.kubectl(&["get", "configmap", "by-request", "-o", "jsonpath={.data.key}"]), "two");
    control.apply(config_map("by-request", "three"));
    assert_eq!(control.get("configmap", "default", "by-request")["data"]["key"], "three");
    control.delete("configmap", "default", "by-request");
    assert_eq!(control.try_get("configmap", "default", "by-request"), None);
    let refused = control.try_apply("apiVersion: v1\nkind: Service\nmetadata: {name: bad}\n").unwrap_err();
    assert!(refused.contains("spec.ports"), "{refused}");
}

#[test]
fn rights_are_those_of_rbac_and_the_audit_log_tells_who_changed_what() {
    let control = ControlPlane::shared();
    control.create_namespace("audited");
    control.kubectl(&["create", "serviceaccount", "-n", "audited", "somebody"]);
    let kubeconfig = control.kubeconfig_for("audited/somebody");
    let create = ["create", "configmap", "-n", "audited", "mine"];
    let mark = control.audit_mark();
    let refused = control.kubectl_as(&kubeconfig, &create, "").unwrap_err();
    assert!(refused.contains("system:serviceaccount:audited:somebody\" cannot create"), "{refused}");
    control.kubectl(&[
        "create",
        "rolebinding",
        "-n",
        "audited",
        "b",
        "--clusterrole=cluster-admin",
        "--serviceaccount=audited:somebody",
    ]);
    eventually("the binding counts", || control.kubectl_as(&kubeconfig, &create, "").ok());
    let mine = |entries: Vec<bed::cluster::AuditEntry>| -> Vec<(String, bool)> {
        let mine = entries.into_iter().filter(|e| e.user == "system:serviceaccount:audited:somebody");
        mine.map(|e| (format!("{} {} {}/{}", e.verb, e.resource, e.namespace, e.name), e.succeeded())).collect()
    };
    let told = eventually("the last request is in the log", || {
        let told = mine(control.writes_since(&mark));
        told.last().is_some_and(|(_, succeeded)| *succeeded).then_some(told)
    });
    assert_eq!(told[0], ("create configmaps audited/".to_owned(), false));
    let succeeded: Vec<&str> = told.iter().filter(|(_, succeeded)| *succeeded).map(|(what, _)| what.as_str()).collect();
    assert_eq!(succeeded, ["create configmaps audited/mine"]);
    assert!(mine(control.writes_since(&control.audit_mark())).is_empty());
}

#[test]
fn a_certificate_of_its_authority_names_user_and_group() {
    let control = ControlPlane::shared();
    let certificate = control.client_certificate("/O=testers/CN=somebody");
    let kubeconfig = control.kubeconfig(&control.certificate_user(&certificate));
    let who = control.kubectl_as(&kubeconfig, &["auth", "whoami", "-o", "json"], "").unwrap();
    let who: Value = serde_json::from_str(&who).unwrap();
    assert_eq!(who["status"]["userInfo"]["username"], "somebody");
    assert!(who["status"]["userInfo"]["groups"].as_array().unwrap().contains(&json!("testers")), "{who}");
}

#[test]
fn an_api_server_killed_and_started_again_has_its_objects_and_its_address() {
    let control = ControlPlane::start();
    control.create(&config_map("kept", "one"));
    control.stop_api();
    assert!(control.request("GET", "/readyz", "", "").0 >= 500);
    control.start_api();
    assert_eq!(control.get("configmap", "default", "kept")["data"]["key"], "one");
}

#[test]
fn a_paused_api_server_answers_nothing_until_it_is_resumed() {
    let control = ControlPlane::start();
    control.pause_api();
    let begin = Instant::now();
    let silent = control.try_kubectl(&["get", "configmaps", "--request-timeout=1s"]).unwrap_err();
    assert!(begin.elapsed() >= Duration::from_secs(1), "{silent}");
    control.resume_api();
    control.kubectl(&["get", "configmaps"]);
}

#[test]
fn a_watch_from_before_a_compacted_outage_is_gone() {
    let bed = Bed::new();
    let control = ControlPlane::for_bed(&bed);
    let old = control.create(&config_map("old", "one"))["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    assert_eq!(watch_from(&control, &old), 200);
    control.changed_while_away(|| {
        control.patch("configmap", "default", "old", &json!({"data": {"key": "two"}}));
    });
    assert_eq!(watch_from(&control, &old), 410);
    assert_eq!(control.get("configmap", "default", "old")["data"]["key"], "two");
    // Whoever lists anew goes on from there. The object's own version can be older than the compaction: the API server writes too.
    let (_, list) = control.request("GET", "/api/v1/namespaces/default/configmaps", "application/json", "");
    assert_eq!(watch_from(&control, list["metadata"]["resourceVersion"].as_str().unwrap()), 200);
}

/// Whether somebody in a bed gets an answer from the API server.
fn reachable(control: &ControlPlane, from: &bed::Namespace) -> Result<String, String> {
    let authority = control.authority().certificate;
    let server = control.server();
    from.attempt(&format!("curl -sS --max-time 5 --cacert {} {server}/version", authority.display()), "")
}

#[test]
fn border_boxes_reach_the_api_server_of_their_bed_unless_it_is_cut_off() {
    let bed = Bed::with(Options { second_border: true, ..Options::default() });
    let control = ControlPlane::for_bed(&bed);
    for border in [&bed.border, bed.second()] {
        assert!(reachable(&control, border).unwrap().contains(bed::cluster::version()));
    }
    control.cut_off();
    let refused = reachable(&control, &bed.border).unwrap_err();
    assert!(refused.contains("refused") || refused.contains("Couldn't connect"), "{refused}");
    control.kubectl(&["get", "namespaces"]);
    control.reconnect();
    reachable(&control, &bed.border).unwrap();

    let same = Bed::with(Options { layout: Layout::SameSubnet, ..Options::default() });
    let control = ControlPlane::for_bed(&same);
    reachable(&control, &same.border).unwrap();
}

#[test]
fn nothing_of_a_control_plane_is_left_when_it_is_dropped_or_its_test_panics() {
    let control = ControlPlane::start();
    let (dir, namespace) = (control.dir().to_owned(), control.namespace().name().to_owned());
    assert!(dir.exists());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _control = control;
        std::panic::resume_unwind(Box::new("a test that fails"));
    }));
    assert!(panicked.is_err() && !dir.exists());
    assert!(!std::path::Path::new("/run/netns").join(namespace).exists());
}
