//! A look at what of ours is in tables and sets, without a thought of changing it: for `plan --diff`.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use super::ipset::{HeldKind, HeldSet};
pub use super::iptables::{HookState, Listing};
use super::nft::{Nft, TableName};
use super::tool::{ToolError, Tools};
use crate::model::Family;
use crate::ruleset::Table;
use crate::ruleset::ownership::is_our_chain;

/// What the kernel holds of ours besides routes, rules and sysctls.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Tables that hold something of ours.
    pub tables: BTreeMap<(Family, Table), Listing>,
    pub sets: BTreeMap<Arc<str>, HeldSet>,
}

/// Reads all of it back.
pub async fn held(tools: &Tools) -> Result<Held, ToolError> {
    let mut held = Held::default();
    for family in Family::ALL {
        for table in Table::ALL {
            let listing = match tools.list_table(family, table).await {
                Ok(text) => Listing::parse(&text),
                Err(error) => by_chain(tools, (family, table), error).await?,
            };
            if !listing.is_empty() {
                held.tables.insert((family, table), listing);
            }
        }
    }
    held.sets = super::ipset::parse(&tools.read("ipset", &["save"]).await?);
    Ok(held)
}

/// A table that iptables cannot read whole, because of rules that nft wrote there: the chains that it can, and the others as
/// far as nft shows them. `error`: why it cannot, for where nft does not help either.
async fn by_chain(tools: &Tools, (family, table): (Family, Table), error: ToolError) -> Result<Listing, ToolError> {
    let Ok(read) = Nft::new(tools.clone()).table(&TableName::of_iptables(family, table)).await else {
        return Err(error);
    };
    let mut text = String::new();
    for chain in &read.chains {
        let leads_to_us = || chain.rules.iter().any(|rule| rule.target().is_some_and(is_our_chain));
        if !is_our_chain(&chain.name) && !leads_to_us() {
            continue;
        }
        match tools.iptables(family, &["-t", table.as_str(), "-S", &chain.name]).await {
            Ok(listing) => text += &listing,
            Err(_) if is_our_chain(&chain.name) => {
                text += &format!("-N {0}\n-A {0} # iptables cannot read this chain\n", chain.name);
            }
            Err(_) => {
                for rule in &chain.rules {
                    text += &format!("-A {} {}\n", chain.name, super::iptables::spelled(rule));
                }
            }
        }
    }
    Ok(Listing::parse(&text))
}
