//! What was made by nft in the tables of iptables, so that iptables cannot read them, or that our rules have no place in them.

use std::io;
use std::time::Duration;

use super::Finding;
use crate::apply::iptables::is_of_nft;
use crate::apply::nft::{self, Base, Nft, NftChain, NftError, NftRule, Statement, TableName, Verdict};
use crate::apply::{ToolError, Tools};
use crate::error_chain;
use crate::model::{Family, printable};
use crate::ruleset::{Builtin, Table};

const GROUP: &str = "tables";
/// So many rules of a table are named.
const SHOWN: usize = 5;
const INSTALL: &str = "apt-get install nftables, then run check again";

/// A table that iptables does not read.
struct Unread {
    name: TableName,
    /// What iptables said.
    said: String,
    /// The rules that it has no words for, as far as can be told; `None` without nft.
    rules: Option<Vec<Native>>,
}

struct Native {
    chain: String,
    handle: u64,
    text: String,
}

/// The facts of all our tables.
struct Facts {
    unread: Vec<Unread>,
    /// What could not be looked at for another reason.
    failed: Vec<(TableName, String)>,
    dormant: io::Result<Vec<TableName>>,
    chains: Result<Vec<(TableName, NftChain)>, NftError>,
}

pub(super) async fn findings(patience: Duration) -> Vec<Finding> {
    evaluate(&gather(&Tools::new(patience)).await)
}

/// The tables that SmartNat writes to.
fn ours() -> impl Iterator<Item = (Family, Table)> {
    let all = Family::ALL.into_iter().flat_map(|family| Table::ALL.map(|table| (family, table)));
    all.filter(|key| *key != (Family::Ipv6, Table::Nat))
}

async fn gather(tools: &Tools) -> Facts {
    let nft = Nft::new(tools.clone());
    let (mut unread, mut failed) = (Vec::new(), Vec::new());
    for (family, table) in ours() {
        let name = TableName::of_iptables(family, table);
        match tools.list_table(family, table).await {
            Ok(_) => {}
            Err(error) if is_of_nft(&error) => match natives(tools, &nft, family, &name).await {
                Ok(rules) => unread.push(Unread { name, said: said(&error), rules: Some(rules) }),
                Err(NftError::Missing) => unread.push(Unread { name, said: said(&error), rules: None }),
                // Where the trouble is another one, nft fails, too.
                Err(also) => failed.push((name, format!("{}; {}", error_chain(&error), error_chain(&also)))),
            },
            // A missing iptables is told among the tools.
            Err(ToolError::Start { .. }) => {}
            Err(error) => failed.push((name, error_chain(&error))),
        }
    }
    Facts { unread, failed, dormant: dormant().await, chains: nft.chains().await }
}

fn said(error: &ToolError) -> String {
    match error {
        ToolError::Failed { stderr, .. } => stderr.replace('\n', " "),
        other => error_chain(other),
    }
}

/// Tables of iptables.
async fn dormant() -> io::Result<Vec<TableName>> {
    Ok(nft::dormant().await?.into_iter().filter(TableName::is_of_iptables).collect())
}

/// The rules for which iptables has no words: in the chains that it does not list, those that hold what it never writes.
async fn natives(tools: &Tools, nft: &Nft, family: Family, name: &TableName) -> Result<Vec<Native>, NftError> {
    let mut found = Vec::new();
    for chain in nft.table(name).await?.chains {
        if !chain.rules.iter().any(is_native)
            || tools.iptables(family, &["-t", &name.name, "-S", &chain.name]).await.is_ok()
        {
            continue;
        }
        let native = chain.rules.into_iter().filter(is_native);
        found.extend(native.map(|r| Native { chain: chain.name.clone(), handle: r.handle, text: r.text }));
    }
    Ok(found)
}

fn is_native(rule: &NftRule) -> bool {
    rule.statements.iter().any(|statement| match statement {
        Statement::Match(inner) => !is_known(&inner["left"]),
        Statement::Verdict(verdict) => *verdict == Verdict::Reject,
        Statement::VerdictMap(_) | Statement::Set { .. } => true,
        Statement::Xt { .. } => false,
        Statement::Other { name, .. } => !matches!(name.as_str(), "counter" | "limit" | "xt"),
    })
}

/// What iptables itself matches in the words of nft, bitwise or not.
fn is_known(left: &serde_json::Value) -> bool {
    if let Some(masked) = left["&"].as_array() {
        return masked.first().is_some_and(is_known);
    }
    let field = |of: &str, key: &str| left[of][key].as_str().unwrap_or_default().to_owned();
    match field("payload", "protocol").as_str() {
        "ip" | "ip6" => {
            let known = ["saddr", "daddr", "protocol", "nexthdr", "ttl", "hoplimit"];
            known.contains(&field("payload", "field").as_str())
        }
        "tcp" | "udp" | "th" => ["sport", "dport", "flags"].contains(&field("payload", "field").as_str()),
        _ => {
            let known = ["iifname", "oifname", "iif", "oif", "l4proto", "mark", "pkttype"];
            known.contains(&field("meta", "key").as_str())
        }
    }
}

fn evaluate(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.unread.iter().map(unread).collect();
    findings.extend(facts.failed.iter().map(|(name, why)| {
        Finding::fail(
            GROUP,
            format!("table {name} cannot be read: {why}"),
            "see what the tool says (run check as root); nothing is known of the table",
        )
    }));
    match &facts.dormant {
        Ok(dormant) => findings.extend(dormant.iter().map(|name| {
            Finding::fail(
                GROUP,
                format!("table {name} is dormant: the kernel asks none of its rules, SmartNat's neither"),
                format!("nft add table {name}"),
            )
        })),
        Err(error) => findings.push(Finding::warn(
            GROUP,
            format!("whether a table of iptables is dormant was not seen: {error}"),
            "run check as root",
        )),
    }
    match &facts.chains {
        Ok(chains) => findings.extend(chains.iter().filter_map(|(name, chain)| misplaced(name, chain))),
        Err(error) => findings.push(Finding::warn(
            GROUP,
            format!("whether chains of iptables' tables were made otherwise was not seen: {}", error_chain(error)),
            error.remedy(),
        )),
    }
    if findings.is_empty() {
        findings.push(Finding::ok(GROUP, "iptables reads every table that SmartNat writes to, none is dormant"));
    }
    findings
}

fn unread(table: &Unread) -> Finding {
    let name = &table.name;
    let begin = format!("iptables cannot read table {name} ({})", table.said);
    match &table.rules {
        Some(rules) if rules.is_empty() => Finding::fail(
            GROUP,
            format!("{begin}; which rule it has no words for cannot be told"),
            format!("nft -a list table {name}; delete what nft wrote there, and write it into a table of its own"),
        ),
        Some(rules) => {
            let shown = rules.iter().take(SHOWN);
            let texts: Vec<_> =
                shown.clone().map(|r| format!("`{}` in chain {}", r.text, printable(&r.chain))).collect();
            let more = rules.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            // The kernel takes any text for a name; a command is given only where the name can be nothing else in it.
            let deletes: Vec<_> = shown
                .map(|r| match nft::named(&r.chain).is_ok() {
                    true => format!("nft delete rule {name} {} handle {}", r.chain, r.handle),
                    false => format!("delete the rule with handle {} of table {name}", r.handle),
                })
                .collect();
            Finding::fail(
                GROUP,
                format!("{begin}: nft wrote {}{more}", texts.join(", ")),
                format!("{} (write such rules into a table of their own)", deletes.join("; ")),
            )
        }
        None => Finding::fail(
            GROUP,
            format!(
                "{begin}; the rule that it has no words for was not looked for: {}",
                error_chain(&NftError::Missing)
            ),
            INSTALL,
        ),
    }
}

/// A chain with the name of a built-in one that the kernel enters otherwise: iptables puts no rule into it.
fn misplaced(name: &TableName, chain: &NftChain) -> Option<Finding> {
    let (_, table) = ours().find(|(family, table)| *name == TableName::of_iptables(*family, *table))?;
    let builtin = Builtin::parse(&chain.name)?;
    let wanted = expected(table, builtin);
    let fits = |base: &Base| (base.kind.as_str(), base.priority) == wanted && base.hook == chain.name.to_lowercase();
    if chain.base.as_ref().is_some_and(fits) {
        return None;
    }
    let is = chain
        .base
        .as_ref()
        .map_or("no hook at all".to_owned(), |b| format!("type {} hook {} priority {}", b.kind, b.hook, b.priority));
    Some(Finding::fail(
        GROUP,
        format!(
            "chain {builtin} of table {name} was made by nft, with {is} instead of type {} priority {}: iptables puts no rule of \
             SmartNat into it",
            wanted.0, wanted.1
        ),
        format!(
            "nft flush chain {name} {builtin}; nft delete chain {name} {builtin} (its rules belong into a table of their own)"
        ),
    ))
}

/// Type and priority that iptables gives a chain.
fn expected(table: Table, builtin: Builtin) -> (&'static str, i64) {
    match (table, builtin) {
        (Table::Mangle, Builtin::Output) => ("route", -150),
        (Table::Mangle, _) => ("filter", -150),
        (Table::Filter, _) => ("filter", 0),
        (Table::Security, _) => ("filter", 150),
        (Table::Nat, Builtin::Prerouting | Builtin::Output) => ("nat", -100),
        (Table::Nat, _) => ("nat", 100),
    }
}
