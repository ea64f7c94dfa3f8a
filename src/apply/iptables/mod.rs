//! Our chains and hooks in the tables of iptables and ip6tables.

mod change;
mod layout;
mod listing;
mod spelling;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use change::{Change, Held, TableState};
pub use listing::{HookState, Listing};
use spelling::Spelling;
pub(super) use words::{readable, unquoted_words};

use super::Scope;
use super::applied::{Repair, Writes, family_name};
use super::tool::{ToolError, Tools};
use crate::model::Family;
use crate::ruleset::{Table, TableRules};

/// The part of the tables that an operation is about.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// In the order of writing.
    tables: &'static [Table],
    /// Whether what is ours and not wanted goes away.
    removes: bool,
}

impl Reach {
    /// What keeps outsiders out. Translation belongs to Mappings.
    pub const BORDER: Reach = Reach { tables: &[Table::Mangle, Table::Filter, Table::Security], removes: true };
    pub const TRANSLATION: Reach = Reach { tables: &[Table::Nat], removes: true };
    /// Within one restore the border comes before what lets packets in.
    pub const ALL: Reach =
        Reach { tables: &[Table::Mangle, Table::Filter, Table::Security, Table::Nat], removes: true };
}

impl From<Scope> for Reach {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Border => Reach { removes: false, ..Reach::BORDER },
            Scope::Full => Reach::ALL,
        }
    }
}

type Key = (Family, Table);

/// The tables as we know them, and the way to change them.
pub struct Tables {
    tools: Tools,
    known: BTreeMap<Key, Known>,
    spelling: Spelling,
    /// Whether what is written is read back at once to learn its spelling: at the first write, and for as long as spellings differ.
    verify: bool,
}

struct Known {
    state: TableState,
    /// What we knew before the last reading.
    before: Option<TableState>,
    /// Read or written since the last invalidation.
    fresh: bool,
}

impl Tables {
    pub fn new(tools: Tools) -> Self {
        Tables { tools, known: BTreeMap::new(), spelling: Spelling::default(), verify: true }
    }

    /// Others may have changed the tables: they are read before the next change.
    pub fn invalidate(&mut self) {
        self.known.values_mut().for_each(|k| k.fresh = false);
    }

    /// What we ourselves did is not certain any more.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Reads the tables that are not known.
    pub async fn look(&mut self, wanted: &BTreeMap<Key, TableRules>, reach: Reach) -> Result<(), ToolError> {
        for key in self.keys(wanted, reach) {
            if self.known.get(&key).is_some_and(|k| k.fresh) {
                continue;
            }
            let state = self.read(key).await?;
            let before = self.known.remove(&key).map(|k| k.state);
            self.known.insert(key, Known { state, before, fresh: true });
        }
        Ok(())
    }

    /// Brings the tables to what is wanted, each family by one restore. [`Self::look`] comes first.
    pub async fn apply(
        &mut self,
        wanted: &BTreeMap<Key, TableRules>,
        reach: Reach,
        writes: &mut Writes,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), ToolError> {
        let nothing = TableRules::default();
        for family in Family::ALL {
            let mut changes = Vec::new();
            let mut repaired = false;
            for table in reach.tables {
                let key = (family, *table);
                let Some(known) = self.known.get_mut(&key) else { continue };
                let rules = wanted.get(&key).unwrap_or(&nothing);
                let change = Change::plan(key, rules, &known.state, &self.spelling, reach.removes);
                if let Some(before) = known.before.take() {
                    let found = change.repairs(&before, &known.state, &self.spelling);
                    repaired |= !found.is_empty();
                    repairs.extend(found);
                }
                if !change.is_empty() {
                    changes.push(change);
                }
            }
            if !changes.is_empty() {
                self.write(family, &changes, writes).await?;
                if self.verify || repaired {
                    self.verify(&changes).await?;
                }
            }
        }
        self.adopt(wanted, reach);
        Ok(())
    }

    /// Whether anything of ours is in the tables, as far as they were looked at.
    pub fn any(&self) -> bool {
        self.known.values().any(|k| !k.state.chains.is_empty() || !k.state.leads.is_empty())
    }

    /// Chains of ours that foreign rules keep from being deleted.
    pub fn pinned(&self) -> Vec<String> {
        self.known
            .iter()
            .flat_map(|((family, table), known)| {
                let kept = known.state.pinned.iter().filter(|name| known.state.chains.contains_key(*name));
                kept.map(move |name| format!("{} {table} {name}", family_name(*family)))
            })
            .collect()
    }

    async fn write(&mut self, family: Family, changes: &[Change<'_>], writes: &mut Writes) -> Result<(), ToolError> {
        let mut input = String::new();
        for change in changes {
            change.render(&mut input);
        }
        let program = match family {
            Family::Ipv4 => "iptables-restore",
            Family::Ipv6 => "ip6tables-restore",
        };
        self.tools.write(program, &["--noflush", "--wait"], input).await?;
        for change in changes {
            change.count(writes);
            if let Some(known) = self.known.get_mut(&(change.family, change.table)) {
                change.commit(&mut known.state);
            }
        }
        Ok(())
    }

    /// Reads back what was just written. What is then still different is written again by the next apply.
    async fn verify(&mut self, changes: &[Change<'_>]) -> Result<(), ToolError> {
        self.verify = false;
        for change in changes {
            let key = (change.family, change.table);
            let read = self.read(key).await?;
            self.verify |= change.learn(&read, &mut self.spelling);
            if let Some(known) = self.known.get_mut(&key) {
                known.state = read;
            }
        }
        Ok(())
    }

    async fn read(&self, (family, table): Key) -> Result<TableState, ToolError> {
        let text = self.tools.list_table(family, table).await?;
        Ok(TableState::from(Listing::parse(&text)))
    }

    /// Chains that were found as wanted need not be compared as text again.
    fn adopt(&mut self, wanted: &BTreeMap<Key, TableRules>, reach: Reach) {
        for (key, rules) in wanted.iter().filter(|((_, table), _)| reach.tables.contains(table)) {
            let Some(known) = self.known.get_mut(key) else { continue };
            for (name, held) in &mut known.state.chains {
                if let Held::Found(lines) = held
                    && let Some(chain) = rules.chains.get(name)
                    && self.spelling.same_chain(key.0, chain, lines)
                {
                    *held = Held::Written(chain.clone());
                }
            }
        }
    }

    /// The tables to look at: those that are wanted or known, and every one in which we might have left something.
    fn keys(&self, wanted: &BTreeMap<Key, TableRules>, reach: Reach) -> BTreeSet<Key> {
        let named: BTreeSet<Key> = wanted.keys().chain(self.known.keys()).copied().collect();
        let six = named.iter().any(|(family, _)| *family == Family::Ipv6);
        let four = Table::ALL.map(|table| (Family::Ipv4, table));
        let six =
            [Table::Mangle, Table::Filter, Table::Security].map(|t| (Family::Ipv6, t)).into_iter().filter(|_| six);
        four.into_iter().chain(six).chain(named).filter(|(_, table)| reach.tables.contains(table)).collect()
    }
}
