//! SmartNat: a Kubernetes border router.
//!
//! sources -> snapshot -> plan (pure) -> apply -> report
//!
//! * [`sources`] watch the Kubernetes API (or manifests) and the host's netlink and only deliver whole snapshots,
//! * [`model`] is the snapshot's vocabulary: plain values,
//! * [`plan`] turns a snapshot into a [`ruleset::Dataplane`] and into what is said about every Mapping,
//! * [`trace`] follows one packet through a planned dataplane,
//! * [`apply`] brings the kernel from what it holds to what was planned,
//! * [`report`] tells: HTTP, metrics, systemd, logs; [`publish`] answers in the Kubernetes API,
//! * [`cluster`] is how that API is reached and who else works in it,
//! * [`daemon`] is the one task that owns the snapshot and runs the loop.

pub mod api;
pub mod apply;
pub mod cli;
pub mod cluster;
pub mod daemon;
pub mod model;
mod netlink;
pub mod plan;
mod process;
pub mod publish;
pub mod report;
pub mod ruleset;
pub mod settings;
pub mod sources;
pub mod trace;

/// An error with all its causes, in one line. What an error says of its cause is not said again.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
