//! Established connections: judged by what is there and by what was there a moment ago.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::apply::conntrack::{self, Cleaned, ConntrackError, FlowHandle};
use crate::error_chain;
use crate::model::{MarkLayout, Objects};
use crate::plan::{FlowMemory, FlowTargets, GRACE};

/// Judges the flows of Mappings and cuts those that may not go on.
pub(super) struct Flows {
    marks: MarkLayout,
    memory: FlowMemory,
    /// The revision of the policy that conntrack was last judged by.
    judged: Option<u64>,
    /// Flows to an address that another pod has taken over; found before any of that pod's own could begin.
    condemned: Vec<FlowHandle>,
}

impl Flows {
    pub(super) fn new(marks: MarkLayout) -> Self {
        Flows { marks, memory: FlowMemory::new(GRACE), judged: None, condemned: Vec::new() }
    }

    /// Takes in what a pass is about to put into the kernel.
    pub(super) async fn look(&mut self, targets: &Arc<FlowTargets>, objects: &Arc<Objects>, now: Instant) {
        self.memory.look(targets, objects, now.into_std());
        if !self.memory.has_replaced() {
            return;
        }
        match conntrack::find(self.marks, |flow| self.memory.is_replaced(flow)).await {
            Ok(found) => self.condemned.extend(found),
            Err(error) => tracing::warn!(
                error = error_chain(&error),
                "connections to a pod that another one has replaced could not be looked for; they end by themselves"
            ),
        }
    }

    /// Everything is judged anew at the next pass.
    pub(super) fn invalidate(&mut self) {
        self.judged = None;
    }

    /// Waits until time alone changes what may go on; for ever when it does not. Cancel safe.
    pub(super) async fn due(&self) {
        match self.memory.due() {
            Some(due) => tokio::time::sleep_until(Instant::from_std(due)).await,
            None => std::future::pending().await,
        }
    }

    /// Cuts the connections that the new policy does not keep. Only when it changed: others cannot have become wrong.
    pub(super) async fn clean(&mut self) -> BTreeMap<&'static str, u64> {
        match self.try_clean().await {
            Ok(cleaned) => by_reason(&cleaned),
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "connections of what is no longer mapped could not be cut; tried again at the next pass"
                );
                BTreeMap::new()
            }
        }
    }

    /// Ends the UDP flows to endpoints that began while our translations were away. Only after these are back.
    pub(super) async fn end_unmapped(&self, targets: &FlowTargets) {
        match conntrack::end_unmapped_udp(|endpoint| targets.endpoints.contains_key(endpoint), self.marks).await {
            Ok(0) => {}
            Ok(flows) => tracing::info!(flows, "ended UDP flows that had begun while others had taken our rules away"),
            Err(error) => tracing::warn!(
                error = error_chain(&error),
                "UDP flows that began while our rules were away could not be looked for; clients that go on sending from \
                 the same port may stay unserved"
            ),
        }
    }

    async fn try_clean(&mut self) -> Result<Cleaned, ConntrackError> {
        let mut cleaned = Cleaned::default();
        if !self.condemned.is_empty() {
            conntrack::delete(&self.condemned).await?;
            cleaned.server_gone = self.condemned.len();
            self.condemned.clear();
        }
        if self.judged != Some(self.memory.revision()) {
            let judged = conntrack::clean(self.memory.policy(), self.marks).await?;
            cleaned = Cleaned { server_gone: cleaned.server_gone + judged.server_gone, ..judged };
            self.judged = Some(self.memory.revision());
        }
        Ok(cleaned)
    }
}

fn by_reason(cleaned: &Cleaned) -> BTreeMap<&'static str, u64> {
    [
        ("not_mapped", cleaned.not_mapped),
        ("source_not_allowed", cleaned.source_not_allowed),
        ("server_gone", cleaned.server_gone),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .map(|(reason, n)| (reason, n as u64))
    .collect()
}
