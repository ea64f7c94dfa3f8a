//! Interfaces above external ones, of the kinds that the kernel of the other tests lacks.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bed::vm::{PAYLOAD, Vm};
use bed::{Bed, eventually_within, holds};

use crate::support::{PATIENCE, put_program};

/// The box's address on the interface above.
const UPPER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// The daemon's own HTTP endpoints.
const OWN_PORT: u16 = 8080;
const SHORT: Duration = Duration::from_secs(1);

/// What stands above eth1: name, and the commands that make it.
const KINDS: [(&str, &str); 17] = [
    ("vl", "ip link add link eth1 name vl type vlan id 5"),
    ("mv", "ip link add link eth1 name mv type macvlan"),
    ("mt", "ip link add link eth1 name mt type macvtap"),
    ("iv", "ip link add link eth1 name iv type ipvlan mode l2"),
    ("ms", "ip link add link eth1 name ms type macsec"),
    ("vx", "ip link add vx type vxlan id 5 dev eth1 dstport 4789 remote 203.0.113.66"),
    ("gr", "ip link add gr type gre remote 203.0.113.66 local 203.0.113.10 dev eth1"),
    ("gt", "ip link add gt type gretap remote 203.0.113.66 local 203.0.113.10 dev eth1"),
    ("ii", "ip link add ii type ipip remote 203.0.113.66 local 203.0.113.10 dev eth1"),
    ("si", "ip link add si type sit remote 203.0.113.66 local 203.0.113.10 dev eth1"),
    ("vt", "ip link add vt type vti remote 203.0.113.66 local 203.0.113.10 key 7 dev eth1"),
    ("t6", "ip link add t6 type ip6tnl mode any remote 2001:db8:1::66 local 2001:db8:1::10 dev eth1"),
    ("xf", "ip link add xf type xfrm dev eth1 if_id 9"),
    ("bo", "ip link add bo type bond; ip link set eth1 down; ip link set eth1 master bo; ip link set eth1 up"),
    ("te", "ip link add te type team; ip link set eth1 down; ip link set eth1 master te; ip link set eth1 up"),
    ("vr", "ip link add vr type vrf table 77; ip link set vr up; ip link set eth1 master vr"),
    ("bri", "ip link add name bri type bridge; ip link set eth1 master bri"),
];

fn start(vm: &Vm, more: &str) {
    vm.must(
        "[ -e /run/d.pid ] && kill $(cat /run/d.pid) && tail --pid $(cat /run/d.pid) -f /dev/null; rm -f /run/d.pid",
    );
    vm.must(&format!(
        "mkdir -p /run/m; env SNCTRLR_DEFAULT_GW_INTERFACE=eth0 'SNCTRLR_INTERFACES_PATTERN=eth[1-9]' SNCTRLR_MONITOR_IP= \
         SNCTRLR_MANIFESTS=/run/m SNCTRLR_INSTANCE_NAME=border {more} setsid {PAYLOAD}/smartnat-manager >/run/d.log 2>&1 </dev/null & \
         echo $! >/run/d.pid"
    ));
    vm.eventually("the daemon is ready", &format!("curl -sfm 3 http://127.0.0.1:{OWN_PORT}/readyz"));
}

/// Waits until the daemon says this kind of an interface.
#[track_caller]
fn await_kind(vm: &Vm, name: &str, kind: &str) {
    let status = format!("{PAYLOAD}/smartnat-manager status | grep '^{name} ' | grep -q ' {kind} '");
    vm.eventually(&format!("{name} is {kind}"), &status);
}

/// Whether a pod and the box take a connection.
fn tries(bed: &Bed) -> [bool; 2] {
    let connects = |to| bed.attacker1.within(|| TcpStream::connect_timeout(&SocketAddr::from(to), SHORT).is_ok());
    [(Bed::POD1, 8080), (UPPER, OWN_PORT)].map(connects)
}

#[test]
fn whatever_stands_above_an_external_interface_is_closed() {
    let bed = Bed::new();
    let payload = tempfile::tempdir().unwrap();
    put_program(payload.path());
    let vm = Vm::booted(&bed, payload.path());
    vm.must(
        "ip address add 10.0.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.0.1; \
         ip route add 10.244.0.0/16 via 10.0.0.1; ip address add 203.0.113.10/24 dev eth1; ip link set eth1 up; \
         ip address add 2001:db8:1::10/64 dev eth1 nodad",
    );
    bed.attacker1.ip(&format!("address add 192.168.50.66/24 dev eth0\nroute add 10.0.0.0/8 via {UPPER}"));
    bed.core.ip("route add 192.168.50.0/24 via 10.0.0.2");
    start(&vm, "");
    for (name, make) in KINDS {
        vm.must(make);
        await_kind(&vm, name, "above-external");
        vm.must(&format!("ip link set eth1 nomaster; ip link del {name}; ip link set eth1 up"));
    }

    // With packets: what takes them whole, by master and by lower link.
    for (name, make) in KINDS.iter().filter(|(name, _)| ["iv", "bo", "vr", "bri"].contains(name)) {
        vm.must(make);
        // A port of a VRF keeps its addresses, and its packets come in as the VRF's.
        let holder = if *name == "vr" { "eth1" } else { name };
        vm.must(&format!(
            "ip link set {name} up; ip address add {UPPER}/24 dev {holder}; sysctl -qw net.ipv4.tcp_l3mdev_accept=1"
        ));
        if *name == "vr" {
            // Without ways between the VRF and the rest nothing would pass anyway.
            vm.must("ip route add 10.244.0.0/16 via 10.0.0.1 dev eth0 table 77; ip route add 192.168.50.0/24 dev vr");
        }
        await_kind(&vm, name, "above-external");
        bed.attacker1.run("ip neigh flush dev eth0");
        assert_eq!(tries(&bed), [false; 2], "{name}");

        // To a VRF packets come by its port first, which the pattern closes whatever is said of the VRF.
        if *name != "vr" {
            // The same with a word of the operator: the way is there.
            start(&vm, &format!("SNCTRLR_INSIDE_INTERFACES={name}"));
            await_kind(&vm, name, "inside");
            // An ipvlan takes what is for its own address alone.
            let way = if *name == "iv" { 1 } else { 0 };
            eventually_within(PATIENCE, &format!("there is an answer by {name}"), || holds(tries(&bed)[way]));
            start(&vm, "");
            await_kind(&vm, name, "above-external");
            assert_eq!(tries(&bed), [false; 2], "{name}, closed again");
        }
        vm.must(&format!(
            "ip address del {UPPER}/24 dev {holder}; ip link set eth1 nomaster; ip link del {name}; ip link set eth1 up"
        ));
    }
}
