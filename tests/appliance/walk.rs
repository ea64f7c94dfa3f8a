//! From a bare system to served traffic, as `docs/install.md` tells it.

use bed::{Bed, Layout};

use crate::probe::Probe;
use crate::support::{
    INSTALLATION, Stage, assert_goes_on, assert_served, await_both_pods, await_served, install, open_stream, web,
};

#[test]
fn a_bare_system_serves_traffic_after_one_script_and_opens_nothing_else() {
    let stage = Stage::set(Layout::Routed);
    let (bed, vm) = (&stage.bed, stage.bare());
    let probe = Probe::start(bed);
    let said = install(&vm, INSTALLATION);
    println!("{said}");
    stage.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    stage.await_programmed("web");
    for (client, address) in [(&bed.client1, Bed::EXT1), (&bed.client2, Bed::EXT2), (&bed.client1, Bed::EXT2)] {
        await_served(client, address);
        await_both_pods(client, address);
    }
    assert_eq!(assert_served(&bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "masqueraded");
    probe.assert_nothing_passed();

    let again = install(&vm, INSTALLATION);
    assert!(again.contains("nothing was changed"), "{again}");

    let stream = open_stream(&bed.client1, Bed::EXT1);
    println!("{}", vm.must("systemd-analyze blame | head; systemd-analyze security smartnat.service | tail -1; ipvsadm -Ln; iptables-save -c | head -80"));
    assert_goes_on(&stream);
}
