//! Brings the kernel from what it holds to what was planned: only differences are written, and only what is ours is touched.
//!
//! Order of a full apply: sets are filled and closing gates closed; sysctls of interfaces; routes and rules; the tables (one restore a
//! family); sets are emptied and opening gates opened; remaining sysctls, forwarding last; unused sets are destroyed. The border alone
//! closes mangle first: sets, tables, routes and rules, sysctls.

pub mod applied;
pub mod cleanup;
pub mod conntrack;
pub mod diff;
pub mod first_smartnat;
pub mod held;
pub mod ipset;
pub mod iptables;
pub mod lock;
pub mod nft;
pub mod routing;
mod routing_memory;
pub mod state;
pub mod sysctl;
pub mod tool;

use std::path::PathBuf;

pub use applied::{Applied, Repair, RepairKind, Writes};
pub use cleanup::{CleanupError, CleanupReport, cleanup};
pub use held::{Held, held};
use ipset::Sets;
use iptables::Tables;
pub use lock::{LockError, WriterLock};
use routing::RoutingError;
use routing_memory::RoutingMemory;
pub use routing_memory::WrittenRouting;
use sysctl::{SysctlError, Sysctls};
pub use tool::{OwnWriters, ToolError, Tools};

use crate::model::Host;
use crate::ruleset::{Dataplane, Sysctl};

/// How much of a dataplane is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What the host alone decides: the tables mangle, filter and security, routes, rules, sysctls. Sets are only made and added to; no
    /// chain, set, member or translation of a Mapping is touched.
    Border,
    Full,
}

/// An apply that stopped half way. Each step leaves a state that works; the next apply reads the kernel back first.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("reading the kernel's {what} failed; nothing was changed")]
    Look { what: &'static str, source: ToolError },
    #[error("{what} could not be written; what was there before goes on working")]
    Write { what: &'static str, source: ToolError },
    /// The kernel did not take every route or rule; all the rest was applied.
    #[error("not all routes and rules could be written")]
    Routing(#[from] RoutingError),
    /// All the rest was applied.
    #[error("kernel parameters could not be set")]
    Sysctl(#[from] SysctlError),
}

/// Applies dataplanes and remembers what the kernel holds, so that an unchanged world costs nothing.
pub struct Applier {
    tools: Tools,
    sets: Sets,
    tables: Tables,
    sysctls: Sysctls,
    routing: RoutingMemory,
    /// Set while an apply runs: one that was dropped half way leaves it, and nothing is certain then.
    running: bool,
}

impl Applier {
    /// `state_dir` keeps what sysctls were before us.
    pub fn new(tools: Tools, state_dir: PathBuf) -> Self {
        Applier {
            sets: Sets::new(tools.clone()),
            tables: Tables::new(tools.clone()),
            sysctls: Sysctls::new(state_dir),
            routing: RoutingMemory::default(),
            running: false,
            tools,
        }
    }

    /// The next apply reads the kernel back before it compares: at a refresh, or when somebody else changed the tables.
    pub fn invalidate(&mut self) {
        self.sets.invalidate();
        self.tables.invalidate();
    }

    /// Routes and rules of ours as they are since the last apply, also a failed one, if that wrote them: to be put into the snapshot, so
    /// that the next plan does not begin from a look that is older.
    pub fn take_written_routing(&mut self) -> Option<WrittenRouting> {
        self.routing.take_written()
    }

    /// Brings the kernel to `desired`. `host` is the snapshot from which it was planned.
    pub async fn apply(&mut self, desired: &Dataplane, host: &Host, scope: Scope) -> Result<Applied, ApplyError> {
        if std::mem::replace(&mut self.running, true) {
            self.forget();
        }
        let calls = self.tools.calls();
        let mut applied = Applied::default();
        let result = self.run(desired, host, scope, &mut applied).await;
        self.running = false;
        applied.tool_calls = self.tools.calls() - calls;
        for repair in &applied.repairs {
            let (kind, name, what) = (repair.kind.as_str(), &repair.name, &repair.what);
            match result {
                Ok(()) => tracing::warn!(kind, name, what, "repaired"),
                Err(_) => tracing::warn!(kind, name, what, "found damaged"),
            }
        }
        match result {
            Ok(()) => {
                tracing::debug!(?scope, writes = ?applied.writes, tool_calls = applied.tool_calls, "applied");
                Ok(applied)
            }
            // All the rest was written, and is known.
            Err(error @ (ApplyError::Routing(_) | ApplyError::Sysctl(_))) => Err(error),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    fn forget(&mut self) {
        self.sets.forget();
        self.tables.forget();
    }

    async fn run(
        &mut self,
        desired: &Dataplane,
        host: &Host,
        scope: Scope,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        let Applied { writes, repairs, .. } = applied;
        let look = |what| move |source| ApplyError::Look { what, source };
        let write = |what| move |source| ApplyError::Write { what, source };
        self.sets.look().await.map_err(look("sets"))?;
        self.tables.look(&desired.tables, scope.into()).await.map_err(look("tables"))?;
        self.sysctls.retain(&desired.sysctls);

        self.sets.prepare(&desired.sets, scope, writes, repairs).await.map_err(write("sets"))?;
        // One route or parameter that the kernel refuses must not keep the border open or a Mapping away: errors of both are told at the end.
        let (routed, set) = match scope {
            Scope::Border => {
                self.tables.apply(&desired.tables, scope.into(), writes, repairs).await.map_err(write("tables"))?;
                let routed = self.routing.apply(desired, host, writes, repairs).await;
                (routed, self.sysctls.apply(desired.sysctls.iter(), &mut writes.sysctls, repairs))
            }
            Scope::Full => {
                let (interfaces, rest): (Vec<_>, Vec<_>) =
                    desired.sysctls.iter().partition(|(s, _)| matches!(s, Sysctl::Interface { .. }));
                let first = self.sysctls.apply(interfaces.into_iter(), &mut writes.sysctls, repairs);
                let routed = self.routing.apply(desired, host, writes, repairs).await;
                self.tables.apply(&desired.tables, scope.into(), writes, repairs).await.map_err(write("tables"))?;
                self.sets.finish(&desired.sets, writes).await.map_err(write("sets"))?;
                let last = self.sysctls.apply(rest.into_iter(), &mut writes.sysctls, repairs);
                applied.stuck_sets = self.sets.destroy_unwanted(&desired.sets, writes).await.map_err(write("sets"))?;
                (routed, sysctl::both(first, last))
            }
        };
        applied.waiting_routes = routed?;
        set?;
        Ok(())
    }
}
