//! Rules, sets and routes of others, kube-proxy's among them.

use bed::{Bed, eventually};

use crate::support::{
    assert_dropped, assert_nothing_lost, assert_served, await_flows, daemon, flood, manifests, mapping, try_port,
};
use bed::peer::{Failure, Proto};

const FOREIGN_RULES: &str = "\
*mangle
:ADMIN-MANGLE - [0:0]
-A PREROUTING -i eth0 -m comment --comment \"SMARTNAT- in a comment is not ours\" -j ADMIN-MANGLE
-A ADMIN-MANGLE -p tcp -m tcp --dport 22 -j TOS --set-tos 0x10/0x3f
COMMIT
*nat
:MYSMARTNAT-PRE - [0:0]
:SNM-PREROUTING - [0:0]
-A PREROUTING -j MYSMARTNAT-PRE
-A MYSMARTNAT-PRE -m set --match-set admin dst -j RETURN
-A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:ADMIN - [0:0]
-A INPUT -i eth0 -p tcp -m tcp --dport 22 -j ADMIN
-A ADMIN -m set --match-set SNOOP src -m comment --comment \"quoted \\\"text\\\" here\" -j LOG --log-prefix \"a b\"
COMMIT
";

const FOREIGN_SETS: &str = "\
create admin hash:net family inet
add admin 10.99.0.0/16
create SNOOP hash:ip family inet timeout 0
add SNOOP 192.0.2.200 timeout 0
";

/// What is not ours, as text: counters cut off, our chains, hooks, sets, routes and rules left out.
fn foreign(bed: &Bed) -> String {
    let ours = |line: &str| {
        line.starts_with(":SMARTNAT-")
            || line.starts_with("-A SMARTNAT-")
            || line.ends_with("-j SMARTNAT-PRE")
            || (line.starts_with("-A ")
                && line.split(' ').any(|w| w.starts_with("SMARTNAT-"))
                && !line.contains("comment"))
    };
    let mut out = String::new();
    for save in ["iptables-save", "ip6tables-save"] {
        for line in bed.border.run(save).lines().filter(|l| (l.starts_with("-A") || l.contains(" - [")) && !ours(l)) {
            out.extend([line.split(" [").next().unwrap_or(line), "\n"]);
        }
    }
    for line in
        bed.border.run("ipset save").lines().filter(|l| l.split(' ').nth(1).is_some_and(|n| !n.starts_with("SN-")))
    {
        out.extend([line, "\n"]);
    }
    for command in ["ip -N rule", "ip -N route show table all", "ip -N -6 rule", "ip -N -6 route show table all"] {
        let text = bed.border.run(command);
        text.lines().filter(|l| !l.contains("proto 83")).for_each(|l| out.extend([l.trim_end(), "\n"]));
    }
    out
}

#[test]
fn foreign_rules_sets_and_routes_are_kept_over_start_changes_restart_and_cleanup() {
    let bed = Bed::new();
    bed.border.feed("ipset restore", FOREIGN_SETS);
    bed.border.feed("iptables-restore --noflush", FOREIGN_RULES);
    bed.border.feed("ip6tables-restore --noflush", "*filter\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n");
    bed.border.ip(
        "rule add from 10.99.0.0/16 priority 150 lookup 1050\nrule add fwmark 0x5 priority 95 lookup 1050 protocol 84\n\
         route add 10.99.0.0/16 via 10.0.0.1\nroute add default via 10.0.0.1 table 1050 proto 84\n\
         route add unreachable 10.98.0.0/16 table 1001 metric 77",
    );
    let before = foreign(&bed);
    assert!(before.contains("MYSMARTNAT-PRE") && before.contains("SNOOP") && before.contains("10.98.0.0"), "{before}");
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").refreshing().start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_eq!(foreign(&bed), before, "after the start");
    manifests.put(mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24")).write();
    daemon.settle(&manifests);
    daemon.passes(2);
    assert_eq!(foreign(&bed), before, "after a change and a refresh");
    daemon.kill();
    daemon.start_again();
    assert_eq!(foreign(&bed), before, "after a restart");
    daemon.stop();
    // The old SmartNat's chain is a sign of nothing that would be open.
    let cleanup = daemon.command(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    assert_eq!(foreign(&bed), before, "after cleanup");
}

/// kube-proxy's jumps, which it puts at the top whenever it starts.
const KUBE: &str = "\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
-I PREROUTING -j KUBE-SERVICES
-I OUTPUT -j KUBE-SERVICES
-I POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.99:1
COMMIT
*filter
:KUBE-NODE-PORT - [0:0]
:KUBE-FORWARD - [0:0]
-I INPUT -j KUBE-NODE-PORT
-I FORWARD -j KUBE-FORWARD
-A KUBE-NODE-PORT -j ACCEPT
-A KUBE-FORWARD -j ACCEPT
COMMIT
";

fn first_rule(bed: &Bed, table: &str, chain: &str) -> String {
    let rules = bed.border.run(&format!("iptables -t {table} -S {chain}"));
    rules.lines().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn our_hooks_move_ahead_of_kube_proxys_at_once_and_lose_no_packet() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1]).source("192.0.2.0/25")]);
    // The periodic look is a minute away: events must do it.
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.feed("iptables-restore --noflush", KUBE);
    for (table, chain) in [("nat", "PREROUTING"), ("nat", "POSTROUTING"), ("filter", "INPUT")] {
        eventually(&format!("our hook is first in {table} {chain}"), || {
            first_rule(&bed, table, chain).contains("-j SMARTNAT-").then_some(())
        });
    }
    assert_served(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT1);
    // Once ahead of a rule that steals the port, being moved about costs nothing.
    let floods = flood(&bed.client1, Bed::EXT1);
    for round in 0..10 {
        bed.border
            .run(&format!("iptables -t nat -I PREROUTING -m comment --comment round-{round} -j RETURN -d 192.0.2.1"));
        eventually("our hook is first again", || {
            first_rule(&bed, "nat", "PREROUTING").contains("-j SMARTNAT-").then_some(())
        });
        await_flows(&floods, 2);
    }
    assert_nothing_lost(floods, 20);
    let kept = bed.border.run("iptables -t nat -S PREROUTING");
    assert_eq!(kept.lines().filter(|l| l.contains("round-")).count(), 10, "{kept}");
}

#[test]
fn accept_all_at_the_top_of_every_filter_chain_opens_nothing() {
    let bed = Bed::new();
    bed.serve("border", "sshd", &[std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 22)], &[]);
    let manifests = manifests([mapping("web", &[Bed::EXT1]).source("192.0.2.0/25")]);
    let _daemon = daemon(&bed, &manifests).refreshing().start();
    for chain in ["INPUT", "FORWARD"] {
        bed.border.run(&format!("iptables -I {chain} -j ACCEPT"));
    }
    for outsider in [&bed.attacker1, &bed.client2] {
        assert_eq!(try_port(outsider, Proto::Tcp, Bed::POD1, 8080), Err(Failure::Timeout));
        assert_eq!(try_port(outsider, Proto::Tcp, Bed::EXT2, 22), Err(Failure::Timeout));
        assert_eq!(try_port(outsider, Proto::Tcp, Bed::BORDER, 22), Err(Failure::Timeout));
        assert_dropped(outsider, Bed::EXT1);
    }
    assert_eq!(bed.core.get(Proto::Tcp, Bed::BORDER, 22).unwrap().name, "sshd", "inside it is open");
    assert_served(&bed.client1, Bed::EXT1);
}
