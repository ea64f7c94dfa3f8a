//! Who holds which endpoint. Claims are judged in order of age, cluster-wide, on (address, protocol, port).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{Refusal, RefusalReason, ValidatedMapping};
use crate::model::{Endpoint, Mapping, ObjectKey};

/// Keys of all Mappings, oldest first: by creationTimestamp, those without one last, then by namespace and name.
pub(super) fn by_age<'a>(mappings: impl IntoIterator<Item = (&'a ObjectKey, &'a Arc<Mapping>)>) -> Vec<&'a ObjectKey> {
    let mut keys: Vec<_> = mappings.into_iter().map(|(key, m)| (m.created.is_none(), m.created, key)).collect();
    keys.sort();
    keys.into_iter().map(|(_, _, key)| key).collect()
}

/// The endpoints held so far.
#[derive(Default)]
pub(super) struct Claims<'a> {
    holders: HashMap<Endpoint, &'a ObjectKey>,
}

impl<'a> Claims<'a> {
    /// Gives a Mapping all its endpoints, or none: one that an older Mapping holds refuses the whole. To be called oldest first.
    pub(super) fn claim(&mut self, key: &'a ObjectKey, mapping: &ValidatedMapping) -> Result<(), Refusal> {
        let contested: Vec<_> =
            mapping.endpoints().filter_map(|e| self.holders.get(&e).map(|holder| (e, *holder))).collect();
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
        for endpoint in mapping.endpoints() {
            match self.holders.entry(endpoint) {
                Entry::Vacant(entry) => {
                    entry.insert(key);
                }
                // Validation leaves no endpoint twice in one Mapping, and contested ones were refused above.
                Entry::Occupied(held) => debug_assert_eq!(*held.get(), key),
            }
        }
        Ok(())
    }
}
