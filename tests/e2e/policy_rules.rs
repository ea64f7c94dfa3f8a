//! Policy rules of others around ours, and marks that others' rules put on packets.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use bed::peer::{Failure, Proto};
use bed::{Bed, Daemon, Layout, Namespace, Options, eventually};

use crate::support::{
    SHORT, assert_alive, assert_dropped, assert_nothing_lost, assert_served, daemon, flood, manifests, mapping,
    open_stream, try_port,
};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Five datagrams of one flow, one after the other, each answered or not.
fn flow(from: &Namespace, source: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<io::Result<usize>> {
    from.within(|| {
        let socket = UdpSocket::bind(SocketAddrV4::new(source, 0)).expect("an address of that namespace");
        socket.set_read_timeout(Some(SHORT)).expect("a time limit");
        socket.connect(SocketAddrV4::new(to, port)).expect("a way");
        let exchange = |_| socket.send(b"who?").and_then(|_| socket.recv(&mut [0; 512]));
        (0..5).map(exchange).collect()
    })
}

#[track_caller]
fn assert_flows(from: &Namespace, source: Ipv4Addr, to: Ipv4Addr, port: u16) {
    let answers = flow(from, source, to, port);
    assert!(answers.iter().all(Result::is_ok), "{source} to {to}:{port}: {answers:?}");
}

/// The rule that finds the box's own addresses, moved by somebody to another priority.
fn move_local_rule(bed: &Bed, from: u32, to: u32) {
    bed.border.ip(&format!("rule add pref {to} lookup local\nrule del pref {from} lookup local"));
}

/// The box's own service and the Mapping, from every side, by TCP and by more than one datagram a flow.
#[track_caller]
fn assert_whole(bed: &Bed) {
    for (from, source, to) in [
        (&bed.core, Bed::CORE, Bed::BORDER),
        (&bed.core, Bed::CORE, Bed::EXT1),
        (&bed.pod1, Bed::POD1, Bed::EXT1B),
        (&bed.client1, Bed::CLIENT1, Bed::EXT1),
        (&bed.border, Bed::EXT1, Bed::EXT1B),
        (&bed.border, Bed::EXT2, Bed::EXT1),
    ] {
        let answer = from.get(Proto::Tcp, to, 22).unwrap_or_else(|e| panic!("{source} to {to}:22: {e}"));
        assert_eq!(answer.name, "sshd");
        assert_flows(from, source, to, 22);
    }
    assert_served(&bed.client1, Bed::EXT1);
    assert_served(&bed.client2, Bed::EXT2);
    assert_served(&bed.pod1, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT2);
    assert_eq!(try_port(&bed.attacker1, Proto::Tcp, Bed::POD1, 8080), Err(Failure::Timeout));
    assert_eq!(try_port(&bed.attacker1, Proto::Tcp, Bed::BORDER, 22), Err(Failure::Timeout));
}

fn border_with_a_service(bed: &Bed) {
    let at = [SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 22)];
    // A datagram that came to an address is answered from there: one socket an address.
    let udp = [Bed::BORDER, Bed::EXT1, Bed::EXT1B].map(|address| SocketAddrV4::new(address, 22));
    bed.serve("border", "sshd", &at, &udp);
    bed.core.ip("route add 203.0.113.0/24 via 10.0.0.2");
}

fn start<'a>(bed: &'a Bed, manifests: &bed::Manifests) -> Daemon<'a> {
    daemon(bed, manifests).set("SNCTRLR_BORDER_OPENINGS", "tcp/22,udp/22").start()
}

#[test]
fn the_boxs_own_addresses_are_found_wherever_others_move_the_rule_for_the_local_table() {
    let bed = Bed::new();
    border_with_a_service(&bed);
    let web = mapping("web", &[Bed::EXT1]).source("192.0.2.0/24").source("10.0.0.0/8");
    let manifests = manifests([web, mapping("second", &[Bed::EXT2]).source("192.0.2.0/24")]);
    let mut daemon = start(&bed, &manifests);
    assert_whole(&bed);
    let stream = open_stream(&bed.client1, Bed::EXT1);
    // Among ours (as CNIs do), behind ours, where the kernel's documentation of VRFs puts it, and back.
    for (from, to) in [(0, 100), (100, 115), (115, 200), (200, 32_765), (32_765, 0)] {
        move_local_rule(&bed, from, to);
        assert_whole(&bed);
        assert_alive(&stream);
    }
    move_local_rule(&bed, 0, 100);
    daemon.kill();
    daemon.start_again();
    assert_whole(&bed);
    assert_alive(&stream);
    daemon.stop();
    let cleanup = daemon.command(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    let left = bed.border.run("ip rule show");
    assert!(!left.contains("proto 83") && left.contains("100:\tfrom all lookup local"), "{left}");
}

/// Rules of ours, in order.
fn ours(bed: &Bed) -> BTreeSet<String> {
    let shown = bed.border.run("ip rule show");
    shown.lines().filter(|line| line.contains("proto 83")).map(|line| line.trim().to_owned()).collect()
}

/// Rules as the version before this one left them: no twins, no goto.
fn as_the_version_before(bed: &Bed) {
    for rule in ours(bed) {
        let (priority, text) = rule.split_once(":\t").expect("a priority");
        if text.contains("lookup local") || text.contains("goto") || text.contains("nop") {
            bed.border.ip(&format!("rule del pref {priority} {}", text.replace(" proto 83", " protocol 83")));
        }
    }
}

#[test]
fn rules_of_the_version_before_are_completed_while_traffic_flows() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    let whole = ours(&bed);
    daemon.kill();
    as_the_version_before(&bed);
    assert_eq!(ours(&bed).len(), 8);
    let stream = open_stream(&bed.client1, Bed::EXT1);
    let floods = flood(&bed.client1, Bed::EXT1);
    daemon.start_again();
    assert_eq!(ours(&bed), whole);
    assert_alive(&stream);
    assert_nothing_lost(floods, 5);
}

#[test]
fn rules_of_ours_that_others_take_are_put_back() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    let whole = ours(&bed);
    for pref in [87, 88, 89, 99, 109, 119, 101] {
        let before = daemon.metric("smartnat_repairs_total", "");
        bed.border.ip(&format!("rule del pref {pref}"));
        eventually("it is back", || (ours(&bed) == whole).then_some(()));
        eventually("it is counted", || (daemon.metric("smartnat_repairs_total", "") > before).then_some(()));
        assert_served(&bed.client1, Bed::EXT1);
    }
    bed.border.ip("rule del pref 88 iif eth1\nrule add pref 88 iif eth1 goto 32766 protocol 83");
    bed.border.ip("rule add pref 87 iif lo goto 101 protocol 83\nrule add pref 95 nop protocol 83");
    eventually("what is none of ours goes", || (ours(&bed) == whole).then_some(()));
}

/// Rules of others that take every packet's mark from its connection, as an nft table of its own.
fn restoring(priority: i32, hooks: &[&str]) -> String {
    let chains: String = hooks
        .iter()
        .map(|hook| {
            let kind = if *hook == "output" { "route" } else { "filter" };
            format!(
                "chain {hook} {{ type {kind} hook {hook} priority {priority}; policy accept; meta mark set ct mark; }}\n"
            )
        })
        .collect();
    format!("table inet marks {{\n{chains}}}\n")
}

#[test]
fn marks_that_others_restore_do_not_send_packets_from_outside_back_out() {
    for masquerade in ["true", "false"] {
        let bed = Bed::new();
        border_with_a_service(&bed);
        for (role, at) in [("client1", Bed::CLIENT1), ("client2", Bed::CLIENT2)] {
            bed.serve(role, role, &[SocketAddrV4::new(at, 7000)], &[SocketAddrV4::new(at, 7000)]);
        }
        bed.border.ip(&format!("address add {CLUSTER_IP}/32 dev lo"));
        bed.serve("border", "vip", &[SocketAddrV4::new(CLUSTER_IP, 80)], &[SocketAddrV4::new(CLUSTER_IP, 53)]);
        let vip = mapping("vip", &[Bed::EXT1B]).by_cluster_ip().source("192.0.2.0/24");
        let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]), vip]);
        let _daemon = daemon(&bed, &manifests)
            .set("SNCTRLR_SETUP_MASQUERADE", masquerade)
            .set("SNCTRLR_SETUP_SNAT", "true")
            .set("SNCTRLR_BORDER_OPENINGS", "tcp/22,udp/22")
            .start();
        // Behind conntrack and ahead of mangle, between mangle and nat, and far behind nat.
        for (priority, hooks) in [
            (-151, &["prerouting", "output"][..]),
            (-149, &["prerouting", "output"]),
            (-99, &["prerouting", "output"]),
            (-149, &["prerouting", "forward", "input", "output", "postrouting"]),
        ] {
            bed.border.feed("nft -f -", &restoring(priority, hooks));
            for (client, at, address) in
                [(&bed.client1, Bed::CLIENT1, Bed::EXT1), (&bed.client2, Bed::CLIENT2, Bed::EXT2)]
            {
                assert_served(client, address);
                assert_flows(client, at, address, 53);
                let stream = open_stream(client, address);
                assert_alive(&stream);
                // The box's own service, and a ClusterIP that is on the box.
                assert_flows(client, at, Bed::EXT1, 22);
                assert_eq!(client.get(Proto::Tcp, Bed::EXT1, 22).unwrap().name, "sshd");
                assert_eq!(client.get(Proto::Tcp, Bed::EXT1B, 80).unwrap().name, "vip");
                assert_flows(client, at, Bed::EXT1B, 53);
            }
            // What pods begin, and what the inside asks of the Mapping.
            assert_eq!(bed.pod1.get(Proto::Tcp, Bed::CLIENT1, 7000).unwrap().saw.ip(), Bed::EXT1);
            assert_flows(&bed.pod1, Bed::POD1, Bed::CLIENT1, 7000);
            // The mark that has a hairpin masqueraded is set in nat and lives to the end of the way: behind nat nobody may overwrite it.
            if priority < -100 && hooks.len() == 2 {
                assert_served(&bed.pod1, Bed::EXT1);
                assert_flows(&bed.pod2, Bed::POD2, Bed::EXT2, 53);
            }
            assert_eq!(try_port(&bed.attacker1, Proto::Tcp, Bed::POD1, 8080), Err(Failure::Timeout));
            bed.border.run("nft delete table inet marks");
        }
    }
}

#[test]
fn marks_that_others_restore_do_no_harm_in_a_shared_subnet() {
    let bed = Bed::with(Options { layout: Layout::SameSubnet, ..Options::default() });
    let [address, _] = Bed::SAME_EXT1;
    let manifests = manifests([mapping("web", &[address])]);
    let _daemon = daemon(&bed, &manifests).start();
    for priority in [-151, -149] {
        bed.border.feed("nft -f -", &restoring(priority, &["prerouting", "output"]));
        assert_served(&bed.client1, address);
        assert_flows(&bed.client1, Bed::CLIENT1, address, 53);
        assert_alive(&open_stream(&bed.client1, address));
        assert_served(&bed.attacker1, address);
        assert_flows(&bed.attacker1, Bed::SAME_NEIGHBOUR, address, 53);
        assert_served(&bed.pod1, address);
        bed.border.run("nft delete table inet marks");
    }
}

#[test]
fn an_interface_that_goes_and_comes_back_is_guarded_from_its_first_packet() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.feed("nft -f -", &restoring(-149, &["prerouting"]));
    assert_flows(&bed.client1, Bed::CLIENT1, Bed::EXT1, 53);
    bed.unplug("eth1");
    let away = bed.border.run("ip rule show");
    assert!(away.contains("iif eth1 [detached] goto 101"), "{away}");
    bed.plug_again("eth1");
    eventually("it is served again", || {
        flow(&bed.client1, Bed::CLIENT1, Bed::EXT1, 53).iter().all(Result::is_ok).then_some(())
    });
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn rules_of_others_that_take_mapped_traffic_are_named_by_check_with_a_remedy_that_works() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    let told = || {
        let output = daemon.command(&["check", "--manifests", manifests.dir().to_str().unwrap()]);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("  rules  ")).collect();
        assert!(!lines.is_empty(), "{text}");
        lines.join("\n")
    };
    bed.border.ip("route add default via 10.0.0.1 table 77\nroute add 100.64.0.0/10 via 10.0.0.1 table 52");
    // As others have them, and harmless.
    bed.border.ip(
        "rule add pref 9 fwmark 0x200/0xf00 lookup 77\nrule add pref 5270 lookup 52\nrule add pref 512 lookup main\n\
         rule add pref 100 lookup local\nrule del pref 0",
    );
    let well = told();
    assert!(well.starts_with("OK") && well.contains("policy rules of others"), "{well}");
    assert_served(&bed.client1, Bed::EXT1);

    for (rule, part) in [
        ("50 lookup main", "50: from all lookup main decides about"),
        ("50 iif eth0 lookup 77", "50: from all iif eth0 lookup 77 decides about replies"),
        ("50 from 10.244.0.0/16 lookup 77", "50: from 10.244.0.0/16 lookup 77 decides about replies"),
        ("50 not fwmark 0xca6c lookup 77", "50: not from all fwmark 0xca6c lookup 77 decides about replies"),
        ("50 goto 200", "50: from all goto 200 decides about"),
        ("50 prohibit", "50: from all prohibit decides about"),
    ] {
        bed.border.ip(&format!("rule add pref 200 nop\nrule add pref {rule}"));
        assert_dropped_or_refused(&bed);
        let found = told();
        assert!(found.starts_with("FAIL") && found.contains(part), "{rule}: {found}");
        bed.border.ip("rule del pref 50\nrule del pref 200");
        assert_served(&bed.client1, Bed::EXT1);
    }
    // Of packets from clients some take another way than the plan's.
    bed.border.ip("route add unreachable 10.244.0.0/16 table 79\nrule add pref 300 iif eth1 lookup 79");
    assert_dropped_or_refused(&bed);
    let found = told();
    assert!(found.contains("300: from all iif eth1 lookup 79 decides about") && found.contains("packets from clients"));
    bed.border.ip("rule add pref 299 iif eth1 lookup main");
    assert_served(&bed.client1, Bed::EXT1);
}

/// No client gets an answer from a pod.
#[track_caller]
fn assert_dropped_or_refused(bed: &Bed) {
    for (proto, port) in crate::support::PORTS {
        assert!(try_port(&bed.client1, proto, Bed::EXT1, port).is_err(), "{proto}");
    }
}
