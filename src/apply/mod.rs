//! Brings the kernel from what it holds to what was planned: only differences are written, and only what is ours is touched.
//!
//! Order of an apply: sets are filled and closing gates closed; mangle, both families; sysctls of interfaces; routes and rules; the other
//! tables; sets are emptied and opening gates opened; unused sets are destroyed; remaining sysctls, forwarding last, and only while mangle
//! is closed. What fails is told at the end, and keeps nothing else from being applied.

mod alias;
pub mod applied;
pub mod cleanup;
pub mod conntrack;
pub mod diff;
mod error;
pub mod first_smartnat;
pub mod held;
pub mod ipset;
pub mod iptables;
mod list;
pub mod lock;
mod nat_hold;
pub mod nft;
pub mod routing;
mod routing_memory;
pub mod state;
pub mod sysctl;
pub mod tool;

use std::path::PathBuf;

pub use applied::{Applied, Repair, RepairKind, Writes};
pub use cleanup::{CleanupError, CleanupReport, cleanup};
pub use error::ApplyError;
pub use held::{Held, held};
use ipset::Sets;
use iptables::{Reach, Tables};
pub use lock::{LockError, WriterLock};
pub use nat_hold::NatHold;
use routing_memory::RoutingMemory;
pub use routing_memory::WrittenRouting;
use sysctl::Sysctls;
pub use tool::{ToolError, Tools};

use crate::model::Host;
use crate::ruleset::{Dataplane, Sysctl, Table};

/// How much of a dataplane is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What the host alone decides: the tables mangle, filter and security, routes, rules, sysctls. Sets are only made and added to; no
    /// chain, set, member or translation of a Mapping is touched.
    Border,
    Full,
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
    /// The last apply left the border closed: mangle, both families.
    closed: bool,
    /// The last apply left nat as it was wanted.
    translating: bool,
    /// Somebody else had damaged nat; see [`Applier::take_nat_damaged`].
    nat_damaged: bool,
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
            closed: false,
            translating: false,
            nat_damaged: false,
            tools,
        }
    }

    /// The next apply reads the kernel back before it compares: at a refresh, or when somebody else changed the tables.
    pub fn invalidate(&mut self) {
        self.sets.invalidate();
        self.tables.invalidate();
    }

    /// Whether the kernel still holds what it held after the last apply: tables, sets and sysctls. Who changes routes and rules is told
    /// by the host's notices. False also where that is not known without reading.
    pub async fn holds(&mut self) -> bool {
        !self.running && self.sysctls.hold() && self.tables.hold().await && self.sets.hold().await
    }

    /// Whether the last apply left the border closed, whatever else failed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the last apply left translations as they were wanted, whatever else failed.
    pub fn is_translating(&self) -> bool {
        self.translating
    }

    /// Routes and rules of ours as they are since the last apply, also a failed one, if that wrote them: to be put into the snapshot, so
    /// that the next plan does not begin from a look that is older.
    pub fn take_written_routing(&mut self) -> Option<WrittenRouting> {
        self.routing.take_written()
    }

    /// Whether somebody else had damaged translations since this was last asked: what began meanwhile was not translated.
    pub fn take_nat_damaged(&mut self) -> bool {
        std::mem::take(&mut self.nat_damaged)
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
        self.nat_damaged |= applied.repairs.iter().any(Repair::is_of_nat);
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
            // What failed is not known any more, and read again; all the rest is.
            Err(error) => Err(error),
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
        let mut failures = Vec::new();
        // Whether sets, and rules, are as wanted as far as the step after them needs it.
        let mut filled = true;
        if let Err(source) = self.sets.look().await {
            filled = false;
            failures.push(ApplyError::Look { what: "sets", source });
        }
        let looked = self.tables.look(&desired.tables, scope.into()).await;
        self.sysctls.retain(&desired.sysctls);
        if filled && let Err(source) = self.sets.prepare(&desired.sets, scope, writes, repairs).await {
            filled = false;
            failures.push(ApplyError::Write { what: "sets", source });
        }

        // The border first: nothing that fails after it keeps it open.
        let [closing, rest] = Reach::from(scope).closing_first();
        let mut tables = looked;
        tables.extend(self.tables.apply(&desired.tables, closing, writes, repairs).await);
        self.closed = !tables.iter().any(|failure| failure.key.1 == Table::Mangle);

        let first = desired.sysctls.iter().filter(|(s, _)| scope == Scope::Full && is_of_interface(s));
        let first = self.sysctls.apply(first, &mut writes.sysctls, repairs);
        let routed = self.routing.apply(desired, host, writes, repairs).await;
        applied.waiting_routes = routed.unwrap_or_else(|error| {
            failures.push(error.into());
            Vec::new()
        });

        tables.extend(self.tables.apply(&desired.tables, rest, writes, repairs).await);
        let translating = !tables.iter().any(|failure| failure.key.1 == Table::Nat);
        self.translating = translating && scope == Scope::Full;
        if scope == Scope::Full && filled {
            // Gates open for what the rules are there for.
            if translating && let Err(source) = self.sets.finish(&desired.sets, writes).await {
                filled = false;
                failures.push(ApplyError::Write { what: "sets", source });
            }
            if filled && tables.is_empty() {
                match self.sets.destroy_unwanted(&desired.sets, writes).await {
                    Ok(stuck) => applied.stuck_sets = stuck,
                    Err(source) => {
                        filled = false;
                        failures.push(ApplyError::Write { what: "sets", source });
                    }
                }
            }
        }
        if !filled {
            self.sets.forget();
        }

        let closed = self.closed;
        let last = desired.sysctls.iter().filter(|(s, _)| scope == Scope::Border || !is_of_interface(s));
        let last = last.filter(|(s, _)| closed || !s.is_forwarding());
        let last = self.sysctls.apply(last, &mut writes.sysctls, repairs);
        failures.extend(sysctl::both(first, last).err().map(ApplyError::from));
        failures.extend(tables.into_iter().map(ApplyError::from));
        if !closed && desired.sysctls.keys().any(Sysctl::is_forwarding) {
            failures.push(ApplyError::Open);
        }
        ApplyError::of(failures).map_or(Ok(()), Err)
    }
}

fn is_of_interface(sysctl: &Sysctl) -> bool {
    matches!(sysctl, Sysctl::Interface { .. })
}
