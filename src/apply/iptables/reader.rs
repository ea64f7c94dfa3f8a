//! Reading a table: by iptables whole, or, where iptables cannot, by nft.

use std::collections::{BTreeMap, BTreeSet};

use super::blind;
use super::change::TableState;
use super::layout::Lead;
use super::listing::Listing;
use super::native::{self, Memory};
use super::{Key, named};
use crate::apply::nft::{self, Nft, NftError, TableName};
use crate::apply::tool::{ToolError, Tools};
use crate::model::Family;
use crate::ruleset::{Builtin, TableRules};

/// Why a table could not be read, written, or does not count.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("it could not be read, and was left as it is")]
    Look(#[source] ToolError),
    #[error("iptables cannot read it ({said}), and neither was it read by nft; it was left as it is")]
    Native { said: String, source: NftError },
    #[error("it could not be written as a whole; what was there before goes on working")]
    Write(#[source] ToolError),
    #[error(
        "it is dormant (a flag that nft sets), so the kernel asks none of its rules, ours neither; wake it: nft add table {0}"
    )]
    Dormant(TableName),
    #[error(
        "iptables cannot read {} of it, and without nft nobody sees where our rule belongs there, so it was not put in; install \
         nftables, or remove what iptables cannot read",
        .0.join(", ")
    )]
    Blind(Vec<&'static str>),
}

/// Reads tables, and knows what it needs for those that iptables cannot read.
pub struct Reader {
    tools: Tools,
    nft: Nft,
    native: BTreeMap<Key, Memory>,
    /// Those that nft did not read either, because it is not here.
    blind: BTreeSet<Key>,
    dormant: BTreeSet<TableName>,
    /// The families whose iptables writes nf_tables, so that the kernel tells what was changed.
    announced: BTreeSet<Family>,
}

impl Reader {
    pub fn new(tools: Tools) -> Self {
        let nft = Nft::new(tools.clone());
        Reader {
            tools,
            nft,
            native: BTreeMap::new(),
            blind: BTreeSet::new(),
            dormant: BTreeSet::new(),
            announced: BTreeSet::new(),
        }
    }

    /// Whether iptables could not read the table when it was last read.
    pub fn is_native(&self, key: Key) -> bool {
        self.native.contains_key(&key)
    }

    /// The tables of which only what was asked for has been seen.
    pub fn blind(&self) -> impl Iterator<Item = Key> {
        self.blind.iter().copied()
    }

    /// Whether the kernel asks nothing in this table.
    pub fn is_dormant(&self, (family, table): Key) -> bool {
        self.dormant.contains(&TableName::of_iptables(family, table))
    }

    /// Learns which tables sleep; iptables does not tell.
    pub async fn look_for_dormant(&mut self) {
        self.dormant = nft::dormant().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the kernel did not tell which tables are dormant");
            BTreeSet::new()
        });
    }

    /// Learns which variant of iptables is in use. Only where somebody listens does it make a difference.
    pub async fn look_for_variants(&mut self, families: impl Iterator<Item = Family>) {
        let families: BTreeSet<Family> = families.filter(|_| self.tools.ledger().is_listening()).collect();
        for family in families {
            match self.tools.iptables(family, &["-V"]).await {
                Ok(version) if version.contains("(nf_tables)") => self.announced.insert(family),
                _ => self.announced.remove(&family),
            };
        }
    }

    /// To be kept with what is read next: as long as nothing changed since, it need not be read again.
    pub fn mark(&self, (family, _): Key) -> Option<u32> {
        if self.announced.contains(&family) { self.tools.ledger().mark() } else { None }
    }

    /// One built-in chain alone; `None` where the table has to be read as a whole.
    pub async fn read_builtin(
        &mut self,
        key: Key,
        builtin: Builtin,
        wanted: Option<&TableRules>,
    ) -> Option<TableState> {
        if self.is_native(key) {
            return None;
        }
        let text = self.tools.iptables(key.0, &["-t", key.1.as_str(), "-S", builtin.as_str()]).await.ok()?;
        let mut state = TableState::from(Listing::parse(&text));
        self.see_ends(key, wanted, &mut state).await;
        Some(state)
    }

    /// What a table holds on our behalf. `wanted` is asked for where neither iptables nor nft reads it whole.
    pub async fn read(&mut self, key: Key, wanted: Option<&TableRules>) -> Result<TableState, Trouble> {
        let (family, table) = key;
        let error = match self.tools.list_table(family, table).await {
            Ok(text) => {
                self.blind.remove(&key);
                if self.native.remove(&key).is_some() {
                    tracing::info!(table = named(key), "iptables can read the table again");
                }
                let mut state = TableState::from(Listing::parse(&text));
                self.see_ends(key, wanted, &mut state).await;
                return Ok(state);
            }
            Err(error) => error,
        };
        let said = match &error {
            ToolError::Failed { stderr, .. } if is_of_nft(&error) => stderr.clone(),
            _ => return Err(Trouble::Look(error)),
        };
        let is_new = !self.is_native(key);
        let memory = self.native.entry(key).or_default();
        let read = self.nft.table(&TableName::of_iptables(family, table)).await;
        if is_new {
            let how = match read {
                Ok(_) => "it is read by nft and written all the same; `smartnat-manager check` names the rule",
                Err(NftError::Missing) => {
                    "nft is not installed, so it is read chain by chain and written as far as that goes; install nftables"
                }
                Err(_) => "nor does nft",
            };
            tracing::warn!(table = named(key), said, how, "iptables cannot read the table");
        }
        match read {
            // A dormant one is read without its chains.
            Ok(read) if read.dormant => Err(Trouble::Dormant(read.name)),
            Ok(read) => {
                self.blind.remove(&key);
                Ok(native::state(&read, memory))
            }
            Err(NftError::Missing) => {
                self.blind.insert(key);
                let nothing = TableRules::default();
                Ok(blind::read(&self.tools, key, wanted.unwrap_or(&nothing)).await)
            }
            Err(source) => Err(Trouble::Native { said, source }),
        }
    }

    /// iptables prints a DROP for one of a set as a DROP of everything (`iifname { a, b } drop`): an end is one only if nft says so, too.
    async fn see_ends(&self, (family, table): Key, wanted: Option<&TableRules>, state: &mut TableState) {
        let passes = wanted.into_iter().flat_map(|rules| rules.passes.keys());
        for builtin in passes {
            let Some(layout) = state.layouts.get_mut(builtin).filter(|layout| layout.has_end()) else { continue };
            let chain = self.nft.chain(&TableName::of_iptables(family, table), builtin.as_str()).await;
            if let Ok(Some(chain)) = chain {
                // Should it have changed in between, the notice of that brings the next look.
                *layout = native::layout(&chain);
                for lead in [Lead::Hook, Lead::Pass] {
                    if let Some(found) = state.leads.get_mut(&(*builtin, lead)) {
                        found.in_place = layout.in_place(lead);
                    }
                }
            }
        }
    }

    /// Right after a write: what is there, and which handles it has. `None` without nft: what was written counts.
    pub async fn learn(&mut self, key: Key, written: &TableState) -> Result<Option<TableState>, Trouble> {
        match self.nft.table(&TableName::of_iptables(key.0, key.1)).await {
            Ok(read) => {
                let memory = self.native.entry(key).or_default();
                memory.learn(written, &read);
                Ok(Some(native::state(&read, memory)))
            }
            Err(NftError::Missing) => Ok(None),
            Err(source) => Err(Trouble::Native { said: "incompatible".to_owned(), source }),
        }
    }
}

/// Whether the iptables that failed is the one whose tables nft reads. It has many words for what it cannot read ("incompatible",
/// "unknown payload offset", "Parsing nftables rule failed"); where the trouble is another one, nft fails, too.
pub fn is_of_nft(error: &ToolError) -> bool {
    matches!(error, ToolError::Failed { stderr, .. } if stderr.contains("(nf_tables)"))
}
