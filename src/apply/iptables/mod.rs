//! Our chains and hooks in the tables of iptables and ip6tables.

mod blind;
mod blocks;
mod change;
mod known;
mod layout;
mod listing;
mod native;
mod reader;
mod sample;
mod spelling;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use blocks::Blocks;
use change::{Change, Held};
use known::{Known, Stale};
pub use listing::{HookState, Listing};
pub(super) use native::spelled;
use reader::Reader;
pub use reader::{Trouble, is_of_nft};
use spelling::Spelling;
pub(crate) use words::words;
pub(super) use words::{readable, unquoted_words};

use super::Scope;
use super::applied::{Repair, Writes, family_name};
use super::list::restore;
use super::nft::TableName;
use super::tool::{ToolError, Tools};
use crate::model::Family;
use crate::ruleset::{Builtin, Table, TableRules};

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
    pub const ALL: Reach =
        Reach { tables: &[Table::Mangle, Table::Filter, Table::Security, Table::Nat], removes: true };

    /// The part that closes, which comes first, and the rest.
    pub fn closing_first(self) -> [Reach; 2] {
        let (closing, rest) = self.tables.split_at(1);
        [Reach { tables: closing, ..self }, Reach { tables: rest, ..self }]
    }
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

/// A table of which something could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", named(*key), crate::error_chain(what))]
pub struct TableError {
    pub key: (Family, Table),
    pub what: Trouble,
}

impl TableError {
    /// The command that failed, or the table.
    pub fn step(&self) -> String {
        match &self.what {
            Trouble::Look(source) | Trouble::Write(source) => source.command().to_owned(),
            Trouble::Native { .. } | Trouble::Dormant(_) | Trouble::Blind(_) => named(self.key),
        }
    }
}

/// `ipv4 mangle`.
fn named((family, table): Key) -> String {
    format!("{} {table}", family_name(family))
}

/// In a table of more chains than that, what was written is read back in samples.
const MANY: usize = 64;

/// How much of what was written is read back, to learn how the tool spells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Verify {
    #[default]
    Nothing,
    /// Each form of rule once.
    Forms,
    Everything,
}

impl Verify {
    /// What looks changed may be ours in other words.
    fn after(repair: &Repair) -> Self {
        if repair.what == change::CHANGED { Verify::Everything } else { Verify::Forms }
    }
}

/// The tables as we know them, and the way to change them.
pub struct Tables {
    tools: Tools,
    reader: Reader,
    known: BTreeMap<Key, Known>,
    spelling: Spelling,
    /// The tables in which what is written need not be read back at once to learn its spelling: it was, and no spelling differed.
    verified: BTreeSet<Key>,
    /// Others may have changed what is known.
    doubted: bool,
}

impl Tables {
    pub fn new(tools: Tools) -> Self {
        let reader = Reader::new(tools.clone());
        Tables {
            tools,
            reader,
            known: BTreeMap::new(),
            spelling: Spelling::default(),
            verified: BTreeSet::new(),
            doubted: false,
        }
    }

    /// Others may have changed the tables: what they may have changed is read before the next change.
    pub fn invalidate(&mut self) {
        self.doubted = true;
    }

    /// What we ourselves did is not certain any more.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Whether the kernel still holds what is known, as far as that is known without reading.
    pub async fn hold(&mut self) -> bool {
        self.ask_ledger().await;
        let ledger = self.tools.ledger();
        !self.known.is_empty() && self.known.iter().all(|(key, known)| known.stale(*key, ledger) == Stale::Nothing)
    }

    /// What is doubted is to be read again, unless nobody changed it.
    async fn ask_ledger(&mut self) {
        if std::mem::take(&mut self.doubted) {
            let ledger = self.tools.ledger();
            let heard = ledger.caught_up().await.then_some(ledger);
            self.known.iter_mut().for_each(|(key, known)| known.doubt(*key, heard));
        }
    }

    /// Reads the tables that are not known. One that cannot be read keeps no other from it.
    pub async fn look(&mut self, wanted: &BTreeMap<Key, TableRules>, reach: Reach) -> Vec<TableError> {
        self.ask_ledger().await;
        let ledger = self.tools.ledger().clone();
        let stale = |known: Option<&Known>, key| known.map_or(Stale::Table, |known| known.stale(key, &ledger));
        let mut places: Vec<(Key, Stale)> =
            self.keys(wanted, reach).into_iter().map(|key| (key, Stale::Nothing)).collect();
        places.iter_mut().for_each(|(key, place)| *place = stale(self.known.get(key), *key));
        if places.iter().any(|(_, stale)| *stale != Stale::Nothing) {
            self.reader.look_for_dormant().await;
            self.reader
                .look_for_variants(places.iter().filter(|(_, s)| *s == Stale::Table).map(|(key, _)| key.0))
                .await;
        }
        let mut failures = Vec::new();
        for (key, stale) in places {
            let trouble = match stale {
                Stale::Nothing => None,
                Stale::Builtins(builtins) => self.look_at_builtins(key, builtins, wanted.get(&key)).await,
                Stale::Table => self.look_at(key, wanted.get(&key)).await,
            };
            let dormant = || {
                let asked = wanted.get(&key).is_some_and(|rules| rules.builtins().next().is_some());
                (asked && self.reader.is_dormant(key)).then(|| Trouble::Dormant(TableName::of_iptables(key.0, key.1)))
            };
            failures.extend(trouble.or_else(dormant).map(|what| TableError { key, what }));
        }
        failures
    }

    async fn look_at(&mut self, key: Key, wanted: Option<&TableRules>) -> Option<Trouble> {
        let before = self.known.remove(&key).map(Known::into_state);
        let mark = self.reader.mark(key);
        match self.reader.read(key, wanted).await {
            Ok(mut state) => {
                let blind = std::mem::take(&mut state.blind);
                self.known.insert(key, Known::new(state, before, blind.is_empty(), mark));
                (!blind.is_empty()).then_some(Trouble::Blind(blind))
            }
            Err(what) => Some(what),
        }
    }

    /// Some built-in chains of a table, which may have many others.
    async fn look_at_builtins(
        &mut self,
        key: Key,
        builtins: BTreeSet<Builtin>,
        wanted: Option<&TableRules>,
    ) -> Option<Trouble> {
        let Some(mark) = self.reader.mark(key) else { return self.look_at(key, wanted).await };
        for builtin in builtins {
            let part = self.reader.read_builtin(key, builtin, wanted).await;
            match (part, self.known.get_mut(&key)) {
                (Some(part), Some(known)) => known.replace(builtin, part, mark),
                _ => return self.look_at(key, wanted).await,
            }
        }
        None
    }

    /// Brings the tables to what is wanted, each by one restore, the first of both families first. [`Self::look`] comes first; what it
    /// could not read is left alone. One table that cannot be written keeps no other from it.
    pub async fn apply(
        &mut self,
        wanted: &BTreeMap<Key, TableRules>,
        reach: Reach,
        writes: &mut Writes,
        repairs: &mut Vec<Repair>,
    ) -> Vec<TableError> {
        let mut failures = Vec::new();
        for table in reach.tables {
            for family in Family::ALL {
                let key = (family, *table);
                if let Err(what) = self.apply_one(key, wanted, reach, writes, repairs).await {
                    // It may have been written in part: it is read again.
                    self.known.remove(&key);
                    failures.push(TableError { key, what });
                }
            }
        }
        self.adopt(wanted, reach);
        failures
    }

    async fn apply_one(
        &mut self,
        key: Key,
        wanted: &BTreeMap<Key, TableRules>,
        reach: Reach,
        writes: &mut Writes,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), Trouble> {
        let nothing = TableRules::default();
        let rules = wanted.get(&key).unwrap_or(&nothing);
        let Some(known) = self.known.get_mut(&key) else { return Ok(()) };
        let change = Change::plan(key, rules, &known.state, &self.spelling, reach.removes);
        let mut look = if self.verified.contains(&key) { Verify::Nothing } else { Verify::Forms };
        let found = known.repairs(&change, &self.spelling);
        look = look.max(found.iter().map(Verify::after).max().unwrap_or_default());
        repairs.extend(found);
        if change.is_empty() {
            return Ok(());
        }
        let written = change.to_learn();
        self.write_all(change, writes).await?;
        if self.reader.is_native(key) {
            if let Some(known) = self.known.get_mut(&key)
                && let Some(read) = self.reader.learn(key, &known.state).await?
            {
                known.state = read;
            }
        } else if look > Verify::Nothing {
            self.verify(&written, rules, look).await?;
        }
        Ok(())
    }

    async fn write_all(&mut self, change: Change<'_>, writes: &mut Writes) -> Result<(), Trouble> {
        let held = self.known.get(&change.key()).map_or(0, |known| known.state.chains.len());
        let mut size = blocks::size(held, change.make.len());
        if change.chains() > size && !self.tools.commits_in_blocks(restore(change.family)).await {
            size = usize::MAX;
        }
        let Blocks { ahead, switch, behind } = Blocks::of(change, size);
        for call in &ahead {
            self.write(call, writes).await?;
        }
        if !switch.is_empty() {
            match self.write(std::slice::from_ref(&switch), writes).await {
                Err(Trouble::Write(ToolError::Failed { .. })) => {
                    let gone = behind.into_iter().flatten().flat_map(|block| block.delete);
                    return self.write_in_pieces(switch.and_delete(gone), writes).await;
                }
                other => other?,
            }
        }
        for call in &behind {
            self.write(call, writes).await?;
        }
        Ok(())
    }

    /// Writes blocks of one table by one call.
    async fn write(&mut self, blocks: &[Change<'_>], writes: &mut Writes) -> Result<(), Trouble> {
        let Some(first) = blocks.first() else { return Ok(()) };
        let mut input = String::new();
        blocks.iter().for_each(|block| block.render(&mut input));
        let arguments = ["--noflush", "--wait"];
        self.tools.write(restore(first.family), &arguments, input).await.map_err(Trouble::Write)?;
        let deletions: String = blocks.iter().map(Change::deletions).collect();
        if !deletions.is_empty() {
            self.tools.write("nft", &["-f", "-"], deletions).await.map_err(Trouble::Write)?;
        }
        blocks.iter().for_each(|block| block.count(writes));
        if let Some(known) = self.known.get_mut(&first.key()) {
            blocks.iter().for_each(|block| block.commit(&mut known.state));
        }
        Ok(())
    }

    /// One built-in chain that takes no rule of ours (made by nft with another priority, for instance) must not keep the others open.
    async fn write_in_pieces(&mut self, change: Change<'_>, writes: &mut Writes) -> Result<(), Trouble> {
        let mut first = None;
        for piece in change.pieces() {
            if let Err(trouble) = self.write(std::slice::from_ref(&piece), writes).await {
                first.get_or_insert(trouble);
                // Without the chains nothing can lead to them, nor what leads elsewhere go.
                if piece.fills() || !matches!(first, Some(Trouble::Write(ToolError::Failed { .. }))) {
                    break;
                }
            }
        }
        // Should it have worked in pieces: somebody else was at it in between.
        first.map_or(Ok(()), Err)
    }

    /// Whether anything of ours is in the tables, as far as they were looked at.
    pub fn any(&self) -> bool {
        self.known.values().any(|k| !k.state.chains.is_empty() || !k.state.leads.is_empty())
    }

    /// Tables that were not seen whole, because neither iptables nor nft read them.
    pub fn blind(&self) -> Vec<String> {
        self.reader.blind().map(named).collect()
    }

    /// Chains of ours that foreign rules keep from being deleted.
    pub fn pinned(&self) -> Vec<String> {
        self.known
            .iter()
            .flat_map(|((family, table), known)| {
                let kept = known.state.pinned.iter().filter(|name| known.state.chains.contains_key(name.as_str()));
                kept.map(move |name| format!("{} {table} {name}", family_name(*family)))
            })
            .collect()
    }

    /// Reads back what was just written. What is then still different is written again by the next apply.
    async fn verify(&mut self, written: &Change<'_>, rules: &TableRules, look: Verify) -> Result<(), Trouble> {
        let key = written.key();
        let many = self.known.get(&key).is_some_and(|known| known.state.chains.len() > MANY);
        if many && look == Verify::Forms && rules.passes.is_empty() {
            let sample = written.sample();
            // Where a chain of it is gone again, all is looked at.
            if let Ok(read) = sample::read(&self.tools, &sample).await
                && !sample.learn(&read, &mut self.spelling)
            {
                self.verified.insert(key);
                if let Some(known) = self.known.get_mut(&key) {
                    known.state.take_over(read);
                }
                return Ok(());
            }
        }
        let read = self.reader.read(key, Some(rules)).await?;
        if written.learn(&read, &mut self.spelling) {
            self.verified.remove(&key);
        } else {
            self.verified.insert(key);
        }
        if let Some(known) = self.known.get_mut(&key) {
            known.state = read;
        }
        Ok(())
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
