//! Large changes are written in several blocks, and whoever is killed between two of them leaves nothing half made.

use std::collections::{BTreeMap, BTreeSet};

use smartnat::model::{Family, Protocol};
use smartnat::ruleset::{Builtin, Dataplane, IpSet, Match, Ports, Rule, SetKind, Table, Target};

use crate::bed::{Bed, LIMIT, everything, goto, insert_first, jump, mapping_chain, nat, net, table, wrapped};
use crate::netns::{in_netns, sh};

const MAPPINGS: u16 = 400;

/// One Mapping a port, found by ranges of 20 ports; `version` is in the names of all chains but the first.
fn plane(version: &str, pod: &str) -> Dataplane {
    let tcp = Protocol::Tcp;
    let ports = |first, last| [Match::Protocol(tcp), Match::DestinationPort(tcp, Ports { first, last })];
    let mut rules = table(&[(Builtin::Prerouting, "SMARTNAT-DNAT")], []);
    let mut root = Vec::new();
    for first in (1..=MAPPINGS).step_by(20) {
        let branch = format!("SMARTNAT-T-{version}{first}");
        let mut branches = Vec::new();
        for port in first..first + 20 {
            let handler = format!("SMARTNAT-M-{version}{port}");
            branches.push(Rule::new(ports(port, port), goto(&handler).target));
            rules.add(&handler, mapping_chain(port, pod));
        }
        rules.add(&branch, branches);
        root.push(Rule::new(ports(first, first + 19), goto(&branch).target));
    }
    rules.add("SMARTNAT-DNAT", root);
    Dataplane {
        tables: BTreeMap::from([((Family::Ipv4, Table::Nat), rules)]),
        sets: BTreeMap::from([(
            "SN-SRC-a".into(),
            IpSet::of(SetKind::HashNet(Family::Ipv4), [net("198.51.100.0/24")]),
        )]),
        ..Dataplane::default()
    }
}

/// The rules of nat that a packet can meet.
fn in_reach() -> BTreeSet<String> {
    let listing = sh("iptables-save -t nat");
    let rules: Vec<(&str, &str)> = listing.lines().filter_map(|l| l.strip_prefix("-A ")?.split_once(' ')).collect();
    let mut reached: BTreeSet<&str> = Builtin::ALL.iter().map(|builtin| builtin.as_str()).collect();
    loop {
        let led = rules.iter().filter(|(chain, _)| reached.contains(chain));
        let targets = led.filter_map(|(_, rule)| rule.rsplit(' ').next()).filter(|word| word.starts_with("SMARTNAT-"));
        let more: BTreeSet<&str> = targets.filter(|target| !reached.contains(target)).collect();
        if more.is_empty() {
            break;
        }
        reached.extend(more);
    }
    // An empty chain is met, too.
    let declared = reached.iter().map(|chain| format!("chain {chain}"));
    rules.iter().filter(|(c, _)| reached.contains(c)).map(|(c, rule)| format!("{c} {rule}")).chain(declared).collect()
}

/// Passes the first blocks on, as many as the file `left` says; then it ends by SIGKILL, and so does every later call.
const KILLED: &str = r#"
test $tool = iptables-restore || exec "$real" "$@"
test "$1" = --version && exec "$real" "$@"
cat > $dir/input
blocks=$(grep -c '^COMMIT' $dir/input); left=$(cat $dir/left)
if [ $blocks -le $left ]; then echo $((left - blocks)) > $dir/left; exec "$real" "$@" < $dir/input; fi
echo 0 > $dir/left
awk -v n=$left 'n > 0 { print } /^COMMIT/ { n-- }' $dir/input | "$real" "$@"
kill -9 $$
"#;

/// Goes from `before` to `after`, killed behind each block in turn; returns how many there are.
async fn killed_everywhere(before: &Dataplane, after: &Dataplane) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let left = |blocks: usize| std::fs::write(dir.path().join("left"), blocks.to_string()).unwrap();
    let mut ends = Vec::new();
    let mut wholes = Vec::new();
    // The table is there from now on, with nothing in it or something.
    Bed::new().apply(after).await;
    for plane in [before, after] {
        Bed::new().apply(plane).await;
        ends.push(in_reach());
        wholes.push(everything());
    }
    assert_ne!(ends[0], ends[1]);
    for blocks in 0.. {
        Bed::new().apply(before).await;
        assert_eq!((in_reach(), everything()), (ends[0].clone(), wholes[0].clone()), "nothing is left over");
        left(blocks);
        let mut bed = Bed::with(wrapped(dir.path(), LIMIT, KILLED));
        let result = bed.try_apply(after).await;
        let reached = in_reach();
        assert!(ends.contains(&reached), "after {blocks} blocks: {reached:#?}");
        if result.is_ok() {
            assert_eq!((&reached, everything()), (&ends[1], wholes[1].clone()));
            return blocks;
        }
        // The daemon is started again.
        Bed::new().apply(after).await;
        assert_eq!((in_reach(), everything()), (ends[1].clone(), wholes[1].clone()), "after {blocks} blocks");
    }
    unreachable!()
}

#[test]
fn a_first_start_that_is_killed_is_gone_on_with() {
    in_netns(|| async {
        let mut nothing = plane("a", "10.244.1.2");
        *nat(&mut nothing) = table(&[], []);
        let blocks = killed_everywhere(&nothing, &plane("a", "10.244.1.2")).await;
        assert!(blocks >= 4, "new chains in three blocks, then what leads to them: {blocks}");
    });
}

#[test]
fn other_names_for_everything_take_the_place_of_the_old_ones_at_once() {
    in_netns(|| async {
        let blocks = killed_everywhere(&plane("a", "10.244.1.2"), &plane("b", "10.244.1.3")).await;
        assert!(blocks >= 10, "made, switched, emptied, removed: {blocks}");
    });
}

#[test]
fn every_chain_in_reach_changes_at_once() {
    in_netns(|| async {
        killed_everywhere(&plane("a", "10.244.1.2"), &plane("a", "10.244.1.3")).await;
    });
}

#[test]
fn all_mappings_go_and_a_foreign_rule_keeps_one_chain() {
    in_netns(|| async {
        sh("iptables -t nat -N THEIRS");
        let mut nothing = plane("a", "10.244.1.2");
        *nat(&mut nothing) = table(&[], []);
        let blocks = killed_everywhere(&plane("a", "10.244.1.2"), &nothing).await;
        assert!(blocks >= 5, "the hook, then two times three blocks: {blocks}");

        let mut bed = Bed::new();
        bed.apply(&plane("a", "10.244.1.2")).await;
        sh("iptables -t nat -A THEIRS -j SMARTNAT-T-a21");
        bed.refresh(&nothing).await;
        let left = sh("iptables -t nat -S | grep SMARTNAT");
        assert_eq!(left, "-N SMARTNAT-T-a21\n-A THEIRS -j SMARTNAT-T-a21\n");
    });
}

#[test]
fn a_large_table_is_written_by_few_calls_and_read_back_in_samples() {
    in_netns(|| async {
        let dir = tempfile::tempdir().unwrap();
        let log = r#"test "$1" = --version || echo "$tool" >> $dir/calls; exec "$real" "$@""#;
        let mut bed = Bed::with(wrapped(dir.path(), LIMIT, log));
        let plane = plane("a", "10.244.1.2");
        let applied = bed.apply(&plane).await;
        assert_eq!((applied.writes.chains, applied.writes.hooks), (1 + 20 + 400, 1));
        let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls.lines().filter(|tool| *tool == "iptables-restore").count(), 2, "{calls}");
        let refreshed = bed.refresh(&plane).await;
        assert!(refreshed.writes.is_empty() && refreshed.repairs.is_empty(), "{refreshed:?}");
    });
}

#[test]
fn in_a_large_table_a_rule_that_the_tool_spells_otherwise_is_known_again() {
    in_netns(|| async {
        let mut plane = plane("a", "10.244.1.2");
        // The tool prints nothing for an interface of any name.
        let odd = Rule::new([Match::InInterface("+".into())], jump("SMARTNAT-ODD").target);
        let rules = nat(&mut plane);
        rules.add("SMARTNAT-ODD", Vec::new());
        for name in ["SMARTNAT-M-a7", "SMARTNAT-M-a333"] {
            insert_first(rules, name, odd.clone());
        }
        let mut bed = Bed::new();
        bed.apply(&plane).await;
        assert!(sh("iptables -t nat -S SMARTNAT-M-a333").contains("-A SMARTNAT-M-a333 -j SMARTNAT-ODD\n"));
        for _ in 0..2 {
            let refreshed = bed.refresh(&plane).await;
            assert!(refreshed.writes.is_empty() && refreshed.repairs.is_empty(), "{refreshed:?}");
        }
    });
}

#[test]
fn a_large_table_in_the_order_of_names_is_listed_chain_by_chain_and_as_a_whole_alike() {
    in_netns(|| async {
        let names: Vec<String> = (0..2500).map(|i| format!("SMARTNAT-M-{i:05}")).collect();
        let mut input = "*nat\n".to_owned();
        names.iter().for_each(|name| input += &format!(":{name} - [0:0]\n"));
        names.iter().for_each(|name| input += &format!("-A {name} -s 192.0.2.0/24 -j RETURN\n"));
        input += ":THEIRS - [0:0]\n-A THEIRS -g SMARTNAT-M-00007\n-A PREROUTING -j THEIRS\nCOMMIT\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), input).unwrap();
        sh(&format!("iptables-restore --noflush {}", file.path().display()));
        // Policies are of built-in chains, of which the kernel has those that were used.
        let sorted = |text: String| -> BTreeSet<String> {
            text.lines().filter(|line| !line.starts_with("-P")).map(str::to_owned).collect()
        };
        let tools = smartnat::apply::Tools::new(LIMIT);
        let listed = sorted(tools.list_table(Family::Ipv4, Table::Nat).await.unwrap());
        assert_eq!(tools.calls(), 2, "what the tool is, then all chains by one call of it");
        let whole = sorted(sh("iptables -t nat -S"));
        assert_eq!(listed.symmetric_difference(&whole).collect::<Vec<_>>(), Vec::<&String>::new());

        // A first start over it: what is wanted stays, the rest goes.
        let mut plane = plane("a", "10.244.1.2");
        let kept = vec![Rule::new([Match::Source("192.0.2.0/24".parse().unwrap())], Target::Return)];
        *nat(&mut plane) = table(&[], [("SMARTNAT-M-00008", kept)]);
        let applied = Bed::new().apply(&plane).await;
        assert_eq!(applied.writes.chains, 2499, "{applied:?}");
        assert_eq!(
            sh("iptables -t nat -S SMARTNAT-M-00007"),
            "-N SMARTNAT-M-00007\n",
            "emptied, kept by a rule of others"
        );
    });
}
