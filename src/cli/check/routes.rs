use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Finding;
use crate::model::{Host, MainRoute};
use crate::plan::{InterfaceKind, Plan};

const GROUP: &str = "routes";
const SHOWN: usize = 5;

/// Looks up the main table's way to everything behind Mappings: it must not lead through an external interface.
pub(super) fn evaluate(host: &Host, plan: &Plan) -> Vec<Finding> {
    let externals: BTreeSet<&str> = plan
        .interfaces
        .iter()
        .filter(|i| matches!(i.kind, InterfaceKind::External | InterfaceKind::Absent))
        .map(|i| i.name.as_str())
        .collect();
    let backends: BTreeSet<IpAddr> = plan.flows.servers();
    // No route leads to an address of the box itself.
    let (local, remote): (Vec<IpAddr>, Vec<IpAddr>) = backends.iter().partition(|b| host.is_local(**b));
    let mut findings: Vec<Finding> = Vec::new();
    for backend in &remote {
        match way(host, *backend) {
            None => findings.push(Finding::fail(
                GROUP,
                format!("the main table has no route to {backend}, which is behind a Mapping"),
                "add a route to the pods through the cluster interface",
            )),
            Some(MainRoute { interface: None, destination, .. }) => findings.push(Finding::fail(
                GROUP,
                format!("the main table's route to {backend} ({destination}) is unreachable"),
                "replace it by a route through the cluster interface",
            )),
            Some(MainRoute { interface: Some(name), destination, .. }) if externals.contains(name.as_str()) => {
                findings.push(Finding::fail(
                    GROUP,
                    format!("the main table reaches {backend}, which is behind a Mapping, through the external {name} ({destination})"),
                    "add a route to the pods through the cluster interface, or give default routes of external interfaces a higher metric",
                ));
            }
            Some(_) => {}
        }
    }
    let bad = findings.len();
    if bad > SHOWN {
        findings.truncate(SHOWN);
        findings.push(Finding::fail(GROUP, format!("{} more pods are out of reach", bad - SHOWN), "the same"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            GROUP,
            match (remote.len(), local.len()) {
                (0, 0) => "nothing is behind a Mapping here yet: no route to look up".to_owned(),
                (0, own) => format!("all {own} addresses behind Mappings are the box's own: no route to look up"),
                (n, 0) => format!("all {n} addresses behind Mappings are reached by inside interfaces"),
                (n, own) => format!(
                    "{n} addresses behind Mappings are reached by inside interfaces; {own} more are the box's own and need no route"
                ),
            },
        ));
    }
    findings
}

/// The main table's route: the longest prefix, then the lowest metric.
fn way(host: &Host, to: IpAddr) -> Option<&MainRoute> {
    host.main_routes
        .iter()
        .filter(|r| r.destination.contains(&to))
        .max_by_key(|r| (r.destination.prefix_len(), std::cmp::Reverse(r.metric)))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::api::MappingMode;
    use crate::model::{InterfaceAddress, Link, ObjectKey, Protocol};
    use crate::plan::{Asked, Backends, FlowTargets, InterfaceOutcome, Leads, PortSelector};
    use crate::ruleset::Dataplane;

    fn route(destination: &str, interface: Option<&str>, metric: u32) -> MainRoute {
        MainRoute {
            destination: destination.parse().unwrap(),
            interface: interface.map(Into::into),
            gateway: None,
            metric,
        }
    }

    fn plan(backends: &[&str]) -> Plan {
        let eth1 =
            InterfaceOutcome { up: true, carrier: true, ..InterfaceOutcome::down("eth1", InterfaceKind::External) };
        let asked = Asked {
            service: ObjectKey::new("shop", "web"),
            mode: MappingMode::Direct,
            protocol: Protocol::Tcp,
            port: PortSelector::Number(80),
        };
        let known = backends.iter().map(|b| b.parse().unwrap()).collect();
        let leads = Leads { backends: Backends { known, ..Backends::default() }, ..Leads::default() };
        Plan {
            dataplane: Dataplane::default(),
            flows: FlowTargets { endpoints: [].into(), leads: [(asked.into(), leads.into())].into() }.into(),
            mappings: Default::default(),
            interfaces: vec![eth1],
            slots: [].into(),
        }
    }

    fn levels(routes: Vec<MainRoute>, backends: &[&str]) -> Vec<Level> {
        let host = Host { main_routes: routes, ..Host::default() };
        evaluate(&host, &plan(backends)).into_iter().map(|f| f.level).collect()
    }

    #[test]
    fn pods_through_an_external_interface_are_a_failure() {
        let pods = ["10.244.1.2:8080", "10.244.2.2:8080"];
        let default = || route("0.0.0.0/0", Some("eth0"), 0);
        assert_eq!(levels(vec![default()], &pods), [Level::Ok]);
        assert_eq!(levels(vec![default(), route("10.244.2.0/24", Some("eth1"), 0)], &pods), [Level::Fail]);
        assert_eq!(levels(vec![default(), route("0.0.0.0/0", Some("eth1"), 10001)], &pods), [Level::Ok]);
        assert_eq!(levels(vec![], &pods), [Level::Fail, Level::Fail]);
        assert_eq!(levels(vec![default(), route("10.244.0.0/16", None, 0)], &pods), [Level::Fail, Level::Fail]);
        assert_eq!(levels(vec![], &[]), [Level::Ok]);
    }

    #[test]
    fn addresses_of_the_box_itself_are_not_counted_as_reached() {
        let mut host = Host { main_routes: vec![route("0.0.0.0/0", Some("eth0"), 0)], ..Host::default() };
        let own = InterfaceAddress::of("10.96.0.10/32".parse().unwrap());
        host.links.insert("kube-ipvs0".into(), Link { addresses: vec![own], ..Link::default() });
        let said = |backends: &[&str]| evaluate(&host, &plan(backends)).remove(0).what;
        assert_eq!(
            said(&["10.244.1.2:80", "10.96.0.10:80"]),
            "1 addresses behind Mappings are reached by inside interfaces; 1 more are the box's own and need no route"
        );
        assert!(said(&["10.96.0.10:80"]).contains("the box's own: no route to look up"));
    }

    #[test]
    fn many_are_summed_up() {
        let pods: Vec<String> = (1..=9).map(|n| format!("10.244.1.{n}:80")).collect();
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        assert_eq!(levels(vec![], &pods).len(), SHOWN + 1);
    }
}
