//! `smartnat-manager check` against a real API server, under the rights of `deploy/rbac.yaml`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bed::cluster::{ControlPlane, binary};
use bed::{Bed, Mapping, Namespace, eventually};
use serde_json::json;

use crate::support::{Lab, PROGRAM};

const ACCOUNT: &str = "smartnat-manager";
/// Of faketime, before the program; nothing when the clock is right.
const RIGHT_CLOCK: &[&str] = &[];

/// One line of the answer, as `LEVEL  group  what`, with its remedy.
#[derive(Debug)]
struct Line {
    level: String,
    group: String,
    what: String,
    remedy: String,
}

fn lines(output: &Output) -> Vec<Line> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines() {
        if let Some(remedy) = line.trim_start().strip_prefix("-> ") {
            lines.last_mut().expect("a remedy follows a finding").remedy = remedy.to_owned();
        } else if let Some((level, rest)) = line.split_once("  ") {
            let (group, what) = rest.trim().split_once(' ').expect("a group and what was found");
            let [level, group, what] = [level, group, what].map(|s| s.trim().to_owned());
            lines.push(Line { level, group, what, remedy: String::new() });
        }
    }
    assert!(!lines.is_empty(), "{output:?}");
    lines
}

fn check(namespace: &Namespace, wrapped: &[&str], source: [&str; 2]) -> Vec<Line> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]).args(wrapped).arg(PROGRAM).arg("check").args(source);
    command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    for (name, value) in
        [("DEFAULT_GW_INTERFACE", "eth0"), ("INTERFACES_PATTERN", "eth[1-9][0-9]*"), ("INSTANCE_NAME", "border")]
    {
        command.env(format!("SNCTRLR_{name}"), value);
    }
    lines(&command.output().expect("ip is there: the bed was made with it"))
}

/// As the ServiceAccount of `deploy/`, in the control plane's own namespace.
fn check_api(control: &ControlPlane, kubeconfig: &Path) -> Vec<Line> {
    check(control.namespace(), RIGHT_CLOCK, ["--kubeconfig", kubeconfig.to_str().unwrap()])
}

fn group<'a>(lines: &'a [Line], name: &str) -> Vec<&'a Line> {
    lines.iter().filter(|l| l.group == name).collect()
}

/// The one line of a group that begins with this level and names all these.
#[track_caller]
fn assert_told(lines: &[Line], level: &str, name: &str, parts: &[&str]) {
    let found = group(lines, name);
    let told = found.iter().any(|l| l.level == level && parts.iter().all(|p| l.what.contains(p)));
    assert!(told, "no {level} of {name} with {parts:?} in {found:#?}");
    assert!(found.iter().all(|l| l.level == "OK" || !l.remedy.is_empty()), "a remedy is missing: {found:#?}");
}

#[track_caller]
fn assert_all_ok(lines: &[Line], names: &[&str]) {
    for name in names {
        let found = group(lines, name);
        assert!(!found.is_empty() && found.iter().all(|l| l.level == "OK"), "{name}: {found:#?}");
    }
}

fn installed() -> (ControlPlane, PathBuf) {
    let control = ControlPlane::start();
    control.install();
    let kubeconfig = control.kubeconfig_for(ACCOUNT);
    (control, kubeconfig)
}

#[test]
fn with_what_deploy_installs_everything_about_the_api_is_good() {
    let (control, kubeconfig) = installed();
    let lines = eventually("the new definition is published", || {
        let lines = check_api(&control, &kubeconfig);
        group(&lines, "crd").iter().all(|l| l.level == "OK").then_some(lines)
    });
    assert_all_ok(&lines, &["api", "crd", "permissions", "lease", "kube-proxy"]);
    assert_told(&lines, "OK", "api", &[bed::cluster::version()]);
    assert_told(&lines, "OK", "clock", &["agrees with the API server's"]);
    // A token for an hour.
    assert_eq!(group(&lines, "credential").len(), 1, "{lines:#?}");
    let admin = check_api(&control, &control.admin_kubeconfig());
    assert_told(&admin, "WARN", "permissions", &["get secrets", "update services"]);
}

#[test]
fn without_the_definition_and_with_another_one_it_says_so() {
    let (control, kubeconfig) = installed();
    let name = "mappings.smartnat.aureacentral.com";
    let patch = json!([
        {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/ports/maxItems", "value": 7},
        {"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/0"},
    ]);
    control.kubectl(&["patch", "crd", name, "--type=json", "-p", &patch.to_string()]);
    eventually("the changed schema is told", || {
        let lines = check_api(&control, &kubeconfig);
        let told = group(&lines, "crd").iter().any(|l| {
            l.level == "WARN"
                && l.what.contains("spec.ports.maxItems is 7")
                && l.what.contains("kubectl shows the columns")
        });
        told.then_some(())
    });
    control.kubectl(&[
        "patch",
        "crd",
        name,
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/versions/0/subresources"}]"#,
    ]);
    eventually("the missing subresource is told", || {
        let lines = check_api(&control, &kubeconfig);
        group(&lines, "crd").iter().any(|l| l.level == "FAIL" && l.what.contains("status subresource")).then_some(())
    });
    control.kubectl(&["delete", "crd", name]);
    let lines = eventually("the missing definition is told", || {
        let lines = check_api(&control, &kubeconfig);
        group(&lines, "crd").iter().any(|l| l.level == "FAIL" && l.what.contains("not installed")).then_some(lines)
    });
    assert_told(&lines, "FAIL", "crd", &["Mappings are not served"]);
}

#[test]
fn each_right_that_is_taken_away_is_named() {
    let (control, kubeconfig) = installed();
    let needed = [
        ("clusterrole", "smartnat.aureacentral.com", "mappings", &["get", "list", "watch", "patch"][..]),
        ("clusterrole", "smartnat.aureacentral.com", "mappings/status", &["patch"]),
        ("clusterrole", "", "services", &["get", "list", "watch"]),
        ("clusterrole", "discovery.k8s.io", "endpointslices", &["get", "list", "watch"]),
        ("clusterrole", "events.k8s.io", "events", &["create", "patch"]),
        ("role", "coordination.k8s.io", "leases", &["get", "list", "create", "update"]),
    ];
    // The n-th verb of every resource at once: each must be named with its resource.
    for n in 0..4 {
        let mut rules = [("clusterrole", Vec::new()), ("role", Vec::new())];
        for (kind, group, resource, verbs) in needed {
            let left: Vec<&str> = verbs.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, v)| *v).collect();
            let rule = json!({"apiGroups": [group], "resources": [resource], "verbs": left});
            let rules = rules.iter_mut().find(|(k, _)| *k == kind).map(|(_, r)| r).unwrap();
            if !left.is_empty() {
                rules.push(rule);
            }
        }
        for (kind, rules) in rules {
            let patch = json!({ "rules": rules }).to_string();
            control.kubectl(&["patch", kind, ACCOUNT, "-n", "smartnat-system", "--type=merge", "-p", &patch]);
        }
        eventually("the missing rights are named, and no others", || {
            let lines = check_api(&control, &kubeconfig);
            let missing = group(&lines, "permissions");
            let expected = needed.iter().filter(|(.., verbs)| verbs.len() > n);
            let named = expected.clone().all(|(_, group, resource, verbs)| {
                let dot = if group.is_empty() { "" } else { "." };
                let begin = format!("no right to {} {resource}{dot}{group} ", verbs[n]);
                missing.iter().any(|l| l.level != "OK" && l.what.starts_with(&begin))
            });
            (named && missing.len() == expected.count()).then_some(())
        });
    }
}

#[test]
fn an_api_that_is_away_or_silent_is_told_in_seconds_and_the_box_is_judged_all_the_same() {
    let lab = Lab::new();
    let kubeconfig = lab.control.kubeconfig_for(ACCOUNT);
    let source = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    lab.control.cut_off();
    let lines = check(&lab.bed.border, RIGHT_CLOCK, source);
    assert_told(&lines, "FAIL", "api", &["nobody listens at https://"]);
    assert_told(&lines, "OK", "interfaces", &["eth1 is external"]);
    lab.control.reconnect();
    lab.control.pause_api();
    let begin = Instant::now();
    let lines = check(&lab.bed.border, RIGHT_CLOCK, source);
    let took = begin.elapsed();
    lab.control.resume_api();
    assert_told(&lines, "FAIL", "api", &["does not answer"]);
    assert!(group(&lines, "permissions").is_empty(), "{lines:#?}");
    // Of its own accord, long before a connection is given up by the kernel.
    assert!(took < Duration::from_secs(120), "{took:?}");
}

#[test]
fn a_wrong_credential_and_a_wrong_clock_are_told() {
    let (control, kubeconfig) = installed();
    let stranger = control.kubeconfig(&json!({"token": "nobody's"}));
    let lines = check_api(&control, &stranger);
    assert_told(&lines, "FAIL", "api", &["does not know who we are"]);
    let source = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    let clock = |offset: &str| check(control.namespace(), &["faketime", "-f", offset], source);
    assert_told(&clock("+2h"), "FAIL", "clock", &["ahead of the API server's"]);
    assert_told(&clock("+2h"), "FAIL", "credential", &["expired"]);
    assert_told(&clock("+15s"), "WARN", "clock", &["ahead of the API server's"]);
}

#[test]
fn a_name_that_another_machine_renews_is_told() {
    let (control, kubeconfig) = installed();
    let lease = |renewed: String| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "border", "namespace": "smartnat-system"},
            "spec": {"holderIdentity": "ffffffffffffffffffffffffffffffff", "leaseDurationSeconds": 3600, "renewTime": renewed},
        })
    };
    control.apply(lease(format!("{:.6}", jiff::Timestamp::now())));
    assert_told(&check_api(&control, &kubeconfig), "FAIL", "lease", &["held by another machine (ffffffff"]);
    control.apply(lease("2020-01-01T00:00:00.000000Z".to_owned()));
    assert_told(&check_api(&control, &kubeconfig), "WARN", "lease", &["takes it over"]);
}

/// kube-proxy on a border box; killed when dropped.
struct KubeProxy(Child);

impl KubeProxy {
    fn start(lab: &Lab, mode: &str) -> KubeProxy {
        let kubeconfig = lab.control.admin_kubeconfig();
        let log = std::fs::File::create(lab.control.dir().join(format!("kube-proxy-{mode}.log"))).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", lab.bed.border.name()]).arg(binary("kube-proxy"));
        command.arg(format!("--proxy-mode={mode}")).arg(format!("--kubeconfig={}", kubeconfig.display()));
        // Limits of connections are the host's, not a namespace's.
        command.args(["--hostname-override=border", "--conntrack-max-per-core=0", "--healthz-bind-address="]);
        command.args(["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"]);
        command.arg("--metrics-bind-address=127.0.0.1:10249").stdout(Stdio::null()).stderr(log);
        let proxy = KubeProxy(command.spawn().expect("ip is there: the bed was made with it"));
        let ask = "curl -sS --max-time 2 http://127.0.0.1:10249/proxyMode";
        eventually(&format!("kube-proxy runs in mode {mode}"), || {
            (lab.bed.border.attempt(ask, "").ok()?.trim() == mode).then_some(())
        });
        proxy
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn mappings_of_mode_service_without_ipvs_are_named_and_those_of_mode_direct_are_not() {
    let lab = Lab::new();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "border"}});
    lab.control.kubectl_as(&lab.control.admin_kubeconfig(), &["create", "-f", "-"], &node.to_string()).unwrap();
    let address = json!({"status": {"addresses": [{"type": "InternalIP", "address": Bed::BORDER}]}}).to_string();
    lab.control.kubectl(&["patch", "node", "border", "--subresource=status", "--type=merge", "-p", &address]);
    let kubeconfig = lab.control.kubeconfig_for(ACCOUNT);
    let check = || check(&lab.bed.border, RIGHT_CLOCK, ["--kubeconfig", kubeconfig.to_str().unwrap()]);

    lab.put(&Mapping::new("straight").address(Bed::EXT1).usual_ports());
    assert_all_ok(&check(), &["kube-proxy"]);
    lab.put(&Mapping::new("by-service").address(Bed::EXT2).usual_ports().by_cluster_ip());
    assert_told(&check(), "FAIL", "kube-proxy", &["default/by-service", "not running on this box"]);
    for mode in ["iptables", "nftables"] {
        let proxy = KubeProxy::start(&lab, mode);
        let lines = check();
        assert_told(&lines, "FAIL", "kube-proxy", &[&format!("runs in {mode} mode"), "default/by-service"]);
        assert!(lines.iter().all(|l| l.group != "kube-proxy" || !l.what.contains("straight")), "{lines:#?}");
        drop(proxy);
    }
    // Stopped, it leaves what it programmed.
    assert_told(&check(), "FAIL", "kube-proxy", &["what it programmed is of", "default/by-service"]);
}
