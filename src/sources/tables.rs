//! Who else changes iptables: the kernel announces every generation of nf_tables together with the process that made it.

use std::io;
use std::time::Duration;

use netlink_packet_core::{NetlinkBuffer, Parseable};
use netlink_packet_netfilter::nftables::{GenAttribute, GenMessage};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::netlink::{Multicast, Received, messages};
use crate::sources::SourceEvent;
use crate::sources::debounce::Debounce;

/// linux/netfilter/nfnetlink.h
const NFNLGRP_NFTABLES: u32 = 7;
/// NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// struct nfgenmsg
const NFGENMSG: usize = 4;

const QUIET: Duration = Duration::from_millis(20);
const BOUND: Duration = Duration::from_millis(200);
const REJOIN: Duration = Duration::from_secs(1);

/// Sends [`SourceEvent::TablesChanged`] soon after another process changed the tables; `is_own` knows our own writers by process id and
/// command name.
///
/// Process ids are those of the first pid namespace; inside another one only the name says something (see `apply::alias`). Who is not
/// known looks foreign, which costs a needless look but misses
/// nothing. Returns when nobody listens, or, with a warning, when the kernel does not let us listen: the periodic look still finds
/// what changed, only later.
pub async fn run(is_own: impl Fn(u32, &str) -> bool + Send + 'static, events: mpsc::Sender<SourceEvent>) {
    loop {
        match watch(&is_own, &events).await {
            Ok(()) => return,
            Err(Trouble::Join(error)) => {
                tracing::warn!(
                    %error,
                    "cannot listen to nf_tables (CAP_NET_ADMIN and the nf_tables module are needed); changes by others \
                     are noticed at the next refresh only"
                );
                return;
            }
            Err(Trouble::Receive(error)) => {
                tracing::warn!(%error, "the nf_tables listener lost its socket; opening another");
                // What happened meanwhile is unknown.
                if events.send(SourceEvent::TablesChanged).await.is_err() {
                    return;
                }
                tokio::time::sleep(REJOIN).await;
            }
        }
    }
}

enum Trouble {
    Join(io::Error),
    Receive(io::Error),
}

/// Ends well when nobody listens any more.
async fn watch(is_own: &impl Fn(u32, &str) -> bool, events: &mpsc::Sender<SourceEvent>) -> Result<(), Trouble> {
    let mut listener = Multicast::join(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]).map_err(Trouble::Join)?;
    let mut changes = Debounce::new(QUIET, BOUND);
    loop {
        tokio::select! {
            received = listener.receive() => {
                let foreign = match received.map_err(Trouble::Receive)? {
                    Received::Datagram(datagram) => messages(datagram).any(|message| is_foreign(message, is_own)),
                    Received::Overrun => true,
                };
                if foreign {
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

/// Whether a message announces a generation that is not ours. All others (tables, chains, rules one by one) precede such a one.
fn is_foreign(message: &[u8], is_own: &impl Fn(u32, &str) -> bool) -> bool {
    let Ok(message) = NetlinkBuffer::new_checked(message) else { return true };
    if message.message_type() != NEW_GENERATION {
        return false;
    }
    let attributes = message.payload().get(NFGENMSG..).unwrap_or_default();
    let Ok(generation) = GenMessage::parse(attributes) else { return true };
    let mut writer = None;
    let mut process = "";
    for attribute in &generation.attributes {
        match attribute {
            GenAttribute::ProcPid(pid) => writer = Some(*pid),
            GenAttribute::ProcName(name) => process = name,
            _ => {}
        }
    }
    let foreign = !writer.is_some_and(|pid| is_own(pid, process));
    if foreign {
        tracing::debug!(pid = writer, process, "another process changed nf_tables");
    }
    foreign
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A netlink message: header, nfgenmsg, attributes.
    fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = ((16 + 4 + attributes.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10 + 4]);
        bytes.extend(attributes);
        bytes
    }

    fn pid(pid: u32) -> Vec<u8> {
        [8u16.to_ne_bytes().as_slice(), &2u16.to_ne_bytes(), &pid.to_be_bytes()].concat()
    }

    #[test]
    fn only_generations_by_others_count() {
        let own = |pid: u32, _: &str| pid == 42;
        assert!(is_foreign(&message(NEW_GENERATION, &pid(43)), &own));
        assert!(!is_foreign(&message(NEW_GENERATION, &pid(42)), &own));
        let new_rule = 10 << 8 | 6;
        assert!(!is_foreign(&message(new_rule, &pid(43)), &own), "the generation follows");
        assert!(is_foreign(&message(NEW_GENERATION, &[]), &own), "an unknown writer is not ours");
    }
}
