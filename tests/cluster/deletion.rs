//! Deletion: the kernel first, then the entry, then the finalizer; and whatever is cut short is finished.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use bed::cluster::{AuditEntry, Mark};
use bed::peer::{Proto, Request};
use bed::{Bed, Daemon, Mapping, Namespace, eventually_within, holds};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::{FINALIZER, Lab, PATIENCE, ask, assert_dropped, assert_served, entry, web};

const OTHER_FINALIZER: &str = "example.com/other";
const ACCOUNT: &str = "system:serviceaccount:smartnat-system:smartnat-manager";

/// What the program has in a border's kernel, without counters, in no order.
fn ours(border: &Namespace) -> BTreeSet<String> {
    let rules = border.run("iptables-save");
    let rules = rules.lines().filter(|l| l.contains("SN-")).map(|l| l.split(" [").next().unwrap_or(l));
    let sets = border.run("ipset save");
    rules.chain(sets.lines()).map(str::to_owned).collect()
}

/// Waits until the kernel holds this and nothing else of ours.
#[track_caller]
fn await_kernel(border: &Namespace, wanted: &BTreeSet<String>) {
    let mut last = BTreeSet::new();
    let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually_within(PATIENCE, "the kernel is as it was without Mappings", || {
            last = ours(border);
            holds(last == *wanted)
        });
    }));
    if let Err(panic) = same {
        eprintln!("too much: {:#?}", last.difference(wanted));
        eprintln!("missing: {:#?}", wanted.difference(&last));
        std::panic::resume_unwind(panic);
    }
}

fn finalizers(mapping: &Value) -> Vec<&str> {
    mapping["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn is_deleted(mapping: &Value) -> bool {
    mapping["metadata"]["deletionTimestamp"].is_string()
}

impl Lab {
    /// Requests of the daemon that would change Mappings, successful or not.
    fn writes(&self, since: &Mark) -> Vec<AuditEntry> {
        let mut writes = self.control.writes_since(since);
        writes.retain(|w| w.resource.starts_with("mappings") && w.user == ACCOUNT);
        writes
    }

    /// Nothing is written about Mappings while the daemon goes over everything a few times.
    #[track_caller]
    fn assert_quiet(&self, daemon: &Daemon) {
        let mark = self.control.audit_mark();
        daemon.passes(3);
        let writes = self.writes(&mark);
        assert!(writes.is_empty(), "{writes:#?}");
    }

    /// A JSON patch as admin.
    #[track_caller]
    fn json_patch(&self, name: &str, operations: &Value) {
        self.control.kubectl(&["patch", "mapping", name, "--type=json", "-p", &operations.to_string()]);
    }

    /// Puts the finalizer, as the daemon does.
    #[track_caller]
    fn put_finalizer(&self, name: &str) {
        self.json_patch(name, &json!([{"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]));
    }

    /// Writes the entry of instance `border` as it does itself when it is about to program a Mapping.
    #[track_caller]
    fn announce(&self, name: &str, address: Ipv4Addr) {
        let entry = json!({
            "name": "border", "programmed": false, "reason": "Pending", "message": "about to be programmed",
            "addresses": [address], "observedGeneration": 1,
        });
        let object = json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {"name": name, "namespace": "default"}, "status": {"instances": [entry]},
        });
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--subresource=status",
            "--field-manager=smartnat.aureacentral.com/border",
            "-f",
            "-",
        ];
        let admin = self.control.admin_kubeconfig();
        self.control.kubectl_as(&admin, &arguments, &object.to_string()).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Takes the right to patch Mappings, or their status, from the daemon until the end of `meanwhile`.
    #[track_caller]
    fn without_right<T>(&self, resource: &str, meanwhile: impl FnOnce() -> T) -> T {
        let role = self.control.get("clusterrole", "", "smartnat-manager");
        let mut rules = role["rules"].clone();
        for rule in rules.as_array_mut().into_iter().flatten() {
            if rule["resources"] == json!([resource]) {
                rule["verbs"] = json!(["get", "list", "watch"]);
            }
        }
        self.set_rights(resource, &rules, false);
        let result = meanwhile();
        self.set_rights(resource, &role["rules"], true);
        result
    }

    #[track_caller]
    fn set_rights(&self, resource: &str, rules: &Value, may: bool) {
        let patch = json!([{"op": "replace", "path": "/rules", "value": rules}]).to_string();
        self.control.kubectl(&["patch", "clusterrole", "smartnat-manager", "--type=json", "-p", &patch]);
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": ACCOUNT, "resourceAttributes": {
                "group": "smartnat.aureacentral.com", "resource": resource, "subresource": sub, "verb": "patch",
                "namespace": "default",
            }},
        });
        eventually_within(PATIENCE, "the rights are in force", || {
            let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
            let (_, answer) = self.control.request("POST", path, "application/json", &body.to_string());
            holds((answer["status"]["allowed"] == true) == may)
        });
    }

    /// Creates it as soon as an older one of that name is gone.
    #[track_caller]
    fn create_when_free(&self, mapping: &Mapping) {
        eventually_within(PATIENCE, "the name is free", || match self.control.try_create(&mapping.object()) {
            Ok(_) => Some(()),
            Err((409, _)) => None,
            Err(other) => panic!("{other:?}"),
        });
    }
}

/// Waits until an address is dropped.
#[track_caller]
fn await_dropped(from: &Namespace, address: Ipv4Addr) {
    eventually_within(PATIENCE, &format!("{address} is not served any more"), || holds(ask(from, address).is_err()));
}

#[test]
fn a_deleted_mapping_is_out_of_the_kernel_before_its_finalizer_goes_and_the_finalizer_never_comes_back() {
    let lab = Lab::new();
    let daemon = lab.daemon().refreshing().start();
    let mut object = web("web", &[Bed::EXT1]).object();
    object["metadata"]["finalizers"] = json!([OTHER_FINALIZER]);
    lab.control.create(&object);
    let mapping = lab.await_programmed("web");
    assert_eq!(finalizers(&mapping), [OTHER_FINALIZER, FINALIZER]);
    assert_served(&lab.bed.client1, Bed::EXT1);

    let mark = lab.control.audit_mark();
    lab.delete("web");
    // As soon as the entry is gone the kernel must have let go, without any waiting.
    lab.await_mapping("web", "its entry is gone", |m| entry(m, "border").is_null());
    assert_dropped(&lab.bed.client1, Bed::EXT1);
    lab.await_mapping("web", "ours is gone, the other one is there", |m| finalizers(m) == [OTHER_FINALIZER]);
    // Whatever happens to it now is no reason to take hold of it again.
    let annotate = json!({"metadata": {"annotations": {"example.com/touched": "yes"}}});
    lab.control.patch("mapping", "default", "web", &annotate);
    daemon.passes(2);
    assert_eq!(finalizers(&lab.mapping("web")), [OTHER_FINALIZER]);
    assert_dropped(&lab.bed.client1, Bed::EXT1);
    lab.assert_quiet(&daemon);
    let added = |w: &AuditEntry| w.request.to_string().contains("\"add\"");
    assert!(!lab.writes(&mark).iter().any(added), "{:#?}", lab.writes(&mark));

    lab.json_patch("web", &json!([{"op": "remove", "path": "/metadata/finalizers"}]));
    lab.await_gone("web");
    lab.assert_quiet(&daemon);
    assert_eq!(lab.try_mapping("web"), None, "no write brought it back");
}

#[test]
fn a_name_that_is_used_twenty_times_in_a_row_leaves_neither_an_empty_object_nor_rules() {
    let lab = Lab::new();
    let daemon = lab.daemon().refreshing().start();
    let clean = ours(&lab.bed.border);
    let addresses = [Bed::EXT1, Bed::EXT1B, Bed::EXT2];
    for round in 0..20_u16 {
        let address = addresses[usize::from(round % 3)];
        lab.create_when_free(&Mapping::new("again").address(address).port(Proto::Tcp, 1000 + round, 80));
        match round % 4 {
            0 => {}
            1 => drop(lab.await_mapping("again", "it has its finalizer", |m| finalizers(m) == [FINALIZER])),
            2 => drop(lab.await_mapping("again", "it has its entry", |m| !entry(m, "border").is_null())),
            _ => drop(lab.await_programmed("again")),
        }
        lab.control.delete("mapping", "default", "again");
    }
    lab.await_gone("again");
    await_kernel(&lab.bed.border, &clean);
    lab.assert_quiet(&daemon);
    assert_eq!(lab.try_mapping("again"), None);
    // Nothing of the past clings to the name.
    lab.put(&web("again", &[Bed::EXT1]));
    lab.await_programmed("again");
    assert_served(&lab.bed.client1, Bed::EXT1);
}

#[test]
fn killed_after_the_finalizer_it_goes_on_with_what_lives_and_releases_what_does_not() {
    let lab = Lab::new();
    let mut daemon = lab.daemon().start();
    let clean = ours(&lab.bed.border);
    lab.without_right("mappings/status", || {
        lab.put(&web("lives", &[Bed::EXT1]));
        lab.put(&web("dies", &[Bed::EXT2]));
        for name in ["lives", "dies"] {
            let held = lab.await_mapping(name, "it has its finalizer", |m| finalizers(m) == [FINALIZER]);
            assert!(entry(&held, "border").is_null());
        }
        daemon.kill();
        assert_eq!(ours(&lab.bed.border), clean, "nothing is programmed before the entry is there");
    });
    lab.delete("dies");
    daemon.start_again();
    lab.await_programmed("lives");
    assert_served(&lab.bed.client1, Bed::EXT1);
    lab.await_gone("dies");
    assert_dropped(&lab.bed.client2, Bed::EXT2);
}

#[test]
fn killed_after_the_entry_it_programs_what_lives_and_withdraws_what_does_not() {
    let lab = Lab::new();
    let mut daemon = lab.daemon();
    for (name, address) in [("lives", Bed::EXT1), ("dies", Bed::EXT2)] {
        lab.put(&web(name, &[address]));
        lab.put_finalizer(name);
        lab.announce(name, address);
    }
    lab.delete("dies");
    assert_eq!(entry(&lab.mapping("dies"), "border")["programmed"], false, "it is there, with its entry");
    daemon.start_again();
    lab.await_programmed("lives");
    assert_served(&lab.bed.client1, Bed::EXT1);
    lab.await_gone("dies");
    assert_dropped(&lab.bed.client2, Bed::EXT2);
}

#[test]
fn killed_between_kernel_and_answer_it_goes_on_serving_and_cleans_up_after_what_was_deleted() {
    let lab = Lab::new();
    let mut daemon = lab.daemon().start();
    lab.put(&web("lives", &[Bed::EXT1]));
    lab.put(&web("dies", &[Bed::EXT2]));
    lab.await_programmed("lives");
    lab.await_programmed("dies");
    daemon.kill();
    lab.announce("lives", Bed::EXT1);
    lab.announce("dies", Bed::EXT2);
    lab.delete("dies");
    assert_served(&lab.bed.client1, Bed::EXT1);
    assert_served(&lab.bed.client2, Bed::EXT2);
    assert_eq!(entry(&lab.mapping("lives"), "border")["programmed"], false);
    daemon.start_again();
    assert_served(&lab.bed.client1, Bed::EXT1);
    lab.await_mapping("lives", "its entry says so", |m| entry(m, "border")["programmed"] == true);
    assert_eq!(finalizers(&lab.mapping("lives")), [FINALIZER]);
    lab.await_gone("dies");
    assert_dropped(&lab.bed.client2, Bed::EXT2);
}

#[test]
fn killed_after_the_kernel_let_go_of_a_deleted_mapping_it_takes_its_entry_away_and_releases() {
    let lab = Lab::new();
    let mut daemon = lab.daemon().start();
    let clean = ours(&lab.bed.border);
    lab.put(&web("web", &[Bed::EXT1]));
    lab.await_programmed("web");
    lab.without_right("mappings/status", || {
        lab.without_right("mappings", || {
            lab.delete("web");
            await_dropped(&lab.bed.client1, Bed::EXT1);
            daemon.kill();
        });
    });
    let left = lab.mapping("web");
    assert!(is_deleted(&left) && finalizers(&left) == [FINALIZER], "{left:#}");
    assert_eq!(entry(&left, "border")["programmed"], true);
    daemon.start_again();
    lab.await_gone("web");
    await_kernel(&lab.bed.border, &clean);
}

#[test]
fn killed_after_its_entry_went_it_releases_and_programs_nothing_again() {
    let lab = Lab::new();
    let mut daemon = lab.daemon().start();
    let clean = ours(&lab.bed.border);
    let mut object = web("web", &[Bed::EXT1]).object();
    object["metadata"]["finalizers"] = json!([OTHER_FINALIZER]);
    lab.control.create(&object);
    lab.await_programmed("web");
    lab.without_right("mappings", || {
        lab.delete("web");
        let left = lab.await_mapping("web", "its entry is gone", |m| entry(m, "border").is_null());
        assert_eq!(finalizers(&left), [OTHER_FINALIZER, FINALIZER]);
        daemon.kill();
    });
    assert_eq!(ours(&lab.bed.border), clean);
    daemon.start_again();
    lab.await_mapping("web", "ours is gone, the other one is there", |m| finalizers(m) == [OTHER_FINALIZER]);
    lab.json_patch("web", &json!([{"op": "remove", "path": "/metadata/finalizers"}]));
    lab.await_gone("web");
    assert_eq!(ours(&lab.bed.border), clean);
}

#[test]
fn what_happened_to_mappings_while_the_daemon_was_down_is_made_good_when_it_is_back() {
    let lab = Lab::new();
    let mut daemon = lab.daemon().start();
    let clean = ours(&lab.bed.border);
    lab.put(&web("deleted", &[Bed::EXT1]));
    lab.put(&web("torn-out", &[Bed::EXT2]));
    lab.put(&web("replaced", &[Bed::EXT1B]));
    for name in ["deleted", "torn-out", "replaced"] {
        lab.await_programmed(name);
    }
    assert!(daemon.stop().success());
    for name in ["deleted", "torn-out", "replaced"] {
        lab.delete(name);
    }
    for name in ["torn-out", "replaced"] {
        // Somebody lost patience.
        lab.json_patch(name, &json!([{"op": "remove", "path": "/metadata/finalizers"}]));
        assert_eq!(lab.try_mapping(name), None);
    }
    lab.put(&Mapping::new("replaced").address(Bed::EXT1B).port(Proto::Tcp, 81, 80));
    assert!(is_deleted(&lab.mapping("deleted")));
    for (client, address) in [(&lab.bed.client1, Bed::EXT1), (&lab.bed.client2, Bed::EXT2)] {
        assert_served(client, address);
    }

    daemon.start_again();
    lab.await_gone("deleted");
    lab.await_programmed("replaced");
    assert_dropped(&lab.bed.client1, Bed::EXT1);
    assert_dropped(&lab.bed.client2, Bed::EXT2);
    assert_dropped(&lab.bed.client1, Bed::EXT1B);
    let answer = lab.bed.client1.get(Proto::Tcp, Bed::EXT1B, 81);
    assert!(answer.is_ok(), "{answer:?}");
    lab.delete("replaced");
    lab.await_gone("replaced");
    await_kernel(&lab.bed.border, &clean);
}

#[test]
fn kills_at_any_moment_of_a_storm_of_creations_and_deletions_strand_nothing() {
    const NAMES: u16 = 12;
    let mapping = |n: u16| {
        let address = [Bed::EXT1, Bed::EXT1B, Bed::EXT2][usize::from(n % 3)];
        Mapping::new(&format!("storm-{n}")).address(address).port(Proto::Tcp, 2000 + n, 80)
    };
    let served = |lab: &Lab, n: u16| {
        let address = [Bed::EXT1, Bed::EXT1B, Bed::EXT2][usize::from(n % 3)];
        let client = if n % 3 == 2 { &lab.bed.client2 } else { &lab.bed.client1 };
        let request = Request::new(Proto::Tcp, SocketAddrV4::new(address, 2000 + n));
        let request = Request { timeout: Duration::from_millis(400), ..request };
        client.within(|| request.send()).is_ok()
    };
    let lab = Lab::new();
    let mut daemon = lab.daemon().start();
    let clean = ours(&lab.bed.border);

    let seed = RandomState::new().hash_one(0);
    eprintln!("the storm's seed is {seed:#x}");
    // xorshift64
    let mut state = seed | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let end = Instant::now() + Duration::from_secs(15);
    let mut next_kill = Instant::now() + Duration::from_millis(300);
    let mut wanted = BTreeSet::new();
    let mut kills = 0;
    while Instant::now() < end {
        let n = u16::try_from(random(NAMES.into())).unwrap();
        if lab.control.try_create(&mapping(n).object()).is_ok() {
            wanted.insert(n);
        } else if wanted.remove(&n) {
            lab.control.delete("mapping", "default", &format!("storm-{n}"));
        }
        if Instant::now() >= next_kill {
            daemon.kill();
            daemon.launch();
            kills += 1;
            next_kill = Instant::now() + Duration::from_millis(200 + random(1300));
        }
        // The storm's pace.
        thread::sleep(Duration::from_millis(random(30)));
    }
    daemon.kill();
    daemon.start_again();
    assert!(kills >= 5, "only {kills} kills");

    for n in 0..NAMES {
        let name = format!("storm-{n}");
        if wanted.contains(&n) {
            let mapping = lab.await_programmed(&name);
            assert_eq!(finalizers(&mapping), [FINALIZER]);
        } else {
            lab.await_gone(&name);
        }
    }
    for n in 0..NAMES {
        assert_eq!(served(&lab, n), wanted.contains(&n), "storm-{n}");
    }
    for n in &wanted {
        lab.control.delete("mapping", "default", &format!("storm-{n}"));
    }
    for n in &wanted {
        lab.await_gone(&format!("storm-{n}"));
    }
    await_kernel(&lab.bed.border, &clean);
}

/// Two hours ahead of the API server, by Debian's package `faketime`. Time that passes is real.
fn two_hours_ahead(daemon: Daemon<'_>) -> Daemon<'_> {
    const LIBRARY: &str = "/usr/$LIB/faketime/libfaketime.so.1";
    let there = std::process::Command::new("faketime").args(["-f", "+0", "true"]).status();
    assert!(there.is_ok_and(|s| s.success()), "faketime is missing: apt-get install -y faketime");
    daemon.set("LD_PRELOAD", LIBRARY).set("FAKETIME", "+2h").set("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

#[test]
fn an_instance_that_does_not_come_back_is_waited_for_as_long_as_was_set_by_the_clock_of_the_api_server() {
    const WAIT: SignedDuration = SignedDuration::from_secs(60);
    let lab = Lab::of_two();
    let _living = two_hours_ahead(lab.daemon()).set("SNCTRLR_MAX_FINALIZE_WAIT_MINUTES", "1").start();
    let mut dead = lab.second().start();
    let clean = ours(lab.bed.second());
    lab.put(&web("web", &[Bed::EXT1, Bed::SECOND_EXT1]));
    lab.await_mapping("web", "both serve it", |m| {
        ["border", "border2"].iter().all(|i| entry(m, i)["programmed"] == true)
    });
    assert_served(&lab.bed.client1, Bed::SECOND_EXT1);
    dead.kill();

    lab.delete("web");
    let left = lab.await_mapping("web", "the living one withdrew", |m| entry(m, "border").is_null());
    assert_dropped(&lab.bed.client1, Bed::EXT1);
    assert_served(&lab.bed.client1, Bed::SECOND_EXT1);
    let deleted: Timestamp = left["metadata"]["deletionTimestamp"].as_str().unwrap().parse().unwrap();
    let gone = eventually_within(Duration::from_secs(120), "it is released", || {
        lab.try_mapping("web").is_none().then(Timestamp::now)
    });
    let waited = gone.duration_since(deleted);
    // By the daemon's own clock it would have been released at once, or in two hours.
    assert!(waited >= WAIT, "released after {waited}");
    let told = eventually_within(PATIENCE, "an Event tells of it", || {
        let events = lab.control.list("event", "default");
        events.into_iter().find(|e| e["regarding"]["name"] == "web" && e["reason"] == "ForcedRelease")
    });
    assert_eq!(told["type"], "Warning");
    assert!(told["note"].as_str().unwrap().contains("border2"), "{told:#}");

    // It comes back after all.
    dead.start_again();
    await_kernel(lab.bed.second(), &clean);
    assert_dropped(&lab.bed.client1, Bed::SECOND_EXT1);
}

#[test]
fn what_the_first_smartnat_left_in_deletion_and_nobody_serves_is_released_at_the_start() {
    let lab = Lab::new();
    let mut object = web("stuck", &[Bed::EXT1]).object();
    object["metadata"]["finalizers"] = json!([FINALIZER]);
    lab.control.create(&object);
    let status = json!({"status": {
        "invalid": "no", "serviceVIP": "10.96.0.10",
        "configuredAddresses": {"203.0.113.10": {"podIPs": ["10.244.1.2", "10.244.2.2"]}},
    }});
    let path = "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/default/mappings/stuck/status\
                ?fieldManager=smartnat-manager";
    let (code, answer) = lab.control.request("PATCH", path, "application/merge-patch+json", &status.to_string());
    assert_eq!(code, 200, "{answer}");
    lab.delete("stuck");
    assert!(is_deleted(&lab.mapping("stuck")));
    let _daemon = lab.daemon().start();
    lab.await_gone("stuck");
    assert_dropped(&lab.bed.client1, Bed::EXT1);
}
