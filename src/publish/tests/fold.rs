use super::*;
use crate::publish::{Shared, shared};

fn addresses(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

fn said(outcome: &MappingOutcome, wanted: &[&str], instances: &[MappingInstance]) -> Shared {
    shared(outcome, &addresses(wanted), instances)
}

fn programmed(wanted: &[&str], instances: &[MappingInstance]) -> (bool, String, String) {
    let verdict = said(&elsewhere(), wanted, instances).programmed;
    (verdict.ok, verdict.reason, verdict.message)
}

fn silent(name: &str) -> MappingInstance {
    let since = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
    MappingInstance { silent_since: Some(since), ..entry(name, true) }
}

#[test]
fn it_is_programmed_when_every_address_is_served_by_somebody_who_is_heard() {
    let far = MappingInstance { addresses: addresses(&["198.51.100.10"]), ..entry(OTHER, true) };
    let (ok, _, message) = programmed(&[HERE, "198.51.100.10"], &[entry(ME, true), far.clone()]);
    assert!(ok && message.contains("border-1, border-2"), "{message}");
    let (ok, reason, message) = programmed(&[HERE, "198.51.100.99"], &[entry(ME, true), far]);
    assert_eq!((ok, reason.as_str()), (false, "PartiallyProgrammed"));
    assert!(message.contains("198.51.100.99"), "{message}");
    assert_eq!(programmed(&[HERE], &[]).1, "NoAddressHere");
}

#[test]
fn one_instance_that_fails_is_told_with_its_name_and_reason() {
    let (ok, reason, message) = programmed(&[HERE], &[entry(ME, true), entry(OTHER, false)]);
    assert_eq!((ok, reason.as_str()), (false, "NoReadyEndpoints"));
    assert!(message.starts_with("border-2: "), "{message}");
}

#[test]
fn what_an_instance_notes_is_told_with_its_name() {
    let noted =
        MappingInstance { message: "2 endpoints on this box; note: x; note: y".to_owned(), ..entry(OTHER, true) };
    let (ok, reason, message) = programmed(&[HERE], &[entry(ME, true), noted]);
    assert_eq!((ok, reason.as_str()), (true, "Programmed"));
    assert_eq!(message, "the address served by border-1, border-2; border-2 notes: x; note: y");
}

#[test]
fn a_silent_instance_serves_nobody_as_far_as_is_known() {
    let (ok, reason, message) = programmed(&[HERE], &[silent(OTHER)]);
    assert_eq!((ok, reason.as_str()), (false, "InstanceSilent"));
    assert!(message.contains(OTHER), "{message}");
    let (ok, _, message) = programmed(&[HERE], &[entry(ME, true), silent(OTHER)]);
    assert!(ok && message.contains("border-2 is silent since 2023-11-14"), "{message}");
}

#[test]
fn a_limit_of_ports_that_only_some_instances_have_refuses_nothing_for_the_others() {
    let limited = MappingInstance { reason: "TooManyPorts".to_owned(), addresses: vec![], ..entry(OTHER, false) };
    let outcome = outcome(ProgrammedReason::Programmed);
    let alone = said(&outcome, &[HERE], std::slice::from_ref(&limited));
    assert_eq!((alone.accepted.ok, alone.accepted.reason.as_str()), (false, "TooManyPorts"));
    let both = said(&outcome, &[HERE], &[entry(ME, true), limited.clone()]);
    assert!(both.accepted.ok);
    // Two instances of different settings say the same, or each would undo the other's status for ever.
    let of_the_limited = refused(RefusalReason::TooManyPorts);
    let by_the_limited = said(
        &MappingOutcome { service_vip: outcome.service_vip, ..of_the_limited },
        &[HERE],
        &[entry(ME, true), limited],
    );
    assert_eq!(by_the_limited, both);
}
