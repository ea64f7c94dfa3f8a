//! Kernel parameters of IPv4 that stand once for `all` and once for each interface, where the two together, or an interface that is not
//! ours to set, would stop mapped traffic or speak for others on an external network.

use std::collections::BTreeSet;

use super::Finding;
use crate::model::{Family, Host, InterfaceName, shell_word};
use crate::plan::{InterfaceKind, Plan};
use crate::ruleset::Sysctl;

const GROUP: &str = "sysctls";

/// `read` gives the value of a path below /proc/sys/net. The kernel's rules for `all` and an interface: Documentation/networking/ip-sysctl.
pub(super) fn evaluate(host: &Host, plan: &Plan, read: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let of_kind = |kinds: &[InterfaceKind]| -> Vec<&InterfaceName> {
        plan.interfaces.iter().filter(|i| kinds.contains(&i.kind)).map(|i| &i.name).collect()
    };
    let inside = of_kind(&[InterfaceKind::Inside, InterfaceKind::Gateway]);
    let externals = of_kind(&[InterfaceKind::External]);
    let box_ = Switches { read };
    if read("ipv4/conf/all/forwarding").is_none() {
        let what = "what stands for all interfaces and for each cannot be read";
        return vec![Finding::warn(GROUP, what, "mount /proc/sys")];
    }
    let mut findings = Vec::new();
    findings.extend(inside.iter().filter_map(|name| not_forwarding(host, plan, name, &box_)));
    findings.extend(inside.iter().filter_map(|name| strict_by_mark(plan, name, &box_)));
    findings.extend(inside.iter().filter_map(|name| redirecting(plan, name, &box_)));
    findings.extend(externals.iter().filter_map(|name| silent(name, &box_)));
    findings.extend(for_all(&box_));
    if findings.is_empty() {
        findings.push(Finding::ok(
            GROUP,
            format!(
                "forwarding, rp_filter, src_valid_mark, send_redirects, arp_ignore, proxy_arp and accept_local of `all` and of {} interfaces do \
                 not stand in the way",
                inside.len() + externals.len()
            ),
        ));
    }
    findings
}

struct Switches<'a> {
    read: &'a dyn Fn(&str) -> Option<String>,
}

impl Switches<'_> {
    fn of(&self, interface: &str, key: &str) -> u32 {
        let value = (self.read)(&format!("ipv4/conf/{interface}/{key}"));
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Where the greater one counts, or either.
    fn effective(&self, interface: &str, key: &str) -> u32 {
        self.of("all", key).max(self.of(interface, key))
    }
}

/// What the daemon sets.
fn planned(plan: &Plan, interface: &str, key: &'static str) -> Option<u32> {
    let sysctl = Sysctl::Interface { family: Family::Ipv4, interface: interface.to_owned(), key };
    plan.dataplane.sysctls.get(&sysctl)?.parse().ok()
}

/// An inside interface by which something is routed, with forwarding off, that the daemon does not set.
fn not_forwarding(host: &Host, plan: &Plan, name: &InterfaceName, box_: &Switches<'_>) -> Option<Finding> {
    let owned = plan.dataplane.sysctls.contains_key(&Sysctl::Forwarding(name.clone()));
    // Off altogether is told with what the daemon sets.
    if name == "lo" || owned || box_.of("all", "forwarding") == 0 || box_.of(name, "forwarding") != 0 {
        return None;
    }
    (box_.read)(&format!("ipv4/conf/{name}/forwarding"))?;
    let routes: BTreeSet<String> = host
        .main_routes
        .iter()
        .filter(|route| route.interface.as_ref() == Some(name) && route.destination.addr().is_ipv4())
        .map(|route| route.destination.to_string())
        .collect();
    let first = routes.first()?;
    let more = if routes.len() > 1 { format!(" and {} more", routes.len() - 1) } else { String::new() };
    Some(Finding::warn(
        GROUP,
        format!(
            "net/ipv4/conf/{name}/forwarding is 0: nothing that arrives by {name} is forwarded, and {first}{more} is routed by it"
        ),
        format!(
            "sysctl -w {}, and find what sets it to 0 (sysctl.d, networkd, another program)",
            shell_word(&format!("net/ipv4/conf/{name}/forwarding=1"))
        ),
    ))
}

/// The way back is looked up with the packet's mark, which leads to the table of an external interface. For what is forwarded to one the
/// look-up begins at that interface, and passes over the rules by mark.
fn strict_by_mark(plan: &Plan, name: &InterfaceName, box_: &Switches<'_>) -> Option<Finding> {
    let filter =
        |interface: &str| planned(plan, interface, "rp_filter").unwrap_or_else(|| box_.of(interface, "rp_filter"));
    if name == "lo" || filter("all").max(filter(name)) != 1 || box_.effective(name, "src_valid_mark") == 0 {
        return None;
    }
    Some(Finding::warn(
        GROUP,
        format!(
            "net/ipv4/conf/{name}/rp_filter is 1 and src_valid_mark is on: the kernel looks for the way back by SmartNat's mark, and \
             drops what arrives by {name} for an address of the box on a client's connection (replies that IPVS translates back, \
             mode service)"
        ),
        format!("sysctl -w {} (or 0), and in /etc/sysctl.d", shell_word(&format!("net/ipv4/conf/{name}/rp_filter=2"))),
    ))
}

/// An interface that leads to pods, and is not the gateway interface, which the daemon sets.
fn redirecting(plan: &Plan, name: &InterfaceName, box_: &Switches<'_>) -> Option<Finding> {
    let leads_to_pods = plan.dataplane.sysctls.contains_key(&Sysctl::Forwarding(name.clone()));
    if !leads_to_pods || planned(plan, name, "send_redirects").is_some() || box_.of(name, "send_redirects") == 0 {
        return None;
    }
    Some(Finding::warn(
        GROUP,
        format!(
            "net/ipv4/conf/{name}/send_redirects is 1: a client that reaches a Mapping by {name}, and whose pod is there too, is told \
             to send to the pod's router what is for the mapped address"
        ),
        format!("sysctl -w {}, and in /etc/sysctl.d", shell_word(&format!("net/ipv4/conf/{name}/send_redirects=0"))),
    ))
}

/// Values of arp_ignore above ours.
fn silent(name: &InterfaceName, box_: &Switches<'_>) -> Option<Finding> {
    let what = match box_.effective(name, "arp_ignore") {
        0 | 1 => return None,
        2 => "only neighbours whose own address is in the same subnet get an answer",
        3 => "addresses of scope host get no answer",
        8.. => "no address gets an answer",
        4..=7 => "the kernel knows no such value",
    };
    Some(Finding::warn(
        GROUP,
        format!(
            "arp_ignore of {name} is {} (the greater one of net/ipv4/conf/all and its own counts): {what}",
            box_.effective(name, "arp_ignore")
        ),
        "sysctl -w net/ipv4/conf/all/arp_ignore=1, and in /etc/sysctl.d",
    ))
}

/// What counts for an external interface as soon as it stands for `all`.
fn for_all(box_: &Switches<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, what) in [
        (
            "proxy_arp",
            "external interfaces answer ARP for whatever the box routes elsewhere, for pods and neighbours, too",
        ),
        ("proxy_arp_pvlan", "external interfaces answer ARP for their own neighbours"),
        ("accept_local", "packets from outside may bear addresses of this box as their source"),
    ] {
        if box_.of("all", key) != 0 {
            findings.push(Finding::warn(
                GROUP,
                format!("net/ipv4/conf/all/{key} is 1, which counts for every interface: {what}"),
                format!("sysctl -w net/ipv4/conf/all/{key}=0, and set it for those interfaces alone that need it"),
            ));
        }
    }
    if (box_.read)("ipv4/conf/default/forwarding").is_some_and(|value| value == "0")
        && box_.of("all", "forwarding") != 0
    {
        findings.push(Finding::warn(
            GROUP,
            "net/ipv4/conf/default/forwarding is 0: interfaces that come later forward nothing that arrives by them; the \
             daemon sets external ones and those that lead to pods behind Mappings, no others",
            "sysctl -w net/ipv4/conf/default/forwarding=1, and in /etc/sysctl.d",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Level;
    use super::*;
    use crate::model::MainRoute;
    use crate::plan::InterfaceOutcome;
    use crate::ruleset::Dataplane;

    fn check(values: &[(&str, &str)], owned: &[&str]) -> Vec<(Level, String)> {
        let mut dataplane = Dataplane::default();
        dataplane.sysctls.extend(owned.iter().map(|name| (Sysctl::Forwarding((*name).to_owned()), "1".to_owned())));
        let interfaces = [
            ("eth0", InterfaceKind::Gateway),
            ("eth1", InterfaceKind::External),
            ("eth3.7", InterfaceKind::Inside),
            ("lo", InterfaceKind::Inside),
        ]
        .map(|(name, kind)| InterfaceOutcome::down(name, kind))
        .into();
        let plan =
            Plan { dataplane, flows: Default::default(), mappings: Default::default(), interfaces, slots: [].into() };
        let route = |destination: &str| MainRoute {
            destination: destination.parse().unwrap(),
            interface: Some("eth3.7".to_owned()),
            gateway: None,
            metric: 0,
        };
        let host = Host { main_routes: vec![route("10.8.0.0/16"), route("10.9.0.0/16")], ..Host::default() };
        let mut all = BTreeMap::from([("all/forwarding", "1")]);
        for name in ["eth0", "eth1", "eth3.7", "lo", "default"] {
            all.insert(Box::leak(format!("{name}/forwarding").into_boxed_str()), "1");
        }
        all.extend(values.iter().copied());
        let read = |path: &str| all.get(path.strip_prefix("ipv4/conf/")?).map(|value| (*value).to_owned());
        evaluate(&host, &plan, &read).into_iter().map(|f| (f.level, f.what)).collect()
    }

    #[track_caller]
    fn told(values: &[(&str, &str)], level: Level, part: &str) {
        let found = check(values, &[]);
        assert!(found.len() == 1 && found[0].0 == level && found[0].1.contains(part), "{part}: {found:?}");
    }

    #[test]
    fn what_does_not_stand_in_the_way_is_well() {
        assert_eq!(check(&[], &[])[0].0, Level::Ok);
        told(&[("eth3.7/rp_filter", "2"), ("all/src_valid_mark", "1")], Level::Ok, "do not stand");
        told(&[("eth0/rp_filter", "1")], Level::Ok, "do not stand");
        told(&[("eth0/forwarding", "0")], Level::Ok, "do not stand");
        assert_eq!(check(&[("eth3.7/forwarding", "0")], &["eth3.7"])[0].0, Level::Ok, "the daemon sets it");
        told(&[("eth3.7/send_redirects", "1")], Level::Ok, "do not stand");
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        told(&[("eth3.7/forwarding", "0")], Level::Warn, "10.8.0.0/16 and 1 more is routed by it");
        told(&[("eth0/rp_filter", "1"), ("all/src_valid_mark", "1")], Level::Warn, "arrives by eth0");
        told(&[("all/rp_filter", "1"), ("eth3.7/src_valid_mark", "1")], Level::Warn, "arrives by eth3.7");
        let found = check(&[("eth3.7/send_redirects", "1")], &["eth3.7"]);
        assert!(found[0].0 == Level::Warn && found[0].1.contains("mapped address"), "{found:?}");
        told(&[("all/arp_ignore", "8")], Level::Warn, "no address gets an answer");
        told(&[("eth1/arp_ignore", "2"), ("all/arp_ignore", "1")], Level::Warn, "arp_ignore of eth1 is 2");
        told(&[("all/proxy_arp", "1")], Level::Warn, "answer ARP for whatever");
        told(&[("all/accept_local", "1")], Level::Warn, "bear addresses");
        told(&[("default/forwarding", "0")], Level::Warn, "come later");
    }
}
