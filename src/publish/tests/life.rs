use super::*;
use crate::publish::{own_entry, statement};

#[test]
fn a_new_mapping_gets_its_finalizer_then_an_entry_and_only_then_a_verdict() {
    let fleet = fleet(&[ME]);
    let pending = outcome(ProgrammedReason::Pending);
    assert_eq!(step(&record(), Some(&pending), &fleet), Step::AddFinalizer);

    let intent = applied(step(&held(MappingStatus::default()), Some(&pending), &fleet));
    assert_eq!((intent.instances[0].name.as_str(), intent.instances[0].programmed), (ME, false));
    let announced = after(held(MappingStatus::default()), intent);
    assert_eq!(step(&announced, Some(&pending), &fleet), Step::Nothing, "the daemon is to act");

    let programmed = outcome(ProgrammedReason::Programmed);
    let status = applied(step(&announced, Some(&programmed), &fleet));
    assert_eq!(status.configured_addresses[HERE].pod_ips, [POD]);
    assert_eq!(status.invalid.as_deref(), Some("no"));
    assert_eq!(status.service_vip.as_deref(), Some("10.96.0.10"));
    assert_eq!(step(&after(announced, status), Some(&programmed), &fleet), Step::Nothing, "all is said");
}

#[test]
fn what_the_daemon_found_about_another_version_or_another_object_of_that_name_is_not_said() {
    let fleet = fleet(&[ME]);
    let old = MappingOutcome { generation: Some(0), ..outcome(ProgrammedReason::Programmed) };
    let namesake = MappingOutcome { uid: Some("u0".to_owned()), ..outcome(ProgrammedReason::Programmed) };
    for outcome in [Some(&old), Some(&namesake), None] {
        assert_eq!(step(&record(), outcome, &fleet), Step::Nothing, "{outcome:?}");
    }
}

#[test]
fn a_finalizer_that_somebody_took_away_is_put_back() {
    let programmed = outcome(ProgrammedReason::Programmed);
    let served = after(record(), applied(step(&held(MappingStatus::default()), Some(&programmed), &fleet(&[ME]))));
    assert_eq!(step(&served, Some(&programmed), &fleet(&[ME])), Step::AddFinalizer);
}

#[test]
fn a_refused_mapping_or_one_of_other_boxes_gets_no_finalizer_and_no_entry() {
    let fleet = fleet(&[ME]);
    let status = applied(step(&record(), Some(&refused(RefusalReason::Conflict)), &fleet));
    assert_eq!((status.invalid.as_deref(), status.instances.len()), (Some("it is Conflict"), 0));
    let reasons: Vec<_> =
        status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect();
    assert_eq!(reasons, [("Accepted", "False", "Conflict"), ("Programmed", "False", "Conflict")]);
    let status = applied(step(&record(), Some(&elsewhere()), &fleet));
    assert_eq!((status.conditions[1].reason.as_str(), status.instances.len()), ("NoAddressHere", 0));
}

#[test]
fn of_several_that_would_write_the_same_the_first_by_name_writes_and_the_others_wait_their_turn() {
    let both = fleet(&["border-0", ME]);
    let refused = refused(RefusalReason::Conflict);
    let Step::Wait(turn) = step(&record(), Some(&refused), &both) else { panic!("not my turn") };
    let status = applied(step_after(&record(), Some(&refused), &both, turn));
    assert_eq!(step(&after(record(), status), Some(&refused), &both), Step::Nothing, "the other one wrote it");
    // What is this instance's alone has no turn.
    assert!(matches!(
        step(&held(MappingStatus::default()), Some(&outcome(ProgrammedReason::Programmed)), &both),
        Step::Apply(_)
    ));
}

#[test]
fn an_entry_goes_when_the_mapping_is_refused_or_its_address_left_this_box() {
    let programmed = outcome(ProgrammedReason::Programmed);
    let served = after(
        held(MappingStatus::default()),
        applied(step(&held(MappingStatus::default()), Some(&programmed), &fleet(&[ME]))),
    );
    for gone in [refused(RefusalReason::Conflict), elsewhere()] {
        let status = applied(step(&served, Some(&gone), &fleet(&[ME])));
        assert_eq!((status.instances.len(), status.configured_addresses.len()), (0, 0), "{gone:?}");
    }
}

#[test]
fn conditions_keep_their_time_until_their_status_changes() {
    let programmed = outcome(ProgrammedReason::Programmed);
    let mut served = after(
        held(MappingStatus::default()),
        applied(step(&held(MappingStatus::default()), Some(&programmed), &fleet(&[ME]))),
    );
    let long_ago = Timestamp::from_second(1_600_000_000).unwrap();
    for condition in &mut served.status.conditions {
        condition.last_transition_time.0 = long_ago;
    }
    let status = applied(step(&served, Some(&outcome(ProgrammedReason::NoReadyEndpoints)), &fleet(&[ME])));
    let times: Vec<_> = status.conditions.iter().map(|c| c.last_transition_time.0).collect();
    assert_eq!(times, [long_ago, now()], "it is accepted as before, and programmed no more");
}

#[test]
fn a_foreign_status_is_dropped_before_anything_is_applied() {
    let foreign = Record { foreign_status: true, ..held(MappingStatus::default()) };
    assert_eq!(step(&foreign, Some(&outcome(ProgrammedReason::Programmed)), &fleet(&[ME])), Step::DropForeign);
}

#[test]
fn a_silent_instance_is_marked_by_others_and_takes_the_mark_away_itself() {
    let programmed = outcome(ProgrammedReason::Programmed);
    let both = MappingStatus { instances: vec![entry(OTHER, true)], ..MappingStatus::default() };
    let status = applied(step(&held(both.clone()), Some(&programmed), &fleet(&[ME, OTHER])));
    assert_eq!(status.instances.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), [ME], "it is heard");
    let served = after(held(both), status);
    assert_eq!(step(&served, Some(&programmed), &fleet(&[ME, OTHER])), Step::Nothing);

    let mut silent = fleet(&[ME]);
    silent.silent.insert(OTHER.to_owned(), None);
    let status = applied(step(&served, Some(&programmed), &silent));
    let mark = status.instances.iter().find(|i| i.name == OTHER).unwrap();
    assert_eq!(mark.silent_since.as_ref().unwrap().0, now());
    assert!(status.conditions[1].message.contains("border-2 is silent since"), "{:?}", status.conditions);

    let mut marked = served;
    for entry in &mut marked.status.instances {
        entry.silent_since = mark.silent_since.clone();
    }
    let back = |waited| step_after(&marked, Some(&programmed), &fleet(&[ME, OTHER]), waited);
    assert_eq!(back(Duration::ZERO), Step::Wait(SOON), "the others would put it back before they saw the Lease");
    assert_eq!(back(SOON), Step::ClearSilence);
    let unregistered = Fleet { standing: Standing::Unregistered { reason: String::new() }, ..fleet(&[ME, OTHER]) };
    let stays = step_after(&marked, Some(&programmed), &unregistered, HOUR);
    assert_ne!(stays, Step::ClearSilence, "the others would put it back for ever");
}

#[test]
fn who_is_marked_and_who_marked_it_say_the_same_until_the_mark_goes() {
    let programmed = outcome(ProgrammedReason::Programmed);
    let both = MappingStatus { instances: vec![entry(OTHER, true)], ..MappingStatus::default() };
    let mut record = held(both.clone());
    record.status = applied(step(&held(both), Some(&programmed), &fleet(&[ME, OTHER])));
    record.status.instances.push(entry(OTHER, true));
    for entry in &mut record.status.instances {
        entry.silent_since = (entry.name == ME).then_some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    }
    let both = fleet(&[ME, OTHER]);
    let by = |name: &str| {
        statement(&record, &programmed, own_entry(&programmed, name), name, &both, now()).status.conditions
    };
    assert_eq!(by(ME), by(OTHER));
    assert!(by(ME)[1].message.contains("border-1 is silent since"), "{:?}", by(ME));
}

#[test]
fn the_shell_of_an_entry_that_its_instance_took_away_means_nothing() {
    let programmed = outcome(ProgrammedReason::Programmed);
    let mut served = after(
        held(MappingStatus::default()),
        applied(step(&held(MappingStatus::default()), Some(&programmed), &fleet(&[ME]))),
    );
    let shell = |name: &str| MappingInstance { name: name.to_owned(), ..MappingInstance::default() };
    served.status.instances.push(shell(OTHER));
    assert_eq!(step(&served, Some(&programmed), &fleet(&[ME, OTHER])), Step::Nothing);
    let shells = MappingStatus { instances: vec![shell(ME), shell(OTHER)], ..MappingStatus::default() };
    let deleting = Record { deleting_since: Some(now()), ..held(shells) };
    let gone = refused(RefusalReason::Deleting);
    assert_eq!(step(&deleting, Some(&gone), &fleet(&[ME])), Step::Release { unconfirmed: vec![] });
}

#[test]
fn of_a_shared_address_one_instance_says_at_a_time_which_pods_are_behind_it() {
    let programmed = outcome(ProgrammedReason::Programmed);
    let both = fleet(&["border-0", ME]);
    let other = MappingStatus { instances: vec![entry("border-0", true)], ..MappingStatus::default() };
    let mut record = held(other.clone());
    record.status = applied(step(&held(other), Some(&programmed), &both));
    record.status.instances.push(entry("border-0", true));
    assert_eq!(step(&record, Some(&programmed), &both), Step::Nothing);
    let newer = vec!["10.244.1.3".to_owned()];
    record.status.configured_addresses.get_mut(HERE).unwrap().pod_ips = newer;
    assert!(matches!(step(&record, Some(&programmed), &both), Step::Wait(_)), "the other one knows more by now");
    assert!(matches!(step_after(&record, Some(&programmed), &both, SOON), Step::Apply(_)), "or it is wrong");
}

#[test]
fn a_message_of_any_length_fits_into_a_status() {
    let mut failing = outcome(ProgrammedReason::NoReadyEndpoints);
    failing.programmed.message = "ü".repeat(40_000);
    let status = applied(step(&held(MappingStatus::default()), Some(&failing), &fleet(&[ME])));
    let messages = status.conditions.iter().map(|c| &c.message).chain(status.instances.iter().map(|i| &i.message));
    assert!(messages.map(String::len).max().is_some_and(|longest| (32_000..=32_768).contains(&longest)));
}

#[test]
fn an_instance_without_any_lease_is_not_called_silent() {
    let status = MappingStatus { instances: vec![entry(OTHER, true)], ..MappingStatus::default() };
    let status = applied(step(&held(status), Some(&outcome(ProgrammedReason::Programmed)), &fleet(&[ME])));
    assert_eq!(status.instances.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), [ME]);
}
