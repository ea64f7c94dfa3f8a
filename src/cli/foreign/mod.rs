//! What others do in the kernel's hooks: tables of nft, and both variants of iptables, as far as packets of Mappings meet them.

pub(in crate::cli) mod bits;
mod of_iptables;
mod of_nft;
pub(in crate::cli) mod packet;
pub(in crate::cli) mod policy;
pub(in crate::cli) mod rule;
pub(in crate::cli) mod walk;
pub(in crate::cli) mod way;

use std::collections::BTreeSet;
use std::io::ErrorKind;

use crate::apply::nft::{Nft, NftError, TableName};
use crate::apply::{ToolError, Tools};
use crate::error_chain;
use crate::ruleset::{Builtin, ownership};
use rule::{Origin, Rule, Table};

/// Chains of one table of iptables that are read one by one, at most.
const MOST_CHAINS: usize = 256;

/// Everything that was found, and what could not be looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::cli) struct Foreign {
    pub tables: Vec<Table>,
    /// What was looked at, in words.
    pub looked: Vec<String>,
    /// What was not, and why.
    pub unread: Vec<Unread>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Unread {
    pub what: String,
    pub remedy: String,
}

/// Reads all of it.
pub(in crate::cli) async fn gather(tools: &Tools) -> Foreign {
    let mut foreign = Foreign::default();
    let nft = Nft::new(tools.clone());
    let asked = nft.tables().await.map_err(|error| foreign.not(error));
    let of_nft = asked.as_deref().unwrap_or_default();
    for (save, family) in [("iptables", "ip"), ("ip6tables", "ip6")] {
        foreign.iptables(tools, save, family).await;
    }
    let others: Vec<&TableName> = of_nft.iter().filter(|t| !t.is_of_iptables() && !t.is_ours()).collect();
    for name in &others {
        match nft.table(name).await {
            Ok(table) => foreign.tables.push(of_nft::table(&table)),
            Err(error) => foreign.not(error),
        }
    }
    if asked.is_ok() {
        foreign.looked.push(match others.len() {
            0 => "no nft tables but those of iptables".to_owned(),
            _ => format!("nft tables {}", others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        });
    }
    if let Err(error) = foreign.native(&nft, of_nft).await {
        foreign.not(error);
    }
    foreign
}

impl Foreign {
    fn not(&mut self, error: NftError) {
        let what = match &error {
            NftError::Missing => "nft is not installed: tables of nft were not looked at",
            NftError::Name(_) => "a table or chain has a name that nft cannot be asked for",
            _ => "tables of nft cannot be read",
        };
        let detail = match &error {
            NftError::Missing => String::new(),
            _ => format!(": {}", error_chain(&error).replace('\n', " ")),
        };
        self.unread.push(Unread { what: format!("{what}{detail}"), remedy: error.remedy().to_owned() });
    }

    /// Both variants of iptables, of one family.
    async fn iptables(&mut self, tools: &Tools, program: &str, family: &str) {
        let version = tools.read(program, &["--version"]).await.unwrap_or_default();
        let writes_legacy = version.contains("(legacy)");
        for (variant, origin) in [("nft", Origin::IptablesNft), ("legacy", Origin::IptablesLegacy)] {
            let legacy = origin == Origin::IptablesLegacy;
            let loaded = std::fs::read_to_string(format!("/proc/net/{family}_tables_names")).unwrap_or_default();
            if legacy && loaded.trim().is_empty() {
                // Asking would make the tables.
                continue;
            }
            let command = format!("{program}-{variant}-save");
            let shared = legacy == writes_legacy;
            let mut saved = tools.read(&command, &[]).await;
            if is_missing(&saved) && shared {
                saved = tools.read(&format!("{program}-save"), &[]).await;
            }
            match saved {
                Ok(text) => {
                    let tables = of_iptables::tables(&text, family, origin, shared);
                    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
                    let tool = command.trim_end_matches("-save");
                    self.looked.push(match names.is_empty() {
                        true => format!("no tables of {tool}"),
                        false => format!("{tool} tables {}", names.join(", ")),
                    });
                    self.tables.extend(tables);
                }
                Err(_) if is_missing(&saved) && !legacy && writes_legacy => {}
                Err(error) => self.unread.push(Unread {
                    what: format!("{command} cannot be read: {}", error_chain(&error).replace('\n', " ")),
                    remedy: match legacy {
                        true => format!(
                            "the kernel has legacy tables ({}); install iptables-legacy, or run check as root",
                            loaded.split_whitespace().collect::<Vec<_>>().join(", ")
                        ),
                        false => "run check as root, with iptables installed".to_owned(),
                    },
                }),
            }
        }
    }

    /// What stands in iptables' own tables and iptables does not show: tables that it calls incompatible, and base chains that nft put
    /// there. Chain by chain, for they may hold ten thousands of rules.
    async fn native(&mut self, nft: &Nft, names: &[TableName]) -> Result<(), NftError> {
        if !names.iter().any(TableName::is_of_iptables) {
            return Ok(());
        }
        let chains = nft.chains().await?;
        for name in names.iter().filter(|n| n.is_of_iptables()) {
            let shown = self
                .tables
                .iter()
                .position(|t| t.origin == Origin::IptablesNft && t.family == name.family && t.name == name.name);
            let mut waiting: Vec<String> = chains
                .iter()
                .filter(|(table, chain)| table == name && chain.base.is_some())
                .filter(|(_, chain)| shown.is_none() || Builtin::parse(&chain.name).is_none())
                .map(|(_, chain)| chain.name.clone())
                .collect();
            if waiting.is_empty() {
                continue;
            }
            let at = shown.unwrap_or_else(|| {
                self.looked.push(format!("table {name} by nft, as iptables cannot read it"));
                self.tables.push(Table { shared: true, ..of_nft::named(name, Origin::IptablesNft) });
                self.tables.len() - 1
            });
            let mut seen: BTreeSet<String> = BTreeSet::new();
            while let Some(chain) = waiting.pop() {
                if !seen.insert(chain.clone()) {
                    continue;
                }
                if seen.len() > MOST_CHAINS {
                    let what = format!("of table {name} only {MOST_CHAINS} chains were looked at");
                    self.unread.push(Unread { what, remedy: format!("look at nft list table {name}") });
                    break;
                }
                if let Some(found) = nft.chain(name, &chain).await? {
                    let found = of_nft::chain(&found);
                    let targets = found.rules.iter().flat_map(Rule::targets);
                    waiting.extend(targets.filter(|t| !ownership::is_our_chain(t)).map(str::to_owned));
                    self.tables[at].chains.insert(chain, found);
                }
            }
        }
        Ok(())
    }
}

fn is_missing(ran: &Result<String, ToolError>) -> bool {
    matches!(ran, Err(ToolError::Start { source, .. }) if source.kind() == ErrorKind::NotFound)
}

/// Tables of an iptables-save, as if SmartNat's rules belonged there.
#[cfg(test)]
pub(in crate::cli) fn of_save(save: &str) -> Vec<Table> {
    of_iptables::tables(save, "ip", Origin::IptablesNft, true)
}

/// `nft table inet fw` with one chain `c` of type filter, in which stands one rule of these expressions.
#[cfg(test)]
pub(in crate::cli) fn of_nft(hook: &str, priority: i64, expressions: &str) -> Table {
    of_nft_chain("filter", hook, priority, "accept", &[expressions])
}

/// As [`of_nft`], with more rules and another type or policy.
#[cfg(test)]
pub(in crate::cli) fn of_nft_chain(kind: &str, hook: &str, priority: i64, policy: &str, rules: &[&str]) -> Table {
    let rules: String =
        rules.iter().map(|r| format!(r#", {{"rule": {{"chain": "c", "handle": 2, "expr": [{r}]}}}}"#)).collect();
    let json = format!(
        r#"{{"nftables": [{{"chain": {{"family": "inet", "table": "fw", "name": "c", "handle": 1, "type": "{kind}",
            "hook": "{hook}", "prio": {priority}, "policy": "{policy}"}}}}{rules}]}}"#
    );
    of_nft::table(&crate::apply::nft::parse(&TableName::new("inet", "fw"), &json, "").expect("it is JSON"))
}
