//! Taking everything of ours out of the kernel.
//!
//! Order: what lets packets in (nat), routes and rules, kernel parameters with forwarding first, then the border, then the sets, which no
//! rule uses any more. So there is no moment in which packets are forwarded without the border, unless forwarding stays on afterwards.
//!
//! The tables are emptied by one restore for each family and step: chains that lead to each other, and the hook that leads to the first
//! of them, go in one transaction, or none does. Many chains go in several, behind the one with the hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::applied::Writes;
use super::ipset::Sets;
use super::iptables::{Reach, TableError, Tables};
use super::nft::{Nft, TableName};
use super::routing::{self, Routing, RoutingError};
use super::state::{Originals, StateError};
use super::sysctl::{self, SysctlError};
use super::tool::{ToolError, Tools};
use crate::model::{Family, Host};
use crate::ruleset::{Dataplane, Sysctl, Table, TableRules};

/// What a cleanup removed, and what it had to leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupReport {
    pub writes: Writes,
    /// Whether net.ipv4.ip_forward is on now.
    pub forwarding: bool,
    /// Sets of ours that foreign rules use.
    pub stuck_sets: Vec<String>,
    /// Chains of ours, emptied, that foreign rules lead to (`ipv4 nat SMARTNAT-...`).
    pub pinned_chains: Vec<String>,
}

/// A cleanup that was refused, or stopped: what follows in the order (the border last) is still there, and it can be run again.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error(
        "refused: kube-proxy's chains are here ({}). Without the border every host on an external interface would reach what \
         kube-proxy answers for on this box: ClusterIPs and NodePorts (in IPVS mode also without forwarding){}. Stop kube-proxy and \
         run `kube-proxy --cleanup`, or insist with --force",
        chains.join(", "),
        if *forwarding { "; and all pods, because forwarding would stay on (net.ipv4.ip_forward=1)" } else { "" }
    )]
    WouldOpen {
        chains: Vec<String>,
        /// Whether packets would be forwarded afterwards.
        forwarding: bool,
    },
    #[error("reading the kernel's {what} failed")]
    Look { what: &'static str, source: ToolError },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and "))]
    Tables(Vec<TableError>),
    #[error(
        "iptables cannot read {}, because of rules that nft wrote there, and nft, which could, is not installed: what is ours in \
         there would stay unseen. Install nftables, or remove those rules",
        .0.join(", ")
    )]
    Blind(Vec<String>),
    #[error("{what} could not be removed")]
    Remove { what: &'static str, source: ToolError },
    #[error("net.ipv4.ip_forward could not be read")]
    Forwarding(#[source] io::Error),
    #[error("routes and rules could not be removed")]
    Routing(#[from] RoutingError),
    #[error("kernel parameters could not be put back")]
    Sysctl(#[from] SysctlError),
    #[error("the record of kernel parameters could not be used")]
    State(#[from] StateError),
}

/// Removes all of ours. Running it again removes what is left; where nothing is left it changes nothing.
pub async fn cleanup(tools: Tools, state_dir: &Path, host: &Host, force: bool) -> Result<CleanupReport, CleanupError> {
    let nothing = Dataplane::default();
    let everywhere: BTreeMap<(Family, Table), TableRules> = Family::ALL
        .iter()
        .flat_map(|family| Table::ALL.map(|table| ((*family, table), TableRules::default())))
        .collect();
    let look = |what| move |source| CleanupError::Look { what, source };
    let remove = |what| move |source| CleanupError::Remove { what, source };
    let mut tables = Tables::new(tools.clone());
    let mut sets = Sets::new(tools.clone());
    let looked = tables.look(&everywhere, Reach::ALL).await;
    stop_at(looked)?;
    let blind = tables.blind();
    if !blind.is_empty() {
        return Err(CleanupError::Blind(blind));
    }
    sets.look().await.map_err(look("sets"))?;
    let originals = Originals::load(state_dir)?;

    let chains = kube_chains(&tools).await.map_err(look("tables"))?;
    if !force && !chains.is_empty() && tables.any() {
        return Err(CleanupError::WouldOpen { chains, forwarding: forwarding_after(&originals)? });
    }

    let mut report = CleanupReport::default();
    let writes = &mut report.writes;
    stop_at(tables.apply(&everywhere, Reach::TRANSLATION, writes, &mut Vec::new()).await)?;
    let change = routing::diff(&nothing, host);
    if !change.is_empty() {
        Routing::connect()?.apply(&change, host).await?;
        writes.routes += change.del_routes.len();
        writes.rules += change.del_rules.len();
    }
    writes.sysctls += sysctl::restore(originals.sysctls())?;
    stop_at(tables.apply(&everywhere, Reach::BORDER, writes, &mut Vec::new()).await)?;
    report.stuck_sets = sets.destroy_unwanted(&nothing.sets, writes).await.map_err(remove("sets"))?;
    originals.discard()?;
    report.pinned_chains = tables.pinned();
    report.forwarding = forwarding()?;
    Ok(report)
}

fn stop_at(failures: Vec<TableError>) -> Result<(), CleanupError> {
    if failures.is_empty() { Ok(()) } else { Err(CleanupError::Tables(failures)) }
}

/// kube-proxy's chains in nat, of both families: they make this box a way to every Service.
async fn kube_chains(tools: &Tools) -> Result<Vec<String>, ToolError> {
    let mut chains = BTreeSet::new();
    for family in Family::ALL {
        chains.extend(chain_names(tools, family, Table::Nat).await?);
    }
    chains.retain(|name| name.starts_with("KUBE-"));
    Ok(chains.into_iter().collect())
}

/// As iptables lists them, or, where it cannot read the table, nft.
async fn chain_names(tools: &Tools, family: Family, table: Table) -> Result<Vec<String>, ToolError> {
    let error = match tools.list_table(family, table).await {
        Ok(listing) => return Ok(listing.lines().filter_map(|l| l.strip_prefix("-N ")).map(str::to_owned).collect()),
        Err(error) => error,
    };
    let name = TableName::of_iptables(family, table);
    let Ok(chains) = Nft::new(tools.clone()).chains().await else { return Err(error) };
    let names: Vec<_> = chains.into_iter().filter(|(of, _)| *of == name).map(|(_, chain)| chain.name).collect();
    // nft knows nothing of the legacy variant's tables.
    if names.is_empty() { Err(error) } else { Ok(names) }
}

fn forwarding() -> Result<bool, CleanupError> {
    Ok(sysctl::read(&Sysctl::IpForward.path()).map_err(CleanupError::Forwarding)? != "0")
}

/// Whether packets will be forwarded once the sysctls are put back.
fn forwarding_after(originals: &Originals) -> Result<bool, CleanupError> {
    let current = sysctl::read(&Sysctl::IpForward.path()).map_err(CleanupError::Forwarding)?;
    Ok(match originals.sysctls().get(&Sysctl::IpForward.path()) {
        Some(original) if original.ours == current => original.before != "0",
        _ => current != "0",
    })
}
