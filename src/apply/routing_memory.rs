//! The applier's side of routes and rules: what was asked for last, so that what is missing of it later counts as repaired.

use std::collections::BTreeSet;
use std::time::Instant;

use super::applied::{Repair, RepairKind, Writes};
use super::routing::{self, Routing, RoutingError};
use crate::model::Host;
use crate::ruleset::{Dataplane, PolicyRule, Route};

/// All routes and rules of ours, as a look shows them after a write of which nothing failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenRouting {
    pub routes: BTreeSet<Route>,
    /// Sorted.
    pub rules: Vec<PolicyRule>,
    /// When the last of them was written.
    pub at: Instant,
}

#[derive(Default)]
pub struct RoutingMemory {
    connection: Option<Routing>,
    routes: BTreeSet<Route>,
    rules: BTreeSet<PolicyRule>,
    /// Not yet taken by the owner of the snapshot.
    written: Option<WrittenRouting>,
}

impl RoutingMemory {
    /// Writes what differs from `host`; returns what waits for its interface.
    pub async fn apply(
        &mut self,
        desired: &Dataplane,
        host: &Host,
        writes: &mut Writes,
        repairs: &mut Vec<Repair>,
    ) -> Result<Vec<String>, RoutingError> {
        let change = routing::diff(desired, host);
        let repair = |kind, name: String| Repair { kind, name, what: "was removed".to_owned() };
        let routes = change.add_routes.iter().filter(|route| self.routes.contains(route));
        repairs.extend(routes.map(|route| repair(RepairKind::Route, route.to_string())));
        let rules = change.add_rules.iter().filter(|rule| self.rules.contains(rule));
        repairs.extend(rules.map(|rule| repair(RepairKind::Rule, rule.to_string())));
        if change.is_empty() {
            self.remember(desired);
            return Ok(Vec::new());
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Routing::connect()?),
        };
        let result = connection.apply(&change, host).await;
        writes.routes += change.add_routes.len() + change.del_routes.len();
        writes.rules += change.add_rules.len() + change.del_rules.len();
        match result {
            Ok(()) => {
                self.remember(desired);
                self.written = Some(routing::as_looked_at(desired, Instant::now()));
                Ok(Vec::new())
            }
            Err(RoutingError::Incomplete { failures }) if failures.iter().all(|failure| failure.soft) => {
                self.forget();
                Ok(failures.iter().map(ToString::to_string).collect())
            }
            Err(error) => {
                self.forget();
                // A fresh connection for the next attempt, in case this one is broken.
                self.connection = None;
                Err(error)
            }
        }
    }

    /// What the kernel holds since the last call of [`Self::apply`], if that wrote.
    pub fn take_written(&mut self) -> Option<WrittenRouting> {
        self.written.take()
    }

    fn remember(&mut self, desired: &Dataplane) {
        self.routes.clone_from(&desired.routes);
        self.rules.clone_from(&desired.rules);
    }

    /// What was written of a change that failed in part is not known one by one: nothing of it is called a repair later.
    fn forget(&mut self) {
        self.routes.clear();
        self.rules.clear();
        self.written = None;
    }
}
