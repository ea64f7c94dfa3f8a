//! What happens to a box in its life: its programs die, its network is reconfigured, its disk fills up.

use std::time::{Duration, Instant};

use bed::peer::Proto;
use bed::vm::Vm;
use bed::{Bed, Endpoints, Layout, eventually_within, holds};

use crate::probe::Probe;
use crate::support::{
    CLUSTER_IP, PATIENCE, Stage, ask, assert_goes_on, assert_served, await_both_pods, await_served, open_stream,
    send_again_soon, web,
};

/// SmartNat's hooks are ahead of kube-proxy's in every chain where both are.
fn await_hooks_ahead(vm: &Vm) {
    for (table, chain) in [("nat", "PREROUTING"), ("nat", "POSTROUTING"), ("filter", "INPUT")] {
        vm.eventually("kube-proxy's hook is there, behind ours", &format!(
            "iptables -t {table} -S {chain} | tee /dev/stderr | awk '/-j KUBE/ {{ kube = 1 }} /SMARTNAT/ && !kube {{ ahead = 1 }} \
             END {{ exit !(kube && ahead) }}'"
        ));
    }
}

#[test]
fn programs_may_die_in_any_order_and_the_network_be_reconfigured_under_traffic() {
    let stage = Stage::set(Layout::Routed);
    stage.node("appliance");
    let (bed, vm) = (&stage.bed, stage.installed());
    stage.node_port();
    let probe = Probe::start(bed);
    stage.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    stage.await_programmed("web");
    await_served(&bed.client1, Bed::EXT1);
    await_both_pods(&bed.client2, Bed::EXT2);
    send_again_soon(&[&bed.client1, &bed.client2, &bed.pod1, &bed.pod2]);
    let streams = [open_stream(&bed.client1, Bed::EXT1), open_stream(&bed.client2, Bed::EXT2)];
    let all_is_well = |what: &str| {
        println!("{what}");
        streams.iter().for_each(assert_goes_on);
        assert_served(&bed.client1, Bed::EXT1);
        assert_served(&bed.client2, Bed::EXT2);
        probe.assert_nothing_passed();
    };
    await_hooks_ahead(&vm);

    vm.must("systemctl kill -s KILL smartnat");
    all_is_well("the daemon was killed");
    vm.eventually("it is back", "systemctl is-active smartnat && smartnat-manager status");
    vm.must("systemctl restart smartnat");
    all_is_well("the daemon was restarted");

    vm.must("systemctl kill -s KILL kube-proxy");
    all_is_well("kube-proxy was killed");
    // Its hooks go and come back: they must not be ahead of ours then.
    vm.must("iptables -t nat -D PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES");
    vm.must("systemctl restart kube-proxy");
    all_is_well("kube-proxy was restarted");
    await_hooks_ahead(&vm);
    all_is_well("kube-proxy put its hooks back");

    vm.must("networkctl reload");
    all_is_well("networkd was reloaded");
    vm.must("systemctl restart systemd-networkd");
    all_is_well("networkd was restarted");
    vm.must("networkctl reconfigure eth1");
    await_served(&bed.client1, Bed::EXT1);
    all_is_well("eth1 was reconfigured");

    let mut again = std::fs::read_to_string(stage.kubeconfig("smartnat")).unwrap();
    again.push('\n');
    let before = vm.must("systemctl show -p MainPID --value smartnat");
    vm.put("/etc/smartnat/kubeconfig", &again);
    vm.eventually("the daemon has the renewed kubeconfig", &format!(
        "pid=$(systemctl show -p MainPID --value smartnat); test $pid -gt 0 && test $pid != {} && systemctl is-active smartnat", before.trim()
    ));
    all_is_well("the kubeconfig was renewed");

    vm.run("dd if=/dev/zero of=/var/full bs=1M 2>/dev/null; sync");
    vm.must("! dd if=/dev/zero of=/var/more bs=1M count=1 2>/dev/null; rm -f /var/more");
    vm.must("systemctl restart smartnat");
    stage.put(&web("more", &[Bed::EXT1B]));
    stage.await_programmed("more");
    await_served(&bed.client1, Bed::EXT1B);
    all_is_well("the disk is full");
    vm.must("rm /var/full");

    vm.must("date -s '+3 hours'");
    // The API server may be slow to answer while timers of three hours fire.
    let tells = "smartnat-manager check >/run/said; [ $? = 3 ] && grep -q '^FAIL  clock ' /run/said";
    vm.eventually("check tells that the clock is wrong", tells);
    vm.must("date -s '-3 hours'");
    all_is_well("the clock was wrong");

    vm.unplug("eth2");
    let gone = Instant::now();
    assert_goes_on(&streams[0]);
    assert_served(&bed.client1, Bed::EXT1);
    probe.assert_nothing_passed();
    vm.plug("eth2");
    let back = Instant::now();
    vm.eventually("eth2 has its address again", &format!("ip -o -4 address show dev eth2 | grep -q {}", Bed::EXT2));
    let addressed = Instant::now();
    await_served(&bed.client2, Bed::EXT2);
    let served = Instant::now();
    assert_goes_on(&streams[1]);
    println!(
        "eth2 was out for {:?}; its address came {:?} after it was back, new connections {:?} later, the open one {:?} later",
        back - gone,
        addressed - back,
        served - addressed,
        served.elapsed()
    );
    all_is_well("eth2 was unplugged and is back");
    // A new one counts as external from its first moment.
    vm.plug("eth3");
    vm.must("ip address add 198.51.100.30/24 dev eth3 && ip link set eth3 up");
    let new = std::net::Ipv4Addr::new(198, 51, 100, 30);
    stage.put(&web("new", &[new]));
    stage.await_programmed("new");
    for port in [22, 30080, 8080] {
        assert!(ask(&bed.client2, Proto::Tcp, new, port).is_err(), "port {port} of a new interface");
    }
    all_is_well("a new interface was plugged in");

    // A pod goes: what a client sees, from the moment its slice says so.
    stage.control.apply(Endpoints::of("web").ready(Bed::POD1).object());
    let begin = Instant::now();
    let mut last_failure = Duration::ZERO;
    let mut good = 0;
    bed.pod2.ip("link set eth0 down");
    while good < 20 {
        match ask(&bed.client1, Proto::Tcp, Bed::EXT1B, 80).and(ask(&bed.client1, Proto::Udp, Bed::EXT1B, 53)) {
            Ok(answer) => {
                assert_eq!(answer.name, "pod1");
                good += 1;
            }
            Err(_) => (good, last_failure) = (0, begin.elapsed()),
        }
        assert!(begin.elapsed() < PATIENCE, "a black hole: the removed pod is still asked");
    }
    println!("a removed pod was last asked {last_failure:?} after its slice changed");
    bed.pod2.ip("link set eth0 up\nroute add default via 10.244.2.1");

    // kube-proxy comes last: until it is there, allowed clients are refused at once, and told in the Mapping.
    vm.must("systemctl stop kube-proxy && ipvsadm -C && ip link del kube-ipvs0");
    eventually_within(PATIENCE, "the Mapping says that its Service is not here", || {
        let mapping = stage.control.get("mapping", "default", "web");
        holds(mapping["status"]["conditions"].to_string().contains("ServiceAddressNotLocal"))
    });
    eventually_within(PATIENCE, "clients are refused", || {
        holds(ask(&bed.client1, Proto::Tcp, Bed::EXT1, 80) == Err(bed::peer::Failure::Refused))
    });
    vm.must("! ip address show dev kube-ipvs0 2>/dev/null | grep -q 10.96");
    vm.must("systemctl start kube-proxy");
    stage.await_programmed("web");
    await_served(&bed.client1, Bed::EXT1);
    vm.must(&format!("ip address show dev kube-ipvs0 | grep -q {CLUSTER_IP}"));
    probe.assert_nothing_passed();
}
