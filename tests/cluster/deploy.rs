//! What `deploy/` brings into a cluster, and what the border gets out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bed::cluster::{Authority, ControlPlane};
use bed::{Bed, Daemon, eventually};
use serde_json::{Value, json};

use crate::support::{Lab, PROGRAM, assert_dropped, assert_served, web};

const DAEMON: &str = "system:serviceaccount:smartnat-system:smartnat-manager";
const PROXY: &str = "system:kube-proxy";

fn deploy(path: &str) -> String {
    format!("{}/deploy/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// The shared control plane with `deploy/` in it and its controllers running.
fn installed() -> &'static ControlPlane {
    let control = ControlPlane::shared();
    control.run_controllers();
    control.install();
    control
}

#[test]
fn applying_a_second_time_changes_nothing() {
    let control = installed();
    // What the API server counts: the version of a spec, and of objects without one the version of all.
    let versions = || -> Vec<(String, Value)> {
        let list = control.kubectl(&["get", "-k", &deploy(""), "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let objects = list["items"].as_array().unwrap().iter();
        let version = |o: &Value| {
            let counted = if o["metadata"]["generation"].is_null() { "resourceVersion" } else { "generation" };
            (format!("{} {}", o["kind"], o["metadata"]["name"]), o["metadata"][counted].clone())
        };
        objects.map(version).collect()
    };
    let before = versions();
    assert_eq!(before.len(), 9, "{before:?}");
    control.kubectl(&["apply", "-k", &deploy("")]);
    assert_eq!(versions(), before);
}

/// Rules that the API server says a user has there, as `group/resource[names]: verbs`, without what it grants to everybody.
fn rules(control: &ControlPlane, kubeconfig: &Path, namespace: &str) -> BTreeSet<String> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
    });
    let told = control
        .kubectl_as(kubeconfig, &["create", "--validate=false", "-f", "-", "-o", "json"], &review.to_string())
        .unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let words = |rule: &Value, field: &str| {
        let list = rule[field].as_array().into_iter().flatten();
        list.map(|v| v.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    let rule = |r: &Value| {
        let names = words(r, "resourceNames");
        format!("{}/{}[{names}]: {}", words(r, "apiGroups"), words(r, "resources"), words(r, "verbs"))
    };
    let rules = told["status"]["resourceRules"].as_array().unwrap().iter().map(rule);
    rules.filter(|r| !r.contains("/selfsubject")).collect()
}

#[test]
fn the_daemon_has_the_rights_of_the_rbac_file_and_no_others() {
    let control = installed();
    let kubeconfig = control.kubeconfig_for("smartnat-manager");
    let everywhere = [
        "smartnat.aureacentral.com/mappings[]: get list patch watch",
        "smartnat.aureacentral.com/mappings/status[]: patch",
        "/services[]: get list watch",
        "discovery.k8s.io/endpointslices[]: get list watch",
        "events.k8s.io/events[]: create patch",
        "apiextensions.k8s.io/customresourcedefinitions[mappings.smartnat.aureacentral.com]: get",
    ];
    let mut expected: BTreeSet<String> = everywhere.iter().map(|&r| r.to_owned()).collect();
    assert_eq!(rules(control, &kubeconfig, "default"), expected);
    expected.insert("coordination.k8s.io/leases[]: create delete get list patch update watch".to_owned());
    assert_eq!(rules(control, &kubeconfig, "smartnat-system"), expected);
}

#[test]
fn the_daemon_can_answer_in_a_mapping_and_change_neither_services_nor_the_mapping_itself_nor_read_secrets() {
    let control = installed();
    let kubeconfig = control.kubeconfig_for("smartnat-manager");
    control.create_namespace("answered");
    control.apply(json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
        "metadata": {"name": "web", "namespace": "answered"},
        "spec": {"addresses": ["203.0.113.10"], "serviceName": "web", "ports": [{"port": 80}]},
    }));
    control.kubectl(&["create", "service", "clusterip", "-n", "answered", "web", "--tcp=80"]);
    let daemon = |arguments: &[&str], input: &Value| {
        let all: Vec<&str> = arguments.iter().copied().chain(["-n", "answered"]).collect();
        control.kubectl_as(&kubeconfig, &all, &input.to_string())
    };
    let status = json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping", "metadata": {"name": "web"},
        "status": {"invalid": "no"},
    });
    let apply = ["apply", "--server-side", "--subresource=status", "--field-manager=border", "-f", "-"];
    daemon(&apply, &status).unwrap();
    assert_eq!(control.get("mapping", "answered", "web")["status"]["invalid"], "no");
    let finalizer =
        r#"[{"op": "add", "path": "/metadata/finalizers", "value": ["mapping.finalizers.aureacentral.com"]}]"#;
    daemon(&["patch", "mapping", "web", "--type=json", "-p", finalizer], &Value::Null).unwrap();
    daemon(&["patch", "mapping", "web", "--type=json", "-p", &finalizer.replace("add", "remove")], &Value::Null)
        .unwrap();

    for refused in [
        &["delete", "mapping", "web"][..],
        &["create", "service", "clusterip", "another", "--tcp=80"],
        &["label", "service", "web", "touched=yes"],
        &["delete", "service", "web"],
        &["get", "secrets"],
        &["create", "token", "default"],
        &["get", "configmaps"],
        &["get", "leases"],
    ] {
        let why = daemon(refused, &Value::Null).unwrap_err();
        assert!(why.contains("forbidden: User") && why.contains(DAEMON), "{refused:?}: {why}");
    }
}

#[test]
fn who_may_edit_a_namespace_may_edit_its_mappings_and_who_may_view_it_may_see_them() {
    let control = installed();
    control.create_namespace("people");
    let can = |who: &str, verb: &str| {
        control.try_kubectl(&["auth", "can-i", verb, "mappings", "-n", "people", "--as", who]).is_ok()
    };
    for role in ["edit", "view"] {
        control.kubectl(&["create", "rolebinding", role, "-n", "people", "--clusterrole", role, "--user", role]);
    }
    eventually("the roles are put together", || (can("edit", "create") && can("view", "list")).then_some(()));
    assert!(can("edit", "delete") && can("edit", "list"));
    assert!(!can("view", "create") && !can("view", "delete") && !can("stranger", "list"));
}

#[test]
fn the_daemonset_is_accepted_and_its_daemon_has_two_capabilities_and_a_root_that_is_read_only() {
    let control = installed();
    let rendered = control.kubectl(&["apply", "-k", &deploy("daemonset"), "--dry-run=server", "-o", "json"]);
    let rendered: Value = serde_json::from_str(&rendered).unwrap();
    let of_kind = |kind: &str| rendered["items"].as_array().unwrap().iter().find(|o| o["kind"] == kind).unwrap();
    let (set, settings) = (of_kind("DaemonSet"), of_kind("ConfigMap"));
    assert_eq!(set["metadata"]["namespace"], "smartnat-system");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["serviceAccountName"], "smartnat-manager");
    assert_eq!(pod["nodeSelector"], json!({"smartnat.aureacentral.com/border": ""}));
    let daemon = &pod["containers"][0];
    let expected = json!({
        "runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(daemon["securityContext"], expected);
    // The same settings for both, by the name that the content has.
    for container in [daemon, &pod["initContainers"][0]] {
        assert_eq!(container["envFrom"][0]["configMapRef"]["name"], settings["metadata"]["name"]);
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    }
    let known = String::from_utf8(Command::new(PROGRAM).arg("--help").output().unwrap().stdout).unwrap();
    for (setting, _) in settings["data"].as_object().unwrap() {
        assert!(known.contains(setting.as_str()), "{setting} is no setting of the daemon's");
    }
}

/// `deploy/kubeconfig.sh` into a directory of that name; what it said on both outputs, as an `Err` when it failed.
fn kubeconfig_script(control: &ControlPlane, directory: &Path, options: &[&str]) -> Result<String, String> {
    let mut command = Command::new("bash");
    command.arg(deploy("kubeconfig.sh")).args(options).arg(directory);
    let output = control.run(&mut command, "");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// Who the API server takes the bearer of a kubeconfig for.
fn whoami(control: &ControlPlane, kubeconfig: &Path) -> String {
    control.kubectl_as(kubeconfig, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"], "").unwrap()
}

fn both(directory: &Path) -> [(PathBuf, &'static str); 2] {
    [("smartnat", DAEMON), ("kube-proxy", PROXY)]
        .map(|(name, user)| (directory.join(format!("{name}.kubeconfig")), user))
}

/// Both files are there, for their owner alone, with nothing beside them, and work.
#[track_caller]
fn assert_both_work(control: &ControlPlane, directory: &Path) {
    for (file, user) in both(directory) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(whoami(control, &file), user);
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), 2);
    let [(daemon, _), (proxy, _)] = both(directory);
    control.kubectl_as(&daemon, &["get", "mappings", "-A"], "").unwrap();
    control.kubectl_as(&proxy, &["get", "services,endpointslices,nodes", "-A"], "").unwrap();
}

/// The days until expiry that it told, by file.
fn told_days(said: &str) -> BTreeMap<String, u32> {
    let mut days = BTreeMap::new();
    let mut file = "";
    for line in said.lines() {
        match line.strip_prefix("  ") {
            None => file = line.rsplit('/').next().unwrap(),
            Some(line) if line.starts_with("expires ") => {
                let number = line.split("(in ").nth(1).unwrap().split(' ').next().unwrap();
                days.insert(file.to_owned(), number.parse().unwrap());
            }
            Some(_) => {}
        }
    }
    days
}

/// Both live so many days: the first moments are over, and who signs may have begun a little before.
#[track_caller]
fn assert_days(said: &str, days: u32) {
    let told = told_days(said);
    assert_eq!(told.len(), 2, "{said}");
    assert!(told.values().all(|&told| told == days || told == days - 1), "{said}");
}

#[test]
fn both_kubeconfigs_come_from_the_cluster_itself_tell_their_expiry_and_are_renewed_by_a_second_run() {
    let control = installed();
    let directory = control.dir().join("by cluster");
    let said = kubeconfig_script(control, &directory, &[]).unwrap();
    assert_both_work(control, &directory);
    assert_days(&said, 365);
    let before = both(&directory).map(|(file, _)| fs::read(file).unwrap());

    let said = kubeconfig_script(control, &directory, &["--days", "30"]).unwrap();
    assert_both_work(control, &directory);
    assert_days(&said, 30);
    for ((file, _), before) in both(&directory).iter().zip(before) {
        assert_ne!(fs::read(file).unwrap(), before);
    }
    let left = control.kubectl(&["get", "certificatesigningrequests", "-o", "name"]);
    assert!(!left.contains("/smartnat-"), "{left}");
}

#[test]
fn both_kubeconfigs_come_from_a_given_ca_and_a_wrong_one_replaces_nothing() {
    let control = installed();
    let directory = control.dir().join("by-ca");
    let option =
        |ca: &bed::cluster::Credential| [ca.certificate.clone(), ca.key.clone()].map(|p| p.display().to_string());
    let [certificate, key] = option(&control.authority());
    let server = control.server().replace("10.0.9.2", "127.0.0.1");
    let options = ["--certificate", "--days", "7", "--ca", &certificate, &key, "--server", &server];
    let said = kubeconfig_script(control, &directory, &options).unwrap();
    assert_both_work(control, &directory);
    assert_days(&said, 7);
    let before = both(&directory).map(|(file, _)| fs::read_to_string(file).unwrap());
    assert!(before.iter().all(|text| text.contains(&server) && text.contains("client-certificate-data")));

    let elsewhere = control.dir().join("another-ca");
    fs::create_dir(&elsewhere).unwrap();
    let [certificate, key] = option(&Authority::create(&elsewhere).credential());
    let failed = kubeconfig_script(control, &directory, &["--certificate", "--ca", &certificate, &key]).unwrap_err();
    assert!(failed.contains("does not accept the new credential") && failed.contains("--client-ca-file"), "{failed}");
    assert_eq!(both(&directory).map(|(file, _)| fs::read_to_string(file).unwrap()), before);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
}

#[test]
fn a_cluster_without_smartnat_and_one_that_grants_short_tokens_are_told() {
    let control = ControlPlane::start_with(&["--service-account-max-token-expiration=24h"]);
    let directory = control.dir().join("short");
    let failed = kubeconfig_script(&control, &directory, &[]).unwrap_err();
    assert!(failed.contains("kubectl apply -k deploy/"), "{failed}");

    control.install();
    let said = kubeconfig_script(&control, &directory, &["--without-kube-proxy"]).unwrap();
    assert!(said.contains("granted less than the 365 days"), "{said}");
    assert!(told_days(&said)["smartnat.kubeconfig"] <= 1, "{said}");
    assert_eq!(whoami(&control, &both(&directory)[0].0), DAEMON);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

#[test]
fn as_in_the_daemonset_a_pod_finds_its_cluster_by_itself_and_serves_with_two_capabilities() {
    let lab = Lab::new();
    let server = SocketAddrV4::new(ControlPlane::ADDRESS, ControlPlane::PORT);
    let files = lab.control.pod_files("smartnat-manager");
    let mut daemon = Daemon::in_pod(&lab.bed, PROGRAM, server, &files).contained();
    let border = daemon.command(&["border"]);
    assert!(border.status.success(), "{}", String::from_utf8_lossy(&border.stderr));
    lab.bed.border.set_sysctl("net/ipv4/ip_forward", "1");
    daemon.start_again();
    lab.put(&web("web", &[Bed::EXT1]));
    lab.await_programmed("web");
    assert_served(&lab.bed.client1, Bed::EXT1);
    lab.delete("web");
    lab.await_gone("web");
    assert_dropped(&lab.bed.client1, Bed::EXT1);
}
