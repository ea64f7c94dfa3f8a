//! Firewalls of others in the way of mapped packets: what they stop is named by `check` and `trace`, and the remedy that is told works.

use bed::peer::{Failure, Proto};
use bed::{Bed, Daemon, Manifests, eventually};

use crate::support::{assert_served, daemon, manifests, mapping, try_port, try_ports};

/// One finding of `check`: level, group, what, remedy.
#[derive(Debug)]
pub struct Finding {
    pub level: String,
    pub what: String,
    pub remedy: String,
}

/// The findings of one group.
pub fn check(daemon: &Daemon, manifests: &Manifests, group: &str) -> Vec<Finding> {
    let output = daemon.command(&["check", "--manifests", manifests.dir().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut findings: Vec<(String, Finding)> = Vec::new();
    for line in text.lines() {
        if let Some(remedy) = line.trim_start().strip_prefix("-> ") {
            findings.last_mut().expect("a remedy follows a finding").1.remedy = remedy.to_owned();
        } else if let Some((level, rest)) = line.split_once("  ") {
            let (group, what) = rest.trim().split_once(' ').expect("a group and what was found");
            let finding = Finding { level: level.to_owned(), what: what.trim().to_owned(), remedy: String::new() };
            findings.push((group.to_owned(), finding));
        }
    }
    assert!(!findings.is_empty(), "{output:?}");
    findings.into_iter().filter(|(of, _)| of == group).map(|(_, finding)| finding).collect()
}

pub fn trace(daemon: &Daemon, manifests: &Manifests) -> String {
    let dir = manifests.dir().to_str().unwrap();
    let arguments = ["trace", "--manifests", dir, "--source", "192.0.2.10", "--destination", "203.0.113.10"];
    let output = daemon.command(&[&arguments[..], &["--port", "80", "--interface", "eth1"]].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Somebody's firewall: a name, how it is made, what `check` says of it, how it is taken away.
struct Firewall {
    name: &'static str,
    make: &'static str,
    told: &'static [&'static str],
    level: &'static str,
    end: &'static str,
}

const fn nft(name: &'static str, make: &'static str, told: &'static [&'static str]) -> Firewall {
    Firewall { name, make, told, level: "FAIL", end: "nft delete table inet fw" }
}

const FIREWALLS: [Firewall; 10] = [
    nft(
        "a policy",
        "nft 'add table inet fw; add chain inet fw forward { type filter hook forward priority 10; policy drop; }'\n\
         nft add rule inet fw forward ct state established,related accept",
        &["nft table inet fw", "chain forward (forward, priority 10)", "new connections of Mappings", "policy drop"],
    ),
    nft(
        "a reject at the end",
        "nft 'add table inet fw; add chain inet fw f { type filter hook forward priority -5; }'\n\
         nft add rule inet fw f iifname lo accept\nnft add rule inet fw f counter reject with icmpx admin-prohibited",
        &["chain f", "reject with icmpx"],
    ),
    nft(
        "a drop two jumps away",
        "nft 'add table inet fw; add chain inet fw f { type filter hook forward priority 0; }; add chain inet fw a; \
              add chain inet fw b'\n\
         nft add rule inet fw f jump a\nnft add rule inet fw a goto b\nnft add rule inet fw b drop",
        &["chain f", "`drop` in chain b"],
    ),
    nft(
        "an accept elsewhere ends nothing",
        "nft 'add table inet fw; add chain inet fw early { type filter hook forward priority -10; }; \
              add chain inet fw late { type filter hook forward priority 10; policy drop; }'\n\
         nft add rule inet fw early accept",
        &["chain late", "policy drop"],
    ),
    nft(
        "behind postrouting's translation",
        "nft 'add table inet fw; add chain inet fw out { type filter hook postrouting priority 200; policy drop; }'",
        &["chain out (postrouting, priority 200)", "policy drop"],
    ),
    nft(
        "no connection tracking",
        "nft 'add table inet fw; add chain inet fw pre { type filter hook prerouting priority -300; }'\n\
         nft add rule inet fw pre notrack",
        &["chain pre", "connection tracking", "notrack"],
    ),
    nft(
        "redirected ahead of us",
        "nft 'add table inet fw; add chain inet fw pre { type nat hook prerouting priority -110; }'\n\
         nft add rule inet fw pre meta l4proto '{ tcp, udp }' redirect to :9",
        &["chain pre", "leads elsewhere", "redirect to :9"],
    ),
    Firewall {
        name: "on the wire",
        make: "nft 'add table netdev n; add chain netdev n i { type filter hook ingress device eth1 priority 0; policy drop; }'",
        told: &["nft table netdev n", "chain i (ingress, priority 0)", "policy drop"],
        level: "FAIL",
        end: "nft delete table netdev n",
    },
    Firewall {
        name: "the legacy variant",
        make: "iptables-legacy -P FORWARD DROP",
        told: &["iptables-legacy table filter", "chain FORWARD", "policy drop"],
        level: "FAIL",
        end: "iptables-legacy -P FORWARD ACCEPT",
    },
    Firewall {
        name: "raw of iptables",
        make: "iptables -t raw -A PREROUTING -j NOTRACK",
        told: &["iptables table raw", "connection tracking", "NOTRACK"],
        level: "FAIL",
        end: "iptables -t raw -F PREROUTING",
    },
];

#[test]
fn who_stops_mapped_packets_is_named_with_a_remedy_that_makes_them_flow() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    let before = check(&daemon, &manifests, "foreign");
    assert!(before.iter().all(|f| f.level == "OK" && f.what.contains("looked at")), "{before:#?}");
    assert!(trace(&daemon, &manifests).contains("Beyond: nobody else has rules in its way"));
    for firewall in &FIREWALLS {
        let Firewall { name, make, told, level, end } = firewall;
        bed.border.feed("sh -e", make);
        let answers = try_ports(&bed.client1, Bed::EXT1);
        assert!(answers.iter().all(Result::is_err), "{name}: it stops nothing: {answers:?}");
        let found = check(&daemon, &manifests, "foreign");
        let finding = found.iter().find(|f| told.iter().all(|part| f.what.contains(part)));
        let finding = finding.unwrap_or_else(|| panic!("{name}: not told: {found:#?}"));
        assert_eq!(&finding.level, level, "{name}: {finding:?}");
        let beyond = trace(&daemon, &manifests);
        let (_, beyond) =
            beyond.split_once("\nBeyond: it also meets rules of others").unwrap_or_else(|| panic!("{beyond}"));
        // Where, and by what; the two put it into words of their own.
        let (place, cause) = (told[0], told[told.len() - 1]);
        assert!(beyond.contains(place) && beyond.contains(cause), "{name}: {beyond}");
        // An operator copies the command up to its explanation.
        let command = finding.remedy.split(" (").next().unwrap();
        bed.border.feed("sh -e", command);
        assert_served(&bed.client1, Bed::EXT1);
        let after = check(&daemon, &manifests, "foreign");
        assert!(after.iter().all(|f| f.level == "OK"), "{name}: after {command}: {after:#?}");
        bed.border.feed("sh -e", end);
        if make.contains("raw") {
            continue;
        }
        assert_eq!(
            try_port(&bed.attacker1, Proto::Tcp, Bed::POD1, 8080),
            Err(Failure::Timeout),
            "the border is closed"
        );
    }
}

/// iptables calls such a table incompatible and shows nothing of it; nft does.
#[test]
fn a_native_rule_among_those_of_iptables_is_seen() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    bed.border.run("nft insert rule ip filter FORWARD ct state new,established counter drop");
    let answers = try_ports(&bed.client1, Bed::EXT1);
    assert!(answers.iter().all(Result::is_err), "it stops nothing: {answers:?}");
    let found = check(&daemon, &manifests, "foreign");
    let told = found.iter().find(|f| f.level == "FAIL" && f.what.contains("iptables table filter, chain FORWARD"));
    let told = told.unwrap_or_else(|| panic!("{found:#?}"));
    assert!(told.what.contains("ct state established,new counter"), "{told:?}");
    bed.border.feed("sh -e", told.remedy.split(" (").next().unwrap());
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn a_firewall_that_lets_mapped_packets_pass_is_no_failure() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    let rules = "add table inet fw
        add chain inet fw input { type filter hook input priority 0; policy drop; }
        add rule inet fw input iifname lo accept
        add rule inet fw input tcp dport 22 accept
        add chain inet fw forward { type filter hook forward priority 0; policy drop; }
        add rule inet fw forward ct state invalid drop
        add rule inet fw forward iifname docker0 drop
        add rule inet fw forward ip daddr 10.244.0.0/16 accept
        add rule inet fw forward ip saddr 10.244.0.0/16 accept
        add table ip6 six
        add chain ip6 six forward { type filter hook forward priority 0; policy drop; }
        add table ip asleep { flags dormant; }
        add chain ip asleep forward { type filter hook forward priority 0; policy drop; }
        ";
    bed.border.feed("nft -f -", rules);
    assert_served(&bed.client1, Bed::EXT1);
    let found = check(&daemon, &manifests, "foreign");
    assert!(found.iter().all(|f| f.level == "OK" && f.what.contains("inet fw")), "{found:#?}");
    bed.border.feed("nft -f -", "insert rule inet fw forward tcp dport 8080 drop\n");
    assert_eq!(try_port(&bed.client1, Proto::Tcp, Bed::EXT1, 80), Err(Failure::Timeout));
    let found = check(&daemon, &manifests, "foreign");
    let may =
        found.iter().any(|f| f.level == "WARN" && f.what.contains("may") && f.what.contains("tcp dport 8080 drop"));
    assert!(may, "{found:#?}");
}

/// Marks that native rules overwrite: what `check` says of them is what real packets meet.
#[test]
fn overwritten_marks_are_named_with_what_they_break() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    assert_eq!(assert_served(&bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "masqueraded");
    let told = |part: &str| {
        let found = check(&daemon, &manifests, "marks");
        let told = found.iter().find(|f| f.level == "FAIL" && f.what.contains("nft table inet fw"));
        let told = told.unwrap_or_else(|| panic!("{found:#?}"));
        assert!(told.what.contains(part), "{told:?}");
    };
    let put = |hook: &str, priority: i32, rule: &str| {
        _ = bed.border.attempt("nft delete table inet fw", "");
        let chain = format!("add chain inet fw c {{ type filter hook {hook} priority {priority}; }}");
        bed.border.feed("nft -f -", &format!("add table inet fw\n{chain}\nadd rule inet fw c {rule}\n"));
    };
    put("prerouting", -140, "meta mark set 0x1");
    told("answers of pods leave by the main table");
    assert!(try_ports(&bed.client2, Bed::EXT1).iter().chain(&try_ports(&bed.client1, Bed::EXT1)).any(Result::is_err));
    // On its way a packet's mark means nothing any more.
    put("forward", 0, "meta mark set 0x1");
    assert_eq!(assert_served(&bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "masqueraded");
    let found = check(&daemon, &manifests, "marks");
    assert!(found.iter().all(|f| f.level == "OK"), "{found:#?}");
    put("forward", 0, "ct mark set 0x0");
    told("0x20000000 gone, the border drops");
    assert!(try_ports(&bed.client1, Bed::EXT1).iter().any(Result::is_err));
    // With a mask that leaves ours alone it serves, and nobody complains.
    put("prerouting", -140, "meta mark set meta mark and 0x7fff0000 or 0x1");
    assert_served(&bed.client1, Bed::EXT1);
    let found = check(&daemon, &manifests, "marks");
    assert!(found.iter().all(|f| f.level == "OK"), "{found:#?}");
}

/// Machines on a bridge that counts as external: their frames only cross it.
#[test]
fn frames_that_cross_a_bridge_are_dropped_by_br_netfilter_and_check_says_so() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let [one, two] = [&bed.client1, &bed.client2].map(|machine| machine.name());
    bed.border.ip(&format!(
        "link add eth7 type bridge\nlink add p1 type veth peer name mach netns {one}\n\
         link add p2 type veth peer name mach netns {two}\nlink set p1 master eth7\nlink set p2 master eth7\n\
         link set p1 up\nlink set p2 up\nlink set eth7 up"
    ));
    bed.client1.ip("address add 10.77.0.1/24 dev mach\nlink set mach up");
    bed.client2.ip("address add 10.77.0.2/24 dev mach\nlink set mach up");
    let daemon = daemon(&bed, &manifests).start();
    let other: std::net::Ipv4Addr = "10.77.0.2".parse().unwrap();
    let crosses = || try_port(&bed.client1, Proto::Tcp, other, 7) == Err(Failure::Refused);
    bed.border.set_sysctl("net/bridge/bridge-nf-call-iptables", "0");
    bed.border.set_sysctl("net/bridge/bridge-nf-call-ip6tables", "0");
    eventually("frames cross the bridge", || crosses().then_some(()));
    let found = check(&daemon, &manifests, "bridges");
    assert!(found.iter().all(|f| f.level == "OK"), "{found:#?}");
    bed.border.set_sysctl("net/bridge/bridge-nf-call-iptables", "1");
    let told = || {
        let found = check(&daemon, &manifests, "bridges");
        let told = found.into_iter().find(|f| f.level == "FAIL").expect("a failure of group bridges");
        assert!(told.what.contains("IPv4 frames that only cross eth7"), "{told:?}");
        told.remedy.split(" (").next().unwrap().to_owned()
    };
    assert_eq!(try_port(&bed.client1, Proto::Tcp, other, 7), Err(Failure::Timeout), "they are dropped");
    bed.border.feed("sh -e", &told());
    assert!(crosses(), "the general switch is off");
    bed.border.ip("link set dev eth7 type bridge nf_call_iptables 1");
    assert_eq!(try_port(&bed.client1, Proto::Tcp, other, 7), Err(Failure::Timeout), "they are dropped again");
    bed.border.feed("sh -e", &told());
    assert!(crosses(), "its own switch is off");
    let found = check(&daemon, &manifests, "bridges");
    assert!(found.iter().all(|f| f.level == "OK"), "{found:#?}");
}
