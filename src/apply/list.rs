//! Listing a table of iptables, also one whose chains iptables would take long to sort.
//!
//! iptables-nft sorts chains by name to list them, in a time that is the square of their number where the kernel has
//! them in that order: 24,500 chains that were made in one block take 10 s of processor time. Asked for chain by chain
//! it sorts nothing. iptables-restore takes `-S CHAIN` as it takes any other command, and many of them in one call.

use super::tool::{ToolError, Tools};
use crate::model::Family;
use crate::netlink::nf_chains;
use crate::ruleset::Table;

/// Fewer chains are sorted in no time, whatever their order.
const MANY: usize = 2_000;
/// Chains of a block, and of a call.
const BLOCK: usize = 200;
const CALL: usize = 4_000;

impl Tools {
    /// `iptables -t TABLE -S`, from PATH also where the writing tools are fakes.
    pub async fn list_table(&self, family: Family, table: Table) -> Result<String, ToolError> {
        if let Some(chains) = self.chains_in_order_of_names(family, table).await {
            // A chain that went meanwhile, one that iptables cannot read: the listing of the whole says what is wrong.
            match self.list_chains(family, table, &chains).await {
                Ok(listing) => return Ok(listing),
                Err(error) => tracing::debug!(%error, "a table could not be listed chain by chain"),
            }
        }
        self.iptables(family, &["-t", table.as_str(), "-S"]).await
    }

    /// All chains of a table that takes long to sort.
    async fn chains_in_order_of_names(&self, family: Family, table: Table) -> Option<Vec<String>> {
        let chains = nf_chains(family, table.as_str()).await.ok()?;
        let plain = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let slow = chains.len() > MANY && is_nearly_sorted(&chains) && chains.iter().all(plain);
        (slow && self.commits_in_blocks(restore(family)).await).then_some(chains)
    }

    async fn list_chains(&self, family: Family, table: Table, chains: &[String]) -> Result<String, ToolError> {
        let mut listing = String::new();
        for call in chains.chunks(CALL) {
            let mut input = String::new();
            for block in call.chunks(BLOCK) {
                input += &format!("*{table}\n");
                // In the reverse order of names the tool finds a place for each at once.
                block.iter().rev().for_each(|chain| input += &format!("-S {chain}\n"));
                input += "COMMIT\n";
            }
            listing += &self.ask(restore(family), &["--noflush", "--wait"], input).await?;
        }
        Ok(listing)
    }
}

/// The tool that writes a family's tables.
pub(super) fn restore(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables-restore",
        Family::Ipv6 => "ip6tables-restore",
    }
}

/// Far from any order, half of the names are behind the one before them.
fn is_nearly_sorted(names: &[String]) -> bool {
    let rising = names.windows(2).filter(|pair| pair[0] < pair[1]).count();
    rising * 4 < names.len() || rising * 4 > names.len() * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_their_order_or_its_reverse_are_told_from_others() {
        let mut names: Vec<String> = (0..1000).map(|i| format!("C-{i:04}")).collect();
        assert!(is_nearly_sorted(&names));
        names.reverse();
        assert!(is_nearly_sorted(&names));
        names.sort_by_key(|name| name.bytes().rev().collect::<Vec<_>>());
        names.sort_by_key(|name| name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(16_777_619) ^ u32::from(byte)));
        assert!(!is_nearly_sorted(&names));
    }
}
