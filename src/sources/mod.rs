//! Where the snapshot comes from. A source delivers whole states, never differences, and never touches the kernel's tables.
//!
//! Every source is a task that sends [`SourceEvent`]s to the one owner of the snapshot ([`crate::daemon`]). A source that fails says so
//! with [`SourceState::Away`] and keeps trying; what it delivered before stays valid.

pub mod convert;
pub(crate) mod debounce;
pub mod describe;
pub mod host;
pub mod kubernetes;
pub mod manifests;
pub mod tables;
mod yaml;

use std::sync::Arc;
use std::time::Instant;

pub use yaml::Position;

use crate::model::{Host, Objects};

/// Name of a source in logs, health and metrics: `host`, `manifests`, `kubernetes`.
pub type SourceName = &'static str;

#[derive(Debug, Clone, PartialEq)]
pub enum SourceEvent {
    /// A complete look at the host, and when it began: what was written after that may or may not be in it.
    Host {
        host: Host,
        begun: Instant,
    },
    /// A complete set of objects.
    Objects(Arc<Objects>),
    State {
        source: SourceName,
        state: SourceState,
    },
    /// Somebody, perhaps we ourselves, changed a switch of an interface (forwarding, rp_filter), which no look at the host shows.
    SwitchesChanged,
    /// Somebody else changed iptables (nf_tables generation by another process).
    TablesChanged,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// Has not delivered its first complete state.
    Syncing,
    Current,
    /// Cannot be read, or only in part; the last complete state stays in force.
    Away {
        reason: String,
    },
}
