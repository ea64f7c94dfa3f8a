use super::iptables::TableError;
use super::routing::RoutingError;
use super::sysctl::SysctlError;
use super::tool::ToolError;
use crate::error_chain;

/// What an apply could not do. Each part is applied on its own: all the rest is in force, and the next apply reads back what failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("reading the kernel's {what} failed; they were left as they are")]
    Look { what: &'static str, source: ToolError },
    #[error("{what} could not be written; what was there before goes on working")]
    Write { what: &'static str, source: ToolError },
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel did not take every route or rule.
    #[error("not all routes and rules could be written")]
    Routing(#[from] RoutingError),
    #[error("kernel parameters could not be set")]
    Sysctl(#[from] SysctlError),
    #[error("forwarding (net.ipv4.ip_forward) was not enabled, because the border in mangle is not closed")]
    Open,
    #[error("{}", .0.iter().map(|e| error_chain(e)).collect::<Vec<_>>().join("; and "))]
    Several(Vec<ApplyError>),
}

impl ApplyError {
    /// What failed as a whole; `None` where nothing did.
    pub fn of(mut failures: Vec<ApplyError>) -> Option<Self> {
        match failures.len() {
            0 | 1 => failures.pop(),
            _ => Some(ApplyError::Several(failures)),
        }
    }

    /// The command that failed, or what was being done.
    pub fn step(&self) -> String {
        match self {
            ApplyError::Look { source, .. } | ApplyError::Write { source, .. } => source.command().to_owned(),
            ApplyError::Table(error) => error.step(),
            ApplyError::Routing(_) => "routes and policy rules (netlink)".to_owned(),
            ApplyError::Sysctl(_) | ApplyError::Open => "kernel parameters (/proc/sys/net)".to_owned(),
            ApplyError::Several(failures) => failures.first().map(ApplyError::step).unwrap_or_default(),
        }
    }
}
