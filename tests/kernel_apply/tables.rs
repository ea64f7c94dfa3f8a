use smartnat::ruleset::{Match, Rule, Target};

use crate::bed::{Bed, FOREIGN, everything, foreign_state, full, listed, mapping_chain, nat};
use crate::netns::{in_netns, sh};

#[test]
fn an_unchanged_world_calls_no_tool() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = full();
        let first = bed.apply(&plane).await;
        assert!(first.writes.chains >= 6 && first.writes.hooks >= 5, "{first:?}");
        assert_eq!(first.repairs, []);
        let calls = bed.tools.calls();
        let again = bed.apply(&full()).await;
        assert_eq!((again.tool_calls, bed.tools.calls()), (0, calls));
        assert!(again.writes.is_empty(), "{again:?}");
    });
}

#[test]
fn a_refresh_of_an_unchanged_world_reads_and_writes_nothing() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = full();
        bed.apply(&plane).await;
        let before = everything();
        let refreshed = bed.refresh(&plane).await;
        assert!(refreshed.writes.is_empty() && refreshed.repairs.is_empty(), "{refreshed:?}");
        // Four tables of IPv4, three of IPv6, the sets.
        assert_eq!(refreshed.tool_calls, 8);
        assert_eq!(everything(), before);
    });
}

#[test]
fn a_restart_adopts_what_is_there() {
    in_netns(|| async {
        let plane = full();
        Bed::new().apply(&plane).await;
        let mut restarted = Bed::new();
        let adopted = restarted.apply(&plane).await;
        assert!(adopted.writes.is_empty() && adopted.repairs.is_empty(), "{adopted:?}");
        assert_eq!(restarted.apply(&plane).await.tool_calls, 0);
    });
}

#[test]
fn one_changed_mapping_rewrites_its_own_chain_by_one_call() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        bed.apply(&plane).await;
        nat(&mut plane).add("SMARTNAT-M-a", mapping_chain(80, "10.244.9.9"));
        let applied = bed.apply(&plane).await;
        assert_eq!((applied.tool_calls, applied.writes.chains, applied.writes.hooks), (1, 1, 0), "{applied:?}");
        assert!(sh("iptables -t nat -S SMARTNAT-M-a").contains("10.244.9.9:8080"));
        assert!(sh("iptables -t nat -S SMARTNAT-M-b").contains("10.244.1.3:8080"));
        assert!(bed.refresh(&plane).await.writes.is_empty());
    });
}

#[test]
fn a_removed_mapping_takes_its_chain_with_it() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        bed.apply(&plane).await;
        nat(&mut plane).chains.remove("SMARTNAT-M-b");
        let applied = bed.apply(&plane).await;
        assert_eq!((applied.tool_calls, applied.writes.chains), (1, 1), "{applied:?}");
        assert!(!everything().contains("SMARTNAT-M-b"));
        assert_eq!(bed.apply(&plane).await.tool_calls, 0);
    });
}

#[test]
fn what_is_foreign_stays_byte_for_byte_through_changes() {
    in_netns(|| async {
        sh(FOREIGN);
        let before = everything();
        let mut bed = Bed::new();
        let mut plane = full();
        bed.apply(&plane).await;
        assert_eq!(foreign_state(), before);
        nat(&mut plane).chains.remove("SMARTNAT-M-b");
        plane.sets.remove("SN-EG");
        bed.refresh(&plane).await;
        assert_eq!(foreign_state(), before);
    });
}

#[test]
fn a_hook_pushed_down_by_a_foreign_rule_is_moved_to_the_top() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = full();
        bed.apply(&plane).await;
        sh("iptables -t nat -N KUBE-SERVICES; iptables -t nat -I PREROUTING 1 -j KUBE-SERVICES");
        assert_eq!(bed.repairs(&plane).await, ["hook ipv4 nat PREROUTING was not the first rule any more"]);
        assert_eq!(listed("nat", "PREROUTING"), ["-A PREROUTING -j SMARTNAT-DNAT", "-A PREROUTING -j KUBE-SERVICES"]);
    });
}

#[test]
fn a_hook_that_stands_there_twice_is_left_once_at_the_top() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = full();
        bed.apply(&plane).await;
        sh("iptables -t nat -A PREROUTING -p udp -j ACCEPT
            iptables -t nat -A PREROUTING -s 10.0.0.0/8 -m comment --comment 'not by \"us\"' -g SMARTNAT-DNAT
            iptables -t nat -A PREROUTING -j SMARTNAT-DNAT");
        assert_eq!(bed.repairs(&plane).await, ["hook ipv4 nat PREROUTING was there more than once"]);
        assert_eq!(listed("nat", "PREROUTING"), ["-A PREROUTING -j SMARTNAT-DNAT", "-A PREROUTING -p udp -j ACCEPT"]);
    });
}

#[test]
fn removed_chains_rules_and_hooks_are_put_back_and_told() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = full();
        bed.apply(&plane).await;
        let before = everything();
        sh("iptables -t nat -D PREROUTING -j SMARTNAT-DNAT; iptables -t nat -F SMARTNAT-DNAT
            iptables -t nat -F SMARTNAT-M-b; iptables -t nat -X SMARTNAT-M-b
            iptables -t mangle -R SMARTNAT-BORDER 4 -j ACCEPT
            ip6tables -t mangle -D SMARTNAT-BORDER-IN 1
            iptables -t filter -N SMARTNAT-STRAY; iptables -t filter -A INPUT -j SMARTNAT-STRAY");
        assert_eq!(
            bed.repairs(&plane).await,
            [
                "chain ipv4 mangle SMARTNAT-BORDER was changed",
                "chain ipv6 mangle SMARTNAT-BORDER-IN was changed",
                "chain ipv4 filter SMARTNAT-STRAY was added by somebody else",
                "hook ipv4 filter INPUT was added by somebody else",
                "chain ipv4 nat SMARTNAT-M-b was removed",
                "chain ipv4 nat SMARTNAT-DNAT was changed",
                "hook ipv4 nat PREROUTING was removed",
            ]
        );
        // The emptied filter table is now there; it holds nothing.
        let after = everything();
        assert!(before.lines().all(|line| after.contains(line)), "{before}\n{after}");
    });
}

#[test]
fn a_chain_that_a_foreign_rule_leads_to_is_emptied_and_kept_until_it_is_free() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        nat(&mut plane).add("SMARTNAT-OLD", vec![Rule::new([], Target::Accept)]);
        bed.apply(&plane).await;
        sh("iptables -t nat -N THEIRS; iptables -t nat -A THEIRS -j SMARTNAT-OLD");
        nat(&mut plane).chains.remove("SMARTNAT-OLD");
        let applied = bed.refresh(&plane).await;
        assert_eq!((applied.writes.chains, applied.repairs.len()), (1, 0), "{applied:?}");
        assert_eq!(sh("iptables -t nat -S SMARTNAT-OLD"), "-N SMARTNAT-OLD\n");
        assert!(bed.refresh(&plane).await.writes.is_empty());
        sh("iptables -t nat -F THEIRS");
        assert_eq!(bed.refresh(&plane).await.writes.chains, 1);
        assert!(!everything().contains("SMARTNAT-OLD"));
        assert!(everything().contains("THEIRS"));
    });
}

#[test]
fn chains_that_go_and_come_at_once_are_one_transaction() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        bed.apply(&plane).await;
        // A and B lead to each other's successors: no order of single commands could do it.
        let rules = nat(&mut plane);
        rules.chains.remove("SMARTNAT-M-a");
        rules.add("SMARTNAT-M-c", vec![Rule::new([], Target::Goto("SMARTNAT-M-b".into()))]);
        rules.add("SMARTNAT-M-b", vec![Rule::new([Match::InInterface("eth1".into())], Target::Return)]);
        rules.add("SMARTNAT-DNAT", vec![Rule::new([], Target::Goto("SMARTNAT-M-c".into()))]);
        let applied = bed.apply(&plane).await;
        assert_eq!((applied.tool_calls, applied.writes.chains), (1, 4), "{applied:?}");
        assert!(bed.refresh(&plane).await.writes.is_empty());
    });
}
