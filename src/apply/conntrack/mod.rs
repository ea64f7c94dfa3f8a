//! Established flows that came through a Mapping: cut when the plan says that they may not go on. And the table's own counts.

mod socket;
mod wire;

use std::collections::BTreeSet;
use std::io;

use crate::model::{Endpoint, MarkLayout, Protocol};
use crate::plan::{Flow, FlowPolicy, FlowVerdict};
use socket::Socket;

pub use wire::FlowHandle;

/// How many deletions travel in one datagram: their answers must fit into the smallest receive buffer.
const BATCH: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    #[error("cannot open a netfilter netlink socket; a sandbox around this process must allow AF_NETLINK")]
    Connect(#[source] io::Error),
    #[error("cannot {what}: the netfilter netlink socket failed")]
    Socket {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot {what}: the kernel refused; CAP_NET_ADMIN and the module nf_conntrack_netlink are needed (`modprobe \
         nf_conntrack_netlink`)"
    )]
    Refused {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Flows deleted, by reason, and those that go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub kept: usize,
    /// The endpoint is mapped no more.
    pub not_mapped: usize,
    /// The client is allowed no more.
    pub source_not_allowed: usize,
    /// The pod is gone.
    pub server_gone: usize,
}

impl Cleaned {
    pub fn deleted(&self) -> usize {
        self.not_mapped + self.source_not_allowed + self.server_gone
    }
}

/// The state of the connection tracking table of this network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConntrackCounts {
    /// Entries now (nf_conntrack_count).
    pub entries: u64,
    /// Entries at most (nf_conntrack_max).
    pub limit: u64,
    /// Packets dropped since boot because no entry could be made, the table being full.
    pub drop: u64,
    /// Entries removed since boot to make room for new ones.
    pub early_drop: u64,
    /// Entries since boot that could not be put into the table.
    pub insert_failed: u64,
}

/// All TCP and UDP flows of zone 0 whose mark has the mapped bit, each with what it takes to delete it.
pub async fn mapped_flows(marks: MarkLayout) -> Result<Vec<(Flow, FlowHandle)>, ConntrackError> {
    let mut flows = Vec::new();
    each_mapped(&mut Socket::open()?, marks, |flow, handle| flows.push((flow, handle))).await?;
    Ok(flows)
}

/// Deletes exactly the mapped flows that the policy does not keep.
///
/// The policy must be that of the rules already in the kernel: a new flow could else be judged by an old one.
pub async fn clean(policy: &FlowPolicy, marks: MarkLayout) -> Result<Cleaned, ConntrackError> {
    let mut socket = Socket::open()?;
    let mut cleaned = Cleaned::default();
    let mut condemned = Vec::new();
    each_mapped(&mut socket, marks, |flow, handle| {
        let count = match policy.verdict(&flow) {
            FlowVerdict::Keep => {
                cleaned.kept += 1;
                return;
            }
            FlowVerdict::NotMapped => &mut cleaned.not_mapped,
            FlowVerdict::SourceNotAllowed => &mut cleaned.source_not_allowed,
            FlowVerdict::ServerGone => &mut cleaned.server_gone,
        };
        *count += 1;
        condemned.push(handle);
    })
    .await?;
    delete(&condemned).await?;
    Ok(cleaned)
}

/// The mapped flows that fit, to be deleted later by [`delete`]: others that begin meanwhile are not among them.
pub async fn find(marks: MarkLayout, fits: impl Fn(&Flow) -> bool) -> Result<Vec<FlowHandle>, ConntrackError> {
    let mut found = Vec::new();
    each_mapped(&mut Socket::open()?, marks, |flow, handle| {
        if fits(&flow) {
            found.push(handle);
        }
    })
    .await?;
    Ok(found)
}

/// Deletes these flows, those that are there still.
pub async fn delete(flows: &[FlowHandle]) -> Result<(), ConntrackError> {
    let mut socket = Socket::open()?;
    for batch in flows.chunks(BATCH) {
        socket.delete("delete flows", batch.iter().map(FlowHandle::deletion)).await?;
    }
    Ok(())
}

/// Deletes the UDP flows to these endpoints that were translated without us; returns how many. Their next packet begins anew.
///
/// The border lets no such flow pass, and as long as its client goes on sending (from a fixed port, or without ever hearing an answer) it
/// would never end. TCP clients begin anew by themselves.
pub async fn end_strange_udp(endpoints: &BTreeSet<Endpoint>, marks: MarkLayout) -> Result<usize, ConntrackError> {
    let translated = |flow: &Flow| flow.destination != flow.server;
    end_udp(marks, |endpoint, flow| translated(flow) && endpoints.contains(endpoint)).await
}

/// Deletes the UDP flows to endpoints of ours that came through no Mapping, as they do while our rules are away; returns how many.
///
/// Whether a flow is translated is decided by its first packet: it would stay as it is for as long as its client goes on sending.
pub async fn end_unmapped_udp(is_ours: impl Fn(&Endpoint) -> bool, marks: MarkLayout) -> Result<usize, ConntrackError> {
    end_udp(marks, |endpoint, _| is_ours(endpoint)).await
}

async fn end_udp(marks: MarkLayout, fits: impl Fn(&Endpoint, &Flow) -> bool) -> Result<usize, ConntrackError> {
    let mut socket = Socket::open()?;
    let mut condemned = Vec::new();
    socket
        .dump("list flows", wire::marked(0), |message| {
            let Some(entry) = wire::entry(&message) else { return };
            let Flow { protocol, destination, .. } = entry.flow;
            let endpoint = Endpoint { address: destination.ip(), protocol, port: destination.port() };
            if entry.mark & marks.mapped() == 0 && protocol == Protocol::Udp && fits(&endpoint, &entry.flow) {
                condemned.push(entry.handle);
            }
        })
        .await?;
    delete(&condemned).await?;
    Ok(condemned.len())
}

async fn each_mapped(
    socket: &mut Socket,
    marks: MarkLayout,
    mut each: impl FnMut(Flow, FlowHandle),
) -> Result<(), ConntrackError> {
    let mapped = marks.mapped();
    socket
        .dump("list flows", wire::marked(mapped), |message| {
            if let Some(entry) = wire::entry(&message)
                && entry.mark & mapped != 0
            {
                each(entry.flow, entry.handle);
            }
        })
        .await
}

/// Reads the counts of this network namespace's table.
pub async fn counts() -> Result<ConntrackCounts, ConntrackError> {
    let mut socket = Socket::open()?;
    let mut counts = ConntrackCounts::default();
    socket.request("count flows", wire::statistics(), |message| wire::add_statistics(&message, &mut counts)).await?;
    socket
        .dump("read conntrack statistics", wire::cpu_statistics(), |message| {
            wire::add_cpu_statistics(&message, &mut counts);
        })
        .await?;
    Ok(counts)
}
