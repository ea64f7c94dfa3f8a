//! Start, stop, crash, early boot, clean-up.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bed::packet::{Mac, Sniffer, Wire, ethernet, number, udp_packet};
use bed::peer::Failure;
use bed::{Bed, Monitor};

use crate::support::{
    assert_alive, assert_dropped, assert_nothing_lost, assert_served, daemon, flood, manifests, mapping, open_stream,
    try_port,
};

/// Everything in the border's kernel that a clean-up has to put back, in words.
pub fn kernel_state(bed: &Bed) -> String {
    let mut out = String::new();
    for save in ["iptables-save", "ip6tables-save"] {
        // Tables come into being when they are first looked at: only what they hold counts.
        let text = bed.border.run(save);
        let own = |l: &&str| l.starts_with("-A") || (l.starts_with(':') && l.contains(" - "));
        text.lines().filter(own).for_each(|l| out.extend([save, " ", l.split('[').next().unwrap_or(l), "\n"]));
    }
    for command in ["ipset save", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"] {
        // What comes back stands behind its equals; their order says nothing.
        let text = bed.border.run(command);
        let sorted: BTreeSet<_> = text.lines().collect();
        sorted.into_iter().for_each(|l| out.extend(["# ", command, ": ", l, "\n"]));
    }
    let sysctls =
        ["ipv4/ip_forward", "ipv4/conf/eth1/rp_filter", "ipv4/conf/all/rp_filter", "ipv6/conf/eth1/accept_ra"];
    sysctls.iter().for_each(|s| out.extend([s, " = ", &bed.border.sysctl(&format!("net/{s}")), "\n"]));
    out
}

#[test]
fn kills_and_restarts_lose_neither_a_byte_of_a_connection_nor_a_new_flow() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let mut daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    let floods = flood(&bed.client2, Bed::EXT2);
    for round in 0..4 {
        if round % 2 == 0 {
            daemon.kill();
        } else {
            assert!(daemon.stop().success());
        }
        assert_alive(&stream);
        assert_dropped(&bed.client1, Bed::EXT1B);
        daemon.start_again();
        assert_alive(&stream);
    }
    assert_nothing_lost(floods, 50);
    assert_eq!(stream.stop().broken, None);
}

#[test]
fn a_restart_adopts_what_it_finds_and_writes_nothing() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24")]);
    let mut daemon = daemon(&bed, &manifests).start();
    let before = kernel_state(&bed);
    daemon.kill();
    assert_eq!(kernel_state(&bed), before, "the dataplane outlives the daemon");
    daemon.start_again();
    assert_eq!(kernel_state(&bed), before);
    assert_eq!(daemon.metric("smartnat_writes_total", ""), 0.0);
}

#[test]
fn the_border_is_closed_before_the_first_packet_can_be_forwarded() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    assert_eq!(bed.border.sysctl("net/ipv4/ip_forward"), "0");
    let cluster = Sniffer::start(&bed.core, "cluster");
    let over = AtomicBool::new(false);
    let (from, to) = (SocketAddrV4::new(Bed::ATTACKER1, 4000), SocketAddrV4::new(Bed::POD1, 9090));
    thread::scope(|scope| {
        let sent = scope.spawn(|| {
            bed.attacker1.within(|| {
                let wire = Wire::open("eth0").unwrap();
                let packet = udp_packet(from, to, b"who are you?\n");
                let frame = ethernet(wire.mac(), Mac::of(Bed::EXT1), number::IPV4, &packet);
                let mut sent = 0;
                while !over.load(Ordering::Relaxed) {
                    wire.send(&frame).unwrap();
                    sent += 1;
                    // A full queue would drop the very packet that gets through.
                    thread::sleep(std::time::Duration::from_micros(100));
                }
                sent
            })
        });
        let daemon = daemon(&bed, &manifests).start();
        assert_eq!(bed.border.sysctl("net/ipv4/ip_forward"), "1");
        // Behind all that was sent.
        assert_served(&bed.attacker1, Bed::EXT1);
        over.store(true, Ordering::Relaxed);
        drop(daemon);
        assert!(sent.join().unwrap() > 100);
    });
    assert_eq!(cluster.seen(|s| s.is_from(Bed::ATTACKER1)), []);
}

#[test]
fn the_border_command_closes_the_border_alone_without_objects() {
    let bed = Bed::new();
    bed.border.set_sysctl("net/ipv4/ip_forward", "1");
    assert_eq!(bed.attacker1.get(bed::peer::Proto::Tcp, Bed::POD1, 8080).unwrap().name, "pod1");
    let manifests = manifests([]);
    let border = daemon(&bed, &manifests).command(&["border"]);
    assert!(border.status.success(), "{border:?}");
    for outsider in [&bed.attacker1, &bed.client1, &bed.attacker2] {
        let answer = try_port(outsider, bed::peer::Proto::Tcp, Bed::POD1, 8080);
        assert_eq!(answer, Err(Failure::Timeout), "{}", outsider.name());
    }
    // The box and the cluster are not cut off from one another.
    assert_eq!(bed.border.get(bed::peer::Proto::Tcp, Bed::POD1, 8080).unwrap().name, "pod1");
}

#[test]
fn the_border_command_needs_no_interface_and_closes_those_that_come_later() {
    let bed = Bed::new();
    bed.unplug("eth1");
    bed.unplug("eth2");
    bed.unplug("eth0");
    let manifests = manifests([]);
    let border = daemon(&bed, &manifests).command(&["border"]);
    assert!(border.status.success(), "{border:?}");
    bed.border.set_sysctl("net/ipv4/ip_forward", "1");
    bed.plug_again("eth1");
    bed.serve("border", "sshd", &[SocketAddrV4::new(Bed::EXT1, 22)], &[]);
    assert_eq!(try_port(&bed.attacker1, bed::peer::Proto::Tcp, Bed::EXT1, 22), Err(Failure::Timeout));
    assert_eq!(bed.border.get(bed::peer::Proto::Tcp, Bed::EXT1, 22).unwrap().name, "sshd");
}

#[test]
fn an_unchanged_world_writes_nothing() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24")]);
    let daemon = daemon(&bed, &manifests).refreshing().start();
    daemon.passes(2);
    let tables = Monitor::start(&bed.border, "nft monitor");
    let routes = Monitor::start(&bed.border, "ip monitor route rule");
    let touch = || {
        bed.border.run("nft add table ip bed-mark");
        bed.border.run("nft delete table ip bed-mark");
        bed.border.ip("route add 192.0.0.9/32 dev lo table 7777\nroute del 192.0.0.9/32 dev lo table 7777");
    };
    let begin = (tables.mark("bed-mark", touch), routes.mark("192.0.0.9", touch));
    // The daemon may look again because something was touched.
    daemon.passes(2);
    let counts = || ["smartnat_writes_total", "smartnat_repairs_total"].map(|m| daemon.metric(m, ""));
    let (before, calls) = (counts(), daemon.metric("smartnat_tool_calls_total", ""));
    daemon.passes(2);
    assert_eq!(counts(), before);
    // Looking is allowed: four tables of two families and the sets, for two or three passes.
    let looked = daemon.metric("smartnat_tool_calls_total", "") - calls;
    assert!(looked <= 30.0, "{looked} calls of tools");
    tables.mark("bed-mark", touch);
    routes.mark("192.0.0.9", touch);
    let strange = |lines: Vec<String>, from: usize, known: &[&str]| -> Vec<String> {
        lines.into_iter().skip(from).filter(|l| !known.iter().any(|k| l.contains(k))).collect()
    };
    assert_eq!(strange(tables.lines(), begin.0, &["bed-mark", "(nft)"]), [""; 0]);
    assert_eq!(strange(routes.lines(), begin.1, &["192.0.0.9"]), [""; 0]);
}

#[test]
fn cleanup_removes_everything_and_puts_forwarding_back() {
    let bed = Bed::new();
    let before = kernel_state(&bed);
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24")]);
    let mut daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_ne!(kernel_state(&bed), before);
    daemon.stop();
    let cleanup = daemon.command(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    assert_eq!(kernel_state(&bed), before);
}

#[test]
fn cleanup_refuses_where_it_would_leave_a_cluster_open_and_says_what() {
    let bed = Bed::new();
    // Forwarding was on before us: it would stay on.
    bed.border.set_sysctl("net/ipv4/ip_forward", "1");
    let before = kernel_state(&bed);
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    bed.border
        .feed("iptables-restore --noflush", "*nat\n:KUBE-SERVICES - [0:0]\n-I PREROUTING -j KUBE-SERVICES\nCOMMIT\n");
    daemon.stop();
    let refused = daemon.command(&["cleanup"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("KUBE-SERVICES") && said.contains("--force"), "{refused:?}");
    assert_served(&bed.client1, Bed::EXT1);

    let forced = daemon.command(&["cleanup", "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    bed.border.feed("iptables-restore --noflush", "*nat\n-D PREROUTING -j KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n");
    assert_eq!(kernel_state(&bed), before);
}

#[test]
fn status_and_plan_tell_of_what_is_served() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    for subcommand in ["status", "plan"] {
        let output = daemon.command(&[subcommand, "--manifests", manifests.dir().to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("203.0.113.10"), "{subcommand}: {output:?}");
    }
    let health = daemon.get("/healthcheck").unwrap();
    assert!(health.code == 200 && health.body.starts_with("OK"), "{health:?}");
}
