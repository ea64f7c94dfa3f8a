use super::Finding;
use crate::plan::Plan;

const GROUP: &str = "sysctls";
/// Below this a flood of connections fills the table in seconds.
const SMALL_TABLE: u64 = 65_536;

/// `read` gives the value of a path below /proc/sys/net.
pub(super) fn evaluate(plan: &Plan, daemon_runs: bool, read: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = planned(plan, daemon_runs, read);
    findings.extend(conntrack(read));
    findings
}

/// What the daemon writes must be there; what differs although it runs is set back by something.
fn planned(plan: &Plan, daemon_runs: bool, read: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut different = Vec::new();
    for (sysctl, wanted) in &plan.dataplane.sysctls {
        match read(&sysctl.path()) {
            None => findings.push(Finding::warn(
                GROUP,
                format!("{sysctl} is not there"),
                "mount /proc/sys, and load nf_conntrack (modprobe nf_conntrack) if it is one of netfilter's",
            )),
            Some(now) if now == *wanted => {}
            Some(now) => different.push(format!("{sysctl} is {now}, wanted {wanted}")),
        }
    }
    let good = plan.dataplane.sysctls.len() - findings.len() - different.len();
    if different.is_empty() {
        findings.insert(0, Finding::ok(GROUP, format!("{good} values are as planned")));
    } else if daemon_runs {
        findings.push(Finding::warn(
            GROUP,
            different.join(", "),
            "find what sets them back while the daemon runs (sysctl.d, networkd, another firewall)",
        ));
    } else {
        let set = different.len();
        findings.insert(
            0,
            Finding::ok(GROUP, format!("{good} values are as planned, {set} are set when the daemon starts")),
        );
    }
    findings
}

fn conntrack(read: &dyn Fn(&str) -> Option<String>) -> Option<Finding> {
    let number = |path: &str| read(path)?.parse::<u64>().ok();
    let max = number("netfilter/nf_conntrack_max")?;
    let entries = number("netfilter/nf_conntrack_count").unwrap_or(0);
    let remedy = "sysctl -w net.netfilter.nf_conntrack_max=262144 or more, and in /etc/sysctl.d";
    if entries * 10 > max * 8 {
        return Some(Finding::fail(
            GROUP,
            format!("{entries} of {max} connections are tracked: new ones will be dropped"),
            remedy,
        ));
    }
    if max < SMALL_TABLE {
        return Some(Finding::warn(GROUP, format!("nf_conntrack_max is {max}: few connections for a border"), remedy));
    }
    Some(Finding::ok(GROUP, format!("{entries} of {max} connections are tracked")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Level;
    use super::*;
    use crate::ruleset::{Dataplane, Sysctl};

    fn check(values: &[(&str, &str)]) -> Vec<(Level, String)> {
        check_while(true, values)
    }

    fn check_while(daemon_runs: bool, values: &[(&str, &str)]) -> Vec<(Level, String)> {
        let mut dataplane = Dataplane::default();
        dataplane.sysctls.insert(Sysctl::IpForward, "1".into());
        dataplane.sysctls.insert(Sysctl::Net("netfilter/nf_conntrack_tcp_be_liberal"), "1".into());
        let plan = Plan {
            dataplane,
            flows: Default::default(),
            mappings: Default::default(),
            interfaces: vec![],
            slots: [].into(),
        };
        let values: BTreeMap<&str, &str> = values.iter().copied().collect();
        let read = |path: &str| values.get(path).map(|v| (*v).to_owned());
        evaluate(&plan, daemon_runs, &read).into_iter().map(|f| (f.level, f.what)).collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("ipv4/ip_forward", "1"),
        ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
        ("netfilter/nf_conntrack_max", "262144"),
        ("netfilter/nf_conntrack_count", "12"),
    ];

    fn with(path: &'static str, value: &'static str) -> Vec<(Level, String)> {
        let mut values: BTreeMap<&str, &str> = GOOD.into();
        values.insert(path, value);
        check(&values.into_iter().collect::<Vec<_>>())
    }

    #[test]
    fn good_values_are_good() {
        let found = check(&GOOD);
        assert_eq!(
            found,
            [(Level::Ok, "2 values are as planned".into()), (Level::Ok, "12 of 262144 connections are tracked".into())]
        );
    }

    #[test]
    fn values_that_fight_us_are_told() {
        let found = with("ipv4/ip_forward", "0");
        assert_eq!(found[0], (Level::Warn, "net/ipv4/ip_forward is 0, wanted 1".into()));
        assert_eq!(check(&GOOD[..1])[1].0, Level::Warn, "a missing sysctl");
        let before = check_while(false, &[("ipv4/ip_forward", "0"), GOOD[1]]);
        assert_eq!(before, [(Level::Ok, "1 values are as planned, 1 are set when the daemon starts".into())]);
    }

    #[test]
    fn a_small_or_full_conntrack_table_is_told() {
        assert_eq!(with("netfilter/nf_conntrack_max", "4096")[1].0, Level::Warn);
        assert_eq!(with("netfilter/nf_conntrack_count", "220000")[1].0, Level::Fail);
    }
}
