//! What the first SmartNat (Go, up to 2.x) left in the kernel of this box, and taking it away.
//!
//! Nothing of it closes anything: our border stands in mangle and does not depend on it, so no moment of the removal opens the box.
//! Our own objects are told apart by name and protocol number and never touched: it can run beside the daemon. Order: chains with the
//! jumps to them, one transaction a table; the sets, which no rule uses then; policy rules before the routes to which they lead; and the
//! UDP flows that its rules began, which would hang in the border as long as their clients go on sending.

mod chains;
mod names;
mod routing;
mod sets;

use std::io;
use std::path::{Path, PathBuf};

pub use chains::Chains;

use super::conntrack::{self, ConntrackError};
use super::tool::{ToolError, Tools};
use crate::model::MarkLayout;
use crate::netlink::{RouteSocket, RouteSocketError};
use crate::sources::host::HostError;

/// Names of routing tables; the first SmartNat added lines. It is the administrator's file: it is read and never written.
pub const RT_TABLES: &str = "/etc/iproute2/rt_tables";

#[derive(Debug, thiserror::Error)]
pub enum FirstSmartNatError {
    #[error("reading the kernel's {what} failed")]
    Look { what: &'static str, source: ToolError },
    #[error("reading {} failed", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot open an rtnetlink socket; a sandbox around this process must allow AF_NETLINK")]
    Connect(#[source] io::Error),
    #[error("reading the interfaces failed")]
    Interfaces(#[source] HostError),
    #[error("reading {what} by rtnetlink failed")]
    Read { what: &'static str, source: RouteSocketError },
    #[error("{what} could not be removed")]
    Remove { what: &'static str, source: ToolError },
    #[error("connections that it had begun could not be ended; all the rest was removed")]
    Flows(#[source] ConntrackError),
    #[error("a {what} could not be removed; the process needs CAP_NET_ADMIN in its network namespace")]
    Delete { what: &'static str, source: RouteSocketError },
}

/// What of the first SmartNat is in the kernel.
#[derive(Debug, Clone)]
pub struct Leftovers {
    /// By variant of iptables.
    pub chains: Vec<Chains>,
    pub sets: Vec<String>,
    /// What looks like it and is left alone, with the reason.
    pub left: Vec<String>,
    /// Lines of [`RT_TABLES`] that it added, for the administrator to remove.
    pub table_lines: Vec<String>,
    routing: routing::Found,
}

impl Leftovers {
    /// Whether there is nothing to remove. Lines of rt_tables do not count: they do nothing by themselves.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
            && self.sets.is_empty()
            && self.routing.rules.is_empty()
            && self.routing.routes.is_empty()
    }

    /// How many policy rules there are, duplicates counted.
    pub fn rules(&self) -> usize {
        self.routing.rules.len()
    }

    /// The policy rules in words, each once.
    pub fn rule_names(&self) -> Vec<String> {
        routing::told(&self.routing)
    }

    /// How many routes of its tables there are.
    pub fn routes(&self) -> usize {
        self.routing.routes.len()
    }

    /// Numbers of what there is, in one line.
    pub fn summary(&self) -> String {
        let chains: usize = self.chains.iter().map(|c| c.names().len() + c.pinned().len()).sum();
        let jumps: usize = self.chains.iter().map(Chains::jumps).sum();
        format!(
            "{chains} chains, {jumps} jumps to them, {} sets, {} policy rules, {} routes",
            self.sets.len(),
            self.rules(),
            self.routes()
        )
    }
}

/// Looks for what the first SmartNat left, and changes nothing. `rt_tables` need not exist.
pub async fn leftovers(tools: &Tools, rt_tables: &Path) -> Result<Leftovers, FirstSmartNatError> {
    let look = |what| move |source| FirstSmartNatError::Look { what, source };
    let text = match std::fs::read(rt_tables) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(FirstSmartNatError::File { path: rt_tables.to_owned(), source }),
    };
    let entries = names::table_entries(&text);
    let (chains, unread) = chains::look(tools).await.map_err(look("tables"))?;
    let sets = sets::look(tools).await.map_err(look("sets"))?;
    let mut socket = RouteSocket::connect().map_err(FirstSmartNatError::Connect)?;
    let routing = routing::look(&mut socket, &entries).await?;
    Ok(Leftovers {
        chains,
        sets: sets.names,
        left: unread.into_iter().chain(sets.left).chain(routing.left.iter().cloned()).collect(),
        table_lines: routing::its_entries(&entries, &routing).into_iter().map(|e| e.line.clone()).collect(),
        routing,
    })
}

/// What the removal met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Sets that stay because somebody else uses them.
    pub sets_in_use: Vec<String>,
    /// UDP flows that it had begun, and that were ended.
    pub flows: usize,
}

/// Removes what was found. Looking and removing once more removes what is left. `marks` are those of our daemon: flows that it serves stay.
pub async fn remove(tools: &Tools, found: &Leftovers, marks: MarkLayout) -> Result<Removed, FirstSmartNatError> {
    let failed = |what| move |source| FirstSmartNatError::Remove { what, source };
    for chains in &found.chains {
        chains.remove(tools).await.map_err(failed("chains"))?;
    }
    let sets_in_use = sets::remove(tools, &found.sets).await.map_err(failed("sets"))?;
    let mut socket = RouteSocket::connect().map_err(FirstSmartNatError::Connect)?;
    routing::remove(&mut socket, &found.routing).await?;
    let endpoints = found.chains.iter().flat_map(Chains::endpoints).collect();
    let flows = conntrack::end_strange_udp(&endpoints, marks).await.map_err(FirstSmartNatError::Flows)?;
    Ok(Removed { sets_in_use, flows })
}
