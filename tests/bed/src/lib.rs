//! The bed of the end-to-end tests: a border box between a small cluster and two external networks, in network namespaces.
//!
//! * [`Bed`] builds the namespaces and takes them down again, also after a panic or a signal,
//! * [`Daemon`] runs `smartnat-manager` in the border's namespace, [`Manifests`] are the objects it serves,
//! * [`cluster::ControlPlane`] is a real Kubernetes API server for it,
//! * [`peer`] holds what pods and clients do: servers, requests, long streams, floods of new flows,
//! * [`first_smartnat`] leaves behind what the first SmartNat left,
//! * [`vm`] puts a virtual machine in the border's place,
//! * [`packet`] writes and reads raw frames: scans, forged sources, and what was seen on a wire.
//!
//! Everything here panics when it cannot do its work: a missing privilege or tool is a failed test that names the remedy.

#![forbid(unsafe_code)]

pub mod cluster;
mod daemon;
pub mod first_smartnat;
mod http;
mod manifests;
mod monitor;
mod namespace;
pub mod packet;
pub mod peer;
mod reaper;
mod script;
mod topology;
pub mod vm;
mod wait;

pub use daemon::Daemon;
pub use http::{Call, Reply};
pub use manifests::{Endpoints, Manifests, Mapping, PodState, Service};
pub use monitor::Monitor;
pub use namespace::{INSTALL, Namespace};
pub use reaper::new_prefix;
pub use script::write_executable;
pub use topology::{Bed, Layout, Options};
pub use wait::{BOUND, eventually, eventually_within, holds};
