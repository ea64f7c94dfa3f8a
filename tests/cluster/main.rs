//! The daemon's side of Kubernetes, against a real API server (etcd and kube-apiserver built by `tests/kube/build.sh`).
//!
//! Needs root and the tools that `tests/run.sh` installs.

#![forbid(unsafe_code)]

mod admission;
mod agreement;
mod check;
mod columns;
mod credentials;
mod deletion;
mod deploy;
mod events;
mod first_smartnat;
mod fleet;
mod forget;
mod harness;
mod life;
mod memory;
mod proxies;
mod rights;
mod several;
mod source;
mod storm;
mod support;
