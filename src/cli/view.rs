use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use crate::apply::held::{Held, HeldKind, HeldSet};
use crate::apply::sysctl;
use crate::model::{Family, Host};
use crate::ruleset::{
    Dataplane, IpSet, PolicyRule, Route, RouteTarget, RuleSelector, SetKind, Sysctl, Table, TableRules,
};

/// A dataplane as lines of text, in the notation of the tools that show it: what `plan` prints and `plan --diff` compares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Rules in their order, by family, table and chain; a built-in chain holds our own rules only.
    pub(super) chains: BTreeMap<(Family, Table, String), Vec<String>>,
    pub(super) sets: BTreeMap<String, SetView>,
    pub(super) rules: BTreeSet<(Family, u32, String)>,
    pub(super) routes: BTreeSet<(u32, String)>,
    /// By name with slashes.
    pub(super) sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SetView {
    /// Type and options as `ipset create` takes them.
    pub(super) kind: String,
    pub(super) members: BTreeSet<String>,
    /// Its members come from packets: they are no matter of the plan.
    pub(super) dynamic: bool,
}

impl View {
    pub(super) fn of(dataplane: &Dataplane) -> Self {
        let mut chains = BTreeMap::new();
        for ((family, table), rules) in &dataplane.tables {
            for builtin in rules.builtins() {
                let lines = rules.of_builtin(builtin).map(|rule| rule.spelled(*family)).collect();
                chains.insert((*family, *table, builtin.to_string()), lines);
            }
            for (name, chain) in &rules.chains {
                chains.insert((*family, *table, name.to_string()), chain.iter().map(|r| r.spelled(*family)).collect());
            }
        }
        View {
            chains,
            sets: dataplane.sets.iter().map(|(name, set)| (name.to_string(), set_view(set))).collect(),
            rules: dataplane.rules.iter().map(|r| (r.family, r.priority, rule_line(r))).collect(),
            routes: dataplane.routes.iter().map(|r| (r.table, route_line(r))).collect(),
            sysctls: dataplane.sysctls.iter().map(|(s, value)| (s.to_string(), value.clone())).collect(),
        }
    }

    /// What was read back, with the sysctls that a plan names.
    pub(super) fn of_held(held: &Held, host: &Host, sysctls: &BTreeMap<Sysctl, String>) -> Self {
        let mut chains = BTreeMap::new();
        for ((family, table), listing) in &held.tables {
            let hooks = listing.hooks.iter().map(|hook| (hook, "# rules of others stand before our hook"));
            let passes = listing.passes.iter().map(|pass| (pass, "# not where it belongs among the rules of others"));
            for ((builtin, state), misplaced) in hooks.chain(passes) {
                let lines: &mut Vec<String> = chains.entry((*family, *table, builtin.to_string())).or_default();
                lines.extend((!state.in_place).then(|| misplaced.to_owned()));
                lines.extend(state.copies.iter().cloned());
            }
            for (name, lines) in &listing.chains {
                chains.insert((*family, *table, name.clone()), lines.clone());
            }
        }
        let set = |(name, set): (&Arc<str>, &HeldSet)| {
            let (kind, dynamic) = match &set.kind {
                HeldKind::Ours(kind) => (set_kind(*kind), kind.is_dynamic()),
                HeldKind::Other { type_name, .. } => (format!("{type_name} (not as SmartNat makes it)"), false),
            };
            let members = set.members.iter().map(ToString::to_string).chain(set.strays.iter().cloned()).collect();
            (name.to_string(), SetView { kind, members, dynamic })
        };
        let value = |s: &Sysctl| Some((s.to_string(), sysctl::read(&s.path()).ok()?));
        View {
            chains,
            sets: held.sets.iter().map(set).collect(),
            rules: host.own_rules.iter().map(|r| (r.family, r.priority, rule_line(r))).collect(),
            routes: host.own_routes.iter().map(|r| (r.table, route_line(r))).collect(),
            sysctls: sysctls.keys().filter_map(value).collect(),
        }
    }

    /// What has to change to come from `self` to `wanted`, section by section; empty when nothing has.
    pub(super) fn changes_to(&self, wanted: &View) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in keys(&self.chains, &wanted.chains) {
            let (family, table, chain) = key;
            let title = format!("{} -t {table}, chain {chain}", tool(*family));
            let lines = |v: &View| v.chains.get(key).cloned();
            changes.extend(Change::of_ordered(title, lines(self), lines(wanted)));
        }
        for name in keys(&self.sets, &wanted.sets) {
            let (old, new) = (self.sets.get(name), wanted.sets.get(name));
            let kind = new.or(old).map_or("", |s| s.kind.as_str());
            let lines = |set: Option<&SetView>| {
                let mut lines: BTreeSet<String> = set.iter().map(|s| format!("create {name} {}", s.kind)).collect();
                if !new.is_some_and(|s| s.dynamic) {
                    lines.extend(set.iter().flat_map(|s| s.members.iter().cloned()));
                }
                lines
            };
            changes.extend(Change::of_unordered(format!("ipset {name} ({kind})"), &lines(old), &lines(new)));
        }
        for family in Family::ALL {
            let lines = |v: &View| v.rules.iter().filter(|r| r.0 == family).map(|r| r.2.clone()).collect();
            changes.extend(Change::of_unordered(format!("{} rule", ip(family)), &lines(self), &lines(wanted)));
        }
        let tables: BTreeSet<u32> = self.routes.iter().chain(&wanted.routes).map(|(table, _)| *table).collect();
        for table in tables {
            let lines = |v: &View| v.routes.iter().filter(|r| r.0 == table).map(|r| r.1.clone()).collect();
            changes.extend(Change::of_unordered(format!("routing table {table}"), &lines(self), &lines(wanted)));
        }
        // A sysctl that the plan does not name is left as it is.
        let values = |v: &View| {
            let named = v.sysctls.iter().filter(|(name, _)| wanted.sysctls.contains_key(*name));
            named.map(|(name, value)| format!("{name} = {value}")).collect()
        };
        changes.extend(Change::of_unordered("sysctl".to_owned(), &values(self), &values(wanted)));
        changes
    }
}

/// Lines to remove from and to add to one section.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Change {
    pub(super) section: String,
    pub(super) remove: Vec<String>,
    pub(super) add: Vec<String>,
}

impl Change {
    /// `None` for a list is one that does not exist.
    fn of_ordered(section: String, old: Option<Vec<String>>, new: Option<Vec<String>>) -> Option<Self> {
        let section = match (&old, &new) {
            (None, _) => format!("{section} (new)"),
            (_, None) => format!("{section} (goes)"),
            (Some(old), Some(new)) if old == new => return None,
            _ => section,
        };
        let (mut remove, mut add) = (old.unwrap_or_default(), new.unwrap_or_default());
        // What both begin and end with stays.
        let start = remove.iter().zip(&add).take_while(|(a, b)| a == b).count();
        remove.drain(..start);
        add.drain(..start);
        let end = remove.iter().rev().zip(add.iter().rev()).take_while(|(a, b)| a == b).count();
        remove.truncate(remove.len() - end);
        add.truncate(add.len() - end);
        Some(Change { section, remove, add })
    }

    fn of_unordered(section: String, old: &BTreeSet<String>, new: &BTreeSet<String>) -> Option<Self> {
        let remove: Vec<String> = old.difference(new).cloned().collect();
        let add: Vec<String> = new.difference(old).cloned().collect();
        (!remove.is_empty() || !add.is_empty()).then_some(Change { section, remove, add })
    }
}

/// The changes as a person reads them.
pub(super) fn print_changes(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        // Writing to a String never fails.
        let _ = writeln!(out, "{}", change.section);
        for line in &change.remove {
            let _ = writeln!(out, "  - {line}");
        }
        for line in &change.add {
            let _ = writeln!(out, "  + {line}");
        }
    }
    out
}

fn keys<'a, K: Ord, V>(a: &'a BTreeMap<K, V>, b: &'a BTreeMap<K, V>) -> BTreeSet<&'a K> {
    a.keys().chain(b.keys()).collect()
}

pub(super) fn tool(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}

pub(super) fn ip(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip -6",
    }
}

fn set_view(set: &IpSet) -> SetView {
    let members = set.members.iter().map(ToString::to_string).collect();
    SetView { kind: set_kind(set.kind), members, dynamic: set.kind.is_dynamic() }
}

fn set_kind(kind: SetKind) -> String {
    let family = |f: Family| if f == Family::Ipv6 { " family inet6" } else { "" };
    match kind {
        SetKind::HashNet(f) => format!("hash:net{}", family(f)),
        SetKind::HashIp(f) => format!("hash:ip{}", family(f)),
        SetKind::HashIpPort(f) => format!("hash:ip,port{}", family(f)),
        SetKind::HashIpMark(f) => format!("hash:ip{} skbinfo", family(f)),
        SetKind::Affinity(f) => format!("hash:ip{} timeout 0 forceadd", family(f)),
        SetKind::List => "list:set".to_owned(),
    }
}

/// As `ip rule` shows it.
pub(super) fn rule_line(rule: &PolicyRule) -> String {
    let all = match &rule.selector {
        RuleSelector::All | RuleSelector::From(_) | RuleSelector::FromHere(_) => "",
        RuleSelector::FwMark { .. } | RuleSelector::InInterface(_) | RuleSelector::OutInterface(_) => "from all ",
    };
    format!("{}: {all}{} {}", rule.priority, rule.selector, rule.action)
}

/// As `ip route show table N` shows it.
pub(super) fn route_line(route: &Route) -> String {
    let destination =
        if route.destination.prefix_len() == 0 { "default".to_owned() } else { route.destination.to_string() };
    let mut line = match &route.target {
        RouteTarget::Link { interface, source } => format!("{destination} dev {interface} scope link src {source}"),
        RouteTarget::Gateway { interface, gateway } => format!("{destination} via {gateway} dev {interface}"),
        RouteTarget::Unreachable => format!("unreachable {destination}"),
    };
    if route.metric != 0 {
        line += &format!(" metric {}", route.metric);
    }
    line
}

/// The chains of a table in the order in which packets come to them: from each hook along its jumps and gotos, the rest at the end.
pub(super) fn reading_order(rules: &TableRules) -> Vec<&str> {
    let mut order: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    let ours = rules.builtins().flat_map(|builtin| rules.of_builtin(builtin));
    let mut stack: Vec<&str> = ours.filter_map(|r| r.target.chain()).collect();
    stack.reverse();
    while let Some(name) = stack.pop() {
        let Some(chain) = rules.chains.get(name) else { continue };
        if seen.insert(name) {
            order.push(name);
            stack.extend(chain.iter().rev().filter_map(|r| r.target.chain()));
        }
    }
    order.extend(rules.chains.keys().map(|name| &**name).filter(|name| !seen.contains(name)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Builtin, Match, Rule, SetMember, Target};

    fn dataplane() -> Dataplane {
        let mut d = Dataplane::default();
        let nat = d.tables.entry((Family::Ipv4, Table::Nat)).or_default();
        nat.hooks.insert(Builtin::Prerouting, Rule::new([], Target::Jump("SMARTNAT-Z".into())));
        nat.add("SMARTNAT-Z", vec![Rule::new([], Target::Goto("SMARTNAT-B".into()))]);
        nat.add("SMARTNAT-B", vec![Rule::new([], Target::Goto("SMARTNAT-A".into()))]);
        nat.add("SMARTNAT-A", vec![Rule::new([], Target::Accept)]);
        nat.add("SMARTNAT-0", vec![]);
        let member = SetMember::Ip("10.0.0.1".parse().unwrap());
        d.sets.insert("SN-EXT".into(), IpSet::of(SetKind::HashIp(Family::Ipv4), [member]));
        d.sets.insert("SN-A".into(), IpSet::new(SetKind::Affinity(Family::Ipv4)));
        d.sysctls.insert(Sysctl::IpForward, "1".into());
        d.routes.insert(Route {
            table: 1001,
            destination: "0.0.0.0/0".parse().unwrap(),
            target: RouteTarget::Unreachable,
            metric: 7,
        });
        let by_mark = RuleSelector::FwMark { mark: 0x10000, mask: 0xfff0000 };
        d.rules.insert(PolicyRule::lookup(Family::Ipv4, 100, by_mark, 1001));
        d
    }

    #[test]
    fn chains_are_read_along_their_gotos() {
        let d = dataplane();
        let order = reading_order(&d.tables[&(Family::Ipv4, Table::Nat)]);
        assert_eq!(order, ["SMARTNAT-Z", "SMARTNAT-B", "SMARTNAT-A", "SMARTNAT-0"]);
    }

    #[test]
    fn equal_views_need_no_change() {
        let view = View::of(&dataplane());
        assert!(view.changes_to(&view).is_empty());
        let mut held = view.clone();
        held.sysctls.insert("net/ipv4/other".into(), "5".into());
        held.sets.get_mut("SN-A").unwrap().members.insert("192.0.2.1 timeout 5".into());
        assert!(
            held.changes_to(&view).is_empty(),
            "foreign sysctls and clients that sets learned are no matter of the plan"
        );
    }

    #[test]
    fn changes_name_section_and_lines() {
        let view = View::of(&dataplane());
        let mut new = dataplane();
        let nat = new.tables.get_mut(&(Family::Ipv4, Table::Nat)).unwrap();
        nat.chains.remove("SMARTNAT-0");
        let tcp = Match::Protocol(crate::model::Protocol::Tcp);
        let chain =
            [Rule::new([tcp], Target::Drop)].into_iter().chain(nat.chains["SMARTNAT-A"].iter().cloned()).collect();
        nat.add("SMARTNAT-A", chain);
        new.sets.get_mut("SN-EXT").unwrap().members = Arc::default();
        new.sysctls.insert(Sysctl::IpForward, "0".into());
        new.routes.clear();
        new.rules.clear();
        assert_eq!(
            print_changes(&view.changes_to(&View::of(&new))),
            "iptables -t nat, chain SMARTNAT-0 (goes)\n\
             iptables -t nat, chain SMARTNAT-A\n  + -p tcp -j DROP\n\
             ipset SN-EXT (hash:ip)\n  - 10.0.0.1\n\
             ip rule\n  - 100: from all fwmark 0x10000/0xfff0000 lookup 1001\n\
             routing table 1001\n  - unreachable default metric 7\n\
             sysctl\n  - net/ipv4/ip_forward = 1\n  + net/ipv4/ip_forward = 0\n"
        );
    }
}
