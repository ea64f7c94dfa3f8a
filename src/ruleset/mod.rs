//! What the kernel is asked to hold, as typed values: chains, sets, routes, rules, sysctls.
//!
//! A [`Dataplane`] is the whole of it. It can be printed, compared, traced packet by packet, and applied. [`ownership`] is the one
//! place that makes and recognises our names.

mod dataplane;
mod depth;
pub mod ownership;
mod routing;
mod rule;
mod set;

pub use dataplane::{Builtin, Chain, Dataplane, Sysctl, Table, TableRules};
pub use depth::depth;
pub use routing::{LOCAL_TABLE, MAIN_PRIORITY, MAIN_TABLE, PolicyRule, Route, RouteTarget, RuleAction, RuleSelector};
pub use rule::{CtDirection, CtState, Hook, Match, Ports, Probability, RejectWith, Rule, SetDirection, Target};
pub use set::{IpSet, SetKind, SetMember};
