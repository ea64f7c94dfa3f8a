//! The box goes down and comes up again, by itself and without an open moment.

use std::time::Instant;

use bed::peer::Proto;
use bed::{Bed, Layout, eventually_within};

use crate::probe::Probe;
use crate::support::{PATIENCE, Stage, ask, await_served, web};

#[test]
fn a_box_serves_after_a_reboot_and_a_power_cut_without_a_hand_and_is_never_open() {
    let stage = Stage::set(Layout::Routed);
    let (bed, vm) = (&stage.bed, stage.installed());
    stage.node_port();
    stage.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    stage.put(&bed::Mapping::new("direct").address(Bed::EXT1B).usual_ports());
    stage.await_programmed("web");
    stage.await_programmed("direct");
    await_served(&bed.client1, Bed::EXT1);
    let probe = Probe::start(bed);

    let ways: [(&str, &dyn Fn()); 2] = [("a reboot", &|| vm.shut_down()), ("a power cut", &|| vm.cut_power())];
    for (what, down) in ways {
        down();
        vm.power_on();
        let begin = Instant::now();
        for (mode, address) in [("direct", Bed::EXT1B), ("service", Bed::EXT1)] {
            eventually_within(PATIENCE * 2, &format!("mode {mode} answers after {what}"), || {
                ask(&bed.client1, Proto::Tcp, address, 80).ok()
            });
            println!(
                "{what}: the first answer of a Mapping in mode {mode} {:.1} s after power-on",
                begin.elapsed().as_secs_f64()
            );
        }
        await_served(&bed.client2, Bed::EXT2);
        probe.assert_nothing_passed();
        vm.await_answer();
        // The second time with one, which is faster.
        stage.node("appliance");
    }
    let order = vm.must(
        "systemctl show -p ActiveEnterTimestampMonotonic --value smartnat-border systemd-networkd kube-proxy | grep .",
    );
    let times: Vec<u64> = order.lines().map(|l| l.parse().unwrap()).collect();
    assert!(times[0] > 0 && times[0] < times[1] && times[0] < times[2], "the border comes first: {times:?}");
    assert_eq!(vm.must("systemctl --failed --plain --no-legend"), "");

    // Without its program nothing of SmartNat starts, and so kube-proxy opens nothing.
    vm.must("mv /usr/local/bin/smartnat-manager /root/");
    vm.reboot();
    vm.eventually(
        "the border and kube-proxy are tried again and again",
        "for unit in smartnat-border kube-proxy; do [ \"$(systemctl show -p NRestarts --value $unit)\" -ge 2 ] || exit 1; done",
    );
    assert!(!vm.is("systemctl is-active kube-proxy"));
    assert_eq!(vm.must("sysctl -n net.ipv4.ip_forward").trim(), "0");
    probe.assert_nothing_forwarded();
    assert!(ask(&bed.client1, Proto::Tcp, Bed::EXT1, 80).is_err());
    // Once it is there, all of them come up without a hand.
    vm.must("mv /root/smartnat-manager /usr/local/bin/");
    await_served(&bed.client1, Bed::EXT1);
    probe.assert_nothing_forwarded();
}
