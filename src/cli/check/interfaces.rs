use super::Finding;
use crate::model::{BorderConfig, Host, InterfaceName, NeighbourState, shell_word};
use crate::plan::{InterfaceKind, Plan, named};

const GROUP: &str = "interfaces";
/// Their interfaces have lines of their own when they are missing.
const OWN_LINES: [&str; 2] = ["SNCTRLR_DEFAULT_GW_INTERFACE", "SNCTRLR_INSIDE_INTERFACES"];

pub(super) fn evaluate(config: &BorderConfig, host: &Host, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    let named = named(config, host);
    findings.extend(named.unknown.iter().filter(|(setting, _)| !OWN_LINES.contains(setting)).map(|(setting, name)| {
        Finding::warn(
            GROUP,
            format!("{setting} names {name}, and no interface here has this name or altname"),
            "correct it, unless the interface is still to come",
        )
    }));
    let config = &named.config;
    let gateway = &config.gateway_interface;
    let routed = [
        ("SNCTRLR_GW_ADDRESS", config.gateway_addresses.names().collect::<Vec<_>>()),
        ("SNCTRLR_GW_ADDRESS_OFFSET", config.gateway_offsets.names().collect()),
    ];
    for (setting, names) in routed {
        let inside = |name: &&InterfaceName| plan.interfaces.iter().any(|i| i.name == **name && i.kind.is_inside());
        findings.extend(names.into_iter().filter(inside).map(|name| {
            Finding::warn(
                GROUP,
                format!("{setting} names a router for {name}, which is not external"),
                "take it out: it has no effect there",
            )
        }));
    }
    if config.external_pattern.is_match(gateway) {
        findings.push(Finding::warn(
            GROUP,
            format!(
                "the pattern matches the default gateway interface {gateway}, which stays the gateway all the same"
            ),
            "write SNCTRLR_INTERFACES_PATTERN so that it does not, for example eth[1-9][0-9]*",
        ));
    }
    let mut externals = 0;
    for i in &plan.interfaces {
        match i.kind {
            InterfaceKind::Inside if i.problem.is_none() && i.notes.is_empty() => continue,
            InterfaceKind::Inside | InterfaceKind::Gateway | InterfaceKind::AboveExternal | InterfaceKind::Closed => {}
            InterfaceKind::External => externals += 1,
            InterfaceKind::Absent => {
                findings.push(Finding::warn(
                    GROUP,
                    format!("{} is known from before and not there", i.name),
                    "bring it back, or leave it: its slot stays reserved",
                ));
                continue;
            }
        }
        findings.extend(i.notes.iter().map(|note| {
            let (what, remedy) = note.split_once("; ").unwrap_or((note, "leave it, if it is meant so"));
            Finding::warn(GROUP, format!("{}: {what}", i.name), remedy)
        }));
        if let Some(problem) = &i.problem {
            let (what, remedy) =
                problem.split_once("; ").unwrap_or((problem, "correct it; that interface alone is concerned"));
            // The border does its duty there; whether anything is missing, only the operator knows.
            let finding = if i.kind == InterfaceKind::AboveExternal { Finding::warn } else { Finding::fail };
            findings.push(finding(GROUP, format!("{}: {what}", i.name), remedy.to_owned()));
            continue;
        }
        if i.kind == InterfaceKind::Inside {
            continue;
        }
        if !(i.up && i.carrier) {
            let missing = if i.up { "has no carrier" } else { "is down" };
            findings.push(Finding::warn(
                GROUP,
                format!("{} {missing}", i.name),
                format!("ip link set {} up, and look at its cable or switch", shell_word(&i.name)),
            ));
        }
        if i.gateway_neighbour == Some(NeighbourState::Failed) {
            findings.push(Finding::warn(
                GROUP,
                format!("the gateway {} of {} does not answer", shown(i.gateway.as_ref()), i.name),
                "see whether SNCTRLR_GW_ADDRESS or SNCTRLR_GW_ADDRESS_OFFSET names the router there",
            ));
        }
        findings.extend(mtu(config, host, &i.name));
        let role = if i.kind == InterfaceKind::Gateway { "the default gateway interface" } else { "external" };
        let via = i.gateway.map(|g| format!(", gateway {g}")).unwrap_or_default();
        findings.push(Finding::ok(GROUP, format!("{} is {role}{via}", i.name)));
    }
    if externals == 0 {
        findings.push(Finding::fail(
            GROUP,
            format!("no interface matches {}", config.external_pattern),
            "correct SNCTRLR_INTERFACES_PATTERN (it must match whole names) or bring the external interfaces up",
        ));
    }
    findings
}

fn shown<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "?".to_owned(), ToString::to_string)
}

/// Larger packets outside than inside work by path MTU discovery only.
fn mtu(config: &BorderConfig, host: &Host, external: &str) -> Option<Finding> {
    let of = |name: &str| host.links.get(name).map(|l| l.mtu).filter(|mtu| *mtu > 0);
    let (outside, inside) = (of(external)?, of(&config.gateway_interface)?);
    (external != config.gateway_interface && outside > inside).then(|| {
        Finding::warn(
            GROUP,
            format!("{external} has MTU {outside}, {} only {inside}", config.gateway_interface),
            "it works where clients accept ICMP \"fragmentation needed\"; to be sure give both the same MTU",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::model::Link;
    use crate::plan::InterfaceOutcome;
    use crate::ruleset::Dataplane;
    use crate::settings::SettingsArgs;

    fn config(pattern: &str, inside: &str) -> BorderConfig {
        let args = SettingsArgs {
            default_gw_interface: Some("eth0".into()),
            interfaces_pattern: Some(pattern.into()),
            inside_prefixes: Some(inside.into()),
            instance_name: Some("b".into()),
            ..SettingsArgs::default()
        };
        args.validate().unwrap().border
    }

    fn interface(name: &str, kind: InterfaceKind) -> InterfaceOutcome {
        InterfaceOutcome { up: true, carrier: true, ..InterfaceOutcome::down(name, kind) }
    }

    fn check(config: &BorderConfig, host: &Host, interfaces: Vec<InterfaceOutcome>) -> Vec<(Level, String)> {
        let plan = Plan {
            dataplane: Dataplane::default(),
            flows: Default::default(),
            mappings: Default::default(),
            interfaces,
            slots: [].into(),
        };
        evaluate(config, host, &plan).into_iter().map(|f| (f.level, f.what)).collect()
    }

    #[test]
    fn a_sound_box_has_only_good_lines() {
        let interfaces = vec![
            interface("eth0", InterfaceKind::Gateway),
            interface("eth1", InterfaceKind::External),
            interface("lo", InterfaceKind::Inside),
        ];
        let found = check(&config("eth[1-9]", ""), &Host::default(), interfaces);
        assert_eq!(
            found,
            [(Level::Ok, "eth0 is the default gateway interface".into()), (Level::Ok, "eth1 is external".into())]
        );
    }

    #[test]
    fn a_pattern_that_matches_nothing_fails_and_one_that_matches_the_gateway_is_told() {
        let found = check(&config("eth.*", ""), &Host::default(), vec![interface("eth0", InterfaceKind::Gateway)]);
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [Level::Warn, Level::Ok, Level::Fail]);
        assert!(found[2].1.contains("no interface matches"), "{found:?}");
    }

    #[test]
    fn problems_of_single_interfaces_are_named() {
        let mut down = interface("eth1", InterfaceKind::External);
        down.carrier = false;
        let mut silent = interface("eth2", InterfaceKind::External);
        silent.gateway = Some("203.0.113.1".parse().unwrap());
        silent.gateway_neighbour = Some(NeighbourState::Failed);
        let mut refused = interface("eth3", InterfaceKind::External);
        refused.problem = Some("offset 9 is outside of the subnet; choose another".into());
        let gone = interface("eth4", InterfaceKind::Absent);
        let mut both = interface("cali1", InterfaceKind::External);
        both.notes = vec!["SNCTRLR_INSIDE_PREFIXES has cali, which covers it; write another".into()];
        let mut above = interface("br0", InterfaceKind::AboveExternal);
        above.problem = Some("it stands above eth1; name it".into());
        let mut closed = interface("cu+", InterfaceKind::Closed);
        closed.problem = Some("no rule can name it; rename it".into());
        let found = check(
            &config("eth[1-9]|cali1", "cali+"),
            &Host::default(),
            vec![down, silent, refused, gone, both, above, closed],
        );
        let has =
            |level, part: &str| assert!(found.iter().any(|f| f.0 == level && f.1.contains(part)), "{part}: {found:?}");
        has(Level::Warn, "eth1 has no carrier");
        has(Level::Warn, "gateway 203.0.113.1 of eth2 does not answer");
        has(Level::Fail, "eth3: offset 9 is outside of the subnet");
        has(Level::Warn, "eth4 is known from before");
        has(Level::Warn, "cali1: SNCTRLR_INSIDE_PREFIXES has cali");
        has(Level::Warn, "br0: it stands above eth1");
        has(Level::Fail, "cu+: no rule can name it");
        assert!(!found.iter().any(|f| f.0 == Level::Ok && f.1.contains("br0")), "{found:?}");
    }

    #[test]
    fn a_larger_mtu_outside_is_told() {
        let link = |mtu| Link { mtu, ..Link::default() };
        let host = Host { links: [("eth0".into(), link(1450)), ("eth1".into(), link(1500))].into(), ..Host::default() };
        let found = check(&config("eth1", ""), &host, vec![interface("eth1", InterfaceKind::External)]);
        assert_eq!(found[0], (Level::Warn, "eth1 has MTU 1500, eth0 only 1450".into()));
    }
}
