//! Who holds which endpoint. Claims are judged in order of age, cluster-wide, on (address, protocol, port).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::resolve::judged;
use super::{Refusal, RefusalReason, ValidatedMapping};
use crate::model::{ChangedObject, Endpoint, Mapping, ObjectKey};

type Mappings = BTreeMap<ObjectKey, Arc<Mapping>>;

/// Which of two is older, before their names decide: by creationTimestamp, without one last.
pub type Age = (bool, Option<i64>);

pub fn age(created: Option<i64>) -> Age {
    (created.is_none(), created)
}

/// Keys of all Mappings, oldest first, then by namespace and name.
pub fn by_age(mappings: &Mappings) -> Vec<&ObjectKey> {
    let mut keys: Vec<_> = mappings.iter().map(|(key, m)| (age(m.created), key)).collect();
    keys.sort();
    keys.into_iter().map(|(_, key)| key).collect()
}

/// The endpoints that are held, and who is refused because an older one holds what it claims.
#[derive(Default)]
pub struct Claims {
    holders: HashMap<Endpoint, ObjectKey>,
    refused: BTreeMap<ObjectKey, Refusal>,
}

impl Claims {
    /// Why a Mapping holds nothing although it is valid, if so.
    pub fn refusal(&self, key: &ObjectKey) -> Option<&Refusal> {
        self.refused.get(key)
    }

    /// Takes changed Mappings in; `all` as they are now. Returns whose refusal is another one now.
    pub fn take(&mut self, changed: &[ChangedObject<Mapping>], all: &Mappings) -> Vec<ObjectKey> {
        if self.refused.is_empty() && self.take_free(changed) {
            return Vec::new();
        }
        // Where endpoints are contested, what one gives up another may get.
        let before = std::mem::replace(self, Claims::of(all)).refused;
        let keys = before.keys().chain(self.refused.keys());
        keys.filter(|key| before.get(*key) != self.refused.get(*key)).cloned().collect()
    }

    /// Nobody is refused. False if somebody has to be now.
    fn take_free(&mut self, changed: &[ChangedObject<Mapping>]) -> bool {
        let valid = |mapping: Option<&Arc<Mapping>>| mapping.and_then(|mapping| judged(mapping).ok());
        for before in changed.iter().filter_map(|c| valid(c.before)) {
            before.endpoints().for_each(|endpoint| _ = self.holders.remove(&endpoint));
        }
        for (key, now) in changed.iter().filter_map(|c| Some((c.key, valid(c.now)?))) {
            for endpoint in now.endpoints() {
                if self.holders.insert(endpoint, key.clone()).is_some() {
                    return false;
                }
            }
        }
        true
    }

    fn of(all: &Mappings) -> Self {
        let mut claims = Claims::default();
        for key in by_age(all) {
            if let Ok(valid) = judged(&all[key])
                && let Err(refusal) = claims.claim(key, &valid)
            {
                claims.refused.insert(key.clone(), refusal);
            }
        }
        claims
    }

    /// Gives a Mapping all its endpoints, or none: one that an older Mapping holds refuses the whole. To be called oldest first.
    fn claim(&mut self, key: &ObjectKey, mapping: &ValidatedMapping) -> Result<(), Refusal> {
        let contested: Vec<_> =
            mapping.endpoints().filter_map(|e| self.holders.get(&e).map(|holder| (e, holder))).collect();
        if let Some((endpoint, holder)) = contested.first() {
            let more = match contested.len() - 1 {
                0 => String::new(),
                1 => " (and 1 more endpoint is held by an older Mapping)".to_owned(),
                n => format!(" (and {n} more endpoints are held by older Mappings)"),
            };
            return Err(Refusal {
                reason: RefusalReason::Conflict,
                message: format!(
                    "{endpoint} is held by the older Mapping {holder}{more}; use another address or port, or remove it there"
                ),
            });
        }
        self.holders.extend(mapping.endpoints().map(|endpoint| (endpoint, key.clone())));
        Ok(())
    }
}
