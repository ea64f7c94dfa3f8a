//! Removing what the first SmartNat left, and only that.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use bed::first_smartnat::{FirstInterface, FirstMapping, routing, rt_tables, sets, tables};
use bed::peer::Proto;
use smartnat::apply::Tools;
use smartnat::apply::first_smartnat::{Leftovers, leftovers, remove};
use smartnat::model::MarkLayout;
use tempfile::TempDir;

use crate::bed::{Bed, FOREIGN, LIMIT, everything, full};
use crate::netns::{in_netns, sh};

const WEB: &str = "QKZ232OQBTIWIKSNIIHGODLM";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// What the first SmartNat computes from `eth1` and `eth2`.
const TABLE1: u32 = 1_687_754_607;
const TABLE2: u32 = 797_188_321;

fn web() -> FirstMapping<'static> {
    FirstMapping {
        key: "default/web",
        short: WEB,
        address: ADDRESS,
        mark: 0x80b,
        source: "192.0.2.0/24",
        ports: vec![(Proto::Tcp, 80, SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80))],
        pods: vec![Ipv4Addr::new(10, 244, 1, 2)],
    }
}

fn interfaces() -> [FirstInterface<'static>; 2] {
    [
        FirstInterface {
            name: "eth1",
            index: 11,
            table: TABLE1,
            addresses: vec![ADDRESS],
            subnet: "203.0.113.0/24",
            gateway: Ipv4Addr::new(203, 0, 113, 1),
        },
        FirstInterface {
            name: "eth2",
            index: 12,
            table: TABLE2,
            addresses: vec![Ipv4Addr::new(198, 51, 100, 10)],
            subnet: "198.51.100.0/24",
            gateway: Ipv4Addr::new(198, 51, 100, 1),
        },
    ]
}

/// The interfaces of the first SmartNat's box, and the file with its tables.
struct Box1 {
    directory: TempDir,
    tools: Tools,
}

impl Box1 {
    fn new(entries: &str) -> Self {
        sh("ip link add eth1 index 11 type veth peer name p1; ip address add 203.0.113.10/24 dev eth1; ip link set eth1 up
            ip link add eth2 index 12 type veth peer name p2; ip address add 198.51.100.10/24 dev eth2; ip link set eth2 up
            ip link set p1 up; ip link set p2 up");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("rt_tables"), format!("255\tlocal\n254\tmain\n{entries}")).unwrap();
        Box1 { directory, tools: Tools::new(LIMIT) }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("rt_tables")
    }

    /// Feeds a text to a command.
    fn feed(&self, command: &str, text: &str) {
        let file = self.directory.path().join("input");
        fs::write(&file, text).unwrap();
        sh(&format!("{command} <{}", file.display()));
    }

    fn lay(&self, restore: &str, times: usize) {
        self.feed("ipset restore", &sets(&[web()]));
        self.feed(&format!("{restore} --noflush"), &tables(&[web()]));
        self.feed("ip -batch -", &routing(&interfaces(), times));
    }

    async fn look(&self) -> Leftovers {
        leftovers(&self.tools, &self.file()).await.unwrap()
    }

    /// Removes what is there; then nothing is left to remove. Returns what was found, and the sets that stay.
    async fn clean(&self) -> (Leftovers, Vec<String>) {
        let found = self.look().await;
        let removed = remove(&self.tools, &found, MarkLayout::default()).await.unwrap();
        (found, removed.sets_in_use)
    }
}

/// All that can be left or lost. Tables themselves come into being when they are first looked at.
fn kernel() -> String {
    let tables = everything();
    let kept = tables
        .lines()
        .filter(|l| l.starts_with("-A") || l.contains(" - [") || l.starts_with("create") || l.starts_with("add"));
    kept.map(|l| l.to_owned() + "\n").collect::<String>()
        + &sh("ip -N rule; ip -N route show table all; ip -N -6 rule; ip -N -6 route show table all")
}

#[test]
fn all_of_it_goes_and_nothing_of_others_or_ours() {
    in_netns(|| async {
        let first = Box1::new(&rt_tables(&interfaces()));
        sh(FOREIGN);
        Bed::new().apply(&full()).await;
        // Much like it, and not its own.
        sh("iptables -t nat -N MAP-foo; iptables -t nat -A PREROUTING -j MAP-foo
            iptables -t nat -N MAP-qkz232oqbtiwiksniihgodlm; iptables -t nat -N SNM-MINE
            iptables -t mangle -N MAP-QKZ232OQBTIWIKSNIIHGODLM
            iptables -N SNM-PREROUTING; iptables -A INPUT -j SNM-PREROUTING
            ipset create DNAT-short hash:net,port; ipset create AAAAAAAAAAAAAAAAAAAAAAAA bitmap:port range 1-9
            ipset create BBBBBBBBBBBBBBBBBBBBBBBB hash:ip family inet6
            ip rule add from 203.0.113.10 lookup 1001 protocol 83 pref 120
            ip rule add fwmark 0x80b/0xfff lookup 4242 pref 500; ip route add default via 203.0.113.1 dev eth1 table 4242");
        let before = kernel();
        first.lay("iptables-restore", 3);
        let file = fs::read(first.file()).unwrap();
        let dry = kernel();
        let found = first.look().await;
        assert_eq!(kernel(), dry, "a look changes nothing");
        assert_eq!(found.summary(), "5 chains, 4 jumps to them, 2 sets, 12 policy rules, 4 routes");
        assert_eq!(found.table_lines, [format!("{TABLE1} eth1"), format!("{TABLE2} eth2")]);
        assert_eq!(
            found.rule_names(),
            [
                format!("from 198.51.100.10 lookup {TABLE2} (eth2) (3 times)"),
                format!("from 203.0.113.10 lookup {TABLE1} (eth1) (3 times)"),
                format!("fwmark 0x80b lookup {TABLE1} (eth1) (3 times)"),
                format!("fwmark 0x80c lookup {TABLE2} (eth2) (3 times)"),
            ]
        );
        let (_, in_use) = first.clean().await;
        assert_eq!(in_use, [""; 0]);
        assert_eq!(kernel(), before);
        assert_eq!(fs::read(first.file()).unwrap(), file, "the administrator's file is not written");

        let again = first.look().await;
        assert!(again.is_empty(), "{again:?}");
        let odd = again.left.join("\n");
        assert!(odd.contains("AAAAAAAAAAAAAAAAAAAAAAAA") && odd.contains("BBBBBBBBBBBBBBBBBBBBBBBB"), "{odd}");
        first.clean().await;
        assert_eq!(kernel(), before);
    });
}

#[test]
fn thousands_of_duplicate_rules_go_in_a_few_calls() {
    in_netns(|| async {
        let first = Box1::new(&rt_tables(&interfaces()));
        let before = kernel();
        first.feed("ip -batch -", &routing(&interfaces(), 590));
        let before_it = first.tools.calls();
        let (found, _) = first.clean().await;
        assert_eq!(found.rules(), 2360);
        // Not one process a rule.
        let calls = first.tools.calls() - before_it;
        assert!(calls < 50, "{calls}");
        assert_eq!(kernel(), before);
    });
}

#[test]
fn tables_are_known_without_their_lines_as_after_a_run_in_a_container() {
    in_netns(|| async {
        let first = Box1::new("");
        let before = kernel();
        first.lay("iptables-restore", 2);
        fs::remove_file(first.file()).unwrap();
        let (found, _) = first.clean().await;
        assert!(found.rules() == 8 && found.routes() == 4 && found.table_lines.is_empty(), "{found:?}");
        assert_eq!(kernel(), before);
    });
}

#[test]
fn the_rules_of_an_interface_that_is_gone_go_by_the_line_of_its_table() {
    in_netns(|| async {
        let first = Box1::new(&rt_tables(&interfaces()));
        let before = sh("ip -N rule");
        first.feed("ip -batch -", &routing(&interfaces(), 2));
        sh("ip link del eth2");
        let (found, _) = first.clean().await;
        assert!(found.rules() == 8 && found.routes() == 2, "{found:?}");
        assert_eq!(sh("ip -N rule"), before);
    });
}

#[test]
fn a_table_that_an_administrator_named_after_an_interface_is_left_alone_and_told() {
    in_netns(|| async {
        // Policy routing as the books have it.
        let first = Box1::new("100 eth1\n200 dsl\n");
        sh("ip rule add from 203.0.113.10 lookup 100; ip route add default via 203.0.113.1 dev eth1 table 100
            ip rule add from 198.51.100.10 lookup 200; ip rule add fwmark 0x80c lookup 200
            ip route add default via 198.51.100.1 dev eth2 table 200");
        let before = kernel();
        let (found, _) = first.clean().await;
        assert!(found.is_empty() && found.table_lines.is_empty(), "{found:?}");
        assert_eq!(kernel(), before);
        assert_eq!(found.left.len(), 2, "{found:?}");
        assert!(found.left[0].contains("rule from 203.0.113.10 lookup 100 (eth1)"), "{found:?}");
        assert!(found.left[1].contains("rule fwmark 0x80c lookup 200 (dsl)"), "{found:?}");
    });
}

#[test]
fn a_table_with_another_number_is_known_by_its_interfaces_mark() {
    in_netns(|| async {
        let first = Box1::new("100 eth1\n");
        let before = kernel();
        sh("ip rule add from 203.0.113.10 lookup 100; ip rule add fwmark 0x80b lookup 100
            ip route add 203.0.113.0/24 dev eth1 scope link table 100; ip route add default via 203.0.113.1 dev eth1 table 100");
        let (found, _) = first.clean().await;
        assert!(found.rules() == 2 && found.routes() == 2 && found.table_lines == ["100 eth1"], "{found:?}");
        assert_eq!(kernel(), before);
    });
}

#[test]
fn what_others_put_into_its_tables_or_lead_there_stays_and_is_told() {
    in_netns(|| async {
        let first = Box1::new(&rt_tables(&interfaces()));
        sh(&format!(
            "ip route add blackhole 192.0.2.99 table {TABLE1}; ip route add 192.0.2.98 via 203.0.113.1 dev eth1 table {TABLE1}
             ip rule add from 10.9.0.0/16 lookup {TABLE2}"
        ));
        let before = kernel();
        first.feed("ip -batch -", &routing(&interfaces(), 1));
        let (found, _) = first.clean().await;
        assert_eq!((found.rules(), found.routes()), (4, 2), "{found:?}");
        assert!(
            found.left[0].contains(&format!("a route of somebody else's in table {TABLE1} (eth1) (2 times)")),
            "{found:?}"
        );
        assert!(
            found.left[1].contains(&format!("leads to table {TABLE2} (eth2), which keeps its routes")),
            "{found:?}"
        );
        // The foreign rule's table still works.
        let routes = sh(&format!("ip route show table {TABLE2}"));
        assert!(routes.contains("default via 198.51.100.1"), "{routes}");
        sh(&format!("ip route flush table {TABLE2}"));
        assert_eq!(kernel(), before);
    });
}

#[test]
fn chains_and_sets_that_others_use_stay_and_are_told() {
    in_netns(|| async {
        let first = Box1::new("");
        first.lay("iptables-restore", 1);
        sh(&format!(
            "iptables -t nat -N ADMIN; iptables -t nat -A ADMIN -j MAP-{WEB}
             iptables -A FORWARD -m set --match-set {WEB} src -j DROP"
        ));
        let (found, in_use) = first.clean().await;
        assert_eq!(in_use, [WEB]);
        assert_eq!(found.chains[0].pinned(), [format!("nat MAP-{WEB}")]);
        let left = everything();
        let chains: Vec<&str> = left.lines().filter(|l| l.contains("SNM-") || l.contains("MAP-")).collect();
        assert_eq!(chains, [format!(":MAP-{WEB} - [0:0]"), format!("-A ADMIN -j MAP-{WEB}")]);
        assert!(!left.contains("DNAT-"), "{left}");
        // Once they let go of it, the rest goes too.
        sh("iptables -t nat -F ADMIN; iptables -F FORWARD");
        first.clean().await;
        let left = everything();
        assert!(!left.contains(WEB), "{left}");
        assert!(first.look().await.is_empty());
    });
}

#[test]
fn the_tables_of_the_legacy_variant_are_cleaned_too() {
    in_netns(|| async {
        let first = Box1::new("");
        sh("iptables-legacy -t nat -N MAP-foo; iptables-legacy -t nat -A PREROUTING -j MAP-foo");
        let all = || kernel() + &sh("iptables-legacy-save | grep -v '^[#:]'; iptables-legacy-save | grep -- ' - '");
        sh("iptables-legacy -t mangle -S");
        let before = all();
        first.lay("iptables-legacy-restore", 1);
        assert!(all().contains("-j SNM-PREROUTING"));
        let (found, _) = first.clean().await;
        let tools: Vec<&str> = found.chains.iter().map(|c| c.restore).collect();
        assert_eq!(tools, ["iptables-legacy-restore"]);
        assert_eq!(all(), before);
    });
}
