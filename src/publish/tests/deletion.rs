use super::*;

fn deleting(status: MappingStatus, ago: Duration) -> Record {
    let since = now() - SignedDuration::try_from(ago).unwrap();
    Record { deleting_since: Some(since), ..held(status) }
}

fn entries(names: &[&str]) -> MappingStatus {
    MappingStatus { instances: names.iter().map(|n| entry(n, true)).collect(), ..MappingStatus::default() }
}

#[test]
fn the_entry_goes_only_after_the_kernel_let_go_and_the_finalizer_only_after_the_last_entry() {
    let fleet = fleet(&[ME, OTHER]);
    let gone = refused(RefusalReason::Deleting);
    for still_there in [Some(outcome(ProgrammedReason::Programmed)), None] {
        assert_eq!(step(&deleting(entries(&[ME]), SOON), still_there.as_ref(), &fleet), Step::Nothing);
    }
    let status = applied(step(&deleting(entries(&[ME, OTHER]), SOON), Some(&gone), &fleet));
    assert_eq!(status.instances, [], "mine is withdrawn, the other's is not mine to say");
    assert!(
        matches!(step(&deleting(entries(&[OTHER]), SOON), Some(&gone), &fleet), Step::Wait(_)),
        "the other one still has it"
    );
    assert_eq!(step(&deleting(entries(&[]), SOON), Some(&gone), &fleet), Step::Release { unconfirmed: vec![] });
}

#[test]
fn the_last_entry_goes_with_the_object_unless_another_finalizer_keeps_that() {
    let fleet = fleet(&[OTHER, ME]);
    let gone = refused(RefusalReason::Deleting);
    let last = deleting(entries(&[ME]), SOON);
    assert_eq!(step(&last, Some(&gone), &fleet), Step::Release { unconfirmed: vec![] }, "without waiting for a turn");
    for still_there in [Some(outcome(ProgrammedReason::Programmed)), None] {
        assert_eq!(step(&last, still_there.as_ref(), &fleet), Step::Nothing);
    }
    let kept = Record { finalizers: vec![FINALIZER.to_owned(), "example.com/other".to_owned()], ..last.clone() };
    assert_eq!(applied(step(&kept, Some(&gone), &fleet)).instances, []);
    let torn_out = Record { finalizers: vec!["example.com/other".to_owned()], ..last };
    assert_eq!(applied(step(&torn_out, Some(&gone), &fleet)).instances, []);
}

#[test]
fn a_mapping_that_nobody_served_is_released_by_anyone_also_one_that_the_daemon_never_saw_alive() {
    for outcome in [None, Some(refused(RefusalReason::Deleting))] {
        let step = step(&deleting(entries(&[]), SOON), outcome.as_ref(), &fleet(&[ME]));
        assert_eq!(step, Step::Release { unconfirmed: vec![] });
    }
}

#[test]
fn a_mapping_about_to_be_programmed_here_is_not_released_by_this_instance() {
    let pending = outcome(ProgrammedReason::Pending);
    assert_eq!(step(&deleting(entries(&[]), SOON), Some(&pending), &fleet(&[ME])), Step::Nothing);
}

#[test]
fn without_our_finalizer_there_is_nothing_to_release() {
    let free = Record { finalizers: vec!["example.com/other".to_owned()], ..deleting(entries(&[]), SOON) };
    assert_eq!(step(&free, None, &fleet(&[ME])), Step::Nothing);
}

#[test]
fn who_does_not_withdraw_is_waited_for_by_the_servers_clock_and_no_longer_than_was_set() {
    let fleet = fleet(&[ME]);
    let gone = refused(RefusalReason::Deleting);
    // This box's clock, which has nothing to say here, is hours off.
    let (behind, ahead) = (now() - SignedDuration::from_hours(5), now() + SignedDuration::from_hours(5));
    let decide_at = |ago: Duration, server_now: Option<Timestamp>| {
        let record = deleting(entries(&[OTHER]), ago);
        let [step, other] = [behind, ahead].map(|now| {
            let view = View {
                instance: ME,
                fleet: &fleet,
                max_wait: HOUR,
                seen_after: SOON,
                now,
                server_now,
                waited: Duration::ZERO,
            };
            decide(&record, Some(&gone), &view)
        });
        assert_eq!(step, other);
        step
    };
    let forced = Step::Release { unconfirmed: vec![OTHER.to_owned()] };
    assert_eq!(decide_at(HOUR, None), Step::AskClock);
    assert_eq!(decide_at(HOUR, Some(now())), forced);
    assert_eq!(decide_at(HOUR - SOON, Some(now())), Step::Wait(SOON));
}
