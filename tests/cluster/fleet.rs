//! Several border boxes on one cluster: each holds its name by a Lease, and sees who else is alive.

use std::time::Duration;

use bed::cluster::ControlPlane;
use bed::{Bed, Daemon, Options, eventually, eventually_within, holds};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_smartnat-manager");
const NAMESPACE: &str = "smartnat-system";
/// The shortest that can be set.
const LEASE: SignedDuration = SignedDuration::from_secs(4);
const FIRST: &str = "11111111111111111111111111111111";
const SECOND: &str = "22222222222222222222222222222222";
/// A takeover needs a whole lease, and two cores may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

struct Fleet {
    bed: Bed,
    control: ControlPlane,
}

impl Fleet {
    fn new() -> Fleet {
        let bed = Bed::with(Options { second_border: true, ..Options::default() });
        let control = ControlPlane::for_bed(&bed);
        control.install();
        Fleet { bed, control }
    }

    /// Instance `border` on machine FIRST, not yet started.
    fn first(&self) -> Daemon<'_> {
        Daemon::with_kubeconfig(&self.bed, PROGRAM, &self.control.kubeconfig_for("smartnat-manager"))
            .set("SNCTRLR_LEASE_SECONDS", "4")
            .machine_id(FIRST)
    }

    /// On the second box, not yet started.
    fn second(&self, name: &str, machine: &str) -> Daemon<'_> {
        self.first().on_second().set("SNCTRLR_INSTANCE_NAME", name).machine_id(machine)
    }

    fn lease(&self, name: &str) -> Option<Lease> {
        self.control.try_get("lease", NAMESPACE, name).map(Lease)
    }

    #[track_caller]
    fn held(&self, name: &str) -> Lease {
        eventually(&format!("there is a Lease {name}"), || self.lease(name))
    }

    /// Waits until the Lease was renewed twice since `before`, and gives it.
    #[track_caller]
    fn renewed(&self, name: &str, before: &Lease) -> Lease {
        let mut last = before.clone();
        for _ in 0..2 {
            last = eventually(&format!("Lease {name} is renewed"), || {
                self.lease(name).filter(|lease| lease.time("renewTime") > last.time("renewTime"))
            });
        }
        last
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Lease(Value);

impl Lease {
    fn time(&self, field: &str) -> Timestamp {
        self.0["spec"][field].as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("{field}: {}", self.0))
    }

    fn holder(&self) -> &str {
        self.0["spec"]["holderIdentity"].as_str().unwrap_or_default()
    }

    fn transitions(&self) -> i64 {
        self.0["spec"]["leaseTransitions"].as_i64().unwrap_or_default()
    }
}

/// What `/status` says of the source `lease`.
fn lease_source(daemon: &Daemon) -> Option<Value> {
    let status: Value = serde_json::from_str(&daemon.get("/status")?.body).ok()?;
    status["sources"].as_array()?.iter().find(|s| s["name"] == "lease").cloned()
}

#[track_caller]
fn await_held(daemon: &Daemon) {
    eventually_within(PATIENCE, "the Lease is held", || holds(lease_source(daemon)?["state"] == "current"));
}

/// Waits until the source is away for this reason, which is in the health body too.
#[track_caller]
fn await_away(daemon: &Daemon, part: &str) -> String {
    eventually_within(PATIENCE, &format!("the Lease is told to be away: {part}"), || {
        let source = lease_source(daemon)?;
        let reason = source["reason"].as_str()?.to_owned();
        let health = daemon.get("/healthcheck")?;
        let told = health.body.lines().any(|l| l.starts_with("source lease: away since") && l.contains(part));
        (source["state"] == "away" && reason.contains(part) && told && health.code == 200).then_some(reason)
    })
}

#[test]
fn an_instance_renews_its_lease_and_takes_it_at_once_after_a_restart_on_the_same_machine() {
    let fleet = Fleet::new();
    let mut daemon = fleet.first();
    daemon.launch();
    let taken = fleet.held("border");
    assert_eq!(taken.0["metadata"]["labels"]["app.kubernetes.io/name"], "smartnat");
    assert_eq!(taken.0["spec"]["leaseDurationSeconds"], 4);
    assert_eq!(taken.holder().len(), 32);
    assert_ne!(taken.holder(), FIRST, "the machine id is confidential");
    await_held(&daemon);
    let renewed = fleet.renewed("border", &taken);
    assert_eq!(renewed.time("acquireTime"), taken.time("acquireTime"));

    assert!(daemon.stop().success());
    let left = fleet.lease("border").expect("a Lease outlives a stop");
    assert_eq!(left.holder(), taken.holder());
    daemon.launch();
    let again = eventually("the Lease is taken again", || {
        fleet.lease("border").filter(|lease| lease.time("acquireTime") > taken.time("acquireTime"))
    });
    assert_eq!((again.holder(), again.transitions()), (taken.holder(), 0));
    await_held(&daemon);

    daemon.kill();
    daemon.launch();
    eventually("the Lease is taken again after a crash", || {
        fleet.lease("border").filter(|lease| lease.time("acquireTime") > again.time("acquireTime"))
    });
    await_held(&daemon);
    assert!(!daemon.log().contains("another machine"), "it was never refused");
}

#[test]
fn a_second_box_under_the_same_name_is_refused_and_told_until_the_first_is_gone_for_a_whole_lease() {
    let fleet = Fleet::new();
    let mut first = fleet.first();
    first.launch();
    let held = fleet.held("border");
    let mut second = fleet.second("border", SECOND);
    second.launch();

    let reason = await_away(&second, "held by another machine");
    for part in
        [&held.holder()[..8], "smartnat-system/border", "SNCTRLR_INSTANCE_NAME", "smartnat-manager forget border"]
    {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let status = second.command(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("held by another machine"), "{status:?}");
    assert!(second.log().contains("held by another machine"));
    let ready = eventually("it answers", || second.get("/readyz"));
    assert_eq!(ready.code, 503, "{ready:?}");

    let renewed = fleet.renewed("border", &held);
    assert_eq!(renewed.time("acquireTime"), held.time("acquireTime"));
    assert_eq!(lease_source(&first).unwrap()["state"], "current");
    assert!(!first.log().contains("another machine"), "the first was not disturbed");

    first.kill();
    let last = fleet.lease("border").unwrap();
    let taken = eventually_within(PATIENCE, "the second takes over", || {
        fleet.lease("border").filter(|lease| lease.holder() != last.holder())
    });
    assert_eq!(taken.transitions(), 1);
    let waited = taken.time("acquireTime").duration_since(last.time("renewTime"));
    assert!(waited >= LEASE, "it took over after {waited:#}");
    await_held(&second);

    first.launch();
    let reason = await_away(&first, "held by another machine");
    assert!(reason.contains(&taken.holder()[..8]), "{reason}");
    let renewed = fleet.renewed("border", &taken);
    assert_eq!(renewed.holder(), taken.holder());
}

#[test]
fn of_two_boxes_with_one_machine_id_and_one_name_the_first_stays() {
    let fleet = Fleet::new();
    let mut first = fleet.first();
    first.launch();
    let held = fleet.held("border");
    await_held(&first);
    let mut clone = fleet.second("border", FIRST);
    clone.launch();
    let reason = await_away(&clone, "same machine id");
    assert!(reason.contains("systemd-machine-id-setup"), "{reason}");
    let renewed = eventually("the first has its Lease back", || {
        fleet.lease("border").filter(|lease| lease.time("acquireTime") == held.time("acquireTime"))
    });
    let renewed = fleet.renewed("border", &renewed);
    assert_eq!(renewed.time("acquireTime"), held.time("acquireTime"));
    assert_eq!(lease_source(&first).unwrap()["state"], "current");
    eventually("the first says it too", || holds(first.log().contains("Look for a clone of this machine")));
}

#[test]
fn rights_on_leases_and_their_namespace_are_told_while_they_lack_and_used_when_they_are_there() {
    let fleet = Fleet::new();
    let mut daemon = fleet.first();
    daemon.launch();
    await_held(&daemon);
    fleet.control.kubectl(&["delete", "rolebinding", "-n", NAMESPACE, "smartnat-manager"]);
    let reason = await_away(&daemon, "is forbidden");
    assert!(reason.contains("leases.coordination.k8s.io") && reason.contains("kubectl apply -k deploy/"), "{reason}");
    let before = fleet.lease("border").unwrap();
    fleet.control.install();
    await_held(&daemon);
    fleet.renewed("border", &before);

    let mut elsewhere = Daemon::with_kubeconfig(&fleet.bed, PROGRAM, &fleet.control.admin_kubeconfig())
        .on_second()
        .set("SNCTRLR_NAMESPACE", "nowhere");
    elsewhere.launch();
    let reason = await_away(&elsewhere, "nowhere");
    assert!(reason.contains("SNCTRLR_NAMESPACE") && reason.contains("kubectl apply -k deploy/"), "{reason}");
    fleet.control.create_namespace("nowhere");
    await_held(&elsewhere);
}

#[test]
fn an_outage_of_the_api_makes_nobody_silent_and_a_death_does() {
    let fleet = Fleet::new();
    let mut first = fleet.first();
    let mut second = fleet.second("border2", SECOND);
    for daemon in [&mut first, &mut second] {
        daemon.launch();
        await_held(daemon);
    }
    for hangs in [false, true] {
        let before = ["border", "border2"].map(|name| fleet.held(name));
        if hangs {
            fleet.control.pause_api()
        } else {
            fleet.control.stop_api()
        }
        for daemon in [&first, &second] {
            eventually_within(PATIENCE, "it has been without the API for more than a lease", || {
                let source = lease_source(daemon)?;
                let since: Timestamp = source["since"].as_str()?.parse().ok()?;
                holds(
                    source["state"] == "away"
                        && Timestamp::now().duration_since(since) > LEASE + SignedDuration::from_secs(2),
                )
            });
        }
        if hangs {
            fleet.control.resume_api()
        } else {
            fleet.control.start_api()
        }
        for (daemon, before) in [&first, &second].into_iter().zip(before) {
            await_held(daemon);
            // More than a lease after the outage: whoever was to be called silent has been by now.
            let name = before.0["metadata"]["name"].as_str().unwrap();
            let back = fleet.renewed(name, &before);
            assert_eq!(back.time("acquireTime"), before.time("acquireTime"));
            eventually_within(PATIENCE, "a lease has passed", || {
                holds(fleet.lease(name)?.time("renewTime").duration_since(back.time("renewTime")) > LEASE)
            });
        }
        for daemon in [&first, &second] {
            assert!(!daemon.log().contains("an instance is silent"), "nobody was");
        }
    }
    second.kill();
    eventually_within(PATIENCE, "the other says that it is silent", || {
        let log = first.log();
        holds(log.lines().any(|l| l.contains("an instance is silent") && l.contains("border2")))
    });
    second.launch();
    eventually_within(PATIENCE, "the other says that it is back", || {
        holds(first.log().contains("renews its Lease again"))
    });
}
