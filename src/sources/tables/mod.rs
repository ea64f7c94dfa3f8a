//! Who else changes iptables: the kernel tells what changes in nf_tables, and announces every generation together with
//! the process that made it.

mod filter;
mod ledger;
mod notice;

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::netlink::{Multicast, Received, messages};
use crate::sources::SourceEvent;
use crate::sources::debounce::Debounce;
pub use ledger::{Ledger, OwnCall, Since};

/// linux/netfilter/nfnetlink.h
const NFNLGRP_NFTABLES: u32 = 7;

const QUIET: Duration = Duration::from_millis(20);
const BOUND: Duration = Duration::from_millis(200);
const REJOIN: Duration = Duration::from_secs(1);

/// Keeps the ledger, and sends [`SourceEvent::TablesChanged`] soon after another process changed what may concern us,
/// or when that cannot be known. Listening begins with the call, not with the first poll: it has to come before the
/// first reading.
///
/// Ends when nobody listens, or, with a warning, when the kernel does not let us listen: the periodic look still finds
/// what changed, only later.
pub fn run(ledger: Ledger, events: mpsc::Sender<SourceEvent>) -> impl Future<Output = ()> + Send {
    let mut joined = join(&ledger);
    async move {
        loop {
            let listener = match joined {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "cannot listen to nf_tables (CAP_NET_ADMIN and the nf_tables module are needed); changes by \
                         others are noticed at the next refresh only"
                    );
                    return;
                }
            };
            let ended = watch(listener, &ledger, &events).await;
            ledger.left();
            let Err(error) = ended else { return };
            tracing::warn!(%error, "the nf_tables listener lost its socket; opening another");
            // What happened meanwhile is unknown.
            if events.send(SourceEvent::TablesChanged).await.is_err() {
                return;
            }
            tokio::time::sleep(REJOIN).await;
            joined = join(&ledger);
        }
    }
}

fn join(ledger: &Ledger) -> io::Result<Multicast> {
    let listener = Multicast::join(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])?;
    ledger.joined(listener.handle()?);
    Ok(listener)
}

/// Ends well when nobody listens any more.
async fn watch(mut listener: Multicast, ledger: &Ledger, events: &mpsc::Sender<SourceEvent>) -> io::Result<()> {
    let mut changes = Debounce::new(QUIET, BOUND);
    loop {
        tokio::select! {
            received = listener.receive() => {
                let concerns = match received? {
                    Received::Datagram(datagram) => {
                        messages(datagram).filter(|message| ledger.hear(notice::parse(message))).count() > 0
                    }
                    Received::Overrun => {
                        ledger.joined(listener.handle()?);
                        true
                    }
                };
                if concerns {
                    changes.mark(Instant::now());
                }
            }
            () = changes.due() => {
                changes.clear();
                if events.send(SourceEvent::TablesChanged).await.is_err() {
                    return Ok(());
                }
            }
            () = events.closed() => return Ok(()),
        }
    }
}
