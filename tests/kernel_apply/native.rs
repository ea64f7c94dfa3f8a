//! Rules in iptables' tables that nft wrote, and that iptables has no words for: it then reads nothing of the table.

use smartnat::apply::iptables::Trouble;
use smartnat::apply::{ApplyError, CleanupError, Scope, cleanup};
use smartnat::model::{Family, Host};
use smartnat::ruleset::{Builtin, Dataplane, Match, Rule, Table, Target};

use crate::bed::{Bed, LIMIT, everything, full, jump, nat, wrapped};
use crate::netns::{in_netns, sh};

/// What iptables cannot express, in several kinds.
const NATIVE: [&str; 8] = [
    "ip length 5 drop",
    "meta skuid 0 accept",
    "reject",
    "ct state established accept",
    "meta l4proto tcp ct zone 5 accept",
    "limit rate 5/second burst 3 packets log prefix \"x\" accept",
    "ip saddr . tcp dport vmap { 192.0.2.9 . 5 : drop }",
    "ct mark set 5",
];

fn is_incompatible(tool: &str, table: &str) -> bool {
    sh(&format!("{tool} -t {table} -S >/dev/null 2>&1 && echo yes || echo no")) == "no\n"
}

/// The same with our rules that belong into filter, last words included.
fn with_filter() -> Dataplane {
    let mut plane = full();
    let filter = plane.tables.entry((Family::Ipv4, Table::Filter)).or_default();
    let accept = vec![Rule::new([Match::Dnated], Target::Accept)];
    filter.add("SMARTNAT-REFUSE", vec![Rule::new([Match::NotDnated], Target::Return)]);
    filter.add("SMARTNAT-PASS", accept.clone());
    filter.add("SMARTNAT-PASS-IN", accept);
    filter.hooks.insert(Builtin::Input, jump("SMARTNAT-REFUSE"));
    filter.passes.insert(Builtin::Input, jump("SMARTNAT-PASS-IN"));
    filter.passes.insert(Builtin::Forward, jump("SMARTNAT-PASS"));
    plane
}

/// The rules of a chain as nft prints them, without counters.
fn rules(family: &str, table: &str, chain: &str) -> Vec<String> {
    let listing = sh(&format!("nft list chain {family} {table} {chain} 2>/dev/null"));
    let lines = listing.lines().map(str::trim).filter(|l| !l.contains('{') && !l.starts_with("type") && *l != "}");
    lines.filter(|l| !l.starts_with('#')).map(|l| without_counter(l).to_owned()).filter(|l| !l.is_empty()).collect()
}

fn without_counter(rule: &str) -> String {
    let words: Vec<&str> = rule.split(' ').collect();
    match words.iter().position(|w| *w == "counter") {
        Some(at) if words.get(at + 1) == Some(&"packets") => [&words[..at], &words[at + 5..]].concat().join(" "),
        _ => rule.to_owned(),
    }
}

fn places(rules: &[String], chain: &str) -> Vec<usize> {
    let leads = |r: &String| r.ends_with(&format!("jump {chain}"));
    rules.iter().enumerate().filter(|(_, r)| leads(r)).map(|(number, _)| number).collect()
}

#[test]
fn every_table_is_written_at_a_first_start_whatever_stands_where_and_ten_passes_leave_one_hook() {
    for (family, table, chain) in [
        ("ip", "mangle", "PREROUTING"),
        ("ip", "mangle", "FORWARD"),
        ("ip", "filter", "INPUT"),
        ("ip", "filter", "OUTPUT"),
        ("ip", "nat", "PREROUTING"),
        ("ip", "security", "INPUT"),
        ("ip6", "mangle", "INPUT"),
        ("ip6", "filter", "FORWARD"),
        ("ip", "filter", "theirs"),
    ] {
        in_netns(move || async move {
            let tool = if family == "ip" { "iptables" } else { "ip6tables" };
            sh(&format!(
                "{tool} -t {table} -N theirs; {tool} -t {table} -A {chain} -s ::/0 -j theirs 2>/dev/null; true"
            ));
            sh(&format!("nft add rule {family} {table} {chain} ct state established accept"));
            assert!(is_incompatible(tool, table), "{family} {table} {chain}");
            let plane = with_filter();
            let mut bed = Bed::new();
            bed.apply(&plane).await;
            assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
            for pass in 0..10 {
                if pass % 2 == 1 {
                    bed.apply(&plane).await;
                } else {
                    let applied = bed.refresh(&plane).await;
                    assert!(applied.writes.is_empty() && applied.repairs.is_empty(), "{pass}: {applied:?}");
                }
            }
            for (family, table, chain, ours) in [
                ("ip", "mangle", "INPUT", "SMARTNAT-BORDER-IN"),
                ("ip", "mangle", "FORWARD", "SMARTNAT-BORDER"),
                ("ip6", "mangle", "INPUT", "SMARTNAT-BORDER-IN"),
                ("ip6", "mangle", "FORWARD", "SMARTNAT-BORDER"),
                ("ip", "nat", "PREROUTING", "SMARTNAT-DNAT"),
                ("ip", "security", "INPUT", "SMARTNAT-GUARD"),
                ("ip", "filter", "INPUT", "SMARTNAT-REFUSE"),
            ] {
                assert_eq!(places(&rules(family, table, chain), ours), [0], "{family} {table} {chain}");
            }
            for (chain, ours) in [("INPUT", "SMARTNAT-PASS-IN"), ("FORWARD", "SMARTNAT-PASS")] {
                let rules = rules("ip", "filter", chain);
                assert_eq!(places(&rules, ours), [rules.len() - 1], "{rules:?}");
            }
            // A restart knows no handle of ours, and leaves one hook, too.
            let mut restarted = Bed::new();
            restarted.apply(&plane).await;
            assert!(restarted.refresh(&plane).await.writes.is_empty());
            assert_eq!(places(&rules("ip", "filter", "INPUT"), "SMARTNAT-REFUSE"), [0]);
            assert_eq!(places(&rules("ip", "mangle", "INPUT"), "SMARTNAT-BORDER-IN"), [0]);
            cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), false).await.unwrap();
            let left = sh("nft list ruleset");
            assert!(!left.contains("SMARTNAT") && left.contains("ct state established accept"), "{left}");
        });
    }
}

#[test]
fn in_operation_what_others_do_in_such_a_table_is_put_right() {
    for native in NATIVE {
        in_netns(move || async move {
            let plane = with_filter();
            let mut bed = Bed::new();
            bed.apply(&plane).await;
            sh(&format!(
                "nft insert rule ip filter INPUT '{native}'; nft insert rule ip nat PREROUTING '{native}' || true"
            ));
            sh("nft insert rule ip filter INPUT ct state new counter");
            assert!(is_incompatible("iptables", "filter"));
            let applied = bed.refresh(&plane).await;
            assert!(applied.repairs.iter().any(|r| r.to_string().contains("not the first rule")), "{applied:?}");
            assert_eq!(places(&rules("ip", "filter", "INPUT"), "SMARTNAT-REFUSE"), [0]);
            assert!(bed.refresh(&plane).await.writes.is_empty());

            // A copy behind a native rule, a rule in a chain of ours, a deny behind our last word.
            sh(
                "nft add rule ip filter INPUT jump SMARTNAT-REFUSE; nft add rule ip filter SMARTNAT-REFUSE ct state new accept",
            );
            sh("nft add rule ip filter FORWARD ip saddr 192.0.2.9 drop; nft insert rule ip filter SMARTNAT-PASS drop");
            bed.refresh(&plane).await;
            assert_eq!(places(&rules("ip", "filter", "INPUT"), "SMARTNAT-REFUSE"), [0]);
            assert_eq!(rules("ip", "filter", "SMARTNAT-REFUSE").len(), 1);
            assert_eq!(rules("ip", "filter", "SMARTNAT-PASS").len(), 1);
            let forward = rules("ip", "filter", "FORWARD");
            assert_eq!(places(&forward, "SMARTNAT-PASS"), [forward.len() - 1], "{forward:?}");
            sh("nft insert rule ip filter FORWARD drop");
            bed.refresh(&plane).await;
            assert_eq!(places(&rules("ip", "filter", "FORWARD"), "SMARTNAT-PASS"), [0]);
            assert!(bed.refresh(&plane).await.writes.is_empty());

            // What is not wanted any more goes; what is new comes.
            let mut other = plane.clone();
            nat(&mut other).chains.remove("SMARTNAT-M-b");
            nat(&mut other).add("SMARTNAT-M-c", vec![]);
            let filter = other.tables.get_mut(&(Family::Ipv4, Table::Filter)).unwrap();
            filter.passes.clear();
            filter.chains.retain(|name, _| !name.contains("PASS"));
            bed.apply(&other).await;
            let left = sh("nft list ruleset");
            assert!(!left.contains("SMARTNAT-M-b") && !left.contains("SMARTNAT-PASS"), "{left}");
            assert!(left.contains("SMARTNAT-M-c"), "{left}");
            assert!(bed.refresh(&other).await.writes.is_empty());
        });
    }
}

#[test]
fn when_the_obstacle_goes_the_table_is_read_as_before_and_nothing_is_written_again() {
    in_netns(|| async {
        let plane = with_filter();
        let mut bed = Bed::new();
        bed.apply(&plane).await;
        let before = everything();
        sh("nft add rule ip nat PREROUTING ct state new accept; nft add rule ip filter FORWARD ct state new accept");
        bed.refresh(&plane).await;
        for (table, chain) in [("nat", "PREROUTING"), ("filter", "FORWARD")] {
            sh(&format!(
                "nft delete rule ip {table} {chain} handle $(nft -a list chain ip {table} {chain} | sed -n 's/.*ct state new accept # handle //p')"
            ));
        }
        let applied = bed.refresh(&plane).await;
        assert!(applied.writes.is_empty() && applied.repairs.is_empty(), "{applied:?}");
        assert_eq!(everything(), before);
    });
}

#[test]
fn a_dormant_table_or_one_made_otherwise_keeps_forwarding_off_and_closes_what_can_be_closed() {
    for (make, undo, told) in [
        ("nft add table ip mangle '{ flags dormant; }'", "nft add table ip mangle", "dormant"),
        (
            "nft add table ip mangle; nft add chain ip mangle FORWARD '{ type filter hook forward priority 5; }'",
            "nft delete chain ip mangle FORWARD",
            "ipv4 mangle",
        ),
        (
            "nft add table ip6 mangle; nft add chain ip6 mangle INPUT",
            "nft delete chain ip6 mangle INPUT",
            "ipv6 mangle",
        ),
    ] {
        in_netns(move || async move {
            sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
            sh(make);
            let plane = with_filter();
            let mut bed = Bed::new();
            for scope in [Scope::Border, Scope::Full] {
                let result = bed.applier.apply(&plane, &Host::default(), scope).await;
                let error = result.expect_err(make);
                assert!(error.to_string().contains(told), "{error}");
                assert!(error.to_string().contains("forwarding"), "{error}");
                assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
                assert!(!bed.applier.is_closed());
            }
            let ruleset = sh("nft list ruleset");
            for rule in ["jump SMARTNAT-BORDER-IN", "jump SMARTNAT-BORDER", "jump SMARTNAT-DNAT", "jump SMARTNAT-GUARD"]
            {
                assert!(ruleset.contains(rule), "{rule}: {ruleset}");
            }
            sh(undo);
            bed.refresh(&plane).await;
            assert!(bed.applier.is_closed());
            assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
        });
    }
}

#[test]
fn sets_maps_flowtables_and_foreign_base_chains_in_the_filter_table_are_no_obstacle() {
    in_netns(|| async {
        sh("iptables -P FORWARD ACCEPT
            nft add set ip filter s '{ type ipv4_addr; elements = { 192.0.2.9 }; }'
            nft add map ip filter m '{ type ipv4_addr : verdict; }'
            nft add chain ip filter base '{ type filter hook forward priority 5; policy accept; }'
            nft add rule ip filter base ip saddr @s counter ct state new drop
            nft add rule ip filter FORWARD ip saddr @s drop
            nft add rule ip filter FORWARD iifname '{ eth8, eth9 }' drop
            nft add rule ip filter FORWARD ip saddr vmap @m");
        let plane = with_filter();
        let mut bed = Bed::new();
        bed.apply(&plane).await;
        assert!(bed.refresh(&plane).await.writes.is_empty());
        let forward = rules("ip", "filter", "FORWARD");
        assert_eq!(places(&forward, "SMARTNAT-PASS"), [forward.len() - 1], "{forward:?}");
    });
}

#[test]
fn one_part_that_fails_keeps_no_other_from_being_applied() {
    for failing in ["ipset", "filter", "nat"] {
        in_netns(move || async move {
            let directory = tempfile::tempdir().unwrap();
            let script = r#"if [ -e "$dir/fail" ]; then
                if [ "$tool" = ipset ]; then [ "$(cat "$dir/fail")" = ipset ] && { echo broken >&2; exit 9; }; fi
                case "$*" in *noflush*) cat >"$dir/in"
                    if grep -q "^\*$(cat "$dir/fail")" "$dir/in"; then echo broken >&2; exit 9; fi
                    "$real" "$@" <"$dir/in"; exit $?;; esac
            fi; exec "$real" "$@""#;
            let mut bed = Bed::with(wrapped(directory.path(), LIMIT, script));
            bed.apply(&with_filter()).await;
            sh("iptables -t mangle -F SMARTNAT-BORDER; ip6tables -t mangle -F SMARTNAT-BORDER
                iptables -t security -F SMARTNAT-GUARD; iptables -t filter -F SMARTNAT-REFUSE
                iptables -t nat -F SMARTNAT-M-a; echo 0 >/proc/sys/net/ipv4/ip_forward");
            std::fs::write(directory.path().join("fail"), failing).unwrap();
            bed.applier.invalidate();
            let error = bed.try_apply(&with_filter()).await.unwrap_err();
            assert!(error.to_string().contains(if failing == "ipset" { "sets" } else { failing }), "{error}");
            assert!(bed.applier.is_closed());
            assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
            let listing = sh("iptables-save; ip6tables-save");
            let filled = |chain: &str| listing.lines().any(|l| l.starts_with(&format!("-A {chain} ")));
            assert!(filled("SMARTNAT-BORDER") && filled("SMARTNAT-GUARD"), "{listing}");
            assert_eq!(filled("SMARTNAT-REFUSE"), failing != "filter", "{listing}");
            assert_eq!(filled("SMARTNAT-M-a"), failing != "nat", "{listing}");
            std::fs::remove_file(directory.path().join("fail")).unwrap();
            let after = bed.apply(&with_filter()).await;
            assert_eq!(after.writes.is_empty(), failing == "ipset", "{after:?}");
            assert!(bed.refresh(&with_filter()).await.writes.is_empty());
        });
    }
}

#[test]
fn without_nft_what_is_asked_for_is_written_and_what_is_not_seen_is_told() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        // The tools of the directory stand for PATH: there is no nft among them.
        let mut bed = Bed::with(wrapped(directory.path(), LIMIT, r#"exec "$real" "$@""#));
        sh(
            "iptables -t mangle -N theirs; iptables -t mangle -A INPUT -j theirs; nft add rule ip mangle INPUT ct state established accept",
        );
        sh("iptables -N theirs; nft add rule ip filter theirs ct state established accept");
        let plane = with_filter();
        for _ in 0..10 {
            bed.refresh(&plane).await;
        }
        assert_eq!(places(&rules("ip", "mangle", "INPUT"), "SMARTNAT-BORDER-IN"), [0]);
        assert_eq!(places(&rules("ip", "mangle", "FORWARD"), "SMARTNAT-BORDER"), [0]);
        assert_eq!(places(&rules("ip", "filter", "INPUT"), "SMARTNAT-REFUSE"), [0]);
        // The place of a last word cannot be seen in a chain that cannot be read.
        sh("nft insert rule ip filter FORWARD ct state established accept");
        for refresh in [true, false, true, false] {
            if refresh {
                bed.applier.invalidate();
            }
            let error = bed.try_apply(&plane).await.unwrap_err();
            let ApplyError::Table(error) = &error else { panic!("{error:?}") };
            assert!(matches!(&error.what, Trouble::Blind(chains) if *chains == ["FORWARD"]), "{error:?}");
        }
        assert_eq!(places(&rules("ip", "filter", "FORWARD"), "SMARTNAT-PASS").len(), 1);
        let refused = cleanup(bed.tools.clone(), bed.state.path(), &Host::default(), false).await.unwrap_err();
        assert!(matches!(refused, CleanupError::Blind(_)) && refused.to_string().contains("nftables"), "{refused}");
    });
}
