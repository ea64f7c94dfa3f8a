//! Rules that nft wrote into the tables of iptables, which iptables then cannot read.

use std::time::{Duration, Instant};

use bed::{Bed, Daemon, eventually, eventually_within};

use crate::support::{assert_alive, assert_dropped, assert_served, daemon, manifests, mapping, open_stream, try_port};
use bed::peer::{Failure, Proto};

/// A rule of each kind, in its table and chain.
const NATIVE: [(&str, &str, &str, &str); 6] = [
    ("ip", "filter", "INPUT", "ct state established accept"),
    ("ip", "filter", "theirs", "ip length 5 drop"),
    ("ip", "mangle", "PREROUTING", "ct mark set ct mark"),
    ("ip", "nat", "POSTROUTING", "ct state new ip saddr 192.0.2.250 counter accept"),
    ("ip6", "mangle", "FORWARD", "ct state established accept"),
    ("ip", "security", "INPUT", "meta skuid 77 drop"),
];

fn tool(family: &str) -> &'static str {
    if family == "ip" { "iptables" } else { "ip6tables" }
}

fn write_natively(bed: &Bed) {
    bed.border.run("iptables -N theirs");
    for (family, table, chain, rule) in NATIVE {
        bed.border.run(&format!("{} -t {table} -A {chain} -p 99", tool(family)));
        bed.border.feed("nft -f -", &format!("add rule {family} {table} {chain} {rule}\n"));
        let read = bed.border.attempt(&format!("{} -t {table} -S", tool(family)), "");
        assert!(read.is_err(), "iptables reads {rule}");
    }
}

/// How often our jumps stand in a chain, and whether one is first.
fn hooks(bed: &Bed, family: &str, table: &str, chain: &str) -> (usize, bool) {
    let listing = bed.border.run(&format!("nft list chain {family} {table} {chain}"));
    let rules: Vec<&str> = listing.lines().skip_while(|l| !l.contains("type ")).skip(1).collect();
    let ours = |l: &&&str| l.contains("jump SMARTNAT-") && !l.contains("SMARTNAT-PASS");
    (rules.iter().filter(ours).count(), rules.first().is_some_and(|l| ours(&l)))
}

fn check(daemon: &Daemon) -> (Option<i32>, String) {
    let output = daemon.command(&["check"]);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// The lines of one group that fail, each with its remedy.
fn failures(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let failing = lines.iter().enumerate().filter(|(_, l)| l.starts_with("FAIL  tables"));
    failing.map(|(i, l)| ((*l).to_owned(), lines[i + 1].trim().trim_start_matches("-> ").to_owned())).collect()
}

#[test]
fn at_a_first_start_the_border_is_closed_and_clients_are_served_and_check_names_the_rules() {
    let bed = Bed::new();
    write_natively(&bed);
    let manifests = manifests([mapping("web", &[Bed::EXT1]).source("192.0.2.0/25")]);
    let mut daemon = daemon(&bed, &manifests).refreshing().start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT1);
    assert_eq!(try_port(&bed.attacker1, Proto::Tcp, Bed::POD1, 8080), Err(Failure::Timeout));
    let stream = open_stream(&bed.client1, Bed::EXT1);
    daemon.passes(10);
    daemon.kill();
    daemon.start_again();
    let hooked = [
        ("ip", "mangle", "PREROUTING"),
        ("ip", "mangle", "INPUT"),
        ("ip", "mangle", "FORWARD"),
        ("ip6", "mangle", "FORWARD"),
        ("ip", "nat", "PREROUTING"),
        ("ip", "filter", "INPUT"),
        ("ip", "security", "INPUT"),
    ];
    for (family, table, chain) in hooked {
        assert_eq!(hooks(&bed, family, table, chain), (1, true), "{family} {table} {chain}");
    }
    // Somebody puts another ahead of ours.
    bed.border.feed("nft -f -", "insert rule ip nat PREROUTING ct state new ip saddr 192.0.2.251 accept\n");
    eventually("our hook is first again", || (hooks(&bed, "ip", "nat", "PREROUTING") == (1, true)).then_some(()));

    let (code, text) = check(&daemon);
    assert_eq!(code, Some(3), "{text}");
    let failing = failures(&text);
    assert_eq!(failing.len(), 5, "{text}");
    for (family, table, chain, _) in NATIVE {
        let named = |(what, remedy): &(String, String)| {
            what.contains(&format!("table {family} {table} "))
                && remedy.contains(&format!("nft delete rule {family} {table} {chain} handle "))
        };
        assert!(failing.iter().any(named), "{family} {table} {chain}: {text}");
    }
    // The remedies, as they stand there.
    for (_, remedy) in failing {
        let commands = remedy.split(" (write").next().unwrap();
        commands.split("; ").for_each(|command| drop(bed.border.run(command)));
    }
    assert!(failures(&check(&daemon).1).is_empty(), "{}", check(&daemon).1);
    daemon.passes(2);
    assert_alive(&stream);
    assert_served(&bed.client1, Bed::EXT1);
    for (family, table, chain) in hooked {
        assert_eq!(hooks(&bed, family, table, chain), (1, true), "{family} {table} {chain}");
    }
}

#[test]
fn what_stands_as_planned_beside_such_rules_is_no_difference() {
    let bed = Bed::new();
    let written = [
        "add rule ip mangle FORWARD ct state established accept",
        "add rule ip6 mangle PREROUTING meta mark set ct mark",
        "add rule ip filter FORWARD ct state vmap { established : accept, invalid : drop }",
    ];
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).refreshing().start();
    written.iter().for_each(|rule| drop(bed.border.feed("nft -f -", rule)));
    daemon.passes(2);
    let plan = ["plan", "--diff", "--manifests", manifests.dir().to_str().unwrap()];
    let diff = |daemon: &Daemon| {
        let output = daemon.command(&plan);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_served(&bed.client1, Bed::EXT1);
    eventually("nothing differs", || (diff(&daemon).0 == Some(0)).then_some(()));
    daemon.stop();
    // Ahead of ours, and behind the pass.
    for (rule, place) in [
        ("insert rule ip mangle FORWARD ct state established accept", "-t mangle, chain FORWARD"),
        (
            "add rule ip filter FORWARD ct state vmap { established : accept, invalid : drop }",
            "-t filter, chain FORWARD",
        ),
    ] {
        let before = diff(&daemon).1;
        bed.border.feed("nft -f -", rule);
        let (code, after) = diff(&daemon);
        assert_eq!(code, Some(3), "{after}");
        assert!(after.contains(place) && !before.contains(place), "{before}\n{after}");
    }
}

#[test]
fn cleanup_takes_all_of_ours_out_of_such_tables_and_nothing_of_theirs() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    daemon.pass_over(|| write_natively(&bed));
    daemon.stop();
    let cleanup = daemon.command(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    let left = bed.border.run("nft list ruleset");
    assert!(!left.contains("SMARTNAT"), "{left}");
    for part in ["ip length 5 drop", "ct mark set ct mark", "192.0.2.250", "skuid 77", "ct state established accept"] {
        assert!(left.contains(part), "{part}: {left}");
    }
    assert_eq!(bed.border.run("ipset -n list"), "");
}

#[test]
fn while_mangle_takes_no_hook_nothing_is_forwarded_and_the_pass_after_the_obstacle_follows_at_once() {
    let bed = Bed::new();
    bed.border.set_sysctl("net/ipv4/ip_forward", "0");
    bed.border.feed(
        "nft -f -",
        "add table ip mangle\nadd chain ip mangle FORWARD { type filter hook forward priority 7; }\n",
    );
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests);
    daemon.launch();
    let healthcheck = || daemon.get("/healthcheck").map(|reply| reply.code);
    eventually("the apply fails", || (healthcheck() == Some(503)).then_some(()));
    // The pause is long by now; nobody waits for it.
    eventually_within(Duration::from_secs(60), "some passes have failed", || {
        daemon.log().contains("retry_seconds=16").then_some(())
    });
    assert_eq!(bed.border.sysctl("net/ipv4/ip_forward"), "0");
    let text = check(&daemon).1;
    assert!(text.contains("chain FORWARD of table ip mangle was made by nft"), "{text}");
    // What is not in the way is closed.
    assert_eq!(hooks(&bed, "ip", "mangle", "INPUT"), (1, true));
    let (_, remedy) = failures(&text).into_iter().next().unwrap();
    // What the daemon said last of the next try is longer than anything below takes.
    let log = daemon.log();
    let pause = log.rsplit("retry_seconds=").next().and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let pause: u64 =
        pause.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("no pause is told: {log}"));
    let removed = Instant::now();
    remedy.split(" (its").next().unwrap().split("; ").for_each(|command| drop(bed.border.run(command)));
    eventually("the apply works", || (healthcheck() == Some(200)).then_some(()));
    assert!(removed.elapsed() < Duration::from_secs(pause) / 2, "{:?}\n{}", removed.elapsed(), daemon.log());
    assert_eq!(bed.border.sysctl("net/ipv4/ip_forward"), "1");
    assert_eq!(hooks(&bed, "ip", "mangle", "FORWARD"), (1, true));
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn a_dormant_border_is_told_and_awake_at_once() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    bed.border.feed("nft -f -", "add table ip mangle { flags dormant; }\n");
    let healthcheck = || daemon.get("/healthcheck").map(|reply| reply.code);
    eventually("the apply fails", || (healthcheck() == Some(503)).then_some(()));
    let text = check(&daemon).1;
    let failing = failures(&text);
    assert_eq!(failing.len(), 1, "{text}");
    assert!(failing[0].0.contains("table ip mangle is dormant"), "{text}");
    bed.border.run(&failing[0].1);
    eventually("the apply works", || (healthcheck() == Some(200)).then_some(()));
    assert_dropped(&bed.attacker1, Bed::POD1);
    assert_served(&bed.client1, Bed::EXT1);
}
