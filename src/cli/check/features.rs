use super::Finding;
use super::gather::{Gather, Ran};
use crate::model::Family;

const GROUP: &str = "kernel";

/// A match, target or set type that the plan uses, with a rule that needs it.
struct Feature {
    name: &'static str,
    family: Family,
    table: &'static str,
    rule: &'static str,
    /// Input of `ipset restore` before the rule.
    sets: &'static str,
    /// The module that brings it where it is not built in.
    module: &'static str,
}

const fn v4(name: &'static str, table: &'static str, rule: &'static str, module: &'static str) -> Feature {
    Feature { name, family: Family::Ipv4, table, rule, sets: "", module }
}

const fn with_set(name: &'static str, sets: &'static str, rule: &'static str, module: &'static str) -> Feature {
    Feature { name, family: Family::Ipv4, table: "mangle", rule, sets, module }
}

const FEATURES: [Feature; 19] = [
    v4("match conntrack", "mangle", "-m conntrack --ctstate NEW --ctdir ORIGINAL -j RETURN", "xt_conntrack"),
    v4("match connmark", "mangle", "-m connmark --mark 0x10000/0xfff0000 -j RETURN", "xt_connmark"),
    v4("match mark", "mangle", "-m mark --mark 0x10000/0xfff0000 -j RETURN", "xt_mark"),
    v4("match addrtype", "mangle", "-m addrtype --dst-type LOCAL -j RETURN", "xt_addrtype"),
    v4("match u32", "mangle", "-m u32 --u32 \"0x0>>0x18&0xf=0x6:0xf\" -j DROP", "xt_u32"),
    v4("match statistic", "nat", "-m statistic --mode random --probability 0.5 -j RETURN", "xt_statistic"),
    v4("match comment", "mangle", "-m comment --comment x -j RETURN", "xt_comment"),
    v4("target MARK", "mangle", "-j MARK --set-xmark 0x10000/0xfff0000", "xt_MARK"),
    v4("target CONNMARK", "mangle", "-j CONNMARK --save-mark --nfmask 0xfff0000 --ctmask 0xfff0000", "xt_CONNMARK"),
    v4("target DNAT", "nat", "-p tcp -j DNAT --to-destination 192.0.2.1:80", "xt_nat"),
    v4("target MASQUERADE", "nat", "-j MASQUERADE", "xt_MASQUERADE"),
    v4("target REJECT", "filter", "-p tcp -j REJECT --reject-with tcp-reset", "ipt_REJECT"),
    v4("table security", "security", "-j RETURN", "iptable_security"),
    with_set(
        "sets hash:ip,port and match set",
        "create SN-T hash:ip,port\n",
        "-m set --match-set SN-T dst,dst -j RETURN",
        "ip_set_hash_ipport",
    ),
    with_set("sets hash:net", "create SN-T hash:net\n", "-m set --match-set SN-T src -j RETURN", "ip_set_hash_net"),
    with_set(
        "sets with marks and target SET",
        "create SN-T hash:ip skbinfo\n",
        "-j SET --map-set SN-T src --map-mark",
        "ip_set_hash_ip, xt_set",
    ),
    with_set(
        "session affinity (list:set of hash:ip with timeout)",
        "create SN-U hash:ip timeout 0 forceadd\ncreate SN-T list:set\nadd SN-T SN-U\n",
        "-m set --match-set SN-T src -j SET --add-set SN-U src --exist --timeout 60",
        "ip_set_list_set, xt_set",
    ),
    Feature {
        name: "IPv6 addresses of an interface (addrtype)",
        family: Family::Ipv6,
        table: "mangle",
        rule: "-d fe80::/10 -m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP",
        sets: "",
        module: "xt_addrtype",
    },
    Feature {
        name: "IPv6 border (icmp6, hl)",
        family: Family::Ipv6,
        table: "mangle",
        rule: "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -m hl --hl-eq 255 -j RETURN",
        sets: "",
        module: "ip6table_mangle, xt_hl",
    },
];

/// Loads sets ($1) and rules ($3, by the tool $2) in an own, empty network namespace, which goes away with the process.
const PROBE: &str = r#"{ [ -z "$1" ] || printf '%s' "$1" | ipset restore; } && printf '%s' "$3" | "$2""#;

pub(super) struct Probe {
    name: &'static str,
    module: &'static str,
    ran: Ran,
}

/// Loads each feature in a network namespace of its own: the answer is the kernel's, and nothing of this box is touched. `Err`: no such
/// namespace can be made.
pub(super) async fn gather(gather: &Gather) -> Result<Vec<Probe>, String> {
    match gather.run("unshare", &["--net", "true"]).await {
        Ran::Well(_) => {}
        Ran::Missing => return Err("unshare is not installed".to_owned()),
        Ran::Badly(why) => return Err(why),
    }
    let mut probes = Vec::new();
    for f in &FEATURES {
        let tool = if f.family == Family::Ipv4 { "iptables-restore" } else { "ip6tables-restore" };
        let rules = format!("*{}\n:SMARTNAT-T - [0:0]\n-A SMARTNAT-T {}\nCOMMIT\n", f.table, f.rule);
        let ran = gather.run("unshare", &["--net", "sh", "-c", PROBE, "sh", f.sets, tool, &rules]).await;
        probes.push(Probe { name: f.name, module: f.module, ran });
    }
    Ok(probes)
}

pub(super) fn evaluate(probes: &Result<Vec<Probe>, String>) -> Vec<Finding> {
    let probes = match probes {
        Ok(probes) => probes,
        Err(why) => {
            return vec![Finding::warn(
                GROUP,
                format!("what the kernel supports cannot be tried in a network namespace: {why}"),
                "run check as root with util-linux installed",
            )];
        }
    };
    let mut findings: Vec<Finding> = probes
        .iter()
        .filter_map(|p| match &p.ran {
            Ran::Well(_) => None,
            Ran::Missing => {
                Some(Finding::fail(GROUP, format!("{} cannot be tried", p.name), "apt-get install util-linux"))
            }
            Ran::Badly(why) => Some(Finding::fail(
                GROUP,
                format!("{} does not work: {why}", p.name),
                format!(
                    "modprobe {}; if there is no such module, use a kernel that has it",
                    p.module.replace(", ", " and ")
                ),
            )),
        })
        .collect();
    let working = probes.len() - findings.len();
    if working > 0 {
        findings.insert(
            0,
            Finding::ok(GROUP, format!("{working} of {} matches, targets and set types work", probes.len())),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Level;
    use super::*;

    #[test]
    fn what_fails_is_named_with_its_module() {
        let probe = |name, ran| Probe { name, module: "xt_a, xt_b", ran };
        let findings = evaluate(&Ok(vec![
            probe("match a", Ran::Well(String::new())),
            probe("match b", Ran::Badly("No chain/target/match by that name.".into())),
        ]));
        assert_eq!(findings[0], Finding::ok(GROUP, "1 of 2 matches, targets and set types work"));
        assert_eq!(findings[1].level, Level::Fail);
        assert!(findings[1].what.contains("match b does not work: No chain"), "{findings:?}");
        assert!(findings[1].remedy.contains("modprobe xt_a and xt_b"), "{findings:?}");
    }

    #[test]
    fn without_a_namespace_it_is_said_and_nothing_claimed() {
        let findings = evaluate(&Err("Operation not permitted".into()));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, Level::Warn);
    }

    /// Needs root, iptables and ipset: apt-get install iptables ipset.
    #[tokio::test]
    async fn this_kernel_has_every_feature_and_a_wrong_rule_is_noticed() {
        let gather = Gather::new(Duration::from_secs(30));
        let probes = super::gather(&gather).await.expect("needs root (unshare --net)");
        for p in &probes {
            assert!(matches!(p.ran, Ran::Well(_)), "{} (apt-get install iptables ipset): {:?}", p.name, p.ran);
        }
        let rules = "*mangle\n-A PREROUTING -m nosuchmatch -j RETURN\nCOMMIT\n";
        let ran = gather.run("unshare", &["--net", "sh", "-c", PROBE, "sh", "", "iptables-restore", rules]).await;
        assert!(matches!(ran, Ran::Badly(_)), "{ran:?}");
    }
}
