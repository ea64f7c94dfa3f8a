//! Our ipsets.

mod plan;
mod save;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plan::{Batch, Held, Phase, Wanted, repairs, share, unwanted};
pub use save::{HeldKind, HeldSet, parse};

use super::Scope;
use super::applied::{Repair, Writes};
use super::tool::{ToolError, Tools};
use crate::netlink;
use crate::ruleset::ownership::is_our_set;

/// The sets as we know them, and the way to change them.
pub struct Sets {
    tools: Tools,
    held: Option<Held>,
    /// What we knew before the last reading.
    before: Option<Held>,
    /// Read or written since the last invalidation.
    fresh: bool,
    /// The kernel's digest of what is held. `None`: not known, as after each write of ours, behind which somebody else
    /// may have written.
    digest: Option<u64>,
    /// They were read since the last comparison with what is wanted.
    read: bool,
    /// Sets that could not be destroyed, told once.
    stuck: BTreeSet<Arc<str>>,
}

impl Sets {
    pub fn new(tools: Tools) -> Self {
        Sets { tools, held: None, before: None, fresh: false, read: false, digest: None, stuck: BTreeSet::new() }
    }

    /// Others may have changed the sets: unless their digest is what it was, they are read before the next change.
    pub fn invalidate(&mut self) {
        self.fresh = false;
    }

    /// What we ourselves did is not certain any more.
    pub fn forget(&mut self) {
        self.held = None;
    }

    /// Reads the sets if they are not known.
    pub async fn look(&mut self) -> Result<(), ToolError> {
        if self.held.is_none() || !self.fresh {
            let digest = netlink::sets_digest(is_our_set).await.ok();
            if self.held.is_none() || digest.is_none() || digest != self.digest {
                let text = self.tools.read("ipset", &["save"]).await?;
                self.before = self.held.replace(save::parse(&text));
                // What was read is between the two.
                let after = netlink::sets_digest(is_our_set).await.ok();
                self.digest = digest.filter(|_| digest == after);
            }
            // Who kept them from being destroyed may have let go.
            self.held.iter_mut().flat_map(|held| held.values_mut()).for_each(|set| set.stuck = false);
            self.fresh = true;
            self.read = true;
        }
        Ok(())
    }

    /// Whether the kernel still holds what is known, and everything unwanted is gone.
    pub async fn hold(&mut self) -> bool {
        let Some(held) = &self.held else { return false };
        if !self.fresh {
            let digest = netlink::sets_digest(is_our_set).await.ok();
            self.fresh = digest.is_some() && digest == self.digest;
        }
        self.fresh && !held.values().any(|set| set.stuck)
    }

    /// The half before the rules change. [`Self::look`] comes first.
    pub async fn prepare(
        &mut self,
        wanted: &Wanted,
        scope: Scope,
        writes: &mut Writes,
        repaired: &mut Vec<Repair>,
    ) -> Result<(), ToolError> {
        // In the border's scope what others removed of the Mappings' sets is not put right, so it must not be told; nor forgotten.
        if let (Some(before), Some(held), Scope::Full) = (&self.before, &self.held, scope) {
            repaired.extend(repairs(wanted, before, held));
            self.before = None;
        }
        if scope == Scope::Full && std::mem::take(&mut self.read) {
            self.held.iter_mut().for_each(|held| share(wanted, held));
        }
        self.run(Phase::Prepare, wanted, scope, writes).await
    }

    /// The half after the rules have changed.
    pub async fn finish(&mut self, wanted: &Wanted, writes: &mut Writes) -> Result<(), ToolError> {
        self.run(Phase::Finish, wanted, Scope::Full, writes).await
    }

    async fn run(&mut self, phase: Phase, wanted: &Wanted, scope: Scope, writes: &mut Writes) -> Result<(), ToolError> {
        let held = self.held.get_or_insert_default();
        let mut batch = Batch::plan(phase, wanted, held, scope);
        if !batch.commands.is_empty() {
            let commands = std::mem::take(&mut batch.commands);
            self.digest = None;
            // What is there already (or gone already) is no error: somebody else may have been at it since we looked.
            self.tools.write("ipset", &["restore", "-exist"], commands).await?;
            writes.sets += batch.writes.sets;
            writes.members += batch.writes.members;
        }
        batch.commit(wanted, held);
        Ok(())
    }

    /// Destroys what nothing of ours needs. What a foreign rule still uses stays and is returned, until nobody uses it.
    pub async fn destroy_unwanted(&mut self, wanted: &Wanted, writes: &mut Writes) -> Result<Vec<String>, ToolError> {
        let held = self.held.get_or_insert_default();
        let names = unwanted(wanted, held);
        if !names.is_empty() {
            self.digest = None;
            let news = names.iter().any(|name| !self.stuck.contains(name));
            let stuck = destroy(&self.tools, &names, news).await?;
            for name in &names {
                if !stuck.contains(name) {
                    held.remove(name);
                    writes.sets += 1;
                } else {
                    if let Some(set) = held.get_mut(name) {
                        set.stuck = true;
                    }
                    if !self.stuck.contains(name) {
                        tracing::warn!(
                            set = &**name,
                            "an ipset of ours that nothing needs is in use by a foreign rule; it stays"
                        );
                    }
                }
            }
            self.stuck = stuck;
        }
        Ok(held.iter().filter(|(_, set)| set.stuck).map(|(name, _)| name.to_string()).collect())
    }
}

/// Destroys sets, all in one call if none is in use; returns those that are.
pub(super) async fn destroy(tools: &Tools, names: &[Arc<str>], patient: bool) -> Result<BTreeSet<Arc<str>>, ToolError> {
    // The kernel frees the rules of a finished transaction, and with them their hold on a set, a moment later.
    const PAUSES_MS: [u64; 5] = [0, 10, 20, 40, 80];
    for pause in &PAUSES_MS[..if patient { PAUSES_MS.len() } else { 1 }] {
        tokio::time::sleep(Duration::from_millis(*pause)).await;
        if destroy_all(tools, names).await? {
            return Ok(BTreeSet::new());
        }
    }
    // Some are in use for good. Halving finds them, whatever the tool's words; destroying one that is gone is no error.
    let mut stuck = BTreeSet::new();
    let mut rest = vec![names];
    while let Some(part) = rest.pop() {
        match part {
            [name] if !destroy_all(tools, part).await? => drop(stuck.insert(name.clone())),
            [] | [_] => {}
            _ if destroy_all(tools, part).await? => {}
            _ => {
                let (first, second) = part.split_at(part.len() / 2);
                // Lists, which come first, let go of what they list.
                rest.extend([second, first]);
            }
        }
    }
    Ok(stuck)
}

/// False when the kernel refused one of them.
async fn destroy_all(tools: &Tools, names: &[Arc<str>]) -> Result<bool, ToolError> {
    let commands = names.iter().map(|name| format!("destroy {name}\n")).collect();
    match tools.write("ipset", &["restore", "-exist"], commands).await {
        Ok(()) => Ok(true),
        Err(ToolError::Failed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
