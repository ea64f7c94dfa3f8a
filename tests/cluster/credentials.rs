//! By what the daemon is known to the API server: what it says of it, and that another one is used as soon as it is there.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bed::{Bed, Daemon, eventually, eventually_within, holds};
use serde_json::json;

use crate::source::{await_away, await_current, source};
use crate::support::{Lab, PATIENCE, PROGRAM, web};

const ACCOUNT: &str = "smartnat-manager";
/// Files are looked at every two seconds.
const SOON: Duration = Duration::from_secs(10);

/// Makes the tokens of the daemon's account worthless: they are bound to its uid.
fn replace_account(lab: &Lab) {
    lab.control.kubectl(&["delete", "serviceaccount", "-n", "smartnat-system", ACCOUNT]);
    lab.control.kubectl(&["create", "serviceaccount", "-n", "smartnat-system", ACCOUNT]);
}

/// Watches that are open are not judged again; those after this are.
fn interrupt(lab: &Lab, daemon: &Daemon<'_>) {
    lab.control.stop_api();
    await_away(daemon, "does not answer");
    lab.control.start_api();
}

#[track_caller]
fn assert_served_anew(lab: &Lab, name: &str) {
    lab.put(&web(name, &[Bed::EXT1B]));
    lab.await_programmed(name);
}

#[test]
fn a_token_file_is_read_again_when_it_is_rotated() {
    let lab = Lab::new();
    let file = lab.control.dir().join("rotated");
    // With a line feed, as kubectl prints it.
    fs::write(&file, format!("{}\n", lab.control.token(ACCOUNT, 600))).unwrap();
    let kubeconfig = lab.control.kubeconfig(&json!({"tokenFile": file}));
    let daemon = lab.daemon_with(&kubeconfig).start();
    let credential = daemon.status()["credential"].clone();
    assert_eq!(credential["kind"], "token file");
    replace_account(&lab);
    interrupt(&lab, &daemon);
    await_away(&daemon, "does not accept the credential (401)");
    fs::write(&file, lab.control.token(ACCOUNT, 3600)).unwrap();
    await_current(&daemon, SOON);
    assert_ne!(daemon.status()["credential"]["expires"], credential["expires"]);
    assert_served_anew(&lab, "web");
}

#[test]
fn a_plugin_is_asked_again_when_what_it_gave_is_refused() {
    let lab = Lab::new();
    let token = lab.control.dir().join("given");
    let give = |token_text: &str| {
        let credential = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token_text},
        });
        fs::write(&token, credential.to_string()).unwrap();
    };
    give(&lab.control.token(ACCOUNT, 600));
    let plugin = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [token], "interactiveMode": "Never",
    });
    let daemon = lab.daemon_with(&lab.control.kubeconfig(&json!({"exec": plugin}))).start();
    assert_eq!(daemon.status()["credential"]["kind"], "exec plugin");
    replace_account(&lab);
    interrupt(&lab, &daemon);
    await_away(&daemon, "does not accept the credential (401)");
    give(&lab.control.token(ACCOUNT, 600));
    await_current(&daemon, PATIENCE);
    assert_served_anew(&lab, "web");
}

#[test]
fn a_plugin_that_hangs_is_ended_at_its_limit_and_with_the_daemon() {
    let lab = Lab::new();
    let pids = lab.control.dir().join("plugins");
    let script = format!("trap '' TERM; sleep 600 & echo $$ $! >>{}; wait", pids.display());
    let plugin = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script], "interactiveMode": "Never",
    });
    let mut daemon = lab.daemon_with(&lab.control.kubeconfig(&json!({"exec": plugin})));
    daemon.launch();
    let asked = |times: usize| {
        let known = || fs::read_to_string(&pids).unwrap_or_default();
        let found = || Some(known()).filter(|text| text.lines().count() >= times);
        let text = eventually_within(PATIENCE, "the plugin is asked", found);
        text.lines().nth(times - 1).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let gone = |pids: Vec<String>| {
        for pid in pids {
            eventually(&format!("{pid} is gone"), || holds(!Path::new("/proc").join(&pid).exists()));
        }
    };
    let (first, second) = (asked(1), asked(2));
    gone(first);
    await_away(&daemon, "did not answer within 30 s and was ended");
    assert!(daemon.stop().success());
    gone(second);
}

#[test]
fn a_plugin_is_asked_again_before_its_token_expires() {
    let lab = Lab::new();
    let count = lab.control.dir().join("count");
    let token = lab.control.token(ACCOUNT, 600);
    let script = format!(
        "echo >>{}; echo '{{\"status\": {{\"token\": \"{token}\", \"expirationTimestamp\": \"'$(date -u -d +12sec +%FT%TZ)'\"}}}}'",
        count.display()
    );
    let plugin = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script]});
    let daemon = lab.daemon_with(&lab.control.kubeconfig(&json!({"exec": plugin}))).start();
    await_current(&daemon, PATIENCE);
    let asked = || fs::read_to_string(&count).unwrap().lines().count();
    eventually_within(PATIENCE, "it is asked a third time", || holds(asked() >= 3));
    assert_served_anew(&lab, "web");
    // The same session goes on: nothing is listed anew for a token that is replaced in time.
    let made = daemon.log().matches("the credential as it is now").count();
    assert_eq!(made, 1, "{}", daemon.log());
}

#[test]
fn a_kubeconfig_may_come_late_be_broken_and_be_replaced() {
    let lab = Lab::new();
    let good = fs::read(lab.control.kubeconfig_for(ACCOUNT)).unwrap();
    let file = lab.control.dir().join("late.kubeconfig");
    let mut daemon = lab.daemon_with(&file);
    daemon.launch();
    await_away(&daemon, "late.kubeconfig cannot be used");
    let ready = eventually("the border is closed", || daemon.get("/readyz").filter(|r| r.body.contains("is closed")));
    assert_eq!(ready.code, 503);
    fs::write(&file, &good).unwrap();
    eventually_within(SOON, "it is ready", || holds(daemon.get("/readyz")?.code == 200));
    await_current(&daemon, SOON);

    fs::write(&file, "clusters: [").unwrap();
    let told = || source(&daemon, "kubeconfig");
    eventually_within(SOON, "the broken one is told", || holds(told().0 == "away"));
    assert!(told().1.contains("going on with what was read before"), "{:?}", told());
    assert_eq!(source(&daemon, "kubernetes").0, "current");
    assert_served_anew(&lab, "web");

    let nobody = lab.control.client_certificate("/CN=nobody");
    let other = lab.control.kubeconfig(&lab.control.certificate_user(&nobody));
    fs::copy(other, &file).unwrap();
    let reason = await_away(&daemon, "User \"nobody\" cannot");
    assert!(reason.contains("apply deploy/rbac.yaml"), "{reason}");
    assert_eq!(daemon.status()["credential"]["kind"], "client certificate");
    fs::write(&file, &good).unwrap();
    await_current(&daemon, SOON);
}

fn seconds(certificate: &Path) -> f64 {
    let text = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in"])
        .arg(certificate)
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let date = text.trim().strip_prefix("notAfter=").unwrap().replace(' ', "T");
    date.parse::<jiff::Timestamp>().unwrap().as_second() as f64
}

#[test]
fn the_expiry_of_a_certificate_is_in_metric_and_status_and_an_authority_that_did_not_sign_is_named() {
    let lab = Lab::new();
    let certificate = lab.control.client_certificate("/O=system:masters/CN=border");
    let kubeconfig = lab.control.kubeconfig(&lab.control.certificate_user(&certificate));
    let daemon = lab.daemon_with(&kubeconfig).start();
    let expires = seconds(&certificate.certificate);
    assert_eq!(daemon.metric("smartnat_credential_expiry_timestamp_seconds", ""), expires);
    let told = &daemon.status()["credential"];
    let told_at = told["expires"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second() as f64;
    assert!(told["kind"] == "client certificate" && told["expired"] == false && told_at == expires, "{told}");
    let printed = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(printed.contains("credential for the API server: client certificate, expires 20"), "{printed}");

    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&kubeconfig).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["certificate-authority"] = json!(certificate.certificate);
    fs::write(&kubeconfig, config.to_string()).unwrap();
    await_away(&daemon, "the certificate of the API server");
}

#[test]
fn an_expired_token_is_told_in_health_status_and_log() {
    let lab = Lab::new();
    // {"exp":1700000000,"iat":1600000000} between a header and a signature.
    let token = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDAsImlhdCI6MTYwMDAwMDAwMH0.c2ln";
    let mut daemon = Daemon::with_kubeconfig(&lab.bed, PROGRAM, &lab.control.kubeconfig(&json!({"token": token})));
    daemon.launch();
    await_away(&daemon, "(401)");
    let health = daemon.get("/healthcheck").unwrap();
    assert!(health.body.contains("credential: token expired at 2023-11-14T22:13:20Z"), "{health:?}");
    assert_eq!(daemon.status()["credential"]["expired"], true);
    assert!(daemon.log().contains("the token for the API server has expired at 2023-11-14"), "{}", daemon.log());
}
