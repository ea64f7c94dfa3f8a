//! Which packets a policy rule of others takes, and whether it keeps them from the rules behind it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::error_chain;
use crate::model::Host;
use crate::ruleset::{Dataplane, LOCAL_TABLE, MAIN_PRIORITY, MAIN_TABLE, PolicyRule, RuleAction, RuleSelector};
use crate::sources::host::{ForeignAction, ForeignRule, ForeignRules, HostError};
use crate::trace::{Lookup, Trace};

/// Certainty that a rule takes a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Takes {
    No,
    Some,
    All,
}

/// The packets of one kind, as far as selectors ask.
pub(in crate::cli) struct Kind<'a> {
    pub marks: &'a [u32],
    /// `None`: whatever clients have.
    pub from: Option<&'a BTreeSet<IpAddr>>,
    pub to: Option<&'a BTreeSet<IpAddr>>,
    pub input: &'a [String],
    pub output: &'a [String],
}

pub(in crate::cli) fn takes(rule: &ForeignRule, kind: &Kind<'_>) -> Takes {
    let among = |hits: usize, all: usize| match hits {
        0 => Takes::No,
        hits if hits == all => Takes::All,
        _ => Takes::Some,
    };
    let address = |net: Option<IpNet>, addresses: Option<&BTreeSet<IpAddr>>| match (net, addresses) {
        (None, _) => Takes::All,
        (Some(net), None) if net.prefix_len() == 0 => Takes::All,
        (Some(_), None) => Takes::Some,
        (Some(net), Some(addresses)) => among(addresses.iter().filter(|a| net.contains(*a)).count(), addresses.len()),
    };
    let name = |name: &Option<String>, names: &[String]| match name {
        None => Takes::All,
        Some(name) => among(names.iter().filter(|n| *n == name).count(), names.len()),
    };
    let mark = match rule.mark {
        None => Takes::All,
        Some((value, mask)) => {
            among(kind.marks.iter().filter(|mark| (**mark ^ value) & mask == 0).count(), kind.marks.len())
        }
    };
    let parts = [
        address(rule.from, kind.from),
        address(rule.to, kind.to),
        name(&rule.input, kind.input),
        name(&rule.output, kind.output),
        mark,
        if rule.narrower { Takes::Some } else { Takes::All },
    ];
    // Several conditions that each take some may together take none: in doubt it is told.
    let all = parts.into_iter().min().unwrap_or(Takes::No);
    match (rule.inverted, all) {
        (true, Takes::All) => Takes::No,
        (true, Takes::No) => Takes::All,
        (_, takes) => takes,
    }
}

/// Whether what a rule takes does not come to the rule behind it that should have it.
pub(in crate::cli) fn keeps(
    rule: &ForeignRule,
    foreign: &ForeignRules,
    to: Option<&BTreeSet<IpAddr>>,
    ours: u32,
) -> Takes {
    match rule.action {
        ForeignAction::Nop => Takes::No,
        ForeignAction::Goto(priority) if priority <= ours => Takes::No,
        ForeignAction::Refuse | ForeignAction::Goto(_) => Takes::All,
        ForeignAction::Unknown => Takes::Some,
        ForeignAction::Lookup(table) => {
            let routes = foreign.tables.get(&table).into_iter().flatten();
            let counting =
                routes.filter(|net| rule.suppressed.is_none_or(|length| u32::from(net.prefix_len()) > length));
            match to {
                None => counting.map(|net| if net.prefix_len() == 0 { Takes::All } else { Takes::Some }).max(),
                Some(to) => {
                    let nets: Vec<&IpNet> = counting.collect();
                    let found = to.iter().filter(|address| nets.iter().any(|net| net.contains(*address))).count();
                    (found > 0).then_some(if found == to.len() { Takes::All } else { Takes::Some })
                }
            }
            .unwrap_or(Takes::No)
        }
    }
}

/// What the policy rules of others, which no verdict knows of, do to a traced packet.
pub(in crate::cli) fn beyond(
    dataplane: &Dataplane,
    host: &Host,
    trace: &Trace,
    read: &Result<ForeignRules, HostError>,
) -> String {
    if trace.packet.source.is_ipv6() {
        return "Beyond: IPv6 policy rules of others were not looked at\n".to_owned();
    }
    let foreign = match read {
        Ok(foreign) => foreign,
        Err(error) => {
            let error = error_chain(error).replace('\n', " ");
            return format!("Beyond: policy rules of others were not looked at: {error} (run it as root)\n");
        }
    };
    let mut deciding: Vec<(&ForeignRule, Takes)> = Vec::new();
    for lookup in &trace.lookups {
        for (rule, takes) in deciding_about(foreign, dataplane, trace, lookup) {
            if rule.vrf && !host.in_vrf(&trace.packet.interface) {
                continue;
            }
            match deciding.iter_mut().find(|(known, _)| *known == rule) {
                // Of several ways at least one is caught.
                Some((_, known)) if *known != takes => *known = Takes::Some,
                Some(_) => {}
                None => deciding.push((rule, takes)),
            }
        }
    }
    if deciding.is_empty() {
        return format!("Beyond: none of {} policy rules of others decides about its way\n", foreign.rules.len());
    }
    deciding.sort_by_key(|(rule, _)| rule.priority);
    let mut text =
        "Beyond: policy rules of others, which the verdict does not know of, decide about its way:\n".to_owned();
    for (rule, takes) in deciding {
        text += &format!("        {}{}\n", if takes == Takes::All { "" } else { "maybe " }, rule.text);
    }
    text
}

/// The rules ahead of the one that decides by the plan, up to the first that certainly takes the packet.
fn deciding_about<'a>(
    foreign: &'a ForeignRules,
    dataplane: &Dataplane,
    trace: &Trace,
    lookup: &Lookup,
) -> Vec<(&'a ForeignRule, Takes)> {
    let packet = &trace.packet;
    let (from, to) = ([packet.source].into(), [lookup.destination].into());
    let (marks, input, output) = ([lookup.mark], [packet.interface.clone()], [String::new()]);
    let kind = Kind { marks: &marks, from: Some(&from), to: Some(&to), input: &input, output: &output };
    // Ours let what comes from outside pass over some.
    let over = dataplane.rules.iter().find_map(|rule| match (&rule.selector, rule.action) {
        (RuleSelector::InInterface(name), RuleAction::Goto(to)) if *name == packet.interface => {
            Some(rule.priority + 1..to)
        }
        _ => None,
    });
    // The kernel's look into the local table may stand elsewhere: then it is a twin of ours or that of others which finds the box.
    let twin = |rule: &&PolicyRule| {
        rule.action == RuleAction::Lookup(LOCAL_TABLE)
            && match &rule.selector {
                RuleSelector::InInterface(name) => *name == packet.interface,
                RuleSelector::FwMark { mark, mask } => lookup.mark & mask == *mark,
                _ => false,
            }
    };
    let until = match lookup.priority {
        0 => dataplane.rules.iter().filter(twin).map(|rule| rule.priority).min().unwrap_or(MAIN_PRIORITY),
        priority => priority,
    };
    let mut found = Vec::new();
    for rule in &foreign.rules {
        if rule.priority >= until {
            break;
        }
        if over.as_ref().is_some_and(|over| over.contains(&rule.priority)) {
            continue;
        }
        let takes = takes(rule, &kind).min(keeps(rule, foreign, Some(&to), until));
        let as_planned = match rule.action {
            ForeignAction::Lookup(LOCAL_TABLE) => true,
            ForeignAction::Lookup(MAIN_TABLE) => lookup.priority == MAIN_PRIORITY,
            _ => false,
        };
        if takes != Takes::No && !as_planned {
            found.push((rule, takes));
        }
        if takes == Takes::All {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Link, LinkStack};
    use crate::trace::{Packet, PacketKind};

    fn told(rules: &[ForeignRule], interface: &str, lookup: Lookup) -> String {
        let nets = |texts: &[&str]| texts.iter().map(|net| net.parse().unwrap()).collect();
        let tables = [
            (MAIN_TABLE, nets(&["0.0.0.0/0", "10.244.0.0/16"])),
            (LOCAL_TABLE, nets(&["203.0.113.10/32"])),
            (77, nets(&["0.0.0.0/0"])),
            (78, nets(&["10.245.0.0/16"])),
        ];
        let foreign = ForeignRules { rules: rules.to_vec(), tables: tables.into() };
        let kind = PacketKind::Tcp { source_port: 40000, destination_port: 80 };
        let packet = Packet::first(interface, "192.0.2.9".parse().unwrap(), "203.0.113.10".parse().unwrap(), kind);
        let mut dataplane = Dataplane::default();
        dataplane.rules.insert(PolicyRule {
            family: crate::model::Family::Ipv4,
            priority: 88,
            selector: RuleSelector::InInterface("eth1".to_owned()),
            action: RuleAction::Goto(101),
        });
        let mut trace = crate::trace::trace(&dataplane, &crate::model::Host::default(), &packet);
        trace.lookups = [lookup].into();
        let mut host = Host::default();
        let vrf = LinkStack { kind: "vrf".to_owned(), ..LinkStack::default() };
        let port = LinkStack { master: Some("blue".to_owned()), ..LinkStack::default() };
        host.links.insert("blue".to_owned(), Link { stack: vrf, ..Link::default() });
        host.links.insert("eth7".to_owned(), Link { stack: port, ..Link::default() });
        beyond(&dataplane, &host, &trace, &Ok(foreign))
    }

    fn rule(priority: u32, table: u32) -> ForeignRule {
        let action = ForeignAction::Lookup(table);
        ForeignRule { priority, action, text: format!("RULE {priority}"), ..ForeignRule::default() }
    }

    fn to_pod() -> Lookup {
        Lookup { destination: "10.244.1.2".parse().unwrap(), mark: 0, priority: MAIN_PRIORITY }
    }

    #[test]
    fn rules_ahead_of_the_one_that_decides_are_named_up_to_the_first_that_is_sure() {
        let text = told(
            &[rule(50, 78), ForeignRule { narrower: true, ..rule(60, 77) }, rule(5000, 77), rule(6000, 77)],
            "eth1",
            to_pod(),
        );
        assert!(text.contains("        maybe RULE 60\n        RULE 5000\n") && !text.contains("RULE 50\n"), "{text}");
        assert!(!text.contains("6000"), "{text}");
    }

    #[test]
    fn rules_that_are_passed_over_or_come_to_the_same_are_not() {
        let wg_quick = ForeignRule { suppressed: Some(0), ..rule(32_764, MAIN_TABLE) };
        let marked = ForeignRule { mark: Some((0x200, 0xf00)), ..rule(9, 77) };
        let rules = [rule(0, LOCAL_TABLE), marked, rule(95, 77), wg_quick, rule(32_765, 77)];
        assert_eq!(told(&rules, "eth1", to_pod()), "Beyond: none of 5 policy rules of others decides about its way\n");
        // From the inside the goto does not count; behind a rule of ours nothing does.
        assert!(told(&rules, "eth0", to_pod()).contains("RULE 95"));
        let marked = Lookup { mark: 0x1_0000, priority: 90, ..to_pod() };
        assert!(told(&rules, "eth0", marked).contains("none of 5"));
    }

    #[test]
    fn the_rule_for_vrfs_takes_ports_of_vrfs_alone() {
        let l3mdev = ForeignRule { action: ForeignAction::Unknown, narrower: true, vrf: true, ..rule(1000, 0) };
        assert!(told(std::slice::from_ref(&l3mdev), "eth0", to_pod()).contains("none of 1"));
        assert!(told(&[l3mdev], "eth7", to_pod()).contains("maybe RULE 1000"));
    }

    #[test]
    fn the_look_into_the_local_table_may_come_late() {
        let to_box = Lookup { destination: "203.0.113.10".parse().unwrap(), mark: 0, priority: 0 };
        assert!(told(&[rule(50, 77), rule(100, LOCAL_TABLE)], "eth0", to_box).contains("RULE 50"));
        assert!(told(&[rule(0, LOCAL_TABLE), rule(50, 77)], "eth0", to_box).contains("none of 2"));
    }
}
