//! Two border boxes answer in the same Mappings: each its own part, and both the same about what is shared.

use std::net::Ipv4Addr;

use bed::cluster::Mark;
use bed::peer::Proto;
use bed::{Bed, Daemon, Endpoints, Mapping, eventually_within, holds};
use serde_json::{Value, json};

use crate::support::{Lab, PATIENCE, ask, assert_dropped, assert_served, condition, entry, status_writes, web};

/// Assigned to both boxes.
const SHARED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

/// Both boxes, serving.
fn both<'a>(lab: &'a Lab, lease: &str) -> [Daemon<'a>; 2] {
    [lab.daemon(), lab.second()].map(|d| d.refreshing().set("SNCTRLR_LEASE_SECONDS", lease).start())
}

fn reason(mapping: &Value) -> Value {
    condition(mapping, "Programmed")["reason"].clone()
}

fn message(mapping: &Value) -> String {
    condition(mapping, "Programmed")["message"].as_str().unwrap_or_default().to_owned()
}

/// Nothing is written to any Mapping while each box looks at everything several times.
#[track_caller]
fn assert_quiet(lab: &Lab, daemons: &[Daemon]) {
    let mark = lab.control.audit_mark();
    daemons.iter().for_each(|d| d.passes(4));
    let written = status_writes(lab, &mark);
    assert!(written.is_empty(), "{} writes, the last {:#?}", written.len(), written.last());
}

fn writes_with(lab: &Lab, mark: &Mark, text: &str) -> usize {
    status_writes(lab, mark).iter().filter(|w| w.request.to_string().contains(text)).count()
}

#[test]
fn each_box_serves_its_own_addresses_and_a_mapping_is_programmed_when_each_is_served_by_one() {
    let lab = Lab::of_two();
    lab.put(&web("web", &[Bed::EXT1, Bed::SECOND_EXT2]));
    let daemons = both(&lab, "40");
    let mapping = lab.await_programmed("web");
    assert_served(&lab.bed.client1, Bed::EXT1);
    assert_served(&lab.bed.client2, Bed::SECOND_EXT2);
    assert_eq!(entry(&mapping, "border")["addresses"], json!([Bed::EXT1]));
    assert_eq!(entry(&mapping, "border2")["addresses"], json!([Bed::SECOND_EXT2]));
    let pods = json!({"podIPs": [Bed::POD1, Bed::POD2]});
    assert_eq!(
        mapping["status"]["configuredAddresses"],
        json!({Bed::EXT1.to_string(): pods, Bed::SECOND_EXT2.to_string(): pods})
    );

    lab.put(&web("web", &[Bed::EXT1, Bed::SECOND_EXT2, NOWHERE]));
    let partial = lab.await_mapping("web", "one address is nowhere", |m| reason(m) == "PartiallyProgrammed");
    assert!(message(&partial).contains(&NOWHERE.to_string()), "{partial:#}");
    assert_eq!(condition(&partial, "Programmed")["status"], "False");

    lab.put(&web("web", &[Bed::SECOND_EXT2]));
    let left = lab.await_mapping("web", "the first box has no part in it", |m| {
        entry(m, "border").is_null() && condition(m, "Programmed")["status"] == "True"
    });
    assert_eq!(left["status"]["configuredAddresses"], json!({Bed::SECOND_EXT2.to_string(): pods}));
    assert_dropped(&lab.bed.client1, Bed::EXT1);
    assert_served(&lab.bed.client2, Bed::SECOND_EXT2);
    assert_quiet(&lab, &daemons);
}

#[test]
fn boxes_that_share_an_address_say_the_same_of_it_and_do_not_write_against_each_other() {
    let lab = Lab::of_two();
    lab.bed.border.ip(&format!("address add {SHARED}/24 dev eth1"));
    // On an interface in another network: only the first box answers for it by ARP.
    lab.bed.second().ip(&format!("address add {SHARED}/32 dev eth2"));
    lab.put(&web("web", &[SHARED]));
    let daemons = both(&lab, "40");
    let pods = |m: &Value| m["status"]["configuredAddresses"][SHARED.to_string()]["podIPs"].clone();
    lab.await_mapping("web", "both serve it", |m| {
        ["border", "border2"]
            .iter()
            .all(|i| entry(m, i)["programmed"] == true && entry(m, i)["addresses"] == json!([SHARED]))
            && pods(m) == json!([Bed::POD1, Bed::POD2])
    });
    assert_served(&lab.bed.client1, SHARED);
    assert_quiet(&lab, &daemons);

    let mark = lab.control.audit_mark();
    for round in 0..6 {
        let pod = if round % 2 == 0 { Bed::POD1 } else { Bed::POD2 };
        lab.control.apply(Endpoints::of("web").ready(pod).object());
        lab.await_mapping("web", "the pod that is left", |m| pods(m) == json!([pod]));
    }
    daemons.iter().for_each(|d| d.passes(4));
    let written = status_writes(&lab, &mark);
    assert!((6..=9).contains(&written.len()), "{} writes for 6 changes: {written:#?}", written.len());
    assert_quiet(&lab, &daemons);

    // One of them loses the address; the other's part stays.
    lab.bed.border.ip(&format!("address del {SHARED}/24 dev eth1"));
    let left = lab.await_mapping("web", "the second box alone", |m| {
        entry(m, "border").is_null() && pods(m) == json!([Bed::POD2])
    });
    assert_eq!(condition(&left, "Programmed")["status"], "True", "{left:#}");
    assert_quiet(&lab, &daemons);
}

#[test]
fn a_box_that_dies_is_shown_and_can_be_forgotten_and_is_taken_back_when_it_returns() {
    let lab = Lab::of_two();
    lab.put(&web("web", &[Bed::EXT1, Bed::SECOND_EXT1]));
    lab.put(&web("theirs", &[Bed::SECOND_EXT2]));
    let [first, mut second] = both(&lab, "4");
    for name in ["web", "theirs"] {
        lab.await_programmed(name);
    }
    second.kill();
    let silent = |m: &Value| entry(m, "border2")["silentSince"].is_string();
    let web = lab.await_mapping("web", "the dead one is marked", |m| silent(m) && reason(m) == "PartiallyProgrammed");
    let theirs = lab.await_mapping("theirs", "the dead one is marked", |m| silent(m) && reason(m) == "InstanceSilent");
    for mapping in [&web, &theirs] {
        assert!(message(mapping).contains("border2 is silent since"), "{mapping:#}");
    }
    assert!(message(&web).contains(&Bed::SECOND_EXT1.to_string()), "{web:#}");
    assert_served(&lab.bed.client1, Bed::EXT1);
    assert_quiet(&lab, std::slice::from_ref(&first));

    // It comes back as it was: it serves, and the mark goes, once.
    let mark = lab.control.audit_mark();
    second.start_again();
    for name in ["web", "theirs"] {
        lab.await_mapping(name, "the mark is gone", |m| !silent(m) && condition(m, "Programmed")["status"] == "True");
    }
    assert_served(&lab.bed.client1, Bed::SECOND_EXT1);
    let daemons = [first, second];
    assert_quiet(&lab, &daemons);
    assert_eq!(writes_with(&lab, &mark, "remove"), 2, "{:#?}", status_writes(&lab, &mark));
    let count = status_writes(&lab, &mark).len();
    assert!(count <= 6, "{count} writes for 2 Mappings: {:#?}", status_writes(&lab, &mark));
    let [first, mut second] = daemons;

    // It dies for good.
    second.kill();
    lab.await_mapping("theirs", "the dead one is marked again", silent);
    let forgotten = first.command(&["forget", "border2"]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    let web = lab
        .await_mapping("web", "it is forgotten", |m| entry(m, "border2").is_null() && !message(m).contains("silent"));
    assert_eq!(reason(&web), "PartiallyProgrammed");
    assert_eq!(web["status"]["configuredAddresses"].as_object().map(|a| a.len()), Some(1), "{web:#}");
    lab.await_mapping("theirs", "it is nobody's", |m| reason(m) == "NoAddressHere" && entry(m, "border2").is_null());
    assert_served(&lab.bed.client1, Bed::EXT1);
    assert_quiet(&lab, std::slice::from_ref(&first));

    second.start_again();
    for name in ["web", "theirs"] {
        lab.await_programmed(name);
    }
    assert_served(&lab.bed.client1, Bed::SECOND_EXT1);
    for name in ["web", "theirs"] {
        lab.delete(name);
        lab.await_gone(name);
    }
}

#[test]
fn what_was_marked_by_one_that_serves_nothing_of_it_is_deleted_like_anything_else() {
    let lab = Lab::of_two();
    lab.put(&web("theirs", &[Bed::SECOND_EXT2]));
    let [_first, mut second] = both(&lab, "4");
    lab.await_programmed("theirs");
    second.kill();
    let silent = |m: &Value| entry(m, "border2")["silentSince"].is_string();
    lab.await_mapping("theirs", "the dead one is marked", silent);
    second.start_again();
    lab.await_mapping("theirs", "the mark is gone", |m| !silent(m));
    lab.delete("theirs");
    lab.await_gone("theirs");
    assert_dropped(&lab.bed.client2, Bed::SECOND_EXT2);
}

#[test]
fn restarts_within_a_lease_are_seen_by_nobody() {
    let lab = Lab::of_two();
    lab.put(&web("web", &[Bed::EXT1, Bed::SECOND_EXT1]));
    let mut daemons = both(&lab, "40");
    lab.await_programmed("web");
    assert_quiet(&lab, &daemons);
    let mark = lab.control.audit_mark();
    for daemon in &mut daemons {
        daemon.kill();
        daemon.start_again();
        assert!(daemon.stop().success());
        daemon.start_again();
    }
    assert_quiet(&lab, &daemons);
    let written = status_writes(&lab, &mark);
    assert!(written.is_empty(), "{written:#?}");
    assert_served(&lab.bed.client1, Bed::EXT1);
    assert_served(&lab.bed.client1, Bed::SECOND_EXT1);
}

#[test]
fn boxes_with_different_limits_of_ports_agree_about_a_mapping_between_them() {
    let lab = Lab::of_two();
    let twenty = [Bed::EXT1, Bed::SECOND_EXT1].iter().fold(Mapping::new("many"), |m, a| m.address(*a));
    lab.put(&(1..=20).fold(twenty, |m, n| m.port(Proto::Tcp, 79 + n, 80)));
    let few = lab.daemon().refreshing().set("SNCTRLR_MAX_PORTS_PER_MAPPING", "10").start();
    let more = lab.second().refreshing().set("SNCTRLR_MAX_PORTS_PER_MAPPING", "50").start();
    let daemons = [few, more];
    let mapping = lab.await_mapping("many", "both have said what they do", |m| {
        entry(m, "border")["reason"] == "TooManyPorts"
            && entry(m, "border2")["programmed"] == true
            && reason(m) == "TooManyPorts"
    });
    assert_eq!(condition(&mapping, "Accepted")["status"], "True", "one of them serves it");
    assert!(message(&mapping).contains("border: "), "{mapping:#}");
    assert_eq!(mapping["status"]["serviceVIP"], "10.96.0.10");
    assert_served(&lab.bed.client1, Bed::SECOND_EXT1);
    assert!(ask(&lab.bed.client1, Bed::EXT1).is_err());
    assert_quiet(&lab, &daemons);
    // One, if the box with the lower limit answered first, alone.
    assert!(lab.events("many").iter().filter(|r| *r == "TooManyPorts").count() <= 1, "{:?}", lab.events("many"));
}

#[test]
fn two_that_start_at_once_do_not_both_write_what_either_could() {
    const EACH: usize = 50;
    let lab = Lab::of_two();
    lab.put(&web("holder", &[Bed::EXT1]));
    lab.control.create_all((0..EACH).flat_map(|n| {
        let younger = web(&format!("younger-{n}"), &[Bed::EXT1]);
        let port = 1_000 + u16::try_from(n).unwrap();
        let orphan =
            Mapping::new(&format!("orphan-{n}")).address(Bed::EXT2).service("nobody").port(Proto::Tcp, port, 80);
        [younger, orphan].map(|m| m.object())
    }));
    let mark = lab.control.audit_mark();
    let mut daemons = [lab.daemon(), lab.second()].map(Daemon::refreshing);
    daemons.iter_mut().for_each(Daemon::launch);
    eventually_within(PATIENCE, "all are answered", || {
        let mappings = lab.control.list("mapping", "default");
        let answered = |m: &Value| {
            let name = m["metadata"]["name"].as_str().unwrap_or_default();
            let wanted = if name.starts_with("younger") { "Conflict" } else { "ServiceNotFound" };
            name == "holder" || condition(m, "Accepted")["reason"] == wanted
        };
        holds(mappings.len() == 2 * EACH + 1 && mappings.iter().all(answered))
    });
    lab.await_programmed("holder");
    assert_quiet(&lab, &daemons);
    let written = status_writes(&lab, &mark).iter().filter(|w| w.name != "holder").count();
    println!("{written} writes of status for {} Mappings", 2 * EACH);
    assert!((2 * EACH..=2 * EACH + 5).contains(&written), "{written} writes for {} Mappings", 2 * EACH);
}
