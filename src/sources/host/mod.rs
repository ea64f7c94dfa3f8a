//! The host by rtnetlink: links, addresses, routes, rules and the neighbours that are gateways.
//!
//! Events only say that something may have changed; what is delivered is always a complete look.

mod foreign;
mod look;
mod own;
mod stack;
mod watch;

use std::io;

use crate::model::Host;
use crate::netlink::{RouteSocket, RouteSocketError};

pub use foreign::{ForeignAction, ForeignRule, ForeignRules, read_foreign_rules};
pub use watch::run;

pub(crate) use look::{names, own_entries};

/// Why the host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot open an rtnetlink socket; a sandbox around this process must allow AF_NETLINK")]
    Connect(#[source] io::Error),
    #[error("cannot listen to rtnetlink events")]
    Listen(#[source] io::Error),
    #[error("cannot read {what} by rtnetlink")]
    Read {
        what: &'static str,
        #[source]
        source: RouteSocketError,
    },
    #[error("cannot read nexthop objects by rtnetlink, which routes of the main table name")]
    Nexthops(#[source] io::Error),
    #[error(
        "links, addresses or routes changed during each of {attempts} attempts to read them; find out what keeps \
         changing them with `ip monitor`"
    )]
    Unsteady { attempts: u32 },
}

/// One complete look at the network namespace of the calling thread.
pub async fn read_host() -> Result<Host, HostError> {
    let mut socket = RouteSocket::connect().map_err(HostError::Connect)?;
    look::steady_look(&mut socket).await
}
