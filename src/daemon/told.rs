//! What the log said of interfaces: a problem is told when it appears, and again when it comes back.

use std::collections::BTreeSet;

use crate::model::printable;
use crate::plan::InterfaceOutcome;

/// Problems and notes that were told and still hold, each with its interface.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<(String, String)>);

impl Told {
    /// Tells what is new, and forgets what is gone.
    pub(super) fn tell(&mut self, interfaces: &[InterfaceOutcome]) {
        let now: BTreeSet<(String, String)> = interfaces
            .iter()
            .flat_map(|i| i.problem.iter().chain(&i.notes).map(|text| (i.name.clone(), text.clone())))
            .collect();
        for (name, text) in now.difference(&self.0) {
            tracing::warn!(interface = %printable(name), "{}", printable(text));
        }
        self.0 = now;
    }
}
