use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::Finding;
use super::gather::{Gather, Ran};
use super::variant::Variants;
use crate::api::MappingMode;
use crate::cli::http;
use crate::model::World;
use crate::plan::{Plan, RefusalReason};

const GROUP: &str = "kube-proxy";
/// The default of its --metrics-bind-address.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const PATIENCE: Duration = Duration::from_secs(2);
const SHOWN: usize = 3;
const IPVS: &str = "ipvs";
const REMEDY: &str = "set mode: direct in them, or run kube-proxy --proxy-mode=ipvs on this box";

pub(super) struct Facts {
    /// What it says itself: ipvs, iptables or nftables.
    says: Option<String>,
    /// What it left in the kernel; empty when there is nothing.
    traces: Vec<&'static str>,
    /// Whether all places could be looked at.
    looked: bool,
    conntrack: Option<String>,
    expire_nodest: Option<String>,
}

pub(super) async fn gather(gather: &Gather, variants: &Variants) -> Facts {
    let says = match http::get(ADDRESS, "/proxyMode", PATIENCE).await {
        Ok(answer) if answer.is_ok() => Some(answer.body.trim().to_owned()),
        _ => None,
    };
    let mut traces = Vec::new();
    let servers = gather.read("/proc/net/ip_vs").unwrap_or_default();
    if has_servers(&servers) || gather.read("/sys/class/net/kube-ipvs0/ifindex").is_some() {
        traces.push(IPVS);
    }
    if variants.saved().any(has_iptables_mode) {
        traces.push("iptables");
    }
    let table = gather.run("nft", &["list", "table", "ip", "kube-proxy"]).await;
    if matches!(table, Ran::Well(_)) {
        traces.push("nftables");
    }
    Facts {
        says,
        traces,
        looked: variants.saved().next().is_some(),
        conntrack: gather.read("/proc/sys/net/ipv4/vs/conntrack"),
        expire_nodest: gather.read("/proc/sys/net/ipv4/vs/expire_nodest_conn"),
    }
}

/// /proc/net/ip_vs: after the headings, one line a virtual server.
fn has_servers(text: &str) -> bool {
    text.lines().any(|line| ["TCP ", "UDP ", "SCTP ", "FWM "].iter().any(|word| line.starts_with(word)))
}

/// Chains that kube-proxy makes in iptables mode only; in IPVS mode it has KUBE-SERVICES, KUBE-POSTROUTING and KUBE-NODE-PORT.
fn has_iptables_mode(save: &str) -> bool {
    save.lines().any(|line| line.starts_with(":KUBE-NODEPORTS ") || line.starts_with(":KUBE-SVC-"))
}

/// Mappings of mode service that have addresses on this box.
pub(in crate::cli) fn in_use(world: &World, plan: &Plan) -> Vec<String> {
    let Some(objects) = &world.objects else { return Vec::new() };
    let local = plan.mappings.iter().filter(|(_, outcome)| {
        let going = outcome.refused.as_ref().is_some_and(|r| r.reason == RefusalReason::Deleting);
        !going && !outcome.configured.is_empty()
    });
    let by_service = local.filter(|(key, _)| {
        let mode = objects.mappings.get(*key).and_then(|m| m.spec.mode.as_deref());
        mode.unwrap_or_default().to_ascii_lowercase() != MappingMode::Direct.as_str()
    });
    by_service.map(|(key, _)| key.to_string()).collect()
}

/// `in_use`: see [`in_use()`].
pub(super) fn evaluate(facts: &Facts, in_use: &[String]) -> Vec<Finding> {
    let running = match (&facts.says, facts.traces.as_slice()) {
        (Some(mode), _) => Some((mode.as_str(), format!("it runs in {mode} mode"))),
        (None, []) => None,
        // Another metrics address, or stopped: what it programmed is what packets meet.
        (None, traces) => {
            let mode = if traces.contains(&IPVS) { IPVS } else { traces[0] };
            Some((
                mode,
                format!("what it programmed is of {mode} mode (it does not answer at http://{ADDRESS}/proxyMode)"),
            ))
        }
    };
    let Some((mode, what)) = running else { return vec![absent(facts, in_use)] };
    if mode != IPVS {
        return vec![if in_use.is_empty() {
            Finding::ok(GROUP, format!("{what}; no Mapping of mode service has an address here"))
        } else {
            Finding::fail(
                GROUP,
                format!(
                    "{what}, in which ClusterIPs are no addresses of this box; of mode service are {}",
                    list(in_use)
                ),
                REMEDY,
            )
        }];
    }
    let mut findings = vec![Finding::ok(GROUP, what)];
    if facts.conntrack.as_deref().is_some_and(|value| value != "1") {
        findings.push(Finding::fail(
            GROUP,
            "net.ipv4.vs.conntrack is not 1: answers of Mappings of mode service are lost",
            "sysctl -w net.ipv4.vs.conntrack=1 (kube-proxy sets it when it starts), and find what sets it back",
        ));
    }
    if facts.expire_nodest.as_deref().is_some_and(|value| value != "1") {
        findings.push(Finding::warn(
            GROUP,
            "net.ipv4.vs.expire_nodest_conn is not 1: connections to a pod that is gone hang instead of ending",
            "sysctl -w net.ipv4.vs.expire_nodest_conn=1, and in /etc/sysctl.d",
        ));
    }
    findings
}

fn absent(facts: &Facts, in_use: &[String]) -> Finding {
    if in_use.is_empty() {
        return Finding::ok(GROUP, "not seen here, and no Mapping of mode service has an address here");
    }
    let what = format!("needed by {}, of mode service, and", list(in_use));
    if facts.looked {
        return Finding::fail(GROUP, format!("{what} not running on this box"), REMEDY);
    }
    Finding::warn(
        GROUP,
        format!(
            "{what} not seen: it does not answer at http://{ADDRESS}/proxyMode, and the kernel's tables cannot be read"
        ),
        "run check as root",
    )
}

fn list(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn facts(says: Option<&str>, traces: &[&'static str]) -> Facts {
        let (conntrack, expire_nodest) = (Some("1".to_owned()), Some("1".to_owned()));
        Facts { says: says.map(str::to_owned), traces: traces.to_vec(), looked: true, conntrack, expire_nodest }
    }

    fn levels(facts: &Facts, in_use: &[&str]) -> Vec<Level> {
        let in_use: Vec<String> = in_use.iter().map(|n| (*n).to_owned()).collect();
        evaluate(facts, &in_use).into_iter().map(|f| f.level).collect()
    }

    #[test]
    fn mappings_of_mode_service_need_ipvs() {
        for other in ["iptables", "nftables"] {
            assert_eq!(levels(&facts(Some(other), &[]), &["shop/web"]), [Level::Fail]);
            assert_eq!(levels(&facts(None, &[other]), &["shop/web"]), [Level::Fail]);
            assert_eq!(levels(&facts(Some(other), &[]), &[]), [Level::Ok]);
        }
        assert_eq!(levels(&facts(Some("ipvs"), &[]), &["shop/web"]), [Level::Ok]);
        assert_eq!(levels(&facts(None, &["ipvs", "iptables"]), &["shop/web"]), [Level::Ok]);
        // What was left by an earlier mode does not count while it says what it does.
        assert_eq!(levels(&facts(Some("iptables"), &["ipvs"]), &["shop/web"]), [Level::Fail]);
    }

    #[test]
    fn without_it_mode_service_fails_and_mode_direct_does_not_care() {
        assert_eq!(levels(&facts(None, &[]), &[]), [Level::Ok]);
        assert_eq!(levels(&facts(None, &[]), &["shop/web"]), [Level::Fail]);
        assert_eq!(levels(&Facts { looked: false, ..facts(None, &[]) }, &["shop/web"]), [Level::Warn]);
        let many: Vec<String> = (1..=5).map(|n| format!("shop/web{n}")).collect();
        let found = evaluate(&facts(None, &[]), &many);
        assert!(found[0].what.contains("shop/web1, shop/web2, shop/web3 and 2 more"), "{found:?}");
    }

    #[test]
    fn settings_of_ipvs_are_looked_at_in_that_mode_only() {
        let with = |says, conntrack: &str, expire: &str| Facts {
            conntrack: Some(conntrack.to_owned()),
            expire_nodest: Some(expire.to_owned()),
            ..facts(Some(says), &[])
        };
        assert_eq!(levels(&with("ipvs", "0", "1"), &[]), [Level::Ok, Level::Fail]);
        assert_eq!(levels(&with("ipvs", "1", "0"), &[]), [Level::Ok, Level::Warn]);
        assert_eq!(levels(&with("iptables", "0", "0"), &[]), [Level::Ok]);
    }

    #[test]
    fn its_traces_are_those_of_one_mode() {
        assert!(has_iptables_mode("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n"));
        assert!(!has_iptables_mode(
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODE-PORT - [0:0]\n:KUBE-POSTROUTING - [0:0]\n"
        ));
        let headings = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port\n";
        assert!(!has_servers(headings));
        assert!(has_servers(&format!("{headings}TCP  0A600001:01BB rr\n  -> 0A000001:192B Masq 1 0 0\n")));
    }
}
