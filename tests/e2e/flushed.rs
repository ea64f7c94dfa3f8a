//! `nft flush ruleset` by somebody else: while our rules are away, a table of our own keeps translation going.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bed::peer::Proto;
use bed::{Bed, Daemon, Namespace, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lifecycle::kernel_state;
use crate::support::{assert_alive, assert_dropped, assert_served, daemon, manifests, mapping, open_stream};

const TABLE: &str = "smartnat-hold";
const OWNED: &str = "flags owner";

/// What nft shows of the table; `None` without it.
fn table(border: &Namespace) -> Option<String> {
    border.attempt(&format!("nft list table ip {TABLE}"), "").ok()
}

#[track_caller]
fn held(border: &Namespace) {
    let text = eventually("the table is held", || table(border));
    assert!(text.contains(OWNED) && text.contains("ct direction original"), "{text}");
}

#[track_caller]
fn gone(border: &Namespace) {
    // The kernel removes it before the process is gone.
    let text = border.run("nft list ruleset");
    assert!(!text.contains(TABLE), "{text}");
}

fn signal(daemon: &Daemon<'_>, signal: Signal) {
    kill(Pid::from_raw(daemon.pid().cast_signed()), signal).expect("the daemon runs");
}

#[test]
fn connections_outlive_a_flushed_ruleset() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).start();
    held(&bed.border);
    let whole = kernel_state(&bed);
    let mut streams: Vec<_> = (0..4).map(|_| open_stream(&bed.client1, Bed::EXT1)).collect();
    streams.extend((0..4).map(|_| open_stream(&bed.client2, Bed::EXT2)));
    for round in 0..4 {
        // The last one at leisure: each stream has packets in between.
        let stopped = round == 3;
        if stopped {
            signal(&daemon, Signal::SIGSTOP);
        }
        bed.border.run("nft flush ruleset");
        if stopped {
            std::thread::sleep(Duration::from_millis(600));
            assert!(!bed.border.run("iptables-save").contains("SMARTNAT"), "nobody put it back");
            signal(&daemon, Signal::SIGCONT);
        }
        eventually("everything is back", || (kernel_state(&bed) == whole).then_some(()));
        streams.iter().for_each(assert_alive);
        assert_served(&bed.client1, Bed::EXT1);
        assert_dropped(&bed.attacker1, Bed::POD1);
        held(&bed.border);
    }
    for stream in streams {
        let report = stream.stop();
        assert_eq!(report.broken, None, "{report:?}");
    }
    assert!(!daemon.log().contains(&format!("process=\"{TABLE}\"")), "its own write was looked at: {}", daemon.log());
}

/// Whether a flow is translated is decided by its first packet; one that was sent while our rules were away must
/// not stay unserved.
#[test]
fn a_udp_flow_that_begins_while_the_ruleset_is_flushed_is_served_soon() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    held(&bed.border);
    let whole = kernel_state(&bed);
    let socket = bed.client1.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is free"));
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let ask = || {
        // Refused by the box, which tells the socket of it: the next one is sent all the same.
        let _ = socket.send_to(b"who are you?\n", SocketAddrV4::new(Bed::EXT1, 53));
        socket.recv_from(&mut [0; 256]).ok().map(|(_, from)| from)
    };
    signal(&daemon, Signal::SIGSTOP);
    bed.border.run("nft flush ruleset");
    for _ in 0..5 {
        assert_eq!(ask(), None);
    }
    let port = socket.local_addr().expect("bound").port();
    let tracked = bed.border.run("conntrack -L -p udp");
    assert!(tracked.contains(&format!("sport={port} ")), "the flow is tracked as it is: {tracked}");
    signal(&daemon, Signal::SIGCONT);
    eventually("everything is back", || (kernel_state(&bed) == whole).then_some(()));
    let from = eventually("the flow is answered", ask);
    assert_eq!(from, (Bed::EXT1, 53).into());
}

#[test]
fn the_table_ends_with_the_daemon_and_comes_back_with_it() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    for killed in [true, false] {
        held(&bed.border);
        let refused = bed.border.attempt(&format!("nft delete table ip {TABLE}"), "").unwrap_err();
        assert!(refused.contains("not permitted"), "{refused}");
        if killed {
            daemon.kill();
        } else {
            assert!(daemon.stop().success());
        }
        gone(&bed.border);
        assert_served(&bed.client1, Bed::EXT1);
        daemon.start_again();
    }
    held(&bed.border);
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn nobody_is_told_of_the_table_as_somebody_elses() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    held(&bed.border);
    let directory = manifests.dir().to_str().expect("a path of the tests");
    let trace =
        "trace --source 192.0.2.10 --destination 203.0.113.10 --protocol tcp --port 80 --interface eth1 --manifests";
    let trace: Vec<_> = trace.split(' ').chain([directory]).collect();
    for command in [vec!["check"], trace] {
        let output = daemon.command(&command);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("nft"), "{command:?} looked at nft: {text}");
        assert!(!text.contains(TABLE), "{command:?}: {text}");
    }
}

/// A process that owns a table of nft as long as it lives.
struct Owner(Child);

impl Owner {
    fn of(name: &str, border: &Namespace) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", border.name(), "nft", "-i"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = Owner(command.spawn().expect("nft is there"));
        let line = format!("add table ip {name} {{ flags owner; }}\n");
        std::io::Write::write_all(child.0.stdin.as_mut().expect("piped"), line.as_bytes()).expect("nft reads");
        child
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_table_of_that_name_in_other_hands_is_told_and_harms_nothing() {
    for owned in [true, false] {
        let bed = Bed::new();
        let owner = owned.then(|| Owner::of(TABLE, &bed.border));
        if !owned {
            bed.border.run(&format!("nft add table ip {TABLE}"));
        }
        eventually("the table is there", || table(&bed.border));
        let manifests = manifests([mapping("web", &[Bed::EXT1])]);
        let mut daemon = daemon(&bed, &manifests).refreshing().start();
        eventually("it is told", || daemon.log().contains("somebody else holds the table").then_some(()));
        assert_served(&bed.client1, Bed::EXT1);
        assert_eq!(bed.client1.get(Proto::Tcp, Bed::EXT1, 80).expect("served").at.port(), 8080);
        daemon.passes(2);
        assert_eq!(daemon.log().matches("somebody else holds the table").count(), 1, "{}", daemon.log());
        assert!(!table(&bed.border).expect("it stays").contains("prerouting"));
        drop(owner);
        daemon.kill();
        if !owned {
            bed.border.run(&format!("nft delete table ip {TABLE}"));
        }
        daemon.start_again();
        held(&bed.border);
    }
}
