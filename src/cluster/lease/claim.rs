use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::{LABEL, PROGRAM};
use crate::cluster::machine;

/// What is to be done about the Lease under this instance's name.
#[derive(Debug, PartialEq)]
pub enum Step {
    Create(Lease),
    /// Replace the Lease that was looked at by this one.
    Replace(Lease),
    /// It is somebody else's; why nothing is served here, and what to do.
    Refused(String),
}

/// This process's claim on the name.
#[derive(Debug)]
pub struct Claim {
    pub namespace: String,
    pub instance: String,
    pub machine: String,
    pub duration: Duration,
    tenure: Tenure,
}

/// Machine ids of cloned machines are the same. So a process knows its own Lease by the time at which it took it, too.
#[derive(Debug, Clone, PartialEq)]
enum Tenure {
    /// Nothing was taken yet.
    None,
    /// `after` is when the process before us on a machine with our id took it; it is over, unless it comes again.
    Since { taken: MicroTime, after: Option<MicroTime> },
    /// Another process with our machine id goes on renewing.
    Yielded,
}

impl Claim {
    pub fn new(namespace: String, instance: String, machine: String, duration: Duration) -> Self {
        Claim { namespace, instance, machine, duration, tenure: Tenure::None }
    }

    /// `silent`: the Lease was watched for its whole duration and not renewed.
    pub fn step(&self, current: Option<&Lease>, silent: bool, now: Timestamp) -> Step {
        let Some(lease) = current else { return Step::Create(self.taken(ObjectMeta::default(), 0, now)) };
        let spec = lease.spec.clone().unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or_default();
        let take = |more: i32| Step::Replace(self.taken(lease.metadata.clone(), transitions.saturating_add(more), now));
        match spec.holder_identity.as_deref() {
            None | Some("") => take(1),
            Some(holder) if holder != self.machine => {
                if silent {
                    take(1)
                } else {
                    Step::Refused(self.held_by_another(holder, &spec))
                }
            }
            Some(_) => match &self.tenure {
                Tenure::None => take(0),
                // Who wrote over it came later than we did, and will see that we are here.
                Tenure::Since { after, .. } if after.is_none() || spec.acquire_time != *after => {
                    self.renewed(lease, transitions, now)
                }
                _ if silent => take(0),
                _ => Step::Refused(self.held_by_a_clone()),
            },
        }
    }

    /// The API server has taken the write.
    pub fn wrote(&mut self, before: Option<&Lease>, written: &Lease) {
        let acquired = |lease: &Lease| lease.spec.as_ref().and_then(|s| s.acquire_time.clone());
        let Some(taken) = acquired(written) else { return };
        if matches!(&self.tenure, Tenure::Since { taken: known, .. } if *known == taken) {
            return;
        }
        let after = before.filter(|b| self.is_ours(b)).and_then(acquired);
        self.tenure = Tenure::Since { taken, after };
    }

    pub fn refused(&mut self) {
        self.tenure = Tenure::Yielded;
    }

    /// Whether a process that began later on a machine with our id has written over our Lease.
    pub fn is_disputed_by(&self, lease: &Lease) -> bool {
        let acquired = lease.spec.as_ref().and_then(|s| s.acquire_time.as_ref());
        let mut known = match &self.tenure {
            Tenure::Since { taken, after } => after.iter().chain([taken]),
            Tenure::None | Tenure::Yielded => return false,
        };
        self.is_ours(lease) && known.all(|time| Some(time) != acquired)
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().is_some_and(|s| s.holder_identity.as_ref() == Some(&self.machine))
    }

    fn renewed(&self, lease: &Lease, transitions: i32, now: Timestamp) -> Step {
        let mut renewed = self.taken(lease.metadata.clone(), transitions, now);
        if let (Some(spec), Tenure::Since { taken, .. }) = (&mut renewed.spec, &self.tenure) {
            spec.acquire_time = Some(taken.clone());
        }
        Step::Replace(renewed)
    }

    fn taken(&self, mut metadata: ObjectMeta, transitions: i32, now: Timestamp) -> Lease {
        metadata.name = Some(self.instance.clone());
        metadata.namespace = Some(self.namespace.clone());
        metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), PROGRAM.to_owned());
        let now = MicroTime(micros(now));
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.machine.clone()),
                // At most an hour.
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                lease_transitions: Some(transitions),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    fn held_by_another(&self, holder: &str, spec: &LeaseSpec) -> String {
        let since = spec.acquire_time.as_ref().map_or_else(String::new, |t| format!(" since {:.0}", t.0));
        format!(
            "the name {name} is held by another machine{since}: Lease {namespace}/{name} has the holder {holder}, this machine is {own}; nothing \
             is served or written under it here, and what is in the kernel stays. Give one of the two another SNCTRLR_INSTANCE_NAME. If \
             that machine is gone for good, this one takes over when the Lease was not renewed for {seconds} s, or at once after \
             `smartnat-manager forget {name}`",
            name = self.instance,
            namespace = self.namespace,
            holder = machine::short(holder),
            own = machine::short(&self.machine),
            seconds = spec.lease_duration_seconds.unwrap_or_default(),
        )
    }

    fn held_by_a_clone(&self) -> String {
        format!(
            "the name {name} is held by another machine (or process) with the same machine id {own}, which goes on renewing Lease \
             {namespace}/{name}; nothing is served or written under it here, and what is in the kernel stays. Is this machine a clone? Give \
             it a machine id of its own (rm /etc/machine-id; systemd-machine-id-setup) and another SNCTRLR_INSTANCE_NAME, and restart",
            name = self.instance,
            namespace = self.namespace,
            own = machine::short(&self.machine),
        )
    }
}

/// As much of a time as stands in a Lease.
fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn claim(machine: &str) -> Claim {
        Claim::new("smartnat-system".into(), "border".into(), machine.into(), Duration::from_secs(40))
    }

    /// The Lease after a step that must be a write, as the API server keeps it.
    fn write(claim: &mut Claim, current: Option<&Lease>, silent: bool, second: i64) -> Lease {
        let step = claim.step(current, silent, at(second));
        let (Step::Create(mut lease) | Step::Replace(mut lease)) = step else { panic!("{step:?}") };
        lease.metadata.resource_version = Some(second.to_string());
        claim.wrote(current, &lease);
        lease
    }

    fn refusal(claim: &mut Claim, current: &Lease) -> String {
        let step = claim.step(Some(current), false, at(9999));
        claim.refused();
        let Step::Refused(reason) = step else { panic!("{step:?}") };
        reason
    }

    fn times(lease: &Lease) -> (i64, i64, i32) {
        let spec = lease.spec.as_ref().unwrap();
        let second = |t: &Option<MicroTime>| t.as_ref().unwrap().0.as_second();
        (second(&spec.acquire_time), second(&spec.renew_time), spec.lease_transitions.unwrap())
    }

    #[test]
    fn a_free_name_is_taken_and_renewed_on_the_version_that_was_seen() {
        let mut a = claim("aaaaaaaaaaaa");
        let taken = write(&mut a, None, false, 1);
        assert_eq!(taken.metadata.labels.as_ref().unwrap()[LABEL], PROGRAM);
        assert_eq!(taken.spec.as_ref().unwrap().lease_duration_seconds, Some(40));
        assert_eq!(times(&taken), (1, 1, 0));
        let renewed = write(&mut a, Some(&taken), false, 11);
        assert_eq!(times(&renewed), (1, 11, 0));
        let Step::Replace(next) = a.step(Some(&renewed), false, at(21)) else { panic!() };
        assert_eq!(next.metadata.resource_version.as_deref(), Some("11"));
    }

    #[test]
    fn another_machine_is_refused_until_the_holder_is_silent() {
        let held = write(&mut claim("aaaaaaaaaaaa"), None, false, 1);
        let mut b = claim("bbbbbbbbbbbb");
        let reason = refusal(&mut b, &held);
        for part in [
            "border",
            "aaaaaaaa,",
            "bbbbbbbb;",
            "1970-01-01T00:00:01Z",
            "40 s",
            "SNCTRLR_INSTANCE_NAME",
            "forget border",
        ] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        assert_eq!(times(&write(&mut b, Some(&held), true, 60)), (60, 60, 1));
    }

    #[test]
    fn the_same_machine_takes_its_name_at_once_and_one_that_lost_it_does_not() {
        let mut a = claim("a");
        let first = write(&mut a, None, false, 1);
        let again = write(&mut claim("a"), Some(&first), false, 5);
        assert_eq!(times(&again), (5, 5, 0));
        let taken = write(&mut claim("b"), Some(&first), true, 60);
        assert!(refusal(&mut a, &taken).contains("another machine since"));
    }

    #[test]
    fn a_lease_without_holder_is_free() {
        let mut lease = write(&mut claim("a"), None, false, 1);
        lease.spec.as_mut().unwrap().holder_identity = None;
        assert_eq!(times(&write(&mut claim("b"), Some(&lease), false, 2)), (2, 2, 1));
    }

    #[test]
    fn of_two_with_one_machine_id_the_elder_stays_and_the_younger_is_refused_also_when_the_elder_restarts() {
        let (mut elder, mut younger) = (claim("a"), claim("a"));
        let first = write(&mut elder, None, false, 1);
        let claimed = write(&mut younger, Some(&first), false, 5);
        assert!(elder.is_disputed_by(&claimed) && !elder.is_disputed_by(&first));
        let back = write(&mut elder, Some(&claimed), false, 6);
        assert_eq!(times(&back), (1, 6, 0));
        assert!(!younger.is_disputed_by(&back));
        assert!(refusal(&mut younger, &back).contains("same machine id a"));
        let restarted = write(&mut claim("a"), Some(&back), false, 20);
        assert!(refusal(&mut younger, &restarted).contains("same machine id a"));
        assert_eq!(times(&write(&mut younger, Some(&restarted), true, 90)).0, 90, "when the elder is gone for good");
    }
}
