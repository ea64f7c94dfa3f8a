//! What the program says about itself: health, readiness, metrics and status over HTTP, state to systemd, logs.
//!
//! The loop fills a [`Report`] through a `tokio::sync::watch` channel (`send_modify`); everything here only reads it.

mod health;
mod http;
mod journal;
pub mod logging;
mod metrics;
mod state;
mod status;
mod status_text;
mod systemd;

pub use health::{Health, health, readiness};
pub use http::{HttpError, Monitor, router, serve};
pub use metrics::render as render_metrics;
pub use state::{Counters, Failure, LastPass, Outcomes, PassDurations, PassReport, Report, SourceReport, Transitions};
pub(crate) use status::interface_document;
pub use status::{StatusDocument, invalid, mapping_status};
pub use systemd::{Systemd, status_line};
