//! rtnetlink messages as the kernel really sends them. Names of interfaces, labels and aliases are bytes there, not text: one that is no
//! UTF-8 must neither hide the whole message nor become another name.

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
    Parseable, ParseableParametrized,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeader, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkHeader, LinkInfo, LinkMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleHeader, RuleMessage};

use crate::model::name_of_bytes;

// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWRULE: u16 = 32;
// Sizes of ifinfomsg, ifaddrmsg and fib_rule_hdr.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const RULE_HEADER: usize = 12;
// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
// linux/fib_rules.h
const FRA_IIFNAME: u16 = 3;
const FRA_OIFNAME: u16 = 17;

/// A message whose names were read as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message(pub(super) RouteNetlinkMessage);

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.0.message_type()
    }

    fn buffer_len(&self) -> usize {
        NetlinkSerializable::buffer_len(&self.0)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.0.serialize(buffer);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match header.message_type {
            RTM_NEWLINK => link(payload).map(RouteNetlinkMessage::NewLink),
            RTM_NEWADDR => address(payload).map(RouteNetlinkMessage::NewAddress),
            RTM_NEWRULE => rule(payload).map(RouteNetlinkMessage::NewRule),
            _ => RouteNetlinkMessage::deserialize(header, payload),
        }
        .map(Message)
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        NetlinkPayload::InnerMessage(message)
    }
}

fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    // What is cut off ends the list.
    NlasIterator::new(payload.get(header..).unwrap_or_default()).map_while(Result::ok)
}

fn text(value: &[u8]) -> String {
    name_of_bytes(value.strip_suffix(&[0]).unwrap_or(value))
}

/// Attributes that cannot be read are left out; those that decide what a link is are read here.
fn link(payload: &[u8]) -> Result<LinkMessage, DecodeError> {
    let mut message = LinkMessage::default();
    message.header = LinkHeader::parse(payload)?;
    for attribute in attributes(payload, LINK_HEADER) {
        message.attributes.extend(match attribute.kind() {
            IFLA_IFNAME => Some(LinkAttribute::IfName(text(attribute.value()))),
            IFLA_LINKINFO => Some(LinkAttribute::LinkInfo(link_info(attribute.value()))),
            _ => LinkAttribute::parse_with_param(&attribute, message.header.interface_family).ok(),
        });
    }
    Ok(message)
}

/// The kind by its name, and its data as they are.
fn link_info(value: &[u8]) -> Vec<LinkInfo> {
    attributes(value, 0)
        .filter_map(|attribute| match attribute.kind() {
            IFLA_INFO_KIND => Some(LinkInfo::Kind(InfoKind::Other(text(attribute.value())))),
            IFLA_INFO_DATA => Some(LinkInfo::Data(InfoData::Other(attribute.value().to_vec()))),
            _ => None,
        })
        .collect()
}

/// The numbers of attributes of 32 bits in the data of a link's kind.
pub(crate) fn numbers(data: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    attributes(data, 0).filter_map(|attribute| {
        let value: [u8; 4] = attribute.value().try_into().ok()?;
        Some((attribute.kind(), u32::from_ne_bytes(value)))
    })
}

/// A label need not be text; nobody here reads it.
fn address(payload: &[u8]) -> Result<AddressMessage, DecodeError> {
    let mut message = AddressMessage::default();
    message.header = AddressHeader::parse(payload)?;
    message.attributes =
        attributes(payload, ADDRESS_HEADER).filter_map(|attribute| AddressAttribute::parse(&attribute).ok()).collect();
    Ok(message)
}

/// A rule that lost one of its selectors would be another rule: only names are read here, the rest must be readable.
fn rule(payload: &[u8]) -> Result<RuleMessage, DecodeError> {
    let mut message = RuleMessage::default();
    message.header = RuleHeader::parse(payload)?;
    for attribute in attributes(payload, RULE_HEADER) {
        message.attributes.push(match attribute.kind() {
            FRA_IIFNAME => RuleAttribute::Iifname(text(attribute.value())),
            FRA_OIFNAME => RuleAttribute::Oifname(text(attribute.value())),
            _ => RuleAttribute::parse(&attribute)?,
        });
    }
    Ok(message)
}
