use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// The instances of a cluster as their Leases show them, seen from this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    pub standing: Standing,
    /// Names of instances whose Lease is being renewed; this one among them while it holds its own.
    pub alive: BTreeSet<String>,
    /// Names of instances whose Lease has not been watched for long enough to tell.
    pub unjudged: BTreeSet<String>,
    /// Names of instances whose Lease stands there and is not renewed, with the last renewal that it tells.
    pub silent: BTreeMap<String, Option<Timestamp>>,
}

/// What this instance's own Lease says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Standing {
    /// The API has not answered yet.
    #[default]
    Unknown,
    /// The name is this machine's.
    Held,
    /// The Lease cannot be read or written (no permission, say). Serving goes on: an outage would be worse than a name that is perhaps
    /// used twice.
    Unregistered { reason: String },
    /// Another machine holds the name. Nothing is served or written under it.
    Refused { reason: String },
}

impl Standing {
    /// Whether Mappings may be served and answered under this name.
    pub fn may_serve(&self) -> bool {
        matches!(self, Standing::Held | Standing::Unregistered { .. })
    }
}

impl Fleet {
    /// Position of an instance among those that are not known to be silent, by name: who is first answers for all where several would say
    /// the same.
    pub fn rank(&self, instance: &str) -> usize {
        self.alive.union(&self.unjudged).take_while(|name| name.as_str() < instance).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_counts_all_that_are_not_known_to_be_silent() {
        let fleet = Fleet {
            alive: ["b".to_owned(), "d".to_owned()].into(),
            unjudged: ["a".to_owned()].into(),
            silent: [("c".to_owned(), None)].into(),
            ..Fleet::default()
        };
        assert_eq!(["a", "b", "d"].map(|name| fleet.rank(name)), [0, 1, 2]);
    }
}
