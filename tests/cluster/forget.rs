//! `forget`: an instance that is gone for good leaves the API, and nothing waits for it any more.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bed::cluster::ControlPlane;
use bed::{eventually, holds};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_smartnat-manager");
const SYSTEM: &str = "smartnat-system";
const FINALIZER: &str = "mapping.finalizers.aureacentral.com";

/// `forget` looks at all Mappings, and releases those that wait for nobody: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The shared control plane, with a namespace of the test's own; instances' names begin with it.
struct Scene {
    _turn: MutexGuard<'static, ()>,
    control: &'static ControlPlane,
    namespace: &'static str,
}

impl Scene {
    fn new(namespace: &'static str) -> Scene {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let control = ControlPlane::shared();
        control.install();
        control.create_namespace(namespace);
        Scene { _turn: turn, control, namespace }
    }

    fn instance(&self, number: u8) -> String {
        format!("{}-{number}", self.namespace)
    }

    fn mapping(&self, name: &str) {
        self.control.create(&json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {"name": name, "namespace": self.namespace, "finalizers": [FINALIZER]},
            "spec": {"addresses": ["203.0.113.10", "203.0.113.20"], "serviceName": "web", "ports": [{"port": 80}]},
        }));
    }

    /// Applies a status as an instance does, under its field manager.
    #[track_caller]
    fn apply(&self, mapping: &str, instance: &str, status: &Value) {
        let body = json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {"name": mapping, "namespace": self.namespace}, "status": status,
        });
        let manager = format!("--field-manager=smartnat.aureacentral.com/{instance}");
        let apply = ["apply", "--server-side", "--force-conflicts", "--subresource=status", &manager, "-f", "-"];
        self.control.kubectl_as(&self.control.admin_kubeconfig(), &apply, &body.to_string()).unwrap();
    }

    /// What an instance that serves it at `address` says, and all say the same about the whole.
    fn said(instance: &str, address: &str) -> Value {
        json!({
            "invalid": "no",
            "configuredAddresses": {address: {"podIPs": ["10.244.1.2"]}},
            "instances": [{"name": instance, "programmed": true, "reason": "Programmed", "addresses": [address]}],
        })
    }

    fn lease(&self, name: &str, renewed: &str) {
        self.control.apply(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": SYSTEM, "labels": {"app.kubernetes.io/name": "smartnat"}},
            "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 4, "renewTime": renewed},
        }));
    }

    fn get(&self, mapping: &str) -> Option<Value> {
        self.control.try_get("mapping", self.namespace, mapping)
    }

    /// With the rights of the daemon.
    fn forget(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("forget").args(arguments);
        command.env("KUBECONFIG", self.control.kubeconfig_for("smartnat-manager"));
        self.control.run(&mut command, "")
    }
}

fn out(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn managers(mapping: &Value) -> Vec<&str> {
    let entries = mapping["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().filter(|e| e["subresource"] == "status").filter_map(|e| e["manager"].as_str()).collect()
}

#[test]
fn a_dead_instance_goes_from_leases_and_statuses_and_takes_nothing_of_the_others_with_it() {
    let scene = Scene::new("forget-dead");
    let (dead, alive) = (scene.instance(1), scene.instance(2));
    scene.lease(&dead, "2026-01-01T00:00:00.000000Z");
    for mapping in ["both", "alone", "other"] {
        scene.mapping(mapping);
    }
    for mapping in ["both", "alone"] {
        scene.apply(mapping, &dead, &Scene::said(&dead, "203.0.113.10"));
    }
    for mapping in ["both", "other"] {
        let mut status = Scene::said(&alive, "203.0.113.20");
        if mapping == "both" {
            let silent = json!({"name": dead, "silentSince": "2026-01-01T00:01:00Z"});
            status["instances"].as_array_mut().unwrap().push(silent);
        }
        scene.apply(mapping, &alive, &status);
    }
    let other = scene.get("other").unwrap();

    let text = out(&scene.forget(&[&dead]));
    for part in
        [&format!("Lease {SYSTEM}/{dead} is deleted"), "2 Mappings cleared", "forget-dead/both", "forget-dead/alone"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("forget-dead/other"), "{text}");
    assert_eq!(scene.control.try_get("lease", SYSTEM, &dead), None);

    let both = scene.get("both").unwrap();
    assert_eq!(both["status"], Scene::said(&alive, "203.0.113.20"));
    assert_eq!(managers(&both), [format!("smartnat.aureacentral.com/{alive}")]);
    assert_eq!(both["metadata"]["finalizers"], json!([FINALIZER]), "it is not being deleted");
    let alone = scene.get("alone").unwrap();
    assert_eq!(alone["status"].as_object().map_or(0, serde_json::Map::len), 0, "{alone}");
    assert!(managers(&alone).is_empty(), "{alone}");
    assert_eq!(scene.get("other").unwrap(), other, "not even written");

    let again = out(&scene.forget(&[&dead]));
    assert!(again.contains(&format!("Nothing is there of an instance {dead}")) && again.contains(&alive), "{again}");
}

#[test]
fn a_deletion_that_only_waited_for_it_ends_and_one_that_waits_for_another_too_does_not() {
    let scene = Scene::new("forget-deleting");
    let (dead, alive) = (scene.instance(1), scene.instance(2));
    for mapping in ["alone", "both"] {
        scene.mapping(mapping);
        scene.apply(mapping, &dead, &Scene::said(&dead, "203.0.113.10"));
    }
    scene.apply("both", &alive, &Scene::said(&alive, "203.0.113.20"));
    for mapping in ["alone", "both"] {
        scene.control.delete("mapping", scene.namespace, mapping);
        assert!(scene.get(mapping).is_some(), "its finalizer holds it");
    }
    // Its Lease is gone already: an earlier run may have ended after that.
    let text = out(&scene.forget(&[&dead]));
    assert!(text.contains("cleared, released"), "{text}");
    assert_eq!(scene.get("alone"), None);
    let both = scene.get("both").unwrap();
    assert_eq!(both["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(both["status"]["instances"].as_array().unwrap().len(), 1);
    out(&scene.forget(&[&alive]));
    assert_eq!(scene.get("both"), None);
}

#[test]
fn what_an_interrupted_run_left_is_released_and_what_the_first_smartnat_may_hold_is_not() {
    let scene = Scene::new("forget-left");
    scene.mapping("left");
    scene.mapping("old");
    scene.apply("old", "unused", &json!({"invalid": "no", "configuredAddresses": {"203.0.113.10": {"podIPs": []}}}));
    for mapping in ["left", "old"] {
        scene.control.delete("mapping", scene.namespace, mapping);
    }
    let text = out(&scene.forget(&[&scene.instance(1)]));
    assert!(text.contains("Nothing is there of an instance") && text.contains("forget-left/left"), "{text}");
    assert_eq!(scene.get("left"), None);
    assert!(scene.get("old").is_some());
}

#[test]
fn an_instance_that_renews_is_refused_unless_forced() {
    let scene = Scene::new("forget-alive");
    let alive = scene.instance(1);
    // As a box whose clock is years behind would write it: clocks are not what counts.
    scene.lease(&alive, "2020-01-01T00:00:00.000000Z");
    scene.mapping("web");
    scene.apply("web", &alive, &Scene::said(&alive, "203.0.113.10"));
    let before = scene.get("web").unwrap();
    let stop = AtomicBool::new(false);
    let refused = std::thread::scope(|threads| {
        threads.spawn(|| {
            for second in 1..60 {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                scene.lease(&alive, &format!("2020-01-01T00:00:{second:02}.000000Z"));
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        let refused = scene.forget(&[&alive]);
        stop.store(true, Ordering::Relaxed);
        refused
    });
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("lives") && said.contains("--force"), "{said}");
    assert_eq!(scene.get("web").unwrap(), before);

    let text = out(&scene.forget(&[&alive, "--force"]));
    assert!(text.contains("is deleted") && text.contains("forget-alive/web"), "{text}");
    eventually("its part is gone", || holds(scene.get("web")?["status"]["instances"].is_null()));
}

#[test]
fn what_cannot_be_forgotten_is_told_with_what_to_do() {
    let scene = Scene::new("forget-wrong");
    let bad = scene.forget(&["No/Name"]);
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");

    // Somebody else's Lease in the same namespace is no instance.
    scene.control.create(&json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "foreign", "namespace": SYSTEM},
    }));
    assert!(out(&scene.forget(&["foreign"])).contains("Nothing is there of an instance foreign"));
    assert!(scene.control.try_get("lease", SYSTEM, "foreign").is_some());

    scene.control.kubectl(&["create", "serviceaccount", "-n", scene.namespace, "nobody"]);
    let kubeconfig = scene.control.kubeconfig_for("forget-wrong/nobody");
    let mut command = Command::new(PROGRAM);
    let refused = scene.control.run(command.args(["forget", "somebody"]).env("KUBECONFIG", kubeconfig), "");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("does not let this user") && said.contains("--kubeconfig"), "{said}");
}
