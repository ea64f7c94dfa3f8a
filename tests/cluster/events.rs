//! Events about Mappings: one for each cause, by whoever's write made the difference.

use bed::{Bed, Endpoints, PodState, eventually_within, holds};
use serde_json::Value;

use crate::support::{Lab, PATIENCE, condition, web};

/// Waits until the reasons of all Events about a Mapping are these, in any order.
#[track_caller]
fn await_events(lab: &Lab, name: &str, reasons: &[&str]) {
    let mut wanted: Vec<&str> = reasons.to_vec();
    wanted.sort_unstable();
    let mut last = Vec::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually_within(PATIENCE, "the Events are there", || {
            last = lab.events(name);
            last.sort_unstable();
            holds(last == wanted)
        });
    }));
    assert!(found.is_ok(), "Events of {name}: {last:?}, not {wanted:?}");
}

fn refused(reason: &'static str) -> impl Fn(&Value) -> bool {
    move |m| condition(m, "Accepted")["reason"] == reason
}

#[test]
fn each_cause_is_told_once_whatever_restarts_and_however_many_boxes_there_are() {
    let lab = Lab::of_two();
    let mut first = lab.daemon().refreshing().start();
    let second = lab.second().refreshing().start();
    lab.put(&web("holder", &[Bed::EXT1]));
    lab.await_programmed("holder");
    lab.put(&web("younger", &[Bed::EXT1]));
    lab.await_mapping("younger", "it is refused", refused("Conflict"));
    lab.put(&web("orphan", &[Bed::EXT2]).service("nobody"));
    lab.await_mapping("orphan", "it is refused", refused("ServiceNotFound"));
    await_events(&lab, "holder", &["Programmed"]);
    await_events(&lab, "younger", &["Conflict"]);
    await_events(&lab, "orphan", &["ServiceNotFound"]);

    let described = lab.control.kubectl(&["describe", "mapping", "younger"]);
    let line = described.lines().find(|l| l.contains("Warning") && l.contains("Conflict"));
    assert!(line.is_some_and(|l| l.contains("default/holder")), "{described}");
    let holder = lab.control.kubectl(&["describe", "mapping", "holder"]);
    assert!(holder.contains("border serves 203.0.113.10"), "{holder}");

    // A restart has nothing new to say.
    first.kill();
    first.start_again();
    [&first, &second].iter().for_each(|d| d.passes(3));
    for (name, reason) in [("holder", "Programmed"), ("younger", "Conflict"), ("orphan", "ServiceNotFound")] {
        await_events(&lab, name, &[reason]);
    }

    // The last pod goes and comes back.
    lab.control.apply(Endpoints::of("web").pod(Bed::POD1, PodState::Unready).object());
    lab.await_mapping("holder", "no pod is ready", |m| condition(m, "Programmed")["reason"] == "NoReadyEndpoints");
    await_events(&lab, "holder", &["Programmed", "NoReadyEndpoints"]);
    lab.control.apply(Endpoints::of("web").ready(Bed::POD1).object());
    lab.await_programmed("holder");
    // The same Event again is counted, not written anew.
    let count = || {
        let events = lab.control.list("event", "default");
        let of = |e: &&Value| e["regarding"]["name"] == "holder" && e["reason"] == "Programmed";
        let found: Vec<&Value> = events.iter().filter(of).collect();
        (found.len() == 1).then(|| found[0]["series"]["count"].as_u64()).flatten()
    };
    eventually_within(PATIENCE, "the Event is counted", || holds(count()? == 2));

    // The conflict ends when its holder goes.
    lab.delete("holder");
    lab.await_gone("holder");
    lab.await_programmed("younger");
    await_events(&lab, "younger", &["Conflict", "ConflictEnded", "Programmed"]);
    lab.put(&web("orphan", &[Bed::EXT2]));
    lab.await_programmed("orphan");
    await_events(&lab, "orphan", &["ServiceNotFound", "Accepted", "Programmed"]);
    [&first, &second].iter().for_each(|d| d.passes(3));
    await_events(&lab, "orphan", &["ServiceNotFound", "Accepted", "Programmed"]);
}
