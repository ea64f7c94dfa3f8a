//! nf_tables without nft: tables with their flags, and a table that lives as long as its socket.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NlasIterator,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::dump::{NLMSG_ERROR, dump, refusal};
use super::{DATAGRAM, messages};
use crate::model::Family;

// linux/netlink.h
const NLA_F_NESTED: u16 = 1 << 15;
const HEADER: usize = 16;
// linux/netfilter/nfnetlink.h
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
/// struct nfgenmsg
pub(super) const NFGENMSG: usize = 4;
// linux/netfilter/nf_tables.h
const NEW_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const GET_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 1;
const NEW_CHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 3;
const GET_CHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 4;
const NEW_RULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NFT_TABLE_F_OWNER: u32 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFT_REG_1: u32 = 1;
const NFT_CT_DIRECTION: u32 = 1;
const NFT_CMP_EQ: u32 = 0;
const IP_CT_DIR_ORIGINAL: u8 = 0;
// linux/netfilter.h
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_POST_ROUTING: u32 = 4;
/// Behind the chains of everybody else: whoever translates comes first.
const LAST: u32 = 1000;

/// A table as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NfTable {
    pub(crate) family: &'static str,
    pub(crate) name: String,
    /// The kernel asks none of its chains.
    pub(crate) dormant: bool,
}

/// All tables of the network namespace.
pub(crate) async fn nf_tables() -> io::Result<Vec<NfTable>> {
    all(GET_TABLE, 0, NEW_TABLE, table).await
}

/// The chains of a table, in the order in which they were made. A name that is no UTF-8 is no name of iptables.
pub(crate) async fn nf_chains(family: Family, table: &str) -> io::Result<Vec<String>> {
    let family = match family {
        Family::Ipv4 => NFPROTO_IPV4,
        Family::Ipv6 => NFPROTO_IPV6,
    };
    all(GET_CHAIN, family, NEW_CHAIN, |body| chain_of(body, table)).await
}

async fn all<T>(ask: u16, family: u8, answer: u16, parse: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    let take = |kind, body: &[u8]| found.extend((kind == answer).then(|| parse(body)).flatten());
    dump(NETLINK_NETFILTER, &message(ask, NLM_F_DUMP, family, 0, &[]), take).await?;
    Ok(found)
}

/// The name of a chain, if it is one of that table.
fn chain_of(body: &[u8], table: &str) -> Option<String> {
    let (mut name, mut of) = (None, false);
    for attribute in NlasIterator::new(body.get(NFGENMSG..)?).flatten() {
        let value = attribute.value();
        let text = value.strip_suffix(&[0]).unwrap_or(value);
        match attribute.kind() {
            NFTA_CHAIN_TABLE => of = text == table.as_bytes(),
            NFTA_CHAIN_NAME => name = Some(String::from_utf8_lossy(text).into_owned()),
            _ => {}
        }
    }
    name.filter(|_| of)
}

fn table(body: &[u8]) -> Option<NfTable> {
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    };
    let (mut name, mut flags) = (None, 0);
    for attribute in NlasIterator::new(body.get(NFGENMSG..)?).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            NFTA_TABLE_NAME => name = Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into()),
            NFTA_TABLE_FLAGS => flags = u32::from_be_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    Some(NfTable { family, name: name?, dormant: flags & NFT_TABLE_F_DORMANT != 0 })
}

/// A table of IPv4 that keeps connection tracking and translation in the packets' way, without a rule that any
/// packet meets.
///
/// It belongs to its socket: nobody else can flush it, change it or delete it, and the kernel removes it when the
/// socket is closed, in whatever way the process ends.
pub(crate) struct NatHold {
    _socket: Socket,
}

impl NatHold {
    /// Makes the table. Blocks as long as the kernel takes, a few milliseconds.
    pub(crate) fn make(name: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        // The kernel has answered when it has taken the batch.
        socket.set_non_blocking(true)?;
        socket.send(&batch(name), 0)?;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            socket.recv(&mut datagram, 0)?;
            for message in messages(&datagram) {
                let message = NetlinkBuffer::new(message);
                match (message.message_type(), message.payload()) {
                    (NLMSG_ERROR, [0, 0, 0, 0, ..]) => return Ok(NatHold { _socket: socket }),
                    (NLMSG_ERROR, payload) => return Err(refusal(payload)),
                    _ => {}
                }
            }
        }
    }
}

/// One transaction. Only its last part asks for an answer; what is refused is answered in any case.
fn batch(name: &str) -> Vec<u8> {
    let nat = |chain: &str, hook| {
        let hook = [number(NFTA_HOOK_HOOKNUM, hook), number(NFTA_HOOK_PRIORITY, LAST)];
        let attributes = [
            text(NFTA_CHAIN_TABLE, name),
            text(NFTA_CHAIN_NAME, chain),
            nested(NFTA_CHAIN_HOOK, &hook),
            text(NFTA_CHAIN_TYPE, "nat"),
        ];
        message(NEW_CHAIN, NLM_F_CREATE, NFPROTO_IPV4, 0, &attributes)
    };
    // Chains of type nat keep translation, but only a rule that asks for the connection keeps it tracked. No packet
    // comes to this one.
    let tracking = "tracking";
    let expression = |name: &str, data: &[Vec<u8>]| {
        nested(NFTA_LIST_ELEM, &[text(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, data)])
    };
    // ct direction original, whole, as nft shows it.
    let load = [number(NFTA_CT_DREG, NFT_REG_1), number(NFTA_CT_KEY, NFT_CT_DIRECTION)];
    let compare = [
        number(NFTA_CMP_SREG, NFT_REG_1),
        number(NFTA_CMP_OP, NFT_CMP_EQ),
        nested(NFTA_CMP_DATA, &[attribute(NFTA_DATA_VALUE, &[IP_CT_DIR_ORIGINAL])]),
    ];
    let rule = [
        text(NFTA_RULE_TABLE, name),
        text(NFTA_RULE_CHAIN, tracking),
        nested(NFTA_RULE_EXPRESSIONS, &[expression("ct", &load), expression("cmp", &compare)]),
    ];
    [
        message(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES, &[]),
        message(
            NEW_TABLE,
            NLM_F_CREATE | NLM_F_EXCL,
            NFPROTO_IPV4,
            0,
            &[text(NFTA_TABLE_NAME, name), number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER)],
        ),
        nat("prerouting", NF_INET_PRE_ROUTING),
        nat("postrouting", NF_INET_POST_ROUTING),
        message(
            NEW_CHAIN,
            NLM_F_CREATE,
            NFPROTO_IPV4,
            0,
            &[text(NFTA_CHAIN_TABLE, name), text(NFTA_CHAIN_NAME, tracking)],
        ),
        message(NEW_RULE, NLM_F_CREATE | NLM_F_ACK, NFPROTO_IPV4, 0, &rule),
        message(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES, &[]),
    ]
    .concat()
}

/// Header, nfgenmsg, attributes. `resource` is the subsystem that a batch is for.
pub(super) fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = (HEADER + NFGENMSG + attributes.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port.
    bytes.resize(HEADER, 0);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &attributes.concat())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_ones_marked() {
        let little = cfg!(target_endian = "little");
        assert_eq!(text(3, "ab").len(), 8);
        assert_eq!(&number(2, 2)[4..], [0, 0, 0, 2]);
        let outer = nested(4, &[text(1, "abcd")]);
        assert_eq!((outer.len(), outer[if little { 3 } else { 2 }] & 0x80), (16, 0x80));
    }

    #[test]
    fn a_batch_is_whole_messages_between_its_ends() {
        let bytes = batch("t");
        let kinds: Vec<_> = messages(&bytes).map(|m| NetlinkBuffer::new(m).message_type()).collect();
        assert_eq!(
            kinds,
            [NFNL_MSG_BATCH_BEGIN, NEW_TABLE, NEW_CHAIN, NEW_CHAIN, NEW_CHAIN, NEW_RULE, NFNL_MSG_BATCH_END]
        );
        assert_eq!(messages(&bytes).map(<[u8]>::len).sum::<usize>(), bytes.len());
    }

    #[test]
    fn a_table_is_read_with_its_flags() {
        let body = [vec![10, 0, 0, 0], text(NFTA_TABLE_NAME, "mangle"), number(NFTA_TABLE_FLAGS, NFT_TABLE_F_DORMANT)]
            .concat();
        assert_eq!(table(&body), Some(NfTable { family: "ip6", name: "mangle".to_owned(), dormant: true }));
        assert_eq!(table(&[99, 0, 0, 0]), None);
    }
}
