//! Very many changes at once: what is written is bounded, and the last state is right.

use std::time::{Duration, Instant};

use bed::peer::Proto;
use bed::{Bed, Endpoints, Mapping, PodState, eventually_within, holds};
use serde_json::{Value, json};

use crate::support::{Lab, condition, status_writes, writes};

const MANY: usize = 1_000;
/// A hundred times what it takes on two cores alone.
const PATIENCE: Duration = Duration::from_secs(180);

fn name(n: usize) -> String {
    format!("m-{n:04}")
}

fn numbered(n: usize) -> Mapping {
    let port = u16::try_from(10_000 + n).unwrap();
    Mapping::new(&name(n)).address(Bed::EXT1).port(Proto::Tcp, port, 80)
}

#[test]
fn a_thousand_mappings_made_and_deleted_in_one_go_are_all_served_and_all_gone_with_bounded_writes() {
    let lab = Lab::new();
    let daemon = lab.daemon().refreshing().start();
    let clean = ours(&lab);
    let mark = lab.control.audit_mark();
    let passes = daemon.metric("smartnat_passes_total", "");
    let begun = Instant::now();
    by_several(|n| lab.control.create_all([numbered(n).object()]));
    let created = begun.elapsed();
    eventually_within(PATIENCE, "all say that they are programmed", || {
        let mappings = lab.control.list("mapping", "default");
        let done = mappings.iter().filter(|m| condition(m, "Programmed")["status"] == "True").count();
        holds(done == MANY)
    });
    let programmed = begun.elapsed();
    for n in [0, MANY / 2, MANY - 1] {
        let port = u16::try_from(10_000 + n).unwrap();
        assert!(lab.bed.client1.get(Proto::Tcp, Bed::EXT1, port).is_ok(), "port {port}");
    }
    let written = writes(&lab, &mark);
    let (finalizers, statuses) = (count(&written, "mappings"), count(&written, "mappings/status"));
    let passes = daemon.metric("smartnat_passes_total", "") - passes;
    println!(
        "{MANY} Mappings created in {created:.1?}, programmed after {programmed:.1?}: {finalizers} writes of finalizers, {statuses} of \
         statuses, {} of Events, {passes} passes",
        count(&written, "events")
    );
    assert_eq!(finalizers, MANY);
    assert!((MANY..=2 * MANY).contains(&statuses), "{statuses} writes of statuses");
    assert!(count(&written, "events") <= MANY);
    // What comes together is planned together, however quick a pass is.
    assert!(passes < MANY as f64 / 4.0, "{passes} passes in {programmed:.1?}");

    // Events wait for all that is more urgent.
    let mark = eventually_within(PATIENCE, "nothing is written any more", || {
        let mark = lab.control.audit_mark();
        daemon.passes(4);
        writes(&lab, &mark).is_empty().then_some(mark)
    });

    let begun = Instant::now();
    by_several(|n| lab.control.delete("mapping", "default", &name(n)));
    let asked = begun.elapsed();
    eventually_within(PATIENCE, "all are gone", || holds(lab.control.list("mapping", "default").is_empty()));
    let written = writes(&lab, &mark);
    let (finalizers, statuses) = (count(&written, "mappings"), count(&written, "mappings/status"));
    println!(
        "deletion asked for in {asked:.1?}, all gone after {:.1?}: {finalizers} writes of finalizers, {statuses} of statuses",
        begun.elapsed()
    );
    // What goes as a whole needs no status first.
    assert_eq!((finalizers, statuses), (MANY, 0));
    let port = |n: usize| u16::try_from(10_000 + n).unwrap();
    assert!(lab.bed.client1.get(Proto::Tcp, Bed::EXT1, port(0)).is_err());
    assert_eq!(ours(&lab), clean);
}

/// Rules, chains and sets in the border, without counters.
fn ours(lab: &Lab) -> Vec<String> {
    let rules = lab.bed.border.run("iptables-save");
    let sets = lab.bed.border.run("ipset list -name");
    let bare = |line: &str| line.split(" [").next().unwrap_or_default().to_owned();
    rules.lines().filter(|l| l.starts_with(['-', ':'])).map(bare).chain(sets.lines().map(str::to_owned)).collect()
}

/// Does it for all numbers, a few at a time.
fn by_several(each: impl Fn(usize) + Sync) {
    const CLIENTS: usize = 4;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let each = &each;
            scope.spawn(move || (client..MANY).step_by(CLIENTS).for_each(each));
        }
    });
}

fn count(written: &[bed::cluster::AuditEntry], resource: &str) -> usize {
    written.iter().filter(|w| w.resource == resource).count()
}

#[test]
fn pods_that_flap_cause_a_bounded_number_of_writes_and_the_last_state_stands() {
    const CHANGES: u32 = 50;
    let lab = Lab::new();
    let daemon = lab.daemon().refreshing().start();
    lab.put(&crate::support::web("web", &[Bed::EXT1]));
    lab.await_programmed("web");
    let mark = lab.control.audit_mark();
    let begun = Instant::now();
    let slice = |state: PodState| Endpoints::of("web").ready(Bed::POD1).pod(Bed::POD2, state).object();
    for n in 0..CHANGES {
        let state = if n % 2 == 0 { PodState::Unready } else { PodState::Ready };
        let endpoints = json!({"endpoints": slice(state)["endpoints"]});
        lab.control.patch("endpointslice", "default", "web-1", &endpoints);
        // Not an awaited condition but the pace of the pods.
        std::thread::sleep((Duration::from_secs(5) / CHANGES * (n + 1)).saturating_sub(begun.elapsed()));
    }
    let endpoints = json!({"endpoints": slice(PodState::Unready)["endpoints"]});
    lab.control.patch("endpointslice", "default", "web-1", &endpoints);
    let pods = |m: &Value| m["status"]["configuredAddresses"][Bed::EXT1.to_string()]["podIPs"].clone();
    let right = json!([Bed::POD1]);
    lab.await_mapping("web", "the pod that is ready", |m| pods(m) == right);
    // What was held back has come by then.
    eventually_within(PATIENCE, "nothing is written any more", || {
        let quiet = lab.control.audit_mark();
        daemon.passes(7);
        holds(status_writes(&lab, &quiet).is_empty())
    });
    assert_eq!(pods(&lab.mapping("web")), right);
    let written = status_writes(&lab, &mark).len();
    println!("{written} writes of a status for {CHANGES} changes in {:.1?}", begun.elapsed());
    assert!((1..=16).contains(&written), "{written} writes");
}
