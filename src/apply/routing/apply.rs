use std::collections::BTreeSet;
use std::fmt;
use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;

use super::{RoutingChange, key, message};
use crate::model::Host;
use crate::netlink::{RouteSocket, RouteSocketError};
use crate::ruleset::{Route, RouteTarget};
use crate::sources::host::{HostError, names, own_entries};

// asm-generic/errno-base.h and errno.h
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENETDOWN: i32 = 100;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// An rtnetlink connection for writing.
pub struct Routing {
    socket: RouteSocket,
}

#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    #[error("cannot open an rtnetlink socket; a sandbox around this process must allow AF_NETLINK")]
    Connect(#[source] io::Error),
    #[error("cannot read back what was written")]
    ReadBack(#[source] HostError),
    /// Everything else of the change was written.
    #[error("{}", list(.failures))]
    Incomplete { failures: Vec<RoutingFailure> },
}

impl RoutingError {
    /// Nothing failed but what waits for an interface, whose return is an event that brings the next try.
    pub fn is_soft(&self) -> bool {
        matches!(self, RoutingError::Incomplete { failures } if failures.iter().all(|failure| failure.soft))
    }
}

/// One route or rule that the kernel did not take.
#[derive(Debug)]
pub struct RoutingFailure {
    /// What was to be done with which route or rule.
    pub what: String,
    pub cause: String,
    pub remedy: String,
    /// Its interface or address is not there, or down.
    pub soft: bool,
}

impl fmt::Display for RoutingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.cause, self.remedy)
    }
}

fn list(failures: &[RoutingFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Routing {
    /// Connects in the network namespace of the calling thread; needs a runtime.
    pub fn connect() -> Result<Self, RoutingError> {
        Ok(Routing { socket: RouteSocket::connect().map_err(RoutingError::Connect)? })
    }

    /// Writes a change, all of it that the kernel takes. `host` is the look that the change was made from.
    pub async fn apply(&mut self, change: &RoutingChange, host: &Host) -> Result<(), RoutingError> {
        let mut failures = Vec::new();
        let mut taken = Vec::new();
        // Strays first: one may hold the key of a route of ours, and none does anything that is wanted.
        for stray in &change.del_strays {
            let what = || format!("delete {}", stray.description);
            match message::delete_stray(stray) {
                Ok(request) => self.delete(request, what, &mut failures).await,
                Err(error) => failures.push(RoutingFailure {
                    what: what(),
                    cause: error.to_string(),
                    remedy: "delete it by `ip route` or `ip rule`".to_owned(),
                    soft: false,
                }),
            }
        }
        let held: BTreeSet<_> = host.own_routes.iter().map(key).collect();
        for route in &change.add_routes {
            let Some(index) = index_of(route, host, &mut failures) else { continue };
            // Only what is ours is ever replaced.
            let flags = if held.contains(&key(route)) { NLM_F_REPLACE } else { NLM_F_EXCL };
            let request = RouteNetlinkMessage::NewRoute(message::route(route, index));
            match self.socket.change(request, NLM_F_CREATE | flags).await {
                Ok(()) => {}
                Err(error) if error.errno() == Some(EEXIST) => taken.push(route),
                Err(error) => failures.push(failure(format!("add route {route}"), &error, Some(route))),
            }
        }
        for rule in &change.add_rules {
            let request = RouteNetlinkMessage::NewRule(message::rule(rule));
            match self.socket.change(request, NLM_F_CREATE | NLM_F_EXCL).await {
                Ok(()) => {}
                // Rules that differ in their protocol number alone stand side by side: this one is ours.
                Err(error) if error.errno() == Some(EEXIST) => {}
                Err(error) => failures.push(failure(format!("add rule {rule}"), &error, None)),
            }
        }
        for rule in &change.del_rules {
            let request = RouteNetlinkMessage::DelRule(message::rule(rule));
            self.delete(request, || format!("delete rule {rule}"), &mut failures).await;
        }
        for route in &change.del_routes {
            // The kernel took it with its interface.
            let Some(index) = index_of(route, host, &mut Vec::new()) else { continue };
            let request = RouteNetlinkMessage::DelRoute(message::route(route, index));
            self.delete(request, || format!("delete route {route}"), &mut failures).await;
        }
        self.explain_taken(taken, &mut failures).await?;
        if failures.is_empty() { Ok(()) } else { Err(RoutingError::Incomplete { failures }) }
    }

    /// Deletes; what is not there is deleted already.
    async fn delete(
        &mut self,
        request: RouteNetlinkMessage,
        what: impl FnOnce() -> String,
        failures: &mut Vec<RoutingFailure>,
    ) {
        match self.socket.change(request, 0).await {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), Some(ENOENT | ESRCH | ENODEV)) => {}
            Err(error) => failures.push(failure(what(), &error, None)),
        }
    }

    /// A route that was there already is fine if it is ours, as after a look that was older than our last write.
    async fn explain_taken(
        &mut self,
        taken: Vec<&Route>,
        failures: &mut Vec<RoutingFailure>,
    ) -> Result<(), RoutingError> {
        if taken.is_empty() {
            return Ok(());
        }
        let names = names(&mut self.socket).await.map_err(RoutingError::ReadBack)?;
        let own = own_entries(&mut self.socket, &names).await.map_err(RoutingError::ReadBack)?;
        failures.extend(taken.into_iter().filter(|route| !own.routes.contains(route)).map(|route| RoutingFailure {
            what: format!("add route {route}"),
            cause: "a route of someone else stands there".to_owned(),
            remedy: format!(
                "remove it (`ip route show table {}`) or choose tables that nobody uses by SNCTRLR_ROUTE_TABLE_BASE",
                route.table
            ),
            soft: false,
        }));
        Ok(())
    }
}

/// The interface index of a route; `None`, with a failure, when the interface is not there.
fn index_of(route: &Route, host: &Host, failures: &mut Vec<RoutingFailure>) -> Option<Option<u32>> {
    let name = match &route.target {
        RouteTarget::Unreachable => return Some(None),
        RouteTarget::Link { interface, .. } | RouteTarget::Gateway { interface, .. } => interface,
    };
    match host.links.get(name) {
        Some(link) => Some(Some(link.index)),
        None => {
            failures.push(RoutingFailure {
                what: format!("add route {route}"),
                cause: format!("interface {name} is not there"),
                remedy: "it is added when the interface appears".to_owned(),
                soft: true,
            });
            None
        }
    }
}

fn failure(what: String, error: &RouteSocketError, route: Option<&Route>) -> RoutingFailure {
    let errno = error.errno();
    let (remedy, soft) = match (errno, route.map(|route| &route.target)) {
        (Some(ENODEV), _) => ("the interface is gone; the route is added when it is back".to_owned(), true),
        (Some(ENETDOWN), Some(RouteTarget::Link { interface, .. } | RouteTarget::Gateway { interface, .. })) => {
            (format!("set the interface up (`ip link set {interface} up`)"), true)
        }
        (Some(ENETUNREACH | EHOSTUNREACH | EINVAL), Some(RouteTarget::Gateway { interface, gateway })) => (
            format!(
                "the gateway {gateway} must be on the link of {interface}, which must be up; see SNCTRLR_GW_ADDRESS and SNCTRLR_GW_ADDRESS_OFFSET"
            ),
            true,
        ),
        (Some(EINVAL), Some(RouteTarget::Link { interface, source })) => {
            (format!("the address {source} must be on {interface}"), true)
        }
        (Some(EPERM), _) => ("give the process CAP_NET_ADMIN in its network namespace".to_owned(), false),
        _ => ("it is tried again".to_owned(), false),
    };
    let cause = match error {
        RouteSocketError::Refused(refusal) => refusal.to_string(),
        other => other.to_string(),
    };
    RoutingFailure { what, cause, remedy, soft }
}
