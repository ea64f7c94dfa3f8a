//! br_netfilter: with it the kernel leads frames that only cross a bridge through iptables, as if they were routed.

use super::Finding;
use crate::model::shell_word;
use crate::plan::{InterfaceKind, Plan};

const GROUP: &str = "bridges";
const LOADED: &str = "/proc/sys/net/bridge";

/// A bridge of this box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bridge {
    name: String,
    ports: usize,
    /// Its own switches for IPv4 and IPv6, whatever the general ones say.
    own: [bool; 2],
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    bridges: Vec<Bridge>,
    /// The general switches for IPv4 and IPv6. `None`: br_netfilter is not loaded.
    general: Option<[bool; 2]>,
}

/// `names`: those of all interfaces. `read`: a small file without white space around it; `count`: entries of a directory.
pub(super) fn gather<'a>(
    names: impl Iterator<Item = &'a String>,
    read: &dyn Fn(&str) -> Option<String>,
    count: &dyn Fn(&str) -> Option<usize>,
) -> Facts {
    let on = |path: &str| read(path).is_some_and(|value| value != "0");
    let bridge = |name: &String| {
        let of = |rest: &str| format!("/sys/class/net/{name}/{rest}");
        let ports = count(&of("brif"))?;
        let own = ["bridge/nf_call_iptables", "bridge/nf_call_ip6tables"].map(|file| on(&of(file)));
        Some(Bridge { name: name.clone(), ports, own })
    };
    let switch = |name: &str| format!("{LOADED}/bridge-nf-call-{name}");
    let general = read(&switch("iptables")).is_some().then(|| ["iptables", "ip6tables"].map(|name| on(&switch(name))));
    Facts { bridges: names.filter_map(bridge).collect(), general }
}

pub(super) fn evaluate(plan: &Plan, facts: &Facts) -> Vec<Finding> {
    let Some(general) = facts.general else {
        return match facts.bridges.is_empty() {
            true => Vec::new(),
            false => vec![Finding::ok(GROUP, "br_netfilter is not loaded: frames that cross a bridge meet no rule")],
        };
    };
    let mut findings = Vec::new();
    // A frame crosses from one port to another.
    for bridge in facts.bridges.iter().filter(|b| b.ports > 1) {
        let families: Vec<usize> = (0..2).filter(|f| general[*f] || bridge.own[*f]).collect();
        if families.is_empty() {
            continue;
        }
        let kind = plan.interfaces.iter().find(|i| i.name == bridge.name).map(|i| i.kind);
        if kind.is_some_and(InterfaceKind::is_inside) {
            let what =
                format!("frames that cross {} meet iptables; it is inside, so the border lets them pass", bridge.name);
            findings.push(Finding::ok(GROUP, what));
            continue;
        }
        let whose: Vec<&str> = families.iter().map(|f| ["IPv4", "IPv6"][*f]).collect();
        let what = format!(
            "{} frames that only cross {} (machines on it, or a router and a machine) are led through iptables by \
             br_netfilter, and the border drops them as packets from outside",
            whose.join(" and "),
            bridge.name
        );
        findings.push(Finding::fail(GROUP, what, remedy(bridge, general, &families)));
    }
    if findings.is_empty() && !facts.bridges.is_empty() {
        findings.push(Finding::ok(GROUP, "frames that cross a bridge meet no rule of iptables"));
    }
    findings
}

/// Takes back every switch that is on.
fn remedy(bridge: &Bridge, general: [bool; 2], families: &[usize]) -> String {
    let name = |family: usize| ["iptables", "ip6tables"][family];
    let of_all: Vec<String> = families
        .iter()
        .filter(|f| general[**f])
        .map(|f| format!("sysctl -w net.bridge.bridge-nf-call-{}=0", name(*f)))
        .collect();
    let own: Vec<String> = families
        .iter()
        .filter(|f| bridge.own[**f])
        .map(|f| format!("ip link set dev {} type bridge nf_call_{} 0", shell_word(&bridge.name), name(*f)))
        .collect();
    let commands = of_all.iter().chain(&own).map(String::as_str).collect::<Vec<_>>().join("; ");
    let kept = match of_all.is_empty() {
        true => "",
        false => {
            ", and in /etc/sysctl.d; where a container engine on this box wants it on, keep machines off its bridges"
        }
    };
    format!("{commands} (at once{kept})")
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::plan::InterfaceOutcome;
    use crate::ruleset::Dataplane;

    fn plan() -> Plan {
        let interfaces =
            [("eth0", InterfaceKind::Gateway), ("eth7", InterfaceKind::External), ("br0", InterfaceKind::Inside)]
                .map(|(name, kind)| InterfaceOutcome::down(name, kind))
                .into();
        let (dataplane, flows) = (Dataplane::default(), Default::default());
        Plan { dataplane, flows, mappings: Default::default(), interfaces, slots: [].into() }
    }

    fn told(files: &[(&str, &str)], ports: &[(&str, usize)]) -> Vec<Finding> {
        let read = |path: &str| files.iter().find(|(p, _)| *p == path).map(|(_, value)| (*value).to_owned());
        let count = |path: &str| {
            ports.iter().find(|(name, _)| path == format!("/sys/class/net/{name}/brif")).map(|(_, ports)| *ports)
        };
        let plan = plan();
        let names: Vec<String> = plan.interfaces.iter().map(|i| i.name.clone()).collect();
        evaluate(&plan, &gather(names.iter(), &read, &count))
    }

    const ON: (&str, &str) = ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
    const OFF: (&str, &str) = ("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
    const ON6: (&str, &str) = ("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "1");
    const OWN: (&str, &str) = ("/sys/class/net/eth7/bridge/nf_call_iptables", "1");

    #[test]
    fn either_switch_is_seen_and_taken_back() {
        let found = told(&[ON, ON6], &[("eth7", 2)]);
        assert!(found.len() == 1 && found[0].level == Level::Fail, "{found:?}");
        assert!(found[0].what.starts_with("IPv4 and IPv6 frames that only cross eth7"), "{found:?}");
        assert!(found[0].remedy.starts_with("sysctl -w net.bridge.bridge-nf-call-iptables=0; sysctl -w"), "{found:?}");
        let found = told(&[OFF, OWN], &[("eth7", 2)]);
        assert!(found[0].level == Level::Fail && found[0].remedy.starts_with("ip link set dev"), "{found:?}");
        let both = told(&[ON, OWN], &[("eth7", 2)]);
        assert!(both[0].remedy.contains("sysctl") && both[0].remedy.contains("ip link set dev"), "{both:?}");
    }

    #[test]
    fn what_does_not_cross_or_is_inside_is_no_failure() {
        for (files, ports) in
            [(&[ON][..], &[("br0", 2)][..]), (&[OFF], &[("eth7", 2)]), (&[ON], &[("eth7", 1)]), (&[], &[("eth7", 2)])]
        {
            let found = told(files, ports);
            assert!(found.len() == 1 && found[0].level == Level::Ok, "{files:?}: {found:?}");
        }
        assert_eq!(told(&[ON], &[]), []);
    }
}
