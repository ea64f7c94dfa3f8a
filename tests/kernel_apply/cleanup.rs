use std::fs;

use smartnat::apply::{CleanupError, Scope, cleanup};
use smartnat::model::{Family, Host};
use smartnat::ruleset::{PolicyRule, RuleSelector, Sysctl};
use smartnat::sources::host::read_host;

use crate::bed::{Bed, FOREIGN, everything, full};
use crate::netns::{in_netns, ip_json, sh};

fn forwarding() -> String {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().to_owned()
}

#[test]
fn cleanup_leaves_what_was_there_before_byte_for_byte() {
    in_netns(|| async {
        sh(FOREIGN);
        sh("echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore");
        let before = everything();
        let rules_before = ip_json("rule");
        let mut bed = Bed::new();
        let mut plane = full();
        let all = |key| Sysctl::Interface { family: Family::Ipv4, interface: "all".into(), key };
        plane.sysctls.extend([(all("arp_ignore"), "1".into()), (all("arp_announce"), "2".into())]);
        let by_mark = RuleSelector::FwMark { mark: 1 << 16, mask: 0xff << 16 };
        plane.rules.insert(PolicyRule::lookup(Family::Ipv4, 90, by_mark, 254));
        bed.applier.apply(&plane, &read_host().await.unwrap(), Scope::Full).await.unwrap();
        assert_eq!((forwarding().as_str(), ip_json("rule").len()), ("1", rules_before.len() + 1));
        // Somebody has his own idea of this one since.
        sh("echo 1 >/proc/sys/net/ipv4/conf/all/arp_announce");

        let host = read_host().await.unwrap();
        let report = cleanup(bed.tools.clone(), bed.state.path(), &host, false).await.unwrap();
        assert_eq!((report.writes.rules, report.writes.sysctls, report.forwarding), (1, 2, false), "{report:?}");
        assert!(report.stuck_sets.is_empty() && report.pinned_chains.is_empty(), "{report:?}");
        assert_eq!(everything(), before);
        assert_eq!(ip_json("rule"), rules_before);
        assert_eq!(forwarding(), "0");
        let all = "/proc/sys/net/ipv4/conf/all";
        assert_eq!(sh(&format!("cat {all}/arp_ignore {all}/arp_announce")), "0\n1\n");

        let again = cleanup(bed.tools.clone(), bed.state.path(), &read_host().await.unwrap(), false).await.unwrap();
        assert!(again.writes.is_empty(), "{again:?}");
        assert_eq!(everything(), before);
    });
}

#[test]
fn cleanup_refuses_to_open_the_cluster_and_says_what_would_be_open() {
    in_netns(|| async {
        sh("echo 1 >/proc/sys/net/ipv4/ip_forward
            iptables -t nat -N KUBE-SERVICES; iptables -t nat -A PREROUTING -j KUBE-SERVICES");
        let mut bed = Bed::new();
        bed.apply(&full()).await;
        let before = everything();
        let refused = cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), false).await.unwrap_err();
        assert!(
            matches!(&refused, CleanupError::WouldOpen { chains, .. } if chains == &["KUBE-SERVICES"]),
            "{refused:?}"
        );
        for part in ["ClusterIPs and NodePorts", "all pods", "ip_forward=1", "KUBE-SERVICES", "--force"] {
            assert!(refused.to_string().contains(part), "{refused}");
        }
        assert_eq!(everything(), before);

        let forced = cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), true).await.unwrap();
        assert!(forced.forwarding, "{forced:?}");
        let left = everything();
        assert!(!left.contains("SMARTNAT") && !left.contains("SN-") && left.contains("KUBE-SERVICES"), "{left}");
        cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), false).await.expect("nothing is left to open");
    });
}

#[test]
fn cleanup_beside_kube_proxy_is_refused_also_where_forwarding_goes_off_again() {
    in_netns(|| async {
        // IPVS answers in INPUT: it needs no forwarding. Of one family is enough.
        sh("echo 0 >/proc/sys/net/ipv4/ip_forward; ip6tables -t nat -N KUBE-SERVICES");
        let mut bed = Bed::new();
        bed.apply(&full()).await;
        let before = everything();
        let refused = cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), false).await.unwrap_err();
        assert!(matches!(&refused, CleanupError::WouldOpen { forwarding: false, .. }), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains("ClusterIPs and NodePorts") && !text.contains("all pods"), "{text}");
        assert_eq!(everything(), before);
        assert_eq!(forwarding(), "1");
        cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), true).await.unwrap();
        assert_eq!(forwarding(), "0");
    });
}

#[test]
fn forwarding_is_off_before_the_border_goes() {
    in_netns(|| async {
        sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
        let mut bed = Bed::new();
        bed.apply(&full()).await;
        let directory = tempfile::tempdir().unwrap();
        let script = r#"case $tool in iptables-restore)
            input=$(cat); printf '%s\n' "$input" | sed -n "s/^\*\(.*\)/\1 $(cat /proc/sys/net/ipv4/ip_forward)/p" >>"$dir/log"
            printf '%s\n' "$input" | "$real" "$@"; exit;; esac
            exec "$real" "$@""#;
        let tools = crate::bed::wrapped(directory.path(), crate::bed::LIMIT, script);
        cleanup(tools, bed.state.path(), &Host::default(), false).await.unwrap();
        let log = fs::read_to_string(directory.path().join("log")).unwrap();
        assert_eq!(log, "nat 1\nmangle 0\nsecurity 0\n");
    });
}

#[test]
fn cleanup_names_what_foreign_rules_keep() {
    in_netns(|| async {
        let mut bed = Bed::new();
        bed.apply(&full()).await;
        sh("iptables -t nat -N THEIRS; iptables -t nat -A THEIRS -j SMARTNAT-M-a
            iptables -A FORWARD -m set --match-set SN-INNER src -j DROP");
        let report = cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), true).await.unwrap();
        assert_eq!(report.pinned_chains, ["ipv4 nat SMARTNAT-M-a"]);
        assert_eq!(report.stuck_sets, ["SN-INNER"]);
    });
}
