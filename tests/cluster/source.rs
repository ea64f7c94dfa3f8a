//! The API as a source: whatever it does, the dataplane stays, says why, and catches up.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bed::cluster::ControlPlane;
use bed::peer::{Flood, Proto, Stream};
use bed::{Bed, Daemon, Endpoints, Namespace, Service, eventually, eventually_within, holds};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::{Lab, PATIENCE, PROGRAM, assert_dropped, assert_served, web};

/// What is promised for the time after the API's return.
const SOON: Duration = Duration::from_secs(5);
const WEB: SocketAddrV4 = SocketAddrV4::new(Bed::EXT1, 80);

/// State and reason of a source; nulls while nobody answers.
pub fn source(daemon: &Daemon<'_>, name: &str) -> (Value, String) {
    let Some(reply) = daemon.get("/status") else { return (Value::Null, String::new()) };
    let status: Value = serde_json::from_str(&reply.body).unwrap();
    let found = status["sources"].as_array().into_iter().flatten().find(|s| s["name"] == name).cloned();
    let found = found.unwrap_or_default();
    (found["state"].clone(), found["reason"].as_str().unwrap_or_default().to_owned())
}

#[track_caller]
pub fn await_away(daemon: &Daemon<'_>, because: &str) -> String {
    let mut last = String::new();
    eventually_within(PATIENCE, &format!("the API is reported as away: {because}"), || {
        let (state, reason) = source(daemon, "kubernetes");
        if reason != last {
            eprintln!("{state}: {reason}");
            last.clone_from(&reason);
        }
        (state == "away" && reason.contains(because)).then_some(reason)
    })
}

#[track_caller]
pub fn await_current(daemon: &Daemon<'_>, within: Duration) {
    eventually_within(within, "the source is current", || holds(source(daemon, "kubernetes").0 == "current"));
}

/// Waits until the API has been away for so long, as the daemon tells it.
#[track_caller]
fn stays_away(daemon: &Daemon<'_>, time: SignedDuration) {
    eventually_within(PATIENCE + PATIENCE, "it has been away for long enough", || {
        let status = daemon.status();
        let source = status["sources"].as_array()?.iter().find(|s| s["name"] == "kubernetes")?;
        assert_eq!(source["state"], "away", "{source}");
        let since: Timestamp = source["since"].as_str()?.parse().ok()?;
        holds(Timestamp::now().duration_since(since) >= time)
    });
}

/// A connection that must not notice anything, and new ones that must all succeed.
struct Traffic {
    stream: Stream,
    flood: Flood,
}

impl Traffic {
    fn begin(from: &Namespace) -> Traffic {
        let stream = from.within(|| Stream::open(WEB)).unwrap_or_else(|e| panic!("no stream to {WEB}: {e}"));
        Traffic { stream, flood: from.within(|| Flood::start(Proto::Tcp, WEB)) }
    }

    /// Some more of both, now.
    #[track_caller]
    fn goes_on(&self) {
        let (bytes, flows) = (self.stream.bytes(), self.flood.flows());
        eventually("traffic goes on", || {
            assert_eq!(self.stream.broken(), None);
            holds(self.stream.bytes() > bytes + 1024 && self.flood.flows() > flows + 3)
        });
    }

    #[track_caller]
    fn end(self) {
        let report = self.flood.stop();
        assert_eq!(report.lost, 0, "{report:?}");
        assert_eq!(self.stream.stop().broken, None);
    }
}

fn served_soon(lab: &Lab, address: Ipv4Addr) {
    eventually_within(SOON, &format!("{address} is served"), || {
        holds(crate::support::ask(&lab.bed.client1, address).is_ok())
    });
}

#[test]
fn before_the_definition_is_installed_the_border_is_closed_and_it_goes_on_by_itself_afterwards() {
    let bed = Bed::new();
    let control = ControlPlane::for_bed(&bed);
    control.kubectl(&["apply", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/rbac.yaml")]);
    let mut daemon = Daemon::with_kubeconfig(&bed, PROGRAM, &control.kubeconfig_for("smartnat-manager"));
    daemon.launch();
    let reason = await_away(&daemon, "CustomResourceDefinition is not installed");
    assert!(reason.contains("kubectl apply -k deploy/"), "{reason}");
    let ready = daemon.get("/readyz").unwrap();
    assert!(ready.code == 503 && ready.body.contains("border is closed"), "{ready:?}");
    let health = daemon.get("/healthcheck").unwrap();
    assert!(health.code == 200 && health.body.contains("source kubernetes: away since"), "{health:?}");
    control.install();
    await_current(&daemon, SOON);
    control.apply(Service::new("web", Ipv4Addr::new(10, 96, 0, 10)).object());
    control.apply(Endpoints::of("web").ready(Bed::POD1).object());
    control.apply(web("web", &[Bed::EXT1]).object());
    eventually("the Mapping is served", || holds(crate::support::ask(&bed.client1, Bed::EXT1).is_ok()));
}

#[test]
fn an_api_server_killed_and_back_interrupts_nothing_and_what_changed_meanwhile_is_served_soon() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    let daemon = lab.daemon().start();
    lab.await_programmed("web");
    let traffic = Traffic::begin(&lab.bed.client1);

    lab.control.stop_api();
    let alone = format!("the API server {} does not answer: Connection refused (os error 111)", lab.control.server());
    eventually("all three watches say the same, once", || holds(source(&daemon, "kubernetes").1 == alone));
    assert_eq!(daemon.get("/healthcheck").unwrap().code, 200, "it serves on");
    // Long enough for every pause between two tries to have grown as far as it does.
    stays_away(&daemon, SignedDuration::from_mins(1));
    traffic.goes_on();
    lab.control.start_api();
    await_current(&daemon, SOON);

    // Nothing comes through, and nothing says so to watches that wait; the Lease is what is missed first.
    lab.control.cut_off();
    eventually_within(PATIENCE, "the outage is noticed", || holds(source(&daemon, "lease").0 == "away"));
    lab.put(&web("late", &[Bed::EXT1B]));
    lab.control.apply(Endpoints::of("web").ready(Bed::POD2).object());
    traffic.goes_on();
    lab.control.reconnect();
    served_soon(&lab, Bed::EXT1B);
    let pod = lab.bed.client1.get(Proto::Tcp, Bed::EXT1B, 80).unwrap();
    assert_eq!(pod.at.ip(), Bed::POD2, "{pod}");
    // What hung on the pod that left was cut rightly; new flows were not.
    let report = traffic.flood.stop();
    assert_eq!(report.lost, 0, "{report:?}");
}

#[test]
fn after_an_outage_with_compaction_everything_is_listed_anew_without_a_word_and_without_a_loss() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    lab.put(&web("goes", &[Bed::EXT1B]));
    let daemon = lab.daemon().start();
    lab.await_programmed("web");
    lab.await_programmed("goes");
    let traffic = Traffic::begin(&lab.bed.client1);
    lab.control.changed_while_away(|| {
        lab.delete("goes");
        lab.put(&web("late", &[Bed::EXT2]));
    });
    eventually_within(SOON, "the new Mapping is served", || {
        holds(crate::support::ask(&lab.bed.client2, Bed::EXT2).is_ok())
    });
    lab.await_gone("goes");
    assert_dropped(&lab.bed.client1, Bed::EXT1B);
    await_current(&daemon, SOON);
    traffic.goes_on();
    traffic.end();
}

#[test]
fn rights_on_one_kind_taken_away_stop_that_watch_alone_and_are_used_as_soon_as_they_are_back() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    let daemon = lab.daemon().start();
    lab.await_programmed("web");
    let rule = json!([{"op": "test", "path": "/rules/3/resources/0", "value": "endpointslices"}, {"op": "remove", "path": "/rules/3"}]);
    lab.control.kubectl(&["patch", "clusterrole", "smartnat-manager", "--type=json", "-p", &rule.to_string()]);
    // A watch that is open is not judged again; the next one is.
    lab.control.stop_api();
    await_away(&daemon, "does not answer");
    lab.control.start_api();
    await_away(&daemon, "endpointslices.discovery.k8s.io is forbidden");
    // A server that has just started knows its rules a moment later.
    let reason = eventually_within(PATIENCE, "the others are allowed", || {
        let (_, reason) = source(&daemon, "kubernetes");
        (reason.contains("endpointslices") && !reason.contains("mappings")).then_some(reason)
    });
    assert!(
        reason.contains("smartnat-system:smartnat-manager") && reason.contains("apply deploy/rbac.yaml"),
        "{reason}"
    );
    lab.put(&web("late", &[Bed::EXT1B]));
    served_soon(&lab, Bed::EXT1B);
    assert_served(&lab.bed.client1, Bed::EXT1);
    lab.control.apply(Endpoints::of("web").ready(Bed::POD2).object());
    lab.control.install();
    await_current(&daemon, SOON);
    eventually("the slice as it is now counts", || {
        let pods = &daemon.mapping("late")?["status"]["configuredAddresses"][Bed::EXT1B.to_string()]["podIPs"];
        holds(*pods == json!([Bed::POD2]))
    });
}

#[test]
fn started_before_its_api_it_closes_the_border_and_leaves_what_is_programmed() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    let mut daemon = lab.daemon().start();
    lab.await_programmed("web");
    let traffic = Traffic::begin(&lab.bed.client1);
    daemon.kill();
    lab.control.stop_api();
    daemon.launch();
    await_away(&daemon, "does not answer");
    let ready = daemon.get("/readyz").unwrap();
    assert!(ready.code == 503 && ready.body.contains("border is closed"), "{ready:?}");
    traffic.goes_on();
    assert_dropped(&lab.bed.client1, Bed::EXT1B);
    lab.control.start_api();
    eventually_within(SOON, "it is ready", || holds(daemon.get("/readyz")?.code == 200));
    traffic.goes_on();
    traffic.end();
}

#[test]
fn an_api_server_that_takes_connections_and_never_answers_is_told_and_waited_for() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    let mut daemon = lab.daemon();
    lab.control.pause_api();
    daemon.launch();
    await_away(&daemon, "does not answer");
    lab.control.resume_api();
    await_current(&daemon, Duration::from_secs(15));
    eventually("the Mapping is served", || holds(crate::support::ask(&lab.bed.client1, Bed::EXT1).is_ok()));
}

#[test]
fn an_api_server_that_hangs_while_it_is_watched_is_told_and_interrupts_nothing() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    let daemon = lab.daemon().set("SNCTRLR_LEASE_SECONDS", "8").start();
    lab.await_programmed("web");
    let traffic = Traffic::begin(&lab.bed.client1);
    lab.control.pause_api();
    let told = eventually_within(PATIENCE, "the Lease is missed", || {
        let (state, reason) = source(&daemon, "lease");
        (state == "away").then_some(reason)
    });
    assert!(told.contains("no answer") || told.contains("did not answer"), "{told}");
    traffic.goes_on();
    lab.control.resume_api();
    lab.put(&web("late", &[Bed::EXT1B]));
    served_soon(&lab, Bed::EXT1B);
    traffic.end();
}

#[test]
fn a_mapping_that_cannot_be_read_stops_no_other_and_is_told_why() {
    let lab = Lab::new();
    let loose = json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }]);
    let definition = "mappings.smartnat.aureacentral.com";
    lab.control.kubectl(&["patch", "customresourcedefinition", definition, "--type=json", "-p", &loose.to_string()]);
    let mut odd = web("odd", &[]).object();
    odd["spec"]["addresses"] = json!({"first": "203.0.113.11"});
    eventually("the looser definition counts", || lab.control.try_apply(&odd).ok());
    lab.put(&web("web", &[Bed::EXT1]));
    let daemon = lab.daemon().start();
    lab.await_programmed("web");
    assert_served(&lab.bed.client1, Bed::EXT1);
    let odd = eventually("it is told", || daemon.mapping("odd"));
    assert!(odd["message"].as_str().unwrap().contains("spec.addresses"), "{odd}");
    await_current(&daemon, SOON);
    // Also while it is watched.
    let mut late = web("late", &[]).object();
    late["spec"]["ports"] = json!("80");
    lab.control.apply(&late);
    let late = eventually("it is told", || daemon.mapping("late"));
    assert!(late["message"].as_str().unwrap().contains("spec.ports"), "{late}");
    assert_served(&lab.bed.client1, Bed::EXT1);
}

#[test]
fn what_others_write_into_a_status_makes_the_daemon_plan_nothing() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    let daemon = lab.daemon().set("SNCTRLR_AUTOREFRESH_PERIOD_SEC", "3600").start();
    lab.await_programmed("web");
    let passes = || daemon.metric("smartnat_passes_total", "");
    let before = eventually("it is quiet", || {
        let before = passes();
        std::thread::sleep(Duration::from_millis(500));
        (passes() == before).then_some(before)
    });
    for round in 0..20 {
        let entry = json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {"name": "web", "namespace": "default"},
            "status": {"instances": [{"name": "other", "programmed": true, "message": format!("round {round}")}]},
        });
        let path = "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/default/mappings/web/status\
                    ?fieldManager=smartnat.aureacentral.com/other&force=true";
        let (code, answer) = lab.control.request("PATCH", path, "application/apply-patch+yaml", &entry.to_string());
        assert_eq!(code, 200, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
    lab.put(&web("late", &[Bed::EXT1B]));
    lab.await_programmed("late");
    // The new Mapping itself is planned when it comes and when it is held.
    let more = passes() - before;
    assert!((1.0..8.0).contains(&more), "{more} passes");
}

#[test]
fn subcommands_read_the_objects_from_the_api() {
    let lab = Lab::new();
    lab.put(&web("web", &[Bed::EXT1]));
    let daemon = lab.daemon();
    let plan = daemon.command(&["plan"]);
    let text = String::from_utf8_lossy(&plan.stdout);
    assert!(plan.status.success() && text.contains("default/web") && text.contains("203.0.113.10"), "{plan:?}");
    let packet = "trace --interface eth1 --source 192.0.2.10 --destination 203.0.113.10 --port 80";
    let trace = daemon.command(&packet.split(' ').collect::<Vec<_>>());
    assert!(String::from_utf8_lossy(&trace.stdout).contains("default/web"), "{trace:?}");
    lab.control.stop_api();
    let plan = daemon.command(&["plan"]);
    let said = String::from_utf8_lossy(&plan.stderr);
    assert!(plan.status.code() == Some(1) && said.contains("does not answer"), "{plan:?}");
}
