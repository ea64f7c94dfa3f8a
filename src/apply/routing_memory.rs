//! The applier's side of routes and rules: what was asked for last, so that what is missing of it later counts as repaired.

use std::collections::BTreeSet;

use super::applied::{Repair, RepairKind, Writes};
use super::routing::{self, Routing, RoutingError};
use crate::model::Host;
use crate::ruleset::{Dataplane, PolicyRule, Route};

#[derive(Default)]
pub struct RoutingMemory {
    connection: Option<Routing>,
    routes: BTreeSet<Route>,
    rules: BTreeSet<PolicyRule>,
    /// What the host looked like when we last wrote. A host that still looks so may have been looked at before that write.
    seen: Option<(BTreeSet<Route>, Vec<PolicyRule>)>,
}

impl RoutingMemory {
    /// Writes what differs; returns what waits for its interface.
    pub async fn apply(
        &mut self,
        desired: &Dataplane,
        host: &Host,
        writes: &mut Writes,
        repairs: &mut Vec<Repair>,
    ) -> Result<Vec<String>, RoutingError> {
        let change = routing::diff(desired, host);
        let current =
            self.seen.as_ref().is_none_or(|(routes, rules)| *routes != host.own_routes || *rules != host.own_rules);
        if current {
            let repair = |kind, name: String| Repair { kind, name, what: "was removed".to_owned() };
            let routes = change.add_routes.iter().filter(|route| self.routes.contains(route));
            repairs.extend(routes.map(|route| repair(RepairKind::Route, route.to_string())));
            let rules = change.add_rules.iter().filter(|rule| self.rules.contains(rule));
            repairs.extend(rules.map(|rule| repair(RepairKind::Rule, rule.to_string())));
        }
        if change.is_empty() {
            self.remember(desired);
            return Ok(Vec::new());
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Routing::connect()?),
        };
        let result = connection.apply(&change, host).await;
        self.seen = Some((host.own_routes.clone(), host.own_rules.clone()));
        writes.routes += change.add_routes.len() + change.del_routes.len();
        writes.rules += change.add_rules.len() + change.del_rules.len();
        match result {
            Ok(()) => {
                self.remember(desired);
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

    fn remember(&mut self, desired: &Dataplane) {
        self.routes.clone_from(&desired.routes);
        self.rules.clone_from(&desired.rules);
    }

    /// What was written of a change that failed in part is not known one by one: nothing of it is called a repair later.
    fn forget(&mut self) {
        self.routes.clear();
        self.rules.clear();
    }
}
