use std::fmt;

use serde_json::Value;

use crate::model::{Family, printable};
use crate::ruleset::Table;
use crate::ruleset::ownership::is_our_table;

/// A table by family (`ip`, `ip6`, `inet`, `arp`, `bridge`, `netdev`) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    pub family: String,
    pub name: String,
}

impl TableName {
    pub fn new(family: &str, name: &str) -> Self {
        TableName { family: family.to_owned(), name: name.to_owned() }
    }

    /// The name that iptables-nft gives a table.
    pub fn of_iptables(family: Family, table: Table) -> Self {
        let family = match family {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ip6",
        };
        TableName::new(family, table.as_str())
    }

    /// A table that iptables-nft keeps, ours among the rest in it.
    pub fn is_of_iptables(&self) -> bool {
        let iptables = matches!(self.name.as_str(), "filter" | "mangle" | "nat" | "raw" | "security");
        matches!(self.family.as_str(), "ip" | "ip6") && iptables
    }

    /// The table that a running daemon owns. No rule in it meets a packet.
    pub fn is_ours(&self) -> bool {
        is_our_table(&self.family, &self.name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, shown(&self.name))
    }
}

/// A table with all that a listing holds of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NftTable {
    pub name: TableName,
    /// Its chains are not asked by the kernel.
    pub dormant: bool,
    pub chains: Vec<NftChain>,
    pub flowtables: Vec<String>,
}

impl NftTable {
    pub fn chain(&self, name: &str) -> Option<&NftChain> {
        self.chains.iter().find(|c| c.name == name)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct NftChain {
    pub name: String,
    pub handle: u64,
    /// Where the kernel enters it; `None` for a chain that others jump to.
    pub base: Option<Base>,
    pub rules: Vec<NftRule>,
}

/// How the kernel enters a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `filter`, `nat`, `route`.
    pub kind: String,
    /// `prerouting`, `input`, `forward`, `output`, `postrouting`, `ingress`, `egress`.
    pub hook: String,
    /// Lower ones are asked first.
    pub priority: i64,
    /// What no rule decides is dropped.
    pub drops: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NftRule {
    pub handle: u64,
    pub statements: Vec<Statement>,
    /// As nft prints it, without its handle and without control characters.
    pub text: String,
}

/// One part of a rule. What is not known stays as nft told it.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// The rule goes on only if this holds.
    Match(Value),
    Verdict(Verdict),
    /// A verdict looked up by a value of the packet.
    VerdictMap(Value),
    /// `meta mark set …` and its like: `key` gets `value`.
    Set {
        key: Value,
        value: Value,
    },
    /// A match or target of iptables, of which nft tells the name at most.
    Xt {
        kind: Option<String>,
        name: Option<String>,
    },
    Other {
        name: String,
        value: Value,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Reject,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

impl NftRule {
    /// The chain that it jumps or goes to.
    pub fn target(&self) -> Option<&str> {
        self.statements.iter().find_map(|s| match s {
            Statement::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(chain.as_str()),
            _ => None,
        })
    }
}

/// Text of others for people.
pub(super) fn shown(text: &str) -> String {
    printable(text).into_owned()
}
