//! Neighbours on the box that do no harm, and what is said of them: nothing, until they do.

use bed::Bed;

use crate::others::{check, trace};
use crate::support::{assert_dropped, assert_served, daemon, manifests, mapping};

/// As wg-quick makes them for a peer with AllowedIPs 0.0.0.0/0.
const WG_QUICK: &str = "\
link add wg0 type veth peer name wg0-peer
address add 10.9.0.2/32 dev wg0
link set wg0 up
link set wg0-peer up
route add default dev wg0 table 51820
rule add pref 32764 table main suppress_prefixlength 0
rule add pref 32765 not fwmark 51820 table 51820
";

#[test]
fn a_default_route_of_a_tunnel_is_named_where_it_takes_the_way_to_the_pods_and_not_else() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    bed.border.ip(WG_QUICK);
    // A box with a VRF has this one; none of ours is in one.
    bed.border.ip("rule add pref 1000 l3mdev");
    assert_served(&bed.client1, Bed::EXT1);
    for group in ["rules", "marks"] {
        let found = check(&daemon, &manifests, group);
        assert!(found.iter().all(|f| f.level == "OK"), "{found:#?}");
    }
    let beyond = trace(&daemon, &manifests);
    assert!(beyond.contains("Beyond: none of 6 policy rules of others decides about its way"), "{beyond}");

    // The same tunnel, and the pods by the default route of main alone.
    bed.border.ip("route del 10.244.0.0/16");
    assert_dropped(&bed.client1, Bed::EXT1);
    let found = check(&daemon, &manifests, "rules");
    let told = found.iter().find(|f| f.level == "FAIL" && f.what.contains("32765:"));
    let told = told.unwrap_or_else(|| panic!("{found:#?}"));
    let beyond = trace(&daemon, &manifests);
    assert!(beyond.contains("decide about its way:\n        32765: not from all fwmark 0xca6c"), "{beyond}");
    // The rule that is told, as it is typed.
    let rules = told.remedy.split('`').find(|part| part.starts_with("ip rule add pref")).expect("rules");
    bed.border.feed("sh -e", rules);
    assert_served(&bed.client1, Bed::EXT1);
    assert!(trace(&daemon, &manifests).contains("Beyond: none of 8 policy rules"));
    let found = check(&daemon, &manifests, "rules");
    assert!(found.iter().all(|f| f.level == "OK"), "{found:#?}");
}

#[test]
fn docker_s_guards_of_its_containers_stop_nothing_of_ours_and_are_not_told() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    bed.border.run("iptables -t raw -A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP");
    assert_served(&bed.client1, Bed::EXT1);
    let found = check(&daemon, &manifests, "foreign");
    assert!(found.iter().all(|f| f.level == "OK"), "{found:#?}");
    // The same for an address of ours is another matter.
    bed.border.run("iptables -t raw -A PREROUTING -d 203.0.113.10/32 ! -i docker0 -j DROP");
    assert_dropped(&bed.client1, Bed::EXT1);
    let found = check(&daemon, &manifests, "foreign");
    assert!(found.iter().any(|f| f.level == "FAIL" && f.what.contains("-d 203.0.113.10/32")), "{found:#?}");
}

#[test]
fn what_a_tool_says_at_each_reading_is_logged_once() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    bed.border.run("iptables-legacy -P FORWARD ACCEPT");
    let daemon = daemon(&bed, &manifests).start();
    for round in 0..3 {
        daemon.pass_over(|| {
            bed.border.run(&format!("iptables -A FORWARD -s 192.0.2.1 -m comment --comment r{round} -j ACCEPT"))
        });
    }
    let log = daemon.log();
    let warnings = log.lines().filter(|l| l.contains("WARN") && l.contains("legacy tables present"));
    let texts: Vec<&str> = warnings.filter(|l| !l.contains("ip6tables-legacy")).collect();
    assert_eq!(texts.len(), 1, "{texts:#?}");
}
