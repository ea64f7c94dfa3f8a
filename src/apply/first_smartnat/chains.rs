//! Its chains and the jumps to them, in the tables of both variants of iptables.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::ErrorKind;

use super::names::{CHAIN_PREFIXES, is_chain};
use crate::apply::iptables::{Listing, readable, unquoted_words};
use crate::apply::tool::{ToolError, Tools};
use crate::model::{Endpoint, Family};
use crate::ruleset::Table;

/// The tables that it wrote to. It knew no IPv6.
const TABLES: [Table; 2] = [Table::Nat, Table::Mangle];

/// What one variant of iptables holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chains {
    /// The tool that removes them.
    pub restore: &'static str,
    tables: Vec<(Table, Listing)>,
}

/// Looks into the tables of `iptables` and, where that is installed, of its other variant. A variant that cannot be read is told by a
/// sentence.
pub(super) async fn look(tools: &Tools) -> Result<(Vec<Chains>, Option<String>), ToolError> {
    let mut tables = Vec::new();
    for table in TABLES {
        let text = tools.list_table(Family::Ipv4, table).await?;
        tables.push((table, listing(table, &text)));
    }
    let mut found = vec![Chains { restore: "iptables-restore", tables }];
    let (save, restore) = if tools.read("iptables", &["--version"]).await?.contains("(nf_tables)") {
        ("iptables-legacy-save", "iptables-legacy-restore")
    } else {
        ("iptables-nft-save", "iptables-nft-restore")
    };
    // Without a table's name: naming one would load the kernel's module for it.
    let unread = match tools.read(save, &[]).await {
        Ok(text) => {
            found.push(Chains { restore, tables: saved(&text) });
            None
        }
        Err(ToolError::Start { source, .. }) if source.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            Some(format!("the tables of {save} could not be read ({error}): look for SNM- and MAP- chains there"))
        }
    };
    found.retain(|chains| !chains.is_empty());
    Ok((found, unread))
}

fn listing(table: Table, text: &str) -> Listing {
    Listing::parse_for(text, &CHAIN_PREFIXES, |name| is_chain(table, name))
}

/// The same from the output of a save: `*TABLE`, `:CHAIN POLICY`, rules.
fn saved(text: &str) -> Vec<(Table, Listing)> {
    TABLES
        .into_iter()
        .map(|table| {
            let header = format!("*{table}");
            let section = text.lines().skip_while(|line| *line != header).skip(1).take_while(|line| *line != "COMMIT");
            let lines: Vec<String> = section
                .map(|line| match line.strip_prefix(':').and_then(|rest| rest.split_once(' ')) {
                    Some((chain, _)) => format!("-N {chain}"),
                    None => line.to_owned(),
                })
                .collect();
            (table, listing(table, &lines.join("\n")))
        })
        .collect()
}

impl Chains {
    /// Nothing of it that could be removed.
    fn is_empty(&self) -> bool {
        self.tables.iter().all(|(_, listing)| {
            listing.hooks.is_empty()
                && listing.chains.iter().all(|(name, rules)| listing.pinned.contains(name) && rules.is_empty())
        })
    }

    /// Chains that go, each with its table.
    pub fn names(&self) -> Vec<String> {
        self.of_each(|listing, name| !listing.pinned.contains(name))
    }

    /// Chains that are emptied and stay, because a chain of somebody else's leads to them.
    pub fn pinned(&self) -> Vec<String> {
        self.of_each(|listing, name| listing.pinned.contains(name))
    }

    fn of_each(&self, wanted: impl Fn(&Listing, &str) -> bool) -> Vec<String> {
        self.tables
            .iter()
            .flat_map(|(table, listing)| {
                let names = listing.chains.keys().filter(|name| wanted(listing, name));
                names.map(move |name| format!("{table} {name}")).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Rules of built-in chains that lead to them.
    pub fn jumps(&self) -> usize {
        self.tables.iter().flat_map(|(_, listing)| listing.hooks.values()).map(|hook| hook.copies.len()).sum()
    }

    /// The endpoints that it served: addresses of the rules that lead to a Mapping's chain, with protocols and ports of its rules.
    pub(super) fn endpoints(&self) -> BTreeSet<Endpoint> {
        let mut endpoints = BTreeSet::new();
        for listing in self.tables.iter().filter(|(table, _)| *table == Table::Nat).map(|(_, listing)| listing) {
            for rule in listing.chains.get("SNM-PREROUTING").into_iter().flatten() {
                let address = option(rule, "-d").and_then(|net| net.split('/').next()?.parse().ok());
                let chain = option(rule, "-j").and_then(|chain| listing.chains.get(chain));
                let (Some(address), Some(chain)) = (address, chain) else { continue };
                endpoints.extend(chain.iter().filter_map(|rule| {
                    let protocol = option(rule, "-p")?.parse().ok()?;
                    Some(Endpoint { address, protocol, port: option(rule, "--dport")?.parse().ok()? })
                }));
            }
        }
        endpoints
    }

    /// Removes all of it, each table in one transaction.
    pub(super) async fn remove(&self, tools: &Tools) -> Result<(), ToolError> {
        tools.write(self.restore, &["--noflush", "--wait"], self.removal()).await
    }

    fn removal(&self) -> String {
        let mut out = String::new();
        for (table, listing) in self.tables.iter().filter(|(_, listing)| !listing.chains.is_empty()) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "*{table}");
            for name in listing.chains.keys() {
                let _ = writeln!(out, "-F {name}");
            }
            for (builtin, hook) in &listing.hooks {
                for copy in &hook.copies {
                    let _ = writeln!(out, "-D {builtin} {}", readable(copy));
                }
            }
            for name in listing.chains.keys().filter(|name| !listing.pinned.contains(*name)) {
                let _ = writeln!(out, "-X {name}");
            }
            out += "COMMIT\n";
        }
        out
    }
}

/// The value of an option.
fn option<'a>(rule: &'a str, name: &str) -> Option<&'a str> {
    let mut words = unquoted_words(rule);
    words.find(|word| *word == name)?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVE: &str = r#"# Generated by iptables-save
*mangle
:PREROUTING ACCEPT [0:0]
:SNM-PREROUTING - [0:0]
-A PREROUTING -m comment --comment "\"for SNM\"" -j SNM-PREROUTING
-A SNM-PREROUTING -m set --match-set QKZ232OQBTIWIKSNIIHGODLM src -j MARK --set-xmark 0x803/0x803
COMMIT
*filter
:SNM-PREROUTING - [0:0]
-A INPUT -j SNM-PREROUTING
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:MAP-QKZ232OQBTIWIKSNIIHGODLM - [0:0]
:MAP-foo - [0:0]
:ADMIN - [0:0]
:SNM-PREROUTING - [0:0]
-A PREROUTING -j MAP-foo
-A PREROUTING -j SNM-PREROUTING
-A ADMIN -j MAP-QKZ232OQBTIWIKSNIIHGODLM
-A SNM-PREROUTING -d 203.0.113.10/32 -m comment --comment "\"for -d 1.2.3.4\"" -j MAP-QKZ232OQBTIWIKSNIIHGODLM
-A MAP-QKZ232OQBTIWIKSNIIHGODLM -j MARK --set-xmark 0x100000/0x100000
-A MAP-QKZ232OQBTIWIKSNIIHGODLM -p udp -m udp --dport 53 -j DNAT --to-destination 10.96.0.10:53
COMMIT
"#;

    #[test]
    fn exactly_its_chains_and_the_jumps_to_them_are_removed() {
        let chains = Chains { restore: "iptables-legacy-restore", tables: saved(SAVE) };
        assert_eq!(chains.names(), ["nat SNM-PREROUTING", "mangle SNM-PREROUTING"]);
        assert_eq!(chains.pinned(), ["nat MAP-QKZ232OQBTIWIKSNIIHGODLM"]);
        assert_eq!(chains.jumps(), 2);
        let endpoints: Vec<String> = chains.endpoints().iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["203.0.113.10:53/udp"]);
        assert_eq!(
            chains.removal(),
            "*nat\n-F MAP-QKZ232OQBTIWIKSNIIHGODLM\n-F SNM-PREROUTING\n-D PREROUTING -j SNM-PREROUTING\n\
             -X SNM-PREROUTING\nCOMMIT\n\
             *mangle\n-F SNM-PREROUTING\n-D PREROUTING -m comment --comment \"\\\"for SNM\\\"\" -j SNM-PREROUTING\n\
             -X SNM-PREROUTING\nCOMMIT\n"
        );
    }

    #[test]
    fn an_empty_chain_that_somebody_else_needs_is_nothing_to_remove() {
        let text = "*nat\n:ADMIN - [0:0]\n:SNM-PREROUTING - [0:0]\n-A ADMIN -j SNM-PREROUTING\nCOMMIT\n";
        let chains = Chains { restore: "iptables-restore", tables: saved(text) };
        assert!(chains.is_empty() && chains.pinned() == ["nat SNM-PREROUTING"], "{chains:?}");
    }
}
