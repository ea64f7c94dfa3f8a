//! Policy rules of others that decide about traffic of Mappings, ahead of ours or ahead of the main table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Finding;
use crate::cli::foreign::policy::{Kind, Takes, keeps, takes};
use crate::error_chain;
use crate::model::{Host, MarkLayout, shell_word};
use crate::plan::{InterfaceKind, Plan};
use crate::ruleset::ownership::{PRIORITY_BEHIND, PRIORITY_FROM, PRIORITY_MARK, PRIORITY_OUTSIDE};
use crate::ruleset::{LOCAL_TABLE, MAIN_PRIORITY, MAIN_TABLE};
use crate::sources::host::{ForeignAction, ForeignRule, ForeignRules, HostError};

const GROUP: &str = "rules";

pub(super) fn evaluate(
    host: &Host,
    plan: &Plan,
    marks: MarkLayout,
    read: &Result<ForeignRules, HostError>,
) -> Vec<Finding> {
    let foreign = match read {
        Ok(foreign) => foreign,
        Err(error) => {
            let what = format!("policy rules of others have not been looked at: {}", error_chain(error));
            return vec![Finding::warn(GROUP, what, "run check as root on the box itself")];
        }
    };
    let mut traffic = Traffic::of(plan, marks);
    let pods = traffic.behind.len();
    let mut findings = Vec::new();
    // Everybody's look into the local table comes to the same as our twins.
    let vrf = traffic.externals.iter().chain(&traffic.inside).any(|name| host.in_vrf(name));
    let deciding = |rule: &&ForeignRule| {
        rule.priority < MAIN_PRIORITY && rule.action != ForeignAction::Lookup(LOCAL_TABLE) && (vrf || !rule.vrf)
    };
    for rule in foreign.rules.iter().filter(deciding) {
        findings.extend(judge(rule, foreign, &traffic));
        traffic.leave_out(rule, foreign);
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            GROUP,
            format!(
                "none of {} IPv4 policy rules of others decides about replies to clients, packets from clients to {} pods and \
                 ClusterIPs of Mappings, or the box's own from external addresses (IPv6 has no rules of SmartNat)",
                foreign.rules.len(),
                pods
            ),
        ));
    }
    findings
}

/// What must not be decided by others.
struct Traffic {
    inside: Vec<String>,
    externals: Vec<String>,
    addresses: BTreeSet<IpAddr>,
    /// Pods and ClusterIPs of Mappings.
    behind: BTreeSet<IpAddr>,
    /// By external interface those of them whose way no rule of others has decided yet.
    open: Vec<([String; 1], BTreeSet<IpAddr>)>,
    slots: Vec<u32>,
}

impl Traffic {
    fn of(plan: &Plan, marks: MarkLayout) -> Self {
        let names = |kinds: &[InterfaceKind]| {
            let of_kind = plan.interfaces.iter().filter(|i| kinds.contains(&i.kind));
            of_kind.map(|i| i.name.clone()).collect::<Vec<_>>()
        };
        let externals = names(&[InterfaceKind::External, InterfaceKind::Absent]);
        let addresses = plan.interfaces.iter().filter(|i| i.kind == InterfaceKind::External);
        let behind: BTreeSet<IpAddr> = plan.flows.servers().into_iter().filter(IpAddr::is_ipv4).collect();
        Traffic {
            inside: names(&[InterfaceKind::Inside, InterfaceKind::Gateway]).into_iter().filter(|n| n != "lo").collect(),
            addresses: addresses.flat_map(|i| &i.addresses).map(IpNet::addr).filter(IpAddr::is_ipv4).collect(),
            open: externals.iter().map(|name| ([name.clone()], behind.clone())).collect(),
            externals,
            behind,
            slots: plan.slots.values().map(|slot| marks.slot(*slot)).collect(),
        }
    }

    /// Packets from clients, as they come to the rules.
    fn requests(&self, rule: &ForeignRule, foreign: &ForeignRules) -> Takes {
        let open = self.open.iter().filter(|(_, pods)| !pods.is_empty());
        let each: BTreeSet<Takes> = open.map(|(input, pods)| from_client(rule, foreign, input, pods)).collect();
        match (each.first(), each.last()) {
            (Some(least), Some(most)) if least == most => *most,
            (None, _) => Takes::No,
            _ => Takes::Some,
        }
    }

    /// What a rule leads to the main table, as the plan has it, is not open to the rules behind it.
    fn leave_out(&mut self, rule: &ForeignRule, foreign: &ForeignRules) {
        if rule.action == ForeignAction::Lookup(MAIN_TABLE) && !PASSED_OVER.contains(&rule.priority) {
            for (input, pods) in &mut self.open {
                pods.retain(|pod| from_client(rule, foreign, input, &[*pod].into()) != Takes::All);
            }
        }
    }
}

fn from_client(rule: &ForeignRule, foreign: &ForeignRules, input: &[String], pods: &BTreeSet<IpAddr>) -> Takes {
    let kind = Kind { marks: &[0], from: None, to: Some(pods), input, output: &NO_OUTPUT };
    takes(rule, &kind).min(keeps(rule, foreign, Some(pods), MAIN_PRIORITY))
}

/// Between our goto and its target no packet from outside comes by.
const PASSED_OVER: std::ops::Range<u32> = PRIORITY_OUTSIDE + 1..PRIORITY_BEHIND;

/// What arrives has no interface yet by which it leaves.
static NO_OUTPUT: [String; 1] = [String::new()];

fn judge(rule: &ForeignRule, foreign: &ForeignRules, traffic: &Traffic) -> Option<Finding> {
    let unmarked = [0];
    let lo = ["lo".to_owned()];
    let replies = Kind {
        marks: &traffic.slots,
        from: Some(&traffic.behind),
        to: None,
        input: &traffic.inside,
        output: &NO_OUTPUT,
    };
    let own =
        Kind { marks: &unmarked, from: Some(&traffic.addresses), to: None, input: &lo, output: &traffic.externals };
    let mut caught = Vec::new();
    let mut worst = Takes::No;
    let mut add = |takes: Takes, what: &str| {
        if takes != Takes::No {
            worst = worst.max(takes);
            caught.push(what.to_owned());
        }
    };
    if rule.priority <= PRIORITY_MARK && !traffic.slots.is_empty() {
        let takes = takes(rule, &replies).min(keeps(rule, foreign, None, PRIORITY_MARK));
        add(takes, "replies of pods to clients, which then need not leave by the interface of their connection");
    }
    // The main table is where they belong; a refusal of what main would route is caught all the same.
    let mut requests = Takes::No;
    if rule.action != ForeignAction::Lookup(MAIN_TABLE) && !PASSED_OVER.contains(&rule.priority) {
        requests = traffic.requests(rule, foreign);
        add(requests, "packets from clients to pods, whose way the plan takes from the main table");
    }
    if rule.priority <= PRIORITY_FROM && !traffic.addresses.is_empty() {
        let takes = takes(rule, &own).min(keeps(rule, foreign, None, PRIORITY_FROM));
        add(takes, "what the box itself sends from external addresses");
    }
    if caught.is_empty() {
        return passed_over(rule, traffic);
    }
    let which = if worst == Takes::All { "" } else { "some of " };
    let what = format!("rule {} decides about {which}{}", rule.text, caught.join("; and about "));
    let behind = PRIORITY_FROM + 130;
    let mut remedy = match rule.priority < behind {
        true => format!(
            "give it a priority behind SmartNat's (`ip rule add pref {behind} ...`) or a selector that leaves this traffic out"
        ),
        false => "give it a selector that leaves this traffic out".to_owned(),
    };
    // The place ahead of the target of our goto is passed over.
    if requests != Takes::No && rule.priority > 1 && rule.priority != PRIORITY_BEHIND {
        let ahead = rule.priority - 1;
        let add = |name: &String| format!("ip rule add pref {ahead} iif {} lookup main", shell_word(name));
        let rules: Vec<String> = traffic.externals.iter().map(add).collect();
        remedy += &format!("; for packets from clients this goes ahead of it: `{}`", rules.join("; "));
    }
    Some(if worst == Takes::All { Finding::fail(GROUP, what, remedy) } else { Finding::warn(GROUP, what, remedy) })
}

/// A rule that our goto for packets from outside passes over.
fn passed_over(rule: &ForeignRule, traffic: &Traffic) -> Option<Finding> {
    let between = PASSED_OVER.contains(&rule.priority);
    let outside = rule.input.as_ref().is_none_or(|name| traffic.externals.contains(name));
    if !between || !outside || traffic.externals.is_empty() || rule.action == ForeignAction::Nop {
        return None;
    }
    Some(Finding::warn(
        GROUP,
        format!(
            "rule {} is passed over by what arrives by external interfaces ({})",
            rule.text,
            traffic.externals.join(", ")
        ),
        format!(
            "where it is meant for that too, give it a priority below {} or above {}",
            PRIORITY_OUTSIDE - 1,
            PRIORITY_MARK
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::plan::InterfaceOutcome;
    use crate::ruleset::Dataplane;

    fn traffic() -> Traffic {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        Traffic {
            inside: vec!["eth0".into(), "eth3".into()],
            externals: vec!["eth1".into(), "eth2".into()],
            addresses: [ip("203.0.113.10"), ip("198.51.100.10")].into(),
            behind: [ip("10.244.1.2"), ip("10.244.2.2")].into(),
            open: ["eth1", "eth2"].map(|name| ([name.into()], [ip("10.244.1.2"), ip("10.244.2.2")].into())).into(),
            slots: vec![0x1_0000, 0x2_0000],
        }
    }

    fn foreign() -> ForeignRules {
        let nets = |texts: &[&str]| texts.iter().map(|net| net.parse().unwrap()).collect();
        let tables = [
            (MAIN_TABLE, nets(&["0.0.0.0/0", "10.0.0.0/24"])),
            (52, nets(&["100.64.0.0/10"])),
            (77, nets(&["0.0.0.0/0"])),
            (78, nets(&["10.244.1.0/24"])),
        ];
        ForeignRules { rules: vec![], tables: tables.into() }
    }

    fn level(rule: ForeignRule) -> Option<(Level, String)> {
        judge(&rule, &foreign(), &traffic()).map(|finding| (finding.level, finding.what))
    }

    fn rule(priority: u32, table: u32) -> ForeignRule {
        ForeignRule {
            priority,
            action: ForeignAction::Lookup(table),
            text: "THE RULE".into(),
            ..ForeignRule::default()
        }
    }

    #[track_caller]
    fn told(rule: ForeignRule, expected: Level, part: &str) {
        let (level, what) = level(rule).unwrap_or_else(|| panic!("{part}: nothing told"));
        assert!(level == expected && what.contains("THE RULE") && what.contains(part), "{level:?}: {what}");
    }

    #[test]
    fn rules_ahead_of_ours_that_take_our_traffic_are_named() {
        told(rule(50, MAIN_TABLE), Level::Fail, "replies of pods");
        told(rule(50, 77), Level::Fail, "packets from clients to pods");
        told(rule(50, 52), Level::Warn, "some of replies");
        told(ForeignRule { mark: Some((0x1_0000, 0xf_0000)), ..rule(50, 77) }, Level::Warn, "replies");
        told(ForeignRule { mark: Some((0, 0xff)), ..rule(50, 77) }, Level::Fail, "replies");
        told(ForeignRule { input: Some("eth0".into()), ..rule(50, 77) }, Level::Warn, "replies");
        told(ForeignRule { from: "10.244.0.0/16".parse().ok(), ..rule(50, 77) }, Level::Fail, "replies");
        told(ForeignRule { narrower: true, ..rule(50, 77) }, Level::Warn, "some of");
        told(ForeignRule { suppressed: Some(0), ..rule(50, MAIN_TABLE) }, Level::Warn, "some of replies");
        told(ForeignRule { action: ForeignAction::Goto(200), ..rule(50, 0) }, Level::Fail, "replies");
        told(ForeignRule { action: ForeignAction::Refuse, ..rule(50, 0) }, Level::Fail, "replies");
        told(ForeignRule { action: ForeignAction::Unknown, narrower: true, ..rule(50, 0) }, Level::Warn, "some of");
        told(ForeignRule { inverted: true, mark: Some((0xca6c, u32::MAX)), ..rule(50, 77) }, Level::Fail, "replies");
        let from_external = ForeignRule { from: "203.0.113.0/24".parse().ok(), ..rule(115, 77) };
        told(from_external, Level::Warn, "what the box itself sends");
        told(ForeignRule { output: Some("eth1".into()), ..rule(105, 77) }, Level::Warn, "what the box itself sends");
    }

    #[test]
    fn rules_behind_ours_that_decide_the_way_to_pods_are_named() {
        told(rule(5000, 77), Level::Fail, "packets from clients");
        told(rule(5000, 78), Level::Warn, "some of packets from clients");
        told(ForeignRule { input: Some("eth1".into()), ..rule(5000, 77) }, Level::Warn, "packets from clients");
        told(ForeignRule { to: "10.244.0.0/16".parse().ok(), ..rule(5000, 77) }, Level::Fail, "packets from clients");
        told(ForeignRule { inverted: true, mark: Some((0xca6c, u32::MAX)), ..rule(5000, 77) }, Level::Fail, "clients");
    }

    #[test]
    fn a_default_route_of_others_behind_the_routes_of_main_takes_no_pod() {
        let mut foreign = foreign();
        let wg_quick = ForeignRule { suppressed: Some(0), ..rule(32_764, MAIN_TABLE) };
        let default = ForeignRule { inverted: true, mark: Some((0xca6c, u32::MAX)), ..rule(32_765, 77) };
        for (route, open) in [("10.244.1.0/24", 1), ("10.244.0.0/16", 0)] {
            foreign.tables.get_mut(&MAIN_TABLE).unwrap().push(route.parse().unwrap());
            let mut traffic = traffic();
            assert!(judge(&wg_quick, &foreign, &traffic).is_none());
            traffic.leave_out(&wg_quick, &foreign);
            assert!(traffic.open.iter().all(|(_, pods)| pods.len() == open), "{route}");
            assert_eq!(judge(&default, &foreign, &traffic).is_some(), open > 0, "{route}");
        }
    }

    #[test]
    fn rules_that_take_nothing_of_ours_are_not() {
        for rule in [
            rule(5270, 52),
            rule(5000, MAIN_TABLE),
            ForeignRule { suppressed: Some(0), ..rule(50, 77) },
            ForeignRule { mark: Some((0x200, 0xf00)), ..rule(9, 77) },
            ForeignRule { mark: Some((0x8_0000, 0xff_0000)), ..rule(50, 77) },
            ForeignRule { from: "10.99.0.0/16".parse().ok(), to: "10.98.0.0/16".parse().ok(), ..rule(5000, 77) },
            ForeignRule { input: Some("wg0".into()), ..rule(50, 77) },
            ForeignRule { input: Some("eth0".into()), ..rule(5000, 77) },
            ForeignRule { action: ForeignAction::Goto(90), ..rule(50, 0) },
            ForeignRule { action: ForeignAction::Nop, ..rule(50, 0) },
            rule(50, 99),
        ] {
            assert_eq!(level(rule.clone()), None, "{rule:?}");
        }
    }

    #[test]
    fn a_rule_that_packets_from_outside_pass_over_is_named() {
        let rule = ForeignRule { input: Some("eth1".into()), ..rule(95, 77) };
        told(rule, Level::Warn, "is passed over");
    }

    #[test]
    fn what_was_looked_at_is_said() {
        let plan = Plan {
            dataplane: Dataplane::default(),
            flows: Default::default(),
            mappings: Default::default(),
            interfaces: vec![InterfaceOutcome::down("eth1", InterfaceKind::External)],
            slots: [].into(),
        };
        let local = ForeignRule { action: ForeignAction::Lookup(LOCAL_TABLE), ..rule(100, LOCAL_TABLE) };
        let l3mdev = ForeignRule { action: ForeignAction::Unknown, narrower: true, vrf: true, ..rule(1000, 0) };
        let read = Ok(ForeignRules { rules: vec![local, l3mdev], ..foreign() });
        let found = evaluate(&Host::default(), &plan, MarkLayout::default(), &read);
        assert!(found[0].level == Level::Ok && found[0].what.contains("none of 2 IPv4 policy rules"), "{found:?}");
    }
}
