use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::table::table;
use super::view::{View, ip, reading_order, tool};
use crate::model::{Family, NeighbourState, printable};
use crate::plan::{InterfaceOutcome, MappingOutcome, Plan};
use crate::ruleset::{Builtin, Rule, Table};

/// The plan as a person reads it: interfaces, Mappings, then what is programmed, in the order in which a packet meets it.
pub(super) fn text(plan: &Plan, objects_known: bool) -> String {
    let mut out = String::new();
    // Writing to a String never fails; the results are of no interest.
    let _ = writeln!(out, "# interfaces\n{}", interfaces(&plan.interfaces));
    if objects_known {
        let _ = writeln!(out, "# mappings ({})", plan.mappings.len());
        let _ = writeln!(out, "{}", mappings(plan));
    } else {
        let _ = writeln!(out, "# mappings: no source of objects is set (--manifests DIR), this is the border alone\n");
    }
    for family in Family::ALL {
        for t in Table::ALL {
            if let Some(rules) = plan.dataplane.tables.get(&(family, t)) {
                let _ = writeln!(out, "# {}", tool(family));
                let _ = writeln!(out, "*{t}");
                for name in reading_order(rules) {
                    let _ = writeln!(out, ":{name} - [0:0]");
                }
                for (builtin, hook) in &rules.hooks {
                    let _ = writeln!(out, "-I {builtin} {hook}");
                }
                if !rules.passes.is_empty() {
                    let _ = writeln!(out, "# directly ahead of the first DROP or REJECT without matches, else last:");
                }
                for (builtin, pass) in &rules.passes {
                    let _ = writeln!(out, "-A {builtin} {pass}");
                }
                for name in reading_order(rules) {
                    for rule in rules.chains[name].iter() {
                        let _ = writeln!(out, "-A {name} {rule}");
                    }
                }
                let _ = writeln!(out, "COMMIT\n");
            }
        }
    }
    let view = View::of(&plan.dataplane);
    let _ = writeln!(out, "# ipset");
    for (name, set) in &view.sets {
        let _ = writeln!(out, "create {name} {}", set.kind);
        for member in &set.members {
            let _ = writeln!(out, "add {name} {member}");
        }
    }
    for family in Family::ALL {
        let lines: Vec<&str> = view.rules.iter().filter(|r| r.0 == family).map(|r| r.2.as_str()).collect();
        if !lines.is_empty() {
            let _ = writeln!(out, "\n# {} rule\n{}", ip(family), lines.join("\n"));
        }
    }
    let mut shown = None;
    for (number, line) in &view.routes {
        if shown.replace(number) != Some(number) {
            let _ = writeln!(out, "\n# routing table {number}");
        }
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(out, "\n# sysctl");
    for (name, value) in &view.sysctls {
        let _ = writeln!(out, "{name} = {value}");
    }
    out
}

fn optional<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let text: Vec<String> = values.into_iter().map(|v| v.to_string()).collect();
    if text.is_empty() { "-".to_owned() } else { text.join(",") }
}

fn interfaces(outcomes: &[InterfaceOutcome]) -> String {
    let neighbour = |n: NeighbourState| match n {
        NeighbourState::Reachable => "reachable",
        NeighbourState::Stale => "stale",
        NeighbourState::Failed => "failed",
    };
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|i| {
            vec![
                i.name.clone(),
                i.kind.as_str().to_owned(),
                if i.up && i.carrier { "up" } else { "down" }.to_owned(),
                joined(&i.addresses),
                optional(i.slot.as_ref()),
                optional(i.table.as_ref()),
                optional(i.gateway.as_ref()),
                i.gateway_neighbour.map_or("-", neighbour).to_owned(),
                i.problem.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let header = ["NAME", "KIND", "LINK", "ADDRESSES", "SLOT", "TABLE", "GATEWAY", "NEIGHBOUR", "PROBLEM"];
    let notes = outcomes
        .iter()
        .flat_map(|i| i.notes.iter().map(|note| format!("# note on {}: {}\n", printable(&i.name), printable(note))));
    table(&header, &rows) + &notes.collect::<String>()
}

fn mappings(plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan
        .mappings
        .iter()
        .map(|(key, m)| {
            let (verdict, message) = verdict(m);
            vec![key.to_string(), verdict, joined(m.configured.keys()), m.endpoints.to_string(), message.to_owned()]
        })
        .collect();
    table(&["MAPPING", "STATE", "ADDRESSES", "ENDPOINTS", "MESSAGE"], &rows)
}

fn verdict(m: &MappingOutcome) -> (String, &str) {
    match &m.refused {
        Some(refusal) => (format!("refused ({:?})", refusal.reason), &refusal.message),
        None if m.programmed.ok => ("programmed".to_owned(), &m.programmed.message),
        None => (format!("not programmed ({:?})", m.programmed.reason), &m.programmed.message),
    }
}

/// The plan for programs. Rules are strings, as iptables-save prints them.
pub(super) fn json(plan: &Plan) -> Value {
    let mappings: Vec<Value> = plan
        .mappings
        .iter()
        .map(|(key, m)| {
            json!({
                "namespace": key.namespace,
                "name": key.name,
                "accepted": m.refused.is_none(),
                "refused": m.refused,
                "programmed": m.programmed,
                "serviceVIP": m.service_vip,
                "configuredAddresses": m.configured.iter()
                    .map(|(address, pods)| (address.to_string(), json!({ "podIPs": pods })))
                    .collect::<Map<String, Value>>(),
                "endpoints": m.endpoints,
                "observedGeneration": m.generation,
            })
        })
        .collect();
    let mut tables = Map::new();
    for ((family, table), rules) in &plan.dataplane.tables {
        let by_builtin = |rules: &BTreeMap<Builtin, Rule>| -> Map<String, Value> {
            rules.iter().map(|(builtin, rule)| (builtin.to_string(), json!(rule.to_string()))).collect()
        };
        let (hooks, passes) = (by_builtin(&rules.hooks), by_builtin(&rules.passes));
        let chains: Map<String, Value> = reading_order(rules)
            .into_iter()
            .map(|name| {
                (name.to_owned(), json!(rules.chains[name].iter().map(ToString::to_string).collect::<Vec<_>>()))
            })
            .collect();
        let of_family = tables.entry(json!(family).as_str().unwrap_or_default()).or_insert_with(|| json!({}));
        of_family[table.as_str()] = json!({ "hooks": hooks, "passes": passes, "chains": chains });
    }
    let sets: Map<String, Value> = View::of(&plan.dataplane)
        .sets
        .into_iter()
        .map(|(name, set)| (name, json!({ "create": set.kind, "members": set.members })))
        .collect();
    let sysctls: Map<String, Value> =
        plan.dataplane.sysctls.iter().map(|(s, value)| (s.to_string(), json!(value))).collect();
    json!({
        "interfaces": plan.interfaces.iter().map(crate::report::interface_document).collect::<Vec<_>>(),
        "mappings": mappings,
        "tables": tables,
        "sets": sets,
        "rules": plan.dataplane.rules,
        "routes": plan.dataplane.routes,
        "sysctls": sysctls,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::ObjectKey;
    use crate::plan::{InterfaceKind, Programmed, ProgrammedReason, Refusal, RefusalReason};
    use crate::ruleset::{Builtin, Dataplane, IpSet, Rule, SetKind, Sysctl, Target};

    fn plan() -> Plan {
        let mut dataplane = Dataplane::default();
        let nat = dataplane.tables.entry((Family::Ipv4, Table::Nat)).or_default();
        nat.hooks.insert(Builtin::Prerouting, Rule::new([], Target::Jump("SMARTNAT-DNAT".into())));
        nat.add("SMARTNAT-DNAT", vec![Rule::new([], Target::Return)]);
        dataplane.sets.insert("SN-EP".into(), IpSet::new(SetKind::HashIpPort(Family::Ipv4)));
        dataplane.sysctls.insert(Sysctl::IpForward, "1".into());
        let refused = MappingOutcome {
            uid: None,
            generation: None,
            refused: Some(Refusal { reason: RefusalReason::Conflict, message: "held by a/b".into() }),
            programmed: Programmed { ok: false, reason: ProgrammedReason::NotAccepted, message: String::new() },
            service_vip: None,
            configured: Default::default(),
            endpoints: 0,
        };
        let eth1 = InterfaceOutcome {
            name: "eth1".into(),
            kind: InterfaceKind::External,
            up: true,
            carrier: true,
            addresses: vec!["203.0.113.10/24".parse().unwrap()],
            slot: Some(1),
            table: Some(1001),
            gateway: None,
            gateway_neighbour: Some(NeighbourState::Stale),
            above: vec![],
            problem: Some("no gateway".into()),
            notes: vec!["routed here".into()],
        };
        Plan {
            dataplane,
            flows: Default::default(),
            mappings: std::sync::Arc::new([(ObjectKey::new("shop", "web"), refused.into())].into()),
            interfaces: vec![eth1],
            slots: BTreeMap::new(),
        }
    }

    #[test]
    fn the_text_goes_from_interfaces_over_mappings_to_what_is_programmed() {
        let text = text(&plan(), true);
        let places: Vec<usize> = [
            "eth1  external  up    203.0.113.10/24  1     1001   -        stale      no gateway\n",
            "# note on eth1: routed here\n",
            "shop/web  refused (Conflict)  -          0          held by a/b\n",
            "*nat\n:SMARTNAT-DNAT - [0:0]\n-I PREROUTING -j SMARTNAT-DNAT\n-A SMARTNAT-DNAT -j RETURN\nCOMMIT\n",
            "create SN-EP hash:ip,port\n",
            "net/ipv4/ip_forward = 1\n",
        ]
        .iter()
        .map(|part| text.find(part).unwrap_or_else(|| panic!("{part:?} is not in\n{text}")))
        .collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn without_objects_the_text_says_that_it_is_the_border_alone() {
        assert!(text(&plan(), false).contains("this is the border alone"));
    }

    #[test]
    fn json_holds_the_same() {
        let value = json(&plan());
        assert_eq!(value["mappings"][0]["refused"]["reason"], "Conflict");
        assert_eq!(value["interfaces"][0]["gatewayNeighbour"], "stale");
        assert_eq!(value["tables"]["ipv4"]["nat"]["hooks"]["PREROUTING"], "-j SMARTNAT-DNAT");
        assert_eq!(value["tables"]["ipv4"]["nat"]["chains"]["SMARTNAT-DNAT"], json!(["-j RETURN"]));
        assert_eq!(value["sets"]["SN-EP"]["create"], "hash:ip,port");
        assert_eq!(value["sysctls"]["net/ipv4/ip_forward"], "1");
    }
}
