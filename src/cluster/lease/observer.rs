use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::LeaseSpec;

use crate::cluster::Fleet;

/// Bounds of what a Lease may say about its own duration; those of `SNCTRLR_LEASE_SECONDS`.
const SHORTEST: u64 = 4;
const LONGEST: u64 = 3600;

/// One answer of the API server: what it shows was so at some moment in between.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub begun: Instant,
    pub ended: Instant,
}

/// Judges who is alive by watching Leases change, on this machine's own clock: those of the others may be wrong.
#[derive(Debug)]
pub struct Observer {
    /// Its Lease is looked at by name, too, and may lack what lists go by.
    own: String,
    /// For Leases that do not tell theirs.
    duration: Duration,
    /// Looks further apart than this have not seen what happened in between.
    longest_gap: Duration,
    last: Option<Instant>,
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    spec: LeaseSpec,
    /// From here on it was seen not to change.
    since: Instant,
    life: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unjudged,
    Alive,
    Silent,
}

impl Observer {
    pub fn new(own: String, duration: Duration, longest_gap: Duration) -> Self {
        Observer { own, duration, longest_gap, last: None, seen: BTreeMap::new() }
    }

    /// A look failed: whoever did not renew meanwhile perhaps could not. Everybody gets a full duration from the next look on.
    pub fn missed(&mut self) {
        self.last = None;
    }

    /// All Leases of instances.
    pub fn all<'a>(&mut self, look: Look, leases: impl Iterator<Item = (&'a str, &'a LeaseSpec)>) {
        self.begin(look);
        let mut before = std::mem::take(&mut self.seen);
        for (name, spec) in leases {
            let known = before.remove(name);
            self.judge(look, name, spec, known);
        }
        if let Some(own) = before.remove_entry(&self.own) {
            self.seen.extend([own]);
        }
    }

    /// One Lease, `None` when it is not there.
    pub fn one(&mut self, look: Look, name: &str, spec: Option<&LeaseSpec>) {
        self.begin(look);
        let known = self.seen.remove(name);
        if let Some(spec) = spec {
            self.judge(look, name, spec, known);
        }
    }

    fn begin(&mut self, look: Look) {
        // This process may have been stopped, too.
        if self.last.is_none_or(|last| look.begun.saturating_duration_since(last) > self.longest_gap) {
            self.seen.values_mut().for_each(|seen| seen.since = look.ended);
        }
        self.last = Some(look.ended);
    }

    fn judge(&mut self, look: Look, name: &str, spec: &LeaseSpec, known: Option<Seen>) {
        let seen = match known {
            None => Seen { spec: spec.clone(), since: look.ended, life: Life::Unjudged },
            Some(known) if known.spec != *spec => Seen { spec: spec.clone(), since: look.ended, life: Life::Alive },
            Some(known)
                if look.begun.saturating_duration_since(known.since) >= duration_of(Some(spec), self.duration) =>
            {
                Seen { life: Life::Silent, ..known }
            }
            Some(known) => known,
        };
        self.seen.insert(name.to_owned(), seen);
    }

    pub fn is_silent(&self, name: &str) -> bool {
        self.seen.get(name).is_some_and(|s| s.life == Life::Silent)
    }

    /// Fills in everything but the standing.
    pub fn fill(&self, fleet: &mut Fleet) {
        let names = |life| self.seen.iter().filter(move |(_, s)| s.life == life);
        fleet.alive = names(Life::Alive).map(|(name, _)| name.clone()).collect();
        fleet.unjudged = names(Life::Unjudged).map(|(name, _)| name.clone()).collect();
        fleet.silent =
            names(Life::Silent).map(|(name, s)| (name.clone(), s.spec.renew_time.as_ref().map(|t| t.0))).collect();
    }
}

/// How long a Lease must stand unchanged; `default` where it does not say.
pub fn duration_of(spec: Option<&LeaseSpec>, default: Duration) -> Duration {
    let own = spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    own.map_or(default, |s| Duration::from_secs(s.clamp(SHORTEST, LONGEST)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn spec(renewed: i64) -> LeaseSpec {
        LeaseSpec {
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            lease_duration_seconds: Some(40),
            ..LeaseSpec::default()
        }
    }

    /// Looks every ten seconds that take one.
    struct Bench {
        start: Instant,
        observer: Observer,
    }

    impl Bench {
        fn new() -> Self {
            Bench {
                start: Instant::now(),
                observer: Observer::new("own".into(), Duration::from_secs(40), Duration::from_secs(20)),
            }
        }

        fn look(&mut self, second: u64, leases: &[(&str, i64)]) -> Fleet {
            let begun = self.start + Duration::from_secs(second);
            let specs: Vec<_> = leases.iter().map(|(name, renewed)| (*name, spec(*renewed))).collect();
            let look = Look { begun, ended: begun + Duration::from_secs(1) };
            self.observer.all(look, specs.iter().map(|(name, spec)| (*name, spec)));
            let mut fleet = Fleet::default();
            self.observer.fill(&mut fleet);
            fleet
        }
    }

    fn lives(fleet: &Fleet) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
        (
            fleet.alive.iter().map(String::as_str).collect(),
            fleet.unjudged.iter().map(String::as_str).collect(),
            fleet.silent.keys().map(String::as_str).collect(),
        )
    }

    #[test]
    fn who_does_not_renew_for_a_whole_duration_is_silent_and_alive_again_when_it_does() {
        let mut b = Bench::new();
        assert_eq!(lives(&b.look(0, &[("a", 0), ("b", 0)])), (vec![], vec!["a", "b"], vec![]));
        for second in [10, 20, 30, 40] {
            let fleet = b.look(second, &[("a", 0), ("b", second.cast_signed())]);
            assert_eq!(lives(&fleet), (vec!["b"], vec!["a"], vec![]), "{second}");
        }
        // The first look ended at 1, so 41 is the first moment at which it stood for 40 seconds.
        let fleet = b.look(41, &[("a", 0), ("b", 41)]);
        assert_eq!(lives(&fleet), (vec!["b"], vec![], vec!["a"]));
        assert_eq!(fleet.silent["a"], Some(Timestamp::UNIX_EPOCH));
        assert!(b.observer.is_silent("a") && !b.observer.is_silent("b"));
        assert_eq!(lives(&b.look(50, &[("a", 49), ("b", 41)])), (vec!["a", "b"], vec![], vec![]));
        assert_eq!(lives(&b.look(60, &[("a", 59)])), (vec!["a"], vec![], vec![]));
    }

    #[test]
    fn after_an_outage_everybody_has_a_whole_duration_to_renew() {
        let mut b = Bench::new();
        b.look(0, &[("a", 0)]);
        b.look(10, &[("a", 9)]);
        b.observer.missed();
        for second in [100, 110, 120, 130, 140] {
            assert_eq!(lives(&b.look(second, &[("a", 9)])), (vec!["a"], vec![], vec![]), "{second}");
        }
        assert_eq!(lives(&b.look(141, &[("a", 9)])), (vec![], vec![], vec!["a"]));
        b.observer.missed();
        assert_eq!(lives(&b.look(300, &[("a", 9)])), (vec![], vec![], vec!["a"]), "an outage revives nobody");
    }

    #[test]
    fn a_process_that_was_stopped_for_long_has_seen_nothing_meanwhile() {
        let mut b = Bench::new();
        b.look(0, &[("a", 0)]);
        b.look(10, &[("a", 9)]);
        assert_eq!(lives(&b.look(1000, &[("a", 9)])), (vec!["a"], vec![], vec![]));
    }

    #[test]
    fn the_own_lease_is_judged_by_looks_at_it_alone_where_no_list_shows_it() {
        let mut b = Bench::new();
        for second in [0, 10, 20, 30, 41] {
            let begun = b.start + Duration::from_secs(second);
            b.observer.one(Look { begun, ended: begun + Duration::from_secs(1) }, "own", Some(&spec(0)));
            assert_eq!(lives(&b.look(second, &[])).2, if second == 41 { vec!["own"] } else { vec![] }, "{second}");
        }
        let now = b.start + Duration::from_secs(50);
        b.observer.one(Look { begun: now, ended: now }, "own", None);
        assert_eq!(b.look(51, &[]), Fleet::default());
    }

    #[test]
    fn the_lease_itself_says_how_long_it_lasts_within_bounds() {
        for (given, seconds) in [(None, 40), (Some(100), 100), (Some(0), 4), (Some(-1), 40), (Some(i32::MAX), 3600)] {
            let spec = LeaseSpec { lease_duration_seconds: given, ..LeaseSpec::default() };
            assert_eq!(duration_of(Some(&spec), Duration::from_secs(40)), Duration::from_secs(seconds), "{given:?}");
        }
    }
}
