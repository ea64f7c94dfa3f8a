//! ctnetlink messages: what is asked and what is understood (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DefaultNla, Nla, parse_u32_be};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as WireProtocol, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::ConntrackCounts;
use crate::model::Protocol;
use crate::plan::Flow;

const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
const IPCTNL_MSG_CT_GET_STATS_CPU: u8 = 4;
const IPCTNL_MSG_CT_GET_STATS: u8 = 5;
// enum ctattr_stats_global
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;
// enum ctattr_stats_cpu
const CTA_STATS_INSERT_FAILED: u16 = 9;
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_EARLY_DROP: u16 = 11;

/// One conntrack entry that is TCP or UDP.
pub(super) struct Entry {
    pub(super) mark: u32,
    pub(super) flow: Flow,
    pub(super) handle: FlowHandle,
}

/// What it takes to delete one flow and no other: its original tuple, and the kernel's id, which another flow with the same tuple has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowHandle {
    original: Addresses,
    protocol: Protocol,
    id: Option<[u8; 4]>,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Addresses {
    source: SocketAddr,
    destination: SocketAddr,
}

fn message(family: NetfilterProtoFamily, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// Asks for the entries of both families whose mark has all of these bits.
pub(super) fn marked(bits: u32) -> NetfilterMessage {
    let mask = DefaultNla::new(CTA_MARK_MASK, bits.to_be_bytes().to_vec());
    message(
        NetfilterProtoFamily::Unspec,
        ConntrackMessage::Get(vec![ConntrackAttribute::CtaMark(bits), ConntrackAttribute::Other(mask)]),
    )
}

impl FlowHandle {
    pub(super) fn deletion(&self) -> NetfilterMessage {
        let Addresses { source, destination } = self.original;
        let protocol = match self.protocol {
            Protocol::Tcp => WireProtocol::Tcp,
            Protocol::Udp => WireProtocol::Udp,
        };
        let tuple = vec![
            Tuple::Ip(vec![IPTuple::SourceAddress(source.ip()), IPTuple::DestinationAddress(destination.ip())]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(source.port()),
                ProtoTuple::DestinationPort(destination.port()),
            ]),
        ];
        let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(tuple)];
        attributes.extend(self.id.map(|id| ConntrackAttribute::Other(DefaultNla::new(CTA_ID, id.to_vec()))));
        let family = match source.ip() {
            IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
            IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
        };
        message(family, ConntrackMessage::Delete(attributes))
    }
}

/// `None` for what is neither TCP nor UDP, or is in another zone.
pub(super) fn entry(message: &NetfilterMessage) -> Option<Entry> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else { return None };
    let (mut original, mut reply, mut mark, mut id) = (None, None, 0, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = addresses(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = addresses(tuple),
            ConntrackAttribute::CtaMark(value) => mark = *value,
            ConntrackAttribute::Other(other) => match other.kind() {
                CTA_ID => id = value(other).try_into().ok(),
                CTA_ZONE if value(other).iter().any(|byte| *byte != 0) => return None,
                _ => {}
            },
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    let flow = Flow { protocol, client: original.source.ip(), destination: original.destination, server: reply.source };
    Some(Entry { mark, flow, handle: FlowHandle { original, protocol, id } })
}

fn addresses(tuple: &[Tuple]) -> Option<(Protocol, Addresses)> {
    let (mut source, mut destination, mut source_port, mut destination_port, mut protocol) =
        (None, None, None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(ips) => {
                for ip in ips {
                    match ip {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(WireProtocol::Tcp) => protocol = Some(Protocol::Tcp),
                        ProtoTuple::Protocol(WireProtocol::Udp) => protocol = Some(Protocol::Udp),
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            // CTA_TUPLE_ZONE: a zone of one direction alone.
            _ => return None,
        }
    }
    Some((
        protocol?,
        Addresses {
            source: SocketAddr::new(source?, source_port?),
            destination: SocketAddr::new(destination?, destination_port?),
        },
    ))
}

pub(super) fn statistics() -> NetfilterMessage {
    bare(IPCTNL_MSG_CT_GET_STATS)
}

pub(super) fn cpu_statistics() -> NetfilterMessage {
    bare(IPCTNL_MSG_CT_GET_STATS_CPU)
}

fn bare(message_type: u8) -> NetfilterMessage {
    message(NetfilterProtoFamily::Unspec, ConntrackMessage::Other { message_type, attributes: Vec::new() })
}

pub(super) fn add_statistics(message: &NetfilterMessage, counts: &mut ConntrackCounts) {
    for (kind, value) in numbers(message) {
        match kind {
            CTA_STATS_GLOBAL_ENTRIES => counts.entries = value,
            CTA_STATS_GLOBAL_MAX_ENTRIES => counts.limit = value,
            _ => {}
        }
    }
}

/// Every processor counts by itself.
pub(super) fn add_cpu_statistics(message: &NetfilterMessage, counts: &mut ConntrackCounts) {
    for (kind, value) in numbers(message) {
        match kind {
            CTA_STATS_INSERT_FAILED => counts.insert_failed += value,
            CTA_STATS_DROP => counts.drop += value,
            CTA_STATS_EARLY_DROP => counts.early_drop += value,
            _ => {}
        }
    }
}

fn numbers(message: &NetfilterMessage) -> impl Iterator<Item = (u16, u64)> + '_ {
    let attributes = match &message.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::Other { attributes, .. }) => attributes.as_slice(),
        _ => &[],
    };
    attributes.iter().filter_map(|attribute| Some((attribute.kind(), u64::from(parse_u32_be(&value(attribute)).ok()?))))
}

/// The bytes of an attribute that the library leaves as they are.
fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}
