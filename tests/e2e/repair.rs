//! What others break among our objects is put right, and what is not ours is left as it is.

use bed::{Bed, eventually};

use crate::lifecycle::kernel_state;
use crate::support::{assert_alive, assert_dropped, assert_served, daemon, manifests, mapping, open_stream};

/// Breaks something; the kernel must come to hold what it held, and the repair must be counted.
fn repaired(what: &str, damage: &[&str]) {
    let bed = Bed::new();
    // As many sources as stand in a set of their own.
    let web = mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24");
    let web = (1..=4).fold(web, |web, i| web.source(&format!("198.18.{i}.1")));
    let manifests = manifests([web]);
    let daemon = daemon(&bed, &manifests).refreshing().start();
    let whole = kernel_state(&bed);
    for command in damage {
        let before = daemon.metric("smartnat_repairs_total", "");
        let command = command.replace("{set}", &source_set(&bed)).replace("{chain}", &mapping_chain(&bed));
        bed.border.run(&command);
        eventually(&format!("{what} repaired after `{command}`"), || (kernel_state(&bed) == whole).then_some(()));
        eventually("the repair is counted", || (daemon.metric("smartnat_repairs_total", "") > before).then_some(()));
        assert_served(&bed.client1, Bed::EXT1);
        assert_dropped(&bed.attacker1, Bed::EXT1);
    }
}

/// The set that holds the allowed sources.
fn source_set(bed: &Bed) -> String {
    let sets = bed.border.run("ipset save");
    let member = sets.lines().find(|l| l.starts_with("add SN-") && l.ends_with(" 192.0.2.0/24"));
    member.expect("a set holds the allowed source").split(' ').nth(1).expect("a name").to_owned()
}

/// The chain that translates for the first pod.
fn mapping_chain(bed: &Bed) -> String {
    let rules = bed.border.run("iptables-save -t nat");
    let rule = rules.lines().find(|l| l.starts_with("-A SMARTNAT-") && l.contains("--to-destination 10.244.1.2:8080"));
    rule.expect("a rule translates to a pod").split(' ').nth(1).expect("a chain").to_owned()
}

#[test]
fn chains_flushed_and_hooks_removed_come_back() {
    repaired(
        "chains",
        &[
            "iptables -t nat -F {chain}",
            "iptables -t mangle -F SMARTNAT-BORDER",
            "iptables -t mangle -D FORWARD 1",
            "iptables -t nat -F PREROUTING",
            "iptables -t mangle -F",
            "ip6tables -t mangle -F",
            "iptables -t mangle -A SMARTNAT-BORDER -j ACCEPT",
            "iptables -t mangle -I SMARTNAT-BORDER -j ACCEPT",
        ],
    );
}

#[test]
fn set_members_added_and_removed_by_others_are_put_right() {
    repaired(
        "sets",
        &["ipset del {set} 192.0.2.0/24", "ipset add {set} 203.0.113.0/24", "ipset flush {set}", "ipset flush SN-EP"],
    );
}

#[test]
fn rules_routes_and_kernel_parameters_changed_by_others_are_put_right() {
    repaired(
        "routing",
        &[
            "ip rule del from 203.0.113.10",
            "ip route flush table 1001",
            "ip route replace unreachable default table 1001 proto 83",
            "sysctl -qw net.ipv4.conf.eth1.rp_filter=1",
            "sysctl -qw net.ipv4.conf.eth1.arp_ignore=0",
            "sysctl -qw net.ipv4.ip_forward=0",
        ],
    );
}

#[test]
fn the_borders_rules_flushed_by_others_are_back_at_once_and_connections_go_on() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    // Noticed by event: the periodic look is a minute away.
    let _daemon = daemon(&bed, &manifests).start();
    let whole = kernel_state(&bed);
    let stream = open_stream(&bed.client1, Bed::EXT1);
    for _ in 0..3 {
        for table in ["mangle", "filter", "security"] {
            bed.border.run(&format!("iptables -w -t {table} -F"));
        }
        eventually("everything is back", || (kernel_state(&bed) == whole).then_some(()));
        assert_alive(&stream);
        assert_served(&bed.client1, Bed::EXT1);
    }
}

#[test]
fn a_ruleset_flushed_by_nft_tables_and_all_is_back_at_once() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let whole = kernel_state(&bed);
    // What becomes of open connections: see `flushed`.
    bed.border.run("nft flush ruleset");
    eventually("everything is back", || (kernel_state(&bed) == whole).then_some(()));
    assert_served(&bed.client1, Bed::EXT1);
}
