//! Rights that are taken away while it runs, and given back.

use bed::{Bed, Daemon, eventually_within, holds};
use serde_json::{Value, json};

use crate::support::{Lab, PATIENCE, assert_served, condition, web};

fn source(daemon: &Daemon, name: &str) -> Option<Value> {
    let status: Value = serde_json::from_str(&daemon.get("/status")?.body).ok()?;
    status["sources"].as_array()?.iter().find(|s| s["name"] == name).cloned()
}

/// Takes one rule of the daemon's ClusterRole away.
#[track_caller]
fn without(lab: &Lab, resource: &str, verb: &str) {
    let mut role = lab.control.get("clusterrole", "", "smartnat-manager");
    for rule in role["rules"].as_array_mut().unwrap() {
        if rule["resources"] == json!([resource]) {
            rule["verbs"].as_array_mut().unwrap().retain(|v| v != verb);
        }
    }
    role["rules"].as_array_mut().unwrap().retain(|r| r["verbs"] != json!([]));
    lab.control.patch("clusterrole", "", "smartnat-manager", &json!({"rules": role["rules"]}));
}

/// A right to write is away for longer than a status may be tried in one burst: what was served goes on, what is new waits, all is told with its
/// remedy and for how long, and it is caught up with as soon as the right is back.
fn without_a_right_to_write(resource: &str) {
    let lab = Lab::new();
    let daemon = lab.daemon().start();
    lab.put(&web("old", &[Bed::EXT1]));
    lab.await_programmed("old");
    without(&lab, resource, "patch");
    lab.put(&web("new", &[Bed::EXT2]));
    let told = eventually_within(PATIENCE, "it is told", || {
        let told = source(&daemon, "status").filter(|s| s["state"] == "away")?;
        holds(told["reason"].as_str()?.contains("kubectl apply -k deploy/"))?;
        Some(told)
    });
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("cannot patch resource \"") && reason.contains("mappings"), "{reason}");
    assert_served(&lab.bed.client1, Bed::EXT1);
    let attempts = daemon.metric("smartnat_api_write_failures_total", "");
    // More than the burst of one Mapping's pace.
    eventually_within(PATIENCE, "it has been tried many times", || {
        let now = source(&daemon, "status")?;
        assert_eq!((&now["state"], &now["since"]), (&told["state"], &told["since"]), "it is away all the time");
        holds(daemon.metric("smartnat_api_write_failures_total", "") >= attempts + 8.0)
    });
    let health = daemon.get("/healthcheck").unwrap();
    assert_eq!(health.code, 200);
    let line = health.body.lines().find(|l| l.starts_with("source status: away since")).unwrap_or_default();
    assert!(line.contains("kubectl apply -k deploy/"), "{}", health.body);
    let status = daemon.command(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("cannot patch resource"), "{status:?}");
    assert_ne!(condition(&lab.mapping("new"), "Programmed")["status"], "True");
    assert!(crate::support::ask(&lab.bed.client2, Bed::EXT2).is_err(), "it waits for its finalizer and entry");
    assert_served(&lab.bed.client1, Bed::EXT1);

    let begun = std::time::Instant::now();
    lab.control.install();
    lab.await_programmed("new");
    println!("{resource}: caught up {:.1?} after the right was back", begun.elapsed());
    assert_served(&lab.bed.client2, Bed::EXT2);
    eventually_within(PATIENCE, "the trouble is over", || holds(source(&daemon, "status")?["state"] == "current"));
    assert!(!daemon.get("/healthcheck").unwrap().body.contains("source status"));
}

#[test]
fn without_the_right_to_write_statuses_what_is_served_goes_on_and_what_is_new_waits() {
    without_a_right_to_write("mappings/status");
}

#[test]
fn without_the_right_to_write_finalizers_what_is_served_goes_on_and_what_is_new_waits() {
    without_a_right_to_write("mappings");
}

/// A policy of the cluster that denies the daemon what it writes to this one Mapping, under that reason; and everybody to `canary`, by which
/// it is seen to be in force.
fn deny(lab: &Lab, is_status: bool, name: &str, reason: &str) {
    let kind = "admissionregistration.k8s.io/v1";
    let metadata = json!({"name": name});
    let rule = json!({
        "apiGroups": ["smartnat.aureacentral.com"], "apiVersions": ["*"], "operations": ["UPDATE"],
        "resources": ["mappings", "mappings/status"],
    });
    let part = if is_status { "has(request.subResource)" } else { "!has(request.subResource)" };
    let expression = format!(
        "object.metadata.name != 'canary' && !(object.metadata.name == '{name}' && {part} && \
         request.userInfo.username.contains('smartnat'))"
    );
    lab.control.apply(json!({
        "apiVersion": kind, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": {
            "failurePolicy": "Fail", "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": expression, "reason": reason, "message": "not today"}],
        },
    }));
    lab.control.apply(json!({
        "apiVersion": kind, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata,
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }));
    let mut tries = 0;
    eventually_within(PATIENCE, "the policy is in force", || {
        tries += 1;
        let annotation = format!("try={tries}-{reason}");
        let told = lab.control.try_kubectl(&["annotate", "--overwrite", "mapping", "canary", &annotation]);
        holds(told.is_err_and(|e| e.contains(&format!("'{name}'"))))
    });
}

/// A refusal of one object is no missing right, and holds nobody else up; the policy's author chooses the code.
#[test]
fn a_policy_that_denies_one_mapping_is_told_as_such_and_concerns_it_alone() {
    let lab = Lab::new();
    let daemon = lab.daemon().start();
    lab.put(&web("canary", &[Bed::EXT1B]));
    lab.await_programmed("canary");
    for (is_status, reason) in [(false, "Forbidden"), (false, "Invalid"), (true, "RequestEntityTooLarge")] {
        let name = format!("denied-{}", reason.to_lowercase());
        deny(&lab, is_status, &name, reason);
        lab.put(&web(&name, &[Bed::EXT1]));
        let line = eventually_within(PATIENCE, "it is told", || {
            let log = daemon.log();
            log.lines()
                .rev()
                .find(|l| l.contains("not today") && l.contains(&format!("default/{name}")))
                .map(str::to_owned)
        });
        assert!(line.contains("no right is missing") && !line.contains("rbac"), "{line}");
        let other = format!("other-{}", reason.to_lowercase());
        lab.put(&web(&other, &[Bed::EXT2]));
        lab.await_programmed(&other);
        assert_served(&lab.bed.client2, Bed::EXT2);
        assert!(source(&daemon, "status").is_none_or(|s| s["state"] == "current"));
        lab.control.kubectl(&["delete", "validatingadmissionpolicybinding", &name]);
        lab.control.kubectl(&["delete", "mapping", &name, &other, "--timeout=60s"]);
    }
}

#[test]
fn without_the_right_to_leases_mappings_are_served_and_answered_all_the_same() {
    let lab = Lab::new();
    let daemon = lab.daemon().set("SNCTRLR_LEASE_SECONDS", "4").start();
    lab.put(&web("old", &[Bed::EXT1]));
    lab.await_programmed("old");
    lab.control.kubectl(&["delete", "rolebinding", "-n", "smartnat-system", "smartnat-manager"]);
    eventually_within(PATIENCE, "it is told", || holds(source(&daemon, "lease")?["state"] == "away"));
    lab.put(&web("new", &[Bed::EXT2]));
    lab.await_programmed("new");
    assert_served(&lab.bed.client1, Bed::EXT1);
    assert_served(&lab.bed.client2, Bed::EXT2);
    lab.control.install();
    eventually_within(PATIENCE, "the trouble is over", || holds(source(&daemon, "lease")?["state"] == "current"));
}
