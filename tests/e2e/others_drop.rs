//! Others drop what they do not know: policies and last rules of the filter table.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::peer::{Failure, Proto};
use bed::{Bed, Endpoints, PodState, eventually};

use crate::support::{
    PORTS, assert_alive, assert_dropped, assert_refused, assert_served, daemon, manifests, mapping, open_stream,
    try_port, try_ports,
};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The rules of a built-in chain of filter, without policy.
fn rules(bed: &Bed, chain: &str) -> Vec<String> {
    let listing = bed.border.run(&format!("iptables -S {chain}"));
    listing.lines().filter_map(|l| l.strip_prefix(&format!("-A {chain} "))).map(str::to_owned).collect()
}

/// Waits until the jump of ours stands at this place from the end, once in the chain.
#[track_caller]
fn await_place(bed: &Bed, chain: &str, jump: &str, from_end: usize) {
    eventually(&format!("{jump} is number {from_end} from the end of {chain}"), || {
        let rules = rules(bed, chain);
        let ours: Vec<usize> = rules.iter().rev().enumerate().filter(|(_, r)| *r == jump).map(|(i, _)| i).collect();
        (ours == [from_end]).then_some(())
    });
}

const FORWARD: &str = "-j SMARTNAT-PASS";

#[test]
fn mapped_clients_are_served_past_a_policy_drop_and_nobody_else_is() {
    let bed = Bed::new();
    bed.border.run("iptables -P FORWARD DROP");
    let manifests = manifests([mapping("web", &[Bed::EXT1]).source("192.0.2.0/25").source("10.0.0.0/8")]);
    let mut daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    assert_served(&bed.pod2, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT1);
    // What is forwarded without a Mapping is the policy's matter still, from both sides.
    bed.serve("client2", "client2", &[SocketAddrV4::new(Bed::CLIENT2, 7000)], &[]);
    for (from, to, port) in
        [(&bed.core, Bed::CLIENT2, 7000), (&bed.pod1, Bed::CLIENT2, 7000), (&bed.attacker1, Bed::POD1, 8080)]
    {
        assert!(try_port(from, Proto::Tcp, to, port).is_err(), "from {}", from.name());
    }
    // A policy that comes later, too, and our end.
    bed.border.run("iptables -P FORWARD ACCEPT");
    let stream = open_stream(&bed.client1, Bed::EXT1);
    bed.border.run("iptables -P FORWARD DROP");
    assert_alive(&stream);
    daemon.stop();
    assert!(daemon.command(&["cleanup", "--force"]).status.success());
    let left = bed.border.run("iptables -S");
    assert!(!left.contains("SMARTNAT") && left.contains("-P FORWARD DROP"), "{left}");
}

#[test]
fn what_others_put_behind_or_ahead_of_our_jump_moves_it_to_its_place_without_a_loss() {
    let bed = Bed::new();
    bed.border.run("iptables -A FORWARD -s 10.9.9.9 -j ACCEPT");
    let last_word = |action: &str| {
        let rule = "FORWARD -m comment --comment \"no -j ACCEPT\" -j REJECT --reject-with icmp-host-prohibited";
        bed.border.feed("iptables-restore --noflush", &format!("*filter\n{action} {rule}\nCOMMIT\n"));
    };
    last_word("-A");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    // The periodic look is a minute away: events must do it.
    let daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    await_place(&bed, "FORWARD", FORWARD, 1);
    let stream = open_stream(&bed.client1, Bed::EXT1);

    // Behind the REJECT nothing counts; ahead of it, and behind us, everything does.
    bed.border.run("iptables -A FORWARD -j DROP");
    await_place(&bed, "FORWARD", FORWARD, 2);
    bed.border.run("iptables -D FORWARD -j DROP");
    let number = rules(&bed, "FORWARD").len();
    bed.border.run(&format!("iptables -I FORWARD {number} -s 192.0.2.128/25 -j DROP"));
    await_place(&bed, "FORWARD", FORWARD, 1);
    assert_dropped(&bed.client2, Bed::EXT1);
    assert_served(&bed.client1, Bed::EXT1);

    // Without a last word we are last, and an appended deny comes ahead.
    last_word("-D");
    await_place(&bed, "FORWARD", FORWARD, 0);
    bed.border.run("iptables -A FORWARD -d 10.244.2.2 -j DROP");
    await_place(&bed, "FORWARD", FORWARD, 0);
    // A DROP at the very top is the last word of everything.
    bed.border.run("iptables -I FORWARD 1 -j DROP");
    await_place(&bed, "FORWARD", FORWARD, rules(&bed, "FORWARD").len() - 1);
    bed.border.run("iptables -D FORWARD -j DROP");
    bed.border.run("iptables -D FORWARD -d 10.244.2.2 -j DROP");
    for round in 0..10 {
        bed.border.run(&format!("iptables -A FORWARD -m comment --comment round-{round} -d 192.0.2.1 -j DROP"));
        await_place(&bed, "FORWARD", FORWARD, 0);
    }
    assert_alive(&stream);
    assert_eq!(stream.broken(), None);
    drop(stream);
    // ACCEPTs behind us change nothing, and are left there: whoever insists on being last (Felix) is not fought.
    let before = daemon.metric("smartnat_repairs_total", "{kind=\"hook\"}");
    daemon.pass_over(|| bed.border.run("iptables -A FORWARD -m mark --mark 0x1/0x1 -j ACCEPT"));
    await_place(&bed, "FORWARD", FORWARD, 1);
    assert_eq!(daemon.metric("smartnat_repairs_total", "{kind=\"hook\"}"), before);
}

/// What docker puts into filter at its start.
const DOCKER: &str = "\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
-I FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-USER -s 192.0.2.128/25 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
";

#[test]
fn beside_docker_clients_are_served_and_docker_user_goes_on_denying() {
    for docker_first in [true, false] {
        let bed = Bed::new();
        let manifests = manifests([mapping("web", &[Bed::EXT1])]);
        let start = || bed.border.feed("iptables-restore --noflush", DOCKER);
        docker_first.then(start);
        let daemon = daemon(&bed, &manifests).start();
        (!docker_first).then(start);
        eventually("our jump stands behind docker's", || {
            let rules = rules(&bed, "FORWARD");
            let at = |rule: &str| rules.iter().position(|r| r == rule);
            (at(FORWARD) > at("-o docker0 -j DOCKER") && at(FORWARD).is_some()).then_some(())
        });
        assert_served(&bed.client1, Bed::EXT1);
        assert_dropped(&bed.client2, Bed::EXT1);
        drop(daemon);
    }
}

#[test]
fn mode_service_is_served_past_drops_in_input_and_output_and_the_box_itself_is_not() {
    let bed = Bed::new();
    bed.border.ip(&format!("address add {CLUSTER_IP}/32 dev lo"));
    bed.serve("border", "vip", &[SocketAddrV4::new(CLUSTER_IP, 80)], &[SocketAddrV4::new(CLUSTER_IP, 53)]);
    bed.serve("border", "sshd", &[SocketAddrV4::new(Bed::BORDER, 22)], &[]);
    for (chain, lo) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
        // The daemon answers the test there.
        bed.border.run(&format!("iptables -A {chain} {lo} lo -s 127.0.0.0/8 -d 127.0.0.0/8 -j ACCEPT"));
        bed.border.run(&format!("iptables -A {chain} -j REJECT"));
        bed.border.run(&format!("iptables -P {chain} DROP"));
    }
    let manifests = manifests([mapping("web", &[Bed::EXT1]).by_cluster_ip().source("192.0.2.0/25")]);
    let _daemon = daemon(&bed, &manifests).start();
    let answered = || PORTS.map(|(proto, port)| try_port(&bed.client1, proto, Bed::EXT1, port).map(|a| a.name));
    eventually("the ClusterIP is served", || answered().iter().all(|a| a.as_deref() == Ok("vip")).then_some(()));
    assert_dropped(&bed.attacker1, Bed::EXT1);
    for from in [&bed.core, &bed.pod1] {
        for (proto, port) in PORTS {
            assert!(try_port(from, proto, CLUSTER_IP, port).is_err(), "past the Mapping, from {}", from.name());
        }
        assert!(try_port(from, Proto::Tcp, Bed::BORDER, 22).is_err(), "the box's own port, from {}", from.name());
    }
    // An administrator's deny ahead of that goes on.
    bed.border.run("iptables -I INPUT 1 -s 192.0.2.0/25 -j DROP");
    eventually("the deny holds", || {
        (try_ports(&bed.client1, Bed::EXT1) == [Err(Failure::Timeout), Err(Failure::Timeout)]).then_some(())
    });
    assert_eq!(rules(&bed, "INPUT").iter().filter(|r| r.contains("SMARTNAT")).count(), 2);
}

#[test]
fn refusals_and_the_box_s_errors_leave_past_a_drop_in_output() {
    let bed = Bed::new();
    for (chain, lo) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
        bed.border.run(&format!("iptables -A {chain} {lo} lo -s 127.0.0.0/8 -d 127.0.0.0/8 -j ACCEPT"));
        bed.border.run(&format!("iptables -P {chain} DROP"));
    }
    let mut manifests = manifests([mapping("web", &[Bed::EXT1]).source("192.0.2.0/25")]);
    manifests.put_endpoints(Endpoints::of("web").pod(Bed::POD1, PodState::Unready)).write();
    let _daemon = daemon(&bed, &manifests).start();
    assert_refused(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.attacker1, Bed::EXT1);
}

#[test]
fn pods_of_mappings_begin_connections_past_a_policy_drop_and_others_do_not() {
    let bed = Bed::new();
    bed.border.run("iptables -P FORWARD DROP");
    bed.serve("client1", "client1", &[SocketAddrV4::new(Bed::CLIENT1, 7000)], &[SocketAddrV4::new(Bed::CLIENT1, 7000)]);
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    manifests.put_endpoints(Endpoints::of("web").ready(Bed::POD1)).write();
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_SETUP_SNAT", "true").start();
    for proto in [Proto::Tcp, Proto::Udp] {
        assert_eq!(bed.pod1.get(proto, Bed::CLIENT1, 7000).unwrap().saw.ip(), Bed::EXT1);
        assert_eq!(try_port(&bed.pod2, proto, Bed::CLIENT1, 7000), Err(Failure::Timeout), "not mapped");
    }
    assert_served(&bed.client1, Bed::EXT1);
}

#[test]
fn switched_off_the_policies_of_others_decide_and_switching_takes_the_rules_away() {
    let bed = Bed::new();
    bed.border.run("iptables -P FORWARD DROP");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let on = daemon(&bed, &manifests).start();
    assert_served(&bed.client1, Bed::EXT1);
    drop(on);
    let off = daemon(&bed, &manifests).set("SNCTRLR_SETUP_ACCEPT", "false").start();
    assert_dropped(&bed.client1, Bed::EXT1);
    let left = bed.border.run("iptables -S");
    assert!(!left.contains("SMARTNAT-PASS"), "{left}");
    let plan = off.command(&["plan", "--diff", "--manifests", manifests.dir().to_str().unwrap()]);
    assert!(plan.status.success(), "{plan:?}");
}

#[test]
fn plan_names_the_jump_and_a_wrong_place_of_it() {
    let bed = Bed::new();
    bed.border.run("iptables -A FORWARD -j DROP");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    daemon.stop();
    let directory = manifests.dir().to_str().unwrap();
    let diff = ["plan", "--diff", "--manifests", directory];
    let same = daemon.command(&diff);
    assert!(same.status.success(), "{same:?}");
    let printed = String::from_utf8(daemon.command(&diff[..1]).stdout).unwrap();
    assert!(printed.contains("-A FORWARD -j SMARTNAT-PASS\n"), "{printed}");
    bed.border.run("iptables -I FORWARD 1 -j DROP");
    let differs = daemon.command(&diff);
    let text = String::from_utf8(differs.stdout).unwrap();
    assert!(
        differs.status.code() == Some(3) && text.contains("chain FORWARD") && text.contains("not where it belongs")
    );
}
