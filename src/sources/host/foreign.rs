//! Policy rules of others, for whoever explains. The plan needs none of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::{RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage};

use super::HostError;
use super::look::{ATTEMPTS, PAUSE, network, read, routes};
use super::own::{self, Parts};
use crate::model::Family;
use crate::netlink::{RouteSocket, RouteSocketError};
use crate::ruleset::ownership::ROUTE_PROTOCOL;
use crate::ruleset::{LOCAL_TABLE, MAIN_TABLE};

/// A rule that does not carry our protocol number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignRule {
    pub priority: u32,
    /// It takes what its selectors do not match.
    pub inverted: bool,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    /// Value and mask.
    pub mark: Option<(u32, u32)>,
    pub input: Option<String>,
    pub output: Option<String>,
    /// It asks for more: ports, protocol, TOS, user, tunnel, realm, or a VRF.
    pub narrower: bool,
    pub action: ForeignAction,
    /// It leads to the table of the VRF that the packet's interface is a port of, and takes no others.
    pub vrf: bool,
    /// Routes of this prefix length and shorter do not count.
    pub suppressed: Option<u32>,
    /// In the words of `ip rule`.
    pub text: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForeignAction {
    Lookup(u32),
    Goto(u32),
    #[default]
    Nop,
    /// Blackhole, unreachable, prohibit.
    Refuse,
    /// One that this program does not know, or the table of the packet's VRF.
    Unknown,
}

/// The IPv4 rules of others, and what the tables of the box hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignRules {
    /// By priority; of equal ones in the kernel's order.
    pub rules: Vec<ForeignRule>,
    /// Destinations of IPv4 routes by table, ours among them. Without those of type throw, which send a packet on to the next rule.
    pub tables: BTreeMap<u32, Vec<IpNet>>,
}

/// Reads them in the network namespace of the calling thread.
pub async fn read_foreign_rules() -> Result<ForeignRules, HostError> {
    let mut socket = RouteSocket::connect().map_err(HostError::Connect)?;
    for attempt in 1..=ATTEMPTS {
        match look(&mut socket).await {
            Err(HostError::Read { source: RouteSocketError::Interrupted, .. }) => {
                tokio::time::sleep(PAUSE * attempt).await;
            }
            settled => return settled,
        }
    }
    Err(HostError::Unsteady { attempts: ATTEMPTS })
}

async fn look(socket: &mut RouteSocket) -> Result<ForeignRules, HostError> {
    let mut foreign = ForeignRules::default();
    let mut request = RuleMessage::default();
    request.header.family = own::address_family(Family::Ipv4);
    for message in read(socket, "policy rules", RouteNetlinkMessage::GetRule(request)).await? {
        if let RouteNetlinkMessage::NewRule(message) = message
            && message.header.family == own::address_family(Family::Ipv4)
            && !message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)))
        {
            foreign.rules.push(rule(&message));
        }
    }
    let mut request = RouteMessage::default();
    request.header.address_family = own::address_family(Family::Ipv4);
    for message in routes(socket, "routes of all tables", request).await? {
        if let Some(parts) = Parts::of(&message)
            && message.header.kind != RouteType::Throw
        {
            foreign.tables.entry(parts.table()).or_default().push(parts.destination);
        }
    }
    Ok(foreign)
}

fn rule(message: &RuleMessage) -> ForeignRule {
    let header = &message.header;
    let mut rule = ForeignRule { inverted: header.flags.contains(RuleFlags::Invert), ..ForeignRule::default() };
    rule.narrower = header.tos != 0;
    let mut table = u32::from(header.table);
    let (mut goto, mut vrf) = (None, false);
    let (mut mark, mut mask) = (None, u32::MAX);
    let net = |address: IpAddr, length| network(Family::Ipv4, Some(address), length);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Source(address) => rule.from = net(*address, header.src_len),
            RuleAttribute::Destination(address) => rule.to = net(*address, header.dst_len),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.output = Some(name.clone()),
            RuleAttribute::Goto(priority) => goto = Some(*priority),
            RuleAttribute::L3MDev(on) => vrf = *on,
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::Protocol(_) => {}
            RuleAttribute::SuppressPrefixLen(length) => rule.suppressed = Some(*length),
            // Routes by one group of interfaces do not count: fewer, never more.
            RuleAttribute::SuppressIfGroup(_) => {}
            _ => rule.narrower = true,
        }
    }
    rule.narrower |= vrf;
    rule.vrf = vrf;
    rule.mark = mark.map(|value| (value, mask)).or((mask != u32::MAX && mask != 0).then_some((0, mask)));
    rule.action = match (header.action, goto) {
        _ if vrf => ForeignAction::Unknown,
        (Action::ToTable, _) => ForeignAction::Lookup(table),
        (Action::Goto, Some(priority)) => ForeignAction::Goto(priority),
        (Action::Nop, _) => ForeignAction::Nop,
        (Action::Blackhole | Action::Unreachable | Action::Prohibit, _) => ForeignAction::Refuse,
        _ => ForeignAction::Unknown,
    };
    rule.text = text(&rule, header.action, vrf);
    rule
}

/// What `ip rule` shows; of what is rarer, that there is more.
fn text(rule: &ForeignRule, action: Action, vrf: bool) -> String {
    let mut text = format!("{}:", rule.priority);
    if rule.inverted {
        text.push_str(" not");
    }
    match rule.from {
        Some(net) => _ = write!(text, " from {net}"),
        None => text.push_str(" from all"),
    }
    if let Some(net) = rule.to {
        _ = write!(text, " to {net}");
    }
    match rule.mark {
        Some((value, u32::MAX)) => _ = write!(text, " fwmark 0x{value:x}"),
        Some((value, mask)) => _ = write!(text, " fwmark 0x{value:x}/0x{mask:x}"),
        None => {}
    }
    for (word, name) in [("iif", &rule.input), ("oif", &rule.output)] {
        if let Some(name) = name {
            _ = write!(text, " {word} {name}");
        }
    }
    if rule.narrower && !vrf {
        text.push_str(" (and more)");
    }
    match rule.action {
        _ if vrf => text.push_str(" lookup [l3mdev-table]"),
        ForeignAction::Lookup(MAIN_TABLE) => text.push_str(" lookup main"),
        ForeignAction::Lookup(LOCAL_TABLE) => text.push_str(" lookup local"),
        ForeignAction::Lookup(table) => _ = write!(text, " lookup {table}"),
        ForeignAction::Goto(priority) => _ = write!(text, " goto {priority}"),
        ForeignAction::Nop => text.push_str(" nop"),
        ForeignAction::Refuse | ForeignAction::Unknown => _ = write!(text, " {}", format!("{action:?}").to_lowercase()),
    }
    if let Some(length) = rule.suppressed {
        _ = write!(text, " suppress_prefixlength {length}");
    }
    text
}
