//! A look at what of ours is in tables and sets, without a thought of changing it: for `plan --diff`.

use std::collections::BTreeMap;

pub use super::ipset::{HeldKind, HeldSet};
pub use super::iptables::{HookState, Listing};
use super::tool::{ToolError, Tools};
use crate::model::Family;
use crate::ruleset::Table;

/// What the kernel holds of ours besides routes, rules and sysctls.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Tables that hold something of ours.
    pub tables: BTreeMap<(Family, Table), Listing>,
    pub sets: BTreeMap<String, HeldSet>,
}

/// Reads all of it back.
pub async fn held(tools: &Tools) -> Result<Held, ToolError> {
    let mut held = Held::default();
    for family in Family::ALL {
        for table in Table::ALL {
            let listing = Listing::parse(&tools.list_table(family, table).await?);
            if !listing.is_empty() {
                held.tables.insert((family, table), listing);
            }
        }
    }
    held.sets = super::ipset::parse(&tools.read("ipset", &["save"]).await?);
    Ok(held)
}
