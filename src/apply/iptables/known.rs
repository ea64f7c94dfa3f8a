//! What is known of one table, and whether that still holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Key;
use super::change::{Change, TableState};
use super::layout::Lead;
use super::spelling::Spelling;
use crate::apply::applied::{Repair, RepairKind};
use crate::ruleset::Builtin;
use crate::sources::tables::{Ledger, Since};

/// A proof is believed so long. What it would not show: another variant of iptables in the place of this one, or a
/// fault of ours in reading notices. Reading 10,000 endpoints takes seconds of processor time.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) struct Known {
    pub state: TableState,
    /// What we knew before the last reading.
    before: Option<Before>,
    /// Read or written, as a whole, since it was last doubted.
    fresh: bool,
    /// The generation that was there when it was read. `None` where that proves nothing.
    read: Option<u32>,
    /// The same of built-in chains that were read again since.
    later: BTreeMap<Builtin, u32>,
    at: Instant,
}

struct Before {
    state: TableState,
    /// The built-in chains that were read again, where the rest of the table was not.
    only: Option<BTreeSet<Builtin>>,
}

/// What has to be read again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stale {
    Nothing,
    Builtins(BTreeSet<Builtin>),
    Table,
}

impl Known {
    /// Just read as a whole. What was not seen of it is looked for in every pass: `complete` says that there is
    /// nothing such.
    pub fn new(state: TableState, before: Option<TableState>, complete: bool, read: Option<u32>) -> Self {
        let before = before.map(|state| Before { state, only: None });
        Known { state, before, fresh: complete, read, later: BTreeMap::new(), at: Instant::now() }
    }

    /// Others may have changed it. Unless the ledger, which has heard of everything, says that they did not, or where.
    pub fn doubt(&mut self, key: Key, ledger: Option<&Ledger>) {
        let proven = match (ledger, self.read) {
            (Some(ledger), Some(read)) => ledger.since(key, read, &self.later) != Since::Unknown,
            _ => false,
        };
        self.fresh &= proven && self.at.elapsed() < LONGEST;
    }

    pub fn stale(&self, key: Key, ledger: &Ledger) -> Stale {
        match self.read {
            _ if !self.fresh => Stale::Table,
            None => Stale::Nothing,
            Some(read) => match ledger.since(key, read, &self.later) {
                // Who lost the thread says so, and it is doubted then.
                Since::Nothing | Since::Unknown => Stale::Nothing,
                Since::Builtins(builtins) => Stale::Builtins(builtins),
                Since::Table => Stale::Table,
            },
        }
    }

    /// A built-in chain was read again.
    pub fn replace(&mut self, builtin: Builtin, mut part: TableState, read: u32) {
        let before =
            self.before.get_or_insert_with(|| Before { state: TableState::default(), only: Some(BTreeSet::new()) });
        let is_new = before.only.as_mut().is_some_and(|only| only.insert(builtin));
        for lead in [Lead::Hook, Lead::Pass] {
            let place = (builtin, lead);
            let old = self.state.leads.remove(&place);
            if is_new && let Some(old) = old {
                before.state.leads.insert(place, old);
            }
            self.state.leads.extend(part.leads.remove_entry(&place));
        }
        self.state.layouts.remove(&builtin);
        self.state.layouts.extend(part.layouts.remove_entry(&builtin));
        self.later.insert(builtin, read);
    }

    /// What of a change undoes what others did before the last reading. Told once.
    pub fn repairs(&mut self, change: &Change<'_>, spelling: &Spelling) -> Vec<Repair> {
        let Some(Before { state, only }) = self.before.take() else { return Vec::new() };
        let mut repairs = change.repairs(&state, &self.state, spelling);
        if let Some(only) = only {
            let read = |repair: &Repair| only.iter().any(|builtin| repair.name.ends_with(builtin.as_str()));
            repairs.retain(|repair| repair.kind == RepairKind::Hook && read(repair));
        }
        repairs
    }

    pub fn into_state(self) -> TableState {
        self.state
    }
}
