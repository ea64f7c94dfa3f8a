//! Interfaces with names that mean something else in a rule.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use bed::Bed;
use bed::peer::{Failure, Proto};

use crate::support::{assert_served, daemon, manifests, mapping, try_port};

/// Makes a bridge whose name need not be text.
fn bridge(bed: &Bed, name: &[u8]) {
    let made = bed.border.within(|| {
        let arguments = [b"link", b"add".as_slice(), b"name", name, b"up", b"type", b"bridge"];
        Command::new("ip").args(arguments.map(OsStr::from_bytes)).status().expect("ip is there")
    });
    assert!(made.success(), "{}", String::from_utf8_lossy(name));
}

#[test]
fn a_plus_at_the_end_of_an_inside_name_opens_no_other_interface() {
    let bed = Bed::new();
    // eth1 under a name that begins like the inside one.
    bed.border.ip("link set eth1 down\nlink set eth1 name cuplink1\nlink set cuplink1 up");
    bridge(&bed, b"cu+");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_INTERFACES_PATTERN", "cuplink[0-9]|eth2").start();
    let outside = [(Proto::Tcp, 8080), (Proto::Udp, 9090)];
    let tries = outside.map(|(proto, port)| try_port(&bed.attacker1, proto, Bed::POD1, port));
    assert_eq!(tries, [Err(Failure::Timeout), Err(Failure::Timeout)]);
    assert_served(&bed.client1, Bed::EXT1);
    for tool in ["iptables-save", "ip6tables-save"] {
        let rules = bed.border.run(tool);
        assert!(!rules.contains("cu+"), "{rules}");
    }
    let check = String::from_utf8(daemon.command(&["check"]).stdout).unwrap();
    assert!(check.lines().any(|l| l.starts_with("FAIL") && l.contains("cu+: no rule can name it")), "{check}");
    let status = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(status.lines().any(|l| l.starts_with("cu+ ") && l.contains("closed")), "{status}");
}

#[test]
fn an_external_name_that_no_rule_can_hold_is_not_served_and_told() {
    let bed = Bed::new();
    bed.border.ip("link set eth2 down\nlink set eth2 name eth+\nlink set eth+ up");
    let manifests = manifests([mapping("web", &[Bed::EXT1]), mapping("other", &[Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_INTERFACES_PATTERN", "eth[1-9+]").start();
    assert_served(&bed.client1, Bed::EXT1);
    let tries = [(Bed::EXT2, 80), (Bed::POD1, 8080)].map(|(a, port)| try_port(&bed.attacker2, Proto::Tcp, a, port));
    assert_eq!(tries, [Err(Failure::Timeout), Err(Failure::Timeout)]);
    let status = daemon.status();
    let told = status["interfaces"].as_array().unwrap().iter().find(|i| i["name"] == "eth+").unwrap();
    assert_eq!((&told["kind"], &told["slot"]), (&"external".into(), &serde_json::Value::Null), "{told}");
    assert!(told["problem"].as_str().is_some_and(|p| p.contains("give it another name")), "{told}");
    assert_eq!(daemon.mapping("other").unwrap()["programmed"]["reason"], "NoAddressHere");
}

#[test]
fn names_of_any_bytes_disturb_neither_the_border_nor_whoever_reads() {
    let bed = Bed::new();
    let odd: [&[u8]; 10] =
        [b"eth\xff", b"eth\xfe", b"a\"b", b"a'b", b"a\\b", b"\x1b[2J\x1b[31m", b"x\x01", b"$(reboot)", b"!e", b"eth1+"];
    for name in odd {
        bridge(&bed, name);
    }
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_INTERFACES_PATTERN", "eth.*").start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_eq!(try_port(&bed.attacker1, Proto::Tcp, Bed::POD1, 8080).err(), Some(Failure::Timeout));
    let status = daemon.status();
    let names: Vec<&str> = status["interfaces"].as_array().unwrap().iter().filter_map(|i| i["name"].as_str()).collect();
    for name in ["eth\\xff", "eth\\xfe", "a\"b", "a\\\\b", "$(reboot)", "eth1"] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    for subcommand in [&["status"][..], &["check"], &["plan"]] {
        let output = daemon.command(subcommand);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{subcommand:?}: {text:?}");
        assert!(text.contains("\\u{1b}[2J"), "{subcommand:?}: {text}");
    }
    let log = daemon.log();
    assert!(log.contains("\\u{1b}[2J") && !log.contains('\u{1b}'), "{log:?}");
    // Another look finds the same: nothing is written over and over.
    let writes = || daemon.metric("smartnat_writes_total", "");
    let before = writes();
    daemon.pass_over(|| bed.border.ip("link set eth2 mtu 1400"));
    assert_eq!(writes(), before);
}
