//! Reads nftables: tables of others by their whole, iptables' own tables chain by chain, because those hold ten thousands of our rules.
//! Always tersely (without elements of sets). Nothing here writes.

mod parse;
mod values;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

pub use parse::table as parse;
pub use values::{Base, NftChain, NftRule, NftTable, Statement, TableName, Verdict};

use super::{ToolError, Tools};
use crate::netlink::nf_tables;

const NFT: &str = "nft";

const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// nftables that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft is not installed, so nftables were not looked at; apt-get install nftables")]
    Missing,
    #[error("nftables cannot be read")]
    Tool(#[from] ToolError),
    #[error("the answer of `{command}` is no JSON of nft")]
    Json { command: String, source: serde_json::Error },
    /// nft reads its arguments as one line of its language: such a name would be read as something else.
    #[error("{0:?} cannot be named to nft")]
    Name(String),
}

impl NftError {
    /// What helps whoever asked by hand.
    pub fn remedy(&self) -> &'static str {
        match self {
            NftError::Missing => "apt-get install nftables",
            NftError::Name(_) => "look at nft list ruleset",
            NftError::Tool(_) | NftError::Json { .. } => "run it as root",
        }
    }
}

/// The tables whose chains the kernel does not ask, by the kernel itself: the JSON of nft 1.0.6 tells flags wrongly.
pub async fn dormant() -> io::Result<BTreeSet<TableName>> {
    let tables = match nf_tables().await {
        // A kernel without nf_tables.
        Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP)) => Vec::new(),
        other => other?,
    };
    Ok(tables.into_iter().filter(|t| t.dormant).map(|t| TableName::new(t.family, &t.name)).collect())
}

/// Asks nft.
#[derive(Clone)]
pub struct Nft {
    tools: Tools,
}

impl Nft {
    pub fn new(tools: Tools) -> Self {
        Nft { tools }
    }

    /// The names of all tables, iptables' own among them.
    pub async fn tables(&self) -> Result<Vec<TableName>, NftError> {
        Ok(parse::tables(&self.run(&["list", "tables"]).await?))
    }

    /// All chains of all tables, without rules.
    pub async fn chains(&self) -> Result<Vec<(TableName, NftChain)>, NftError> {
        let command = ["-j", "list", "chains"];
        let text = self.run(&command).await?;
        parse::chains(&text).map_err(|source| json(&command, source))
    }

    /// A table with everything in it; a dormant one without its chains, which the kernel does not ask. Not for iptables' own ([`TableName::is_of_iptables`]).
    pub async fn table(&self, table: &TableName) -> Result<NftTable, NftError> {
        let name = [table.family.as_str(), named(&table.name)?];
        let command = ["-j", "-t", "-a", "list", "table", name[0], name[1]];
        let listing = self.run(&command[1..]).await?;
        let mut dormant = NftTable { name: table.clone(), dormant: true, chains: vec![], flowtables: vec![] };
        if parse::is_dormant(&listing) {
            return Ok(dormant);
        }
        let text = self.run(&command).await?;
        if !text.trim().is_empty() {
            return parse(table, &text, &listing).map_err(|source| json(&command, source));
        }
        // 1.0.6 stumbles over some flags of tables; chains have none.
        for chain in parse::chain_names(&listing) {
            dormant.chains.extend(self.chain(table, chain).await?);
        }
        Ok(NftTable { dormant: false, ..dormant })
    }

    /// One chain with its rules; `None` if the table has no such chain.
    pub async fn chain(&self, table: &TableName, chain: &str) -> Result<Option<NftChain>, NftError> {
        let name = [table.family.as_str(), named(&table.name)?, named(chain)?];
        let command = ["-j", "-t", "-a", "list", "chain", name[0], name[1], name[2]];
        let text = match self.run(&command).await {
            Err(NftError::Tool(ToolError::Failed { stderr, .. })) if stderr.contains(NO_SUCH) => return Ok(None),
            other => other?,
        };
        let listing = self.run(&command[1..]).await?;
        let parsed = parse(table, &text, &listing).map_err(|source| json(&command, source))?;
        Ok(parsed.chains.into_iter().find(|c| c.name == chain))
    }

    async fn run(&self, command: &[&str]) -> Result<String, NftError> {
        self.tools.read(NFT, command).await.map_err(|error| match error {
            ToolError::Start { source, .. } if source.kind() == ErrorKind::NotFound => NftError::Missing,
            other => NftError::Tool(other),
        })
    }
}

/// ENOENT in nft's words.
const NO_SUCH: &str = "No such file or directory";

fn json(command: &[&str], source: serde_json::Error) -> NftError {
    NftError::Json { command: format!("{NFT} {}", command.join(" ")), source }
}

/// A name that nft reads as a name. The kernel takes any text, by netlink.
pub fn named(name: &str) -> Result<&str, NftError> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let fits = name.starts_with(first) && name.chars().all(rest);
    if fits { Ok(name) } else { Err(NftError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nft_reads_as_a_name_is_named_to_it() {
        for name in ["filter", "fw_4", "a-b.c/d", "_x"] {
            assert_eq!(named(name).unwrap(), name);
        }
        for name in ["", "x; flush ruleset", "a b", "-j", "1x", "x\nflush", "x}", "\"x\""] {
            assert!(named(name).is_err(), "{name}");
        }
    }
}
