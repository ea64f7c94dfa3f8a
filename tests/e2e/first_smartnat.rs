//! From the first SmartNat to this one on one box: the old rules serve, the new daemon takes over, the old rules go, and nobody notices.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Command, Output};

use bed::first_smartnat::{FirstInterface, FirstMapping, routing, rt_tables, sets, tables};
use bed::peer::{Failure, Flood, Proto, Request};
use bed::{Bed, Options, eventually};
use tempfile::TempDir;

use crate::lifecycle::kernel_state;
use crate::support::{
    PROGRAM, SHORT, assert_alive, assert_cut, assert_nothing_lost, assert_served, daemon, flood, manifests, mapping,
    open_stream, pods_answering, try_port,
};

/// The first SmartNat's name of `default/web`.
const WEB: &str = "QKZ232OQBTIWIKSNIIHGODLM";
const INDEXES: (u32, u32) = (11, 12);

/// The box as the first SmartNat left it.
struct Old {
    bed: Bed,
    directory: TempDir,
}

/// Rules, sets and tables that only look like it.
const LOOKALIKES: &str = "\
*nat
:MAP-foo - [0:0]
:MAP-qkz232oqbtiwiksniihgodlm - [0:0]
-A PREROUTING -d 192.0.2.1/32 -j MAP-foo
-A MAP-foo -m set --match-set DNAT-short src,dst -j RETURN
COMMIT
*filter
:SNM-PREROUTING - [0:0]
-A INPUT -s 192.0.2.1/32 -j SNM-PREROUTING
COMMIT
";

impl Old {
    /// A box with lookalikes, which forwards, as the first SmartNat's did.
    fn new() -> Old {
        let bed = Bed::with(Options { indexes: Some(INDEXES), ..Options::default() });
        let sysctls = ["ip_forward", "conf/all/rp_filter", "conf/eth1/rp_filter", "conf/eth2/rp_filter"];
        for (n, name) in sysctls.iter().enumerate() {
            bed.border.set_sysctl(&format!("net/ipv4/{name}"), if n == 0 { "1" } else { "0" });
        }
        bed.border.feed(
            "ipset restore",
            "create DNAT-short hash:net,port\ncreate CCCCCCCCCCCCCCCCCCCCCCCC bitmap:port range 1-9\n",
        );
        bed.border.feed("iptables-restore --noflush", LOOKALIKES);
        bed.border
            .ip("rule add from 198.51.100.10 lookup 100\nroute add default via 198.51.100.1 dev eth2 table 100\n\
             rule add fwmark 0x5 lookup 7777\nroute add default via 203.0.113.1 dev eth1 table 7777");
        let old = Old { bed, directory: tempfile::tempdir().unwrap() };
        let entries = rt_tables(&old.interfaces());
        fs::write(old.file(), format!("255\tlocal\n100\teth2\n7777 nowhere\n{entries}")).unwrap();
        old
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("rt_tables")
    }

    fn interfaces(&self) -> [FirstInterface<'static>; 2] {
        [
            FirstInterface {
                name: "eth1",
                index: INDEXES.0,
                table: 1_687_754_607,
                addresses: vec![Bed::EXT1, Bed::EXT1B],
                subnet: "203.0.113.0/24",
                gateway: Bed::R1,
            },
            FirstInterface {
                name: "eth2",
                index: INDEXES.1,
                table: 797_188_321,
                addresses: vec![Bed::EXT2],
                subnet: "198.51.100.0/24",
                gateway: Bed::R2,
            },
        ]
    }

    /// What it left of the Mapping `default/web`. A pod stands in the ClusterIP's place: there is no IPVS here.
    fn lay(&self, times: usize) {
        let to = |port| SocketAddrV4::new(Bed::POD1, port);
        let web = FirstMapping {
            key: "default/web",
            short: WEB,
            address: Bed::EXT1,
            mark: self.interfaces()[0].mark(),
            source: "192.0.2.0/24",
            ports: vec![(Proto::Tcp, 80, to(8080)), (Proto::Udp, 53, to(9090))],
            pods: vec![Bed::POD1, Bed::POD2],
        };
        self.bed.border.feed("ipset restore", &sets(std::slice::from_ref(&web)));
        self.bed.border.feed("iptables-restore --noflush", &tables(&[web]));
        self.bed.border.ip(&routing(&self.interfaces(), times));
    }

    /// Runs `smartnat-manager` where /etc/iproute2/rt_tables is the file of this box.
    fn manager(&self, arguments: &[&str]) -> Output {
        let script = "mount --bind \"$1\" /etc/iproute2/rt_tables && shift && exec \"$@\"";
        // The namespace of mounts is of this one command: `ip netns exec` makes it.
        Command::new("ip")
            .args(["netns", "exec", self.bed.border.name(), "sh", "-c", script, "sh"])
            .arg(self.file())
            .arg(PROGRAM)
            .args(arguments)
            .output()
            .expect("ip is there: the bed was made with it")
    }

    #[track_caller]
    fn cleanup(&self, arguments: &[&str]) -> String {
        let output = self.manager(&[&["cleanup", "--first-smartnat"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn its_leftovers_go_under_traffic_beside_the_daemon_and_nothing_is_lost() {
    let old = Old::new();
    let (bed, before) = (&old.bed, kernel_state(&old.bed));
    // More than the 2,359 that were seen: every address and mark, in both tables.
    old.lay(500);
    let file = fs::read(old.file()).unwrap();
    let answers: Vec<_> = (0..8).map(|_| bed.client1.get(Proto::Tcp, Bed::EXT1, 80).unwrap()).collect();
    assert!(answers.iter().all(|a| a.at.ip() == Bed::POD1), "the imitation serves: {answers:?}");

    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24")]);
    let mut daemon = daemon(bed, &manifests).start();
    daemon.settle(&manifests);
    // Both are there, and ours is asked first: the old one knows one pod only, and never dropped anybody.
    assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 24).len(), 2);
    assert!(try_port(&bed.attacker1, Proto::Tcp, Bed::POD1, 8080).is_err(), "the border is closed");
    // Before there is traffic: its sets count.
    let both = kernel_state(bed);
    let would = old.cleanup(&["--dry-run"]);
    assert!(would.contains("would be removed") && would.contains(&format!("nat MAP-{WEB}")), "{would}");
    assert_eq!(kernel_state(bed), both, "--dry-run changes nothing");
    let writes = daemon.metric("smartnat_writes_total", "");

    let stream = open_stream(&bed.client1, Bed::EXT1);
    let floods: Vec<Flood> = flood(&bed.client1, Bed::EXT1).into_iter().chain(flood(&bed.client2, Bed::EXT2)).collect();
    let more_flows = |more: u64| {
        let wanted: Vec<u64> = floods.iter().map(|f| f.flows() + more).collect();
        eventually("there are more flows", || floods.iter().zip(&wanted).all(|(f, n)| f.flows() >= *n).then_some(()));
    };
    more_flows(20);
    let said = old.cleanup(&[]);
    for part in [
        "Removed of the first SmartNat:",
        "5 chains, 4 jumps",
        &format!("nat MAP-{WEB}"),
        &format!("2 sets: {WEB}, DNAT-{WEB}"),
        "2500 policy rules",
        "from 203.0.113.11 lookup 1687754607 (eth1) (500 times)",
        "4 routes",
        "CCCCCCCCCCCCCCCCCCCCCCCC",
        "rule from 198.51.100.10 lookup 100 (eth2)",
        "  797188321 eth2\n",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert_alive(&stream);
    assert_eq!(pods_answering(&bed.client1, Bed::EXT1, 24).len(), 2);
    more_flows(20);
    assert_nothing_lost(floods, 40);
    assert_eq!(stream.stop().broken, None);
    assert!(try_port(&bed.attacker1, Proto::Tcp, Bed::POD1, 8080).is_err(), "nothing was opened");
    let now = ["smartnat_writes_total", "smartnat_repairs_total"].map(|m| daemon.metric(m, ""));
    assert_eq!(now, [writes, 0.0], "the daemon had nothing to put right");

    let again = old.cleanup(&[]);
    assert!(again.starts_with("Nothing of the first SmartNat was in the kernel.\n"), "{again}");
    assert_eq!(fs::read(old.file()).unwrap(), file, "rt_tables is the administrator's");
    assert!(daemon.stop().success());
    let cleanup = daemon.command(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    assert_eq!(kernel_state(bed), before, "what only looked like it is still there");
}

#[test]
fn check_warns_of_its_leftovers_until_they_are_gone() {
    let old = Old::new();
    let check = || {
        let output = old.manager(&["check", "--default-gw-interface", "eth0", "--interfaces-pattern", "eth[1-9]"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find(|l| l.contains("first SmartNat")).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    old.lay(2);
    let told = check();
    assert!(told.starts_with("WARN") && told.contains("5 chains, 4 jumps to them, 2 sets, 10 policy rules"), "{told}");
    old.cleanup(&[]);
    assert!(check().starts_with("OK"));
}

#[test]
fn it_can_go_before_the_new_daemon_comes() {
    let old = Old::new();
    let before = kernel_state(&old.bed);
    old.lay(1);
    old.cleanup(&[]);
    assert_eq!(kernel_state(&old.bed), before);
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&old.bed, &manifests).start();
    assert_served(&old.bed.client1, Bed::EXT1);
}

#[test]
fn connections_that_the_first_smartnat_began_end_with_it_and_new_ones_are_served_at_once() {
    let old = Old::new();
    let bed = &old.bed;
    old.lay(1);
    let stream = open_stream(&bed.client1, Bed::EXT1);
    assert_alive(&stream);
    // A resolver, or a peer of a tunnel: it never changes its port.
    let from = SocketAddrV4::new(Bed::CLIENT1, 4500);
    let to = SocketAddrV4::new(Bed::EXT1, 53);
    let ask = || bed.client1.within(|| Request { from, timeout: SHORT, ..Request::new(Proto::Udp, to) }.send());
    assert_eq!(ask().unwrap().at.ip(), Bed::POD1);

    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_cut(stream);
    assert_eq!(ask(), Err(Failure::Timeout), "the kernel still knows the flow, and the border does not");
    let said = old.cleanup(&[]);
    assert!(said.contains("1 UDP flow"), "{said}");
    ask().unwrap();
}
