//! Its policy rules and the routing tables to which they lead.
//!
//! A table is its own when the number is the one that it computed from an interface's name, or when the mark that it gave to an
//! interface leads to the table of that interface's name. Of rules and routes only its exact shapes go: `from ADDRESS` and `fwmark` for
//! rules, a link route and a default route for tables. A table that somebody else's rule uses keeps its routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::FirstSmartNatError;
use super::names::{MARK_BASE, TableEntry, table_number};
use crate::netlink::{RouteSocket, RouteSocketError};
use crate::ruleset::ownership::ROUTE_PROTOCOL;
use crate::sources::host::names;

// asm-generic/errno-base.h
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ENODEV: i32 = 19;

const ATTEMPTS: u32 = 10;
/// Before the second attempt; grows by as much each time.
const PAUSE: Duration = Duration::from_millis(10);
/// The kernel's own: unspec, default, main, local.
const KERNELS_TABLES: [u32; 4] = [0, 253, 254, 255];
/// Marks that are taken for its own in the sentences about what was left: interface indexes below 4096.
const PLAUSIBLE_MARKS: std::ops::Range<u32> = MARK_BASE + 1..MARK_BASE + 0x1000;

/// What there is of its routing.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) rules: Vec<RuleMessage>,
    pub(super) routes: Vec<RouteMessage>,
    /// Name of the interface by table.
    pub(super) tables: BTreeMap<u32, String>,
    /// What looks like it and stays, with the reason.
    pub(super) left: Vec<String>,
}

/// What a rule matches on, if it is one of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    From(IpAddr),
    Mark(u32),
}

/// Looks until nothing changes meanwhile.
pub(super) async fn look(socket: &mut RouteSocket, entries: &[TableEntry]) -> Result<Found, FirstSmartNatError> {
    for attempt in 1..=ATTEMPTS {
        match look_once(socket, entries).await {
            Err(FirstSmartNatError::Read { source: RouteSocketError::Interrupted, .. }) => {
                tokio::time::sleep(PAUSE * attempt).await;
            }
            settled => return settled,
        }
    }
    Err(FirstSmartNatError::Read { what: "policy rules and routes", source: RouteSocketError::Interrupted })
}

async fn look_once(socket: &mut RouteSocket, entries: &[TableEntry]) -> Result<Found, FirstSmartNatError> {
    let indexes: BTreeMap<String, u32> = names(socket)
        .await
        .map_err(FirstSmartNatError::Interfaces)?
        .into_iter()
        .map(|(index, name)| (name, index))
        .collect();
    let mut request = RuleMessage::default();
    request.header.family = AddressFamily::Inet;
    let rules = socket
        .dump(RouteNetlinkMessage::GetRule(request))
        .await
        .map_err(|source| FirstSmartNatError::Read { what: "policy rules", source })?
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewRule(rule) if rule.header.family == AddressFamily::Inet => Some(rule),
            _ => None,
        })
        .collect();
    let mut found = sort_out(rules, entries, &indexes);
    for (table, name) in found.tables.clone() {
        for route in table_routes(socket, table).await? {
            if is_its_route(&route, indexes.get(&name).copied()) {
                found.routes.push(route);
            } else if !is_our_route(&route) {
                found.left.push(format!("a route of somebody else's in table {}", label(table, Some(&name))));
            }
        }
    }
    found.left = counted(found.left);
    Ok(found)
}

/// Which rules are its own, and which tables may be emptied.
fn sort_out(rules: Vec<RuleMessage>, entries: &[TableEntry], indexes: &BTreeMap<String, u32>) -> Found {
    let mut found = Found { tables: tables(&rules, entries, indexes), ..Found::default() };
    let named: BTreeMap<u32, &str> = entries.iter().map(|e| (e.number, e.name.as_str())).collect();
    let mut in_use = BTreeSet::new();
    for rule in rules {
        let Some(table) = table_of(&rule) else { continue };
        if is_our_rule(&rule) {
            in_use.insert(table);
            continue;
        }
        match (found.tables.get(&table), shape(&rule)) {
            (Some(_), Some(_)) => found.rules.push(rule),
            (Some(name), None) => {
                found.left.push(format!(
                    "a rule that it never made leads to table {}, which keeps its routes",
                    label(table, Some(name))
                ));
                in_use.insert(table);
            }
            (None, Some(Shape::Mark(mark))) if PLAUSIBLE_MARKS.contains(&mark) && !KERNELS_TABLES.contains(&table) => {
                let label = label(table, named.get(&table).copied());
                found.left.push(format!(
                    "rule fwmark 0x{mark:x} lookup {label}: neither the table's number nor an interface of its name and index 0x{:x} \
                     tells whose it is",
                    mark - MARK_BASE
                ));
            }
            (None, Some(Shape::From(address))) if named.get(&table).is_some_and(|name| indexes.contains_key(*name)) => {
                let label = label(table, named.get(&table).copied());
                found.left.push(format!(
                    "rule from {address} lookup {label}: the table's number is not one that it computes"
                ));
            }
            (None, _) => {}
        }
    }
    found.tables.retain(|table, _| !in_use.contains(table));
    found
}

/// Tables that are its own, with the names of their interfaces.
fn tables(rules: &[RuleMessage], entries: &[TableEntry], indexes: &BTreeMap<String, u32>) -> BTreeMap<u32, String> {
    // Where it ran in a container, the entries stood in the container's file.
    let mut tables: BTreeMap<u32, String> = indexes.keys().map(|name| (table_number(name), name.clone())).collect();
    for entry in entries {
        let marked = || {
            let index = indexes.get(&entry.name)?;
            let mark = Shape::Mark(MARK_BASE.checked_add(*index)?);
            rules
                .iter()
                .find(|rule| table_of(rule) == Some(entry.number) && shape(rule) == Some(mark) && !is_our_rule(rule))
        };
        if !KERNELS_TABLES.contains(&entry.number) && (entry.number == table_number(&entry.name) || marked().is_some())
        {
            tables.insert(entry.number, entry.name.clone());
        }
    }
    tables
}

/// Entries of rt_tables that it added.
pub(super) fn its_entries<'a>(entries: &'a [TableEntry], found: &Found) -> Vec<&'a TableEntry> {
    entries.iter().filter(|e| e.number == table_number(&e.name) || found.tables.contains_key(&e.number)).collect()
}

fn table_of(rule: &RuleMessage) -> Option<u32> {
    if rule.header.action != RuleAction::ToTable {
        return None;
    }
    let attribute = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    Some(attribute.unwrap_or(u32::from(rule.header.table)))
}

fn is_our_rule(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)))
}

fn is_our_route(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL)
}

/// `ip rule add from ADDRESS lookup TABLE` or `ip rule add fwmark MARK lookup TABLE`, and nothing more.
fn shape(rule: &RuleMessage) -> Option<Shape> {
    let header = &rule.header;
    if header.tos != 0 || header.dst_len != 0 || header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let (mut mark, mut mask, mut from) = (None, None, None);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Source(address) => from = Some(*address),
            // Those of `ip`, old and new.
            RuleAttribute::Protocol(RouteProtocol::Unspec | RouteProtocol::Boot) => {}
            RuleAttribute::Table(_) | RuleAttribute::Priority(_) => {}
            // The kernel always names it; all ones means that nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => return None,
        }
    }
    match (mark, mask, from) {
        (Some(mark), Some(u32::MAX), None) if header.src_len == 0 && mark > MARK_BASE => Some(Shape::Mark(mark)),
        (None, None, Some(address)) if header.src_len == 32 => Some(Shape::From(address)),
        _ => None,
    }
}

/// `SUBNET dev INTERFACE scope link` or `default via GATEWAY dev INTERFACE`, and nothing more.
fn is_its_route(route: &RouteMessage, interface: Option<u32>) -> bool {
    let header = &route.header;
    let plain = header.kind == RouteType::Unicast
        && header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.contains(RouteFlags::Onlink)
        && matches!(header.protocol, RouteProtocol::Unspec | RouteProtocol::Boot);
    let (mut out, mut gateway) = (None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::Gateway(_) => gateway = true,
            RouteAttribute::Table(_) | RouteAttribute::Destination(_) | RouteAttribute::CacheInfo(_) => {}
            _ => return false,
        }
    }
    let default = header.destination_prefix_length == 0;
    let shaped = if gateway { default } else { !default && header.scope == RouteScope::Link };
    plain && shaped && out.is_some() && out == interface
}

async fn table_routes(socket: &mut RouteSocket, table: u32) -> Result<Vec<RouteMessage>, FirstSmartNatError> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.table = RouteHeader::RT_TABLE_UNSPEC;
    request.attributes.push(RouteAttribute::Table(table));
    match socket.dump(RouteNetlinkMessage::GetRoute(request)).await {
        Ok(messages) => Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(mut route)
                    if route.attributes.contains(&RouteAttribute::Table(table)) =>
                {
                    // States of the link, which a deletion does not name.
                    route.header.flags &= RouteFlags::Onlink;
                    route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
                    Some(route)
                }
                _ => None,
            })
            .collect()),
        // A table comes into being with its first route.
        Err(error) if error.errno() == Some(ENOENT) => Ok(Vec::new()),
        Err(source) => Err(FirstSmartNatError::Read { what: "routes", source }),
    }
}

/// Removes rules and routes by the kernel's own messages; what is gone meanwhile is no error.
pub(super) async fn remove(socket: &mut RouteSocket, found: &Found) -> Result<(), FirstSmartNatError> {
    let rules = found.rules.iter().cloned().map(RouteNetlinkMessage::DelRule);
    let routes = found.routes.iter().cloned().map(RouteNetlinkMessage::DelRoute);
    for (what, requests) in [("policy rule", rules.collect::<Vec<_>>()), ("route", routes.collect())] {
        for result in socket.change_all(requests, 0).await {
            match result {
                Err(source) if !matches!(source.errno(), Some(ENOENT | ESRCH | ENODEV)) => {
                    return Err(FirstSmartNatError::Delete { what, source });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The rules in the words of `ip rule`, equal ones counted.
pub(super) fn told(found: &Found) -> Vec<String> {
    counted(
        found
            .rules
            .iter()
            .filter_map(|rule| {
                let table = table_of(rule)?;
                let label = label(table, found.tables.get(&table).map(String::as_str));
                Some(match shape(rule)? {
                    Shape::From(address) => format!("from {address} lookup {label}"),
                    Shape::Mark(mark) => format!("fwmark 0x{mark:x} lookup {label}"),
                })
            })
            .collect(),
    )
}

fn label(table: u32, name: Option<&str>) -> String {
    name.map_or_else(|| table.to_string(), |name| format!("{table} ({name})"))
}

/// Each sentence once, with how often it was said.
fn counted(sentences: Vec<String>) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sentence in sentences {
        *counts.entry(sentence).or_default() += 1;
    }
    counts.into_iter().map(|(text, n)| if n == 1 { text } else { format!("{text} ({n} times)") }).collect()
}
