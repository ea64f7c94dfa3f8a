//! What one notice of nf_tables says: who made a generation, or what was changed in it.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkBuffer, NlasIterator};

use crate::model::Family;
use crate::netlink::NEW_GENERATION;
use crate::ruleset::ownership::{CHAIN_PREFIX, is_our_chain};
use crate::ruleset::{Builtin, Table};

/// struct nfgenmsg
const NFGENMSG: usize = 4;
// linux/netfilter/nf_tables.h
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u8 = 0;
const DEL_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const DEL_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const DEL_RULE: u8 = 8;
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, and so on.
const TABLE_NAME: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_GEN_ID: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
// linux/netfilter.h
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// A table of iptables or ip6tables.
pub type Key = (Family, Table);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    Generation(Generation),
    /// Part of the generation whose notice follows.
    Touched(Place),
    /// Nothing that could be ours.
    Elsewhere,
}

/// A generation, and the process that made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Generation {
    pub number: u32,
    /// Of the writer's socket.
    pub port: u32,
    pub pid: u32,
    pub process: String,
}

/// What a change may concern of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The order of a built-in chain.
    Builtin(Key, Builtin),
    Table(Key),
    /// It cannot be told.
    Anywhere,
}

pub(super) fn parse(message: &[u8]) -> Notice {
    read(message).unwrap_or(Notice::Touched(Place::Anywhere))
}

/// `None` of what is not as it should be.
fn read(message: &[u8]) -> Option<Notice> {
    let message = NetlinkBuffer::new_checked(message).ok()?;
    let kind = message.message_type();
    if kind >> 8 != SUBSYSTEM {
        return Some(Notice::Elsewhere);
    }
    let body = message.payload();
    let attributes = body.get(NFGENMSG..)?;
    if kind == NEW_GENERATION {
        return generation(message.port_number(), attributes).map(Notice::Generation);
    }
    let family = match *body.first()? {
        NFPROTO_IPV4 => Family::Ipv4,
        NFPROTO_IPV6 => Family::Ipv6,
        _ => return Some(Notice::Elsewhere),
    };
    let table = text(attributes, TABLE_NAME)?;
    let Some(table) = Table::ALL.into_iter().find(|t| t.as_str() == table) else { return Some(Notice::Elsewhere) };
    let key = (family, table);
    let place = match (kind & 0xff) as u8 {
        NEW_TABLE | DEL_TABLE => Some(Place::Table(key)),
        kind @ (NEW_CHAIN | DEL_CHAIN) => {
            // A new name comes without the flags of a creation, and does not tell the old one.
            let renames = kind == NEW_CHAIN && message.flags() & (NLM_F_CREATE | NLM_F_EXCL) == 0;
            if renames { Some(Place::Table(key)) } else { of_chain(key, &text(attributes, NFTA_CHAIN_NAME)?) }
        }
        NEW_RULE | DEL_RULE => of_chain(key, &text(attributes, NFTA_RULE_CHAIN)?),
        _ => None,
    };
    // A chain of others may lead to one of ours, by a rule or by an element of a map.
    let place = place.or_else(|| mentions_us(attributes).then_some(Place::Table(key)));
    Some(place.map_or(Notice::Elsewhere, Notice::Touched))
}

fn of_chain(key: Key, chain: &str) -> Option<Place> {
    match Builtin::parse(chain) {
        Some(builtin) => Some(Place::Builtin(key, builtin)),
        None => is_our_chain(chain).then_some(Place::Table(key)),
    }
}

fn mentions_us(attributes: &[u8]) -> bool {
    let prefix = CHAIN_PREFIX.as_bytes();
    attributes.windows(prefix.len()).any(|window| window == prefix)
}

fn generation(port: u32, attributes: &[u8]) -> Option<Generation> {
    let mut made = Generation { port, ..Generation::default() };
    let number = |value: &[u8]| Some(u32::from_be_bytes(value.try_into().ok()?));
    let mut numbered = false;
    for attribute in NlasIterator::new(attributes).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            NFTA_GEN_ID => (made.number, numbered) = (number(value)?, true),
            NFTA_GEN_PROC_PID => made.pid = number(value)?,
            NFTA_GEN_PROC_NAME => made.process = text_of(value),
            _ => {}
        }
    }
    numbered.then_some(made)
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let found = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == kind)?;
    Some(text_of(found.value()))
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A netlink message: header, nfgenmsg, attributes.
    pub fn message(kind: u16, flags: u16, family: u8, port: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        for (kind, value) in attributes {
            body.extend(((4 + value.len()) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    const NAT: Key = (Family::Ipv4, Table::Nat);

    fn rule(kind: u8, family: u8, table: &[u8], chain: &[u8], content: &[u8]) -> Notice {
        parse(&message(kind.into(), NLM_F_CREATE, family, 7, &[(1, table), (2, chain), (4, content)]))
    }

    fn chain(kind: u8, flags: u16, name: &[u8]) -> Notice {
        parse(&message(kind.into(), flags, NFPROTO_IPV4, 7, &[(1, b"nat\0"), (3, name), (2, &[0; 8])]))
    }

    #[test]
    fn only_what_can_be_ours_is_touched() {
        let own = Notice::Touched(Place::Table(NAT));
        for kind in [NEW_RULE, DEL_RULE] {
            assert_eq!(rule(kind, 2, b"nat\0", b"SMARTNAT-A\0", b"x"), own);
            let builtin = Place::Builtin((Family::Ipv6, Table::Filter), Builtin::Forward);
            assert_eq!(rule(kind, 10, b"filter\0", b"FORWARD\0", b"x"), Notice::Touched(builtin));
            assert_eq!(rule(kind, 2, b"nat\0", b"KUBE-SERVICES\0", b"..SMARTNAT-B.."), own, "it leads to ours");
            assert_eq!(rule(kind, 2, b"nat\0", b"KUBE-SERVICES\0", b"smartnat"), Notice::Elsewhere);
            assert_eq!(rule(kind, 2, b"raw\0", b"PREROUTING\0", b"x"), Notice::Elsewhere);
            assert_eq!(rule(kind, 1, b"nat\0", b"PREROUTING\0", b"x"), Notice::Elsewhere, "a table of inet");
        }
        assert_eq!(chain(DEL_CHAIN, 0, b"SMARTNAT-A\0"), own);
        assert_eq!(chain(NEW_CHAIN, NLM_F_EXCL, b"SMARTNAT-A\0"), own);
        assert_eq!(chain(NEW_CHAIN, NLM_F_CREATE, b"DOCKER\0"), Notice::Elsewhere);
        assert_eq!(chain(DEL_CHAIN, 0, b"DOCKER\0"), Notice::Elsewhere);
        assert_eq!(chain(NEW_CHAIN, 0, b"DOCKER\0"), own, "ours may have been renamed to it");
        for kind in [NEW_TABLE, DEL_TABLE] {
            assert_eq!(parse(&message(kind.into(), 0, 2, 7, &[(1, b"nat\0"), (2, &[0; 4])])), own);
        }
        let element = message(12, NLM_F_CREATE, 2, 7, &[(1, b"nat\0"), (2, b"map\0"), (3, b"goto SMARTNAT-A")]);
        assert_eq!(parse(&element), own);
    }

    #[test]
    fn who_made_a_generation_is_read_and_what_cannot_be_read_may_be_anything() {
        let made = message(15, 0, 0, 9, &[(1, &[0, 0, 1, 2]), (2, &[0, 0, 0, 42]), (3, b"iptables\0")]);
        let expected = Generation { number: 258, port: 9, pid: 42, process: "iptables".to_owned() };
        assert_eq!(parse(&made), Notice::Generation(expected));
        let anywhere = Notice::Touched(Place::Anywhere);
        assert_eq!(parse(&message(15, 0, 0, 9, &[])), anywhere);
        assert_eq!(parse(&message(6, 0, 2, 9, &[(1, b"nat\0")])), anywhere);
        assert_eq!(parse(&[0; 8]), anywhere);
    }
}
