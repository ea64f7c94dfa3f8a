//! The bare machine itself: what the other tests stand on.

use bed::Bed;
use bed::cluster::ControlPlane;
use bed::vm::Vm;

#[test]
fn a_bare_machine_boots_on_the_wires_of_its_bed_and_its_nics_can_be_changed() {
    let bed = Bed::new();
    let control = ControlPlane::for_bed(&bed);
    let payload = tempfile::tempdir().unwrap();
    let vm = Vm::boot(&bed, payload.path());
    for interface in ["eth0", "eth1", "eth2"] {
        let mac = vm.must(&format!("cat /sys/class/net/{interface}/address"));
        assert_eq!(mac.trim(), vm.mac(interface).to_string());
    }
    vm.must("modprobe ip_vs && modprobe ip_vs_rr && ipvsadm -Ln");
    vm.must("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.0.1");
    vm.eventually("the API server is reached", &format!("curl -skm 3 {}/readyz", control.server()));
    vm.unplug("eth1");
    vm.plug("eth1");
    vm.plug("eth3");
    assert_eq!(vm.must("cat /sys/class/net/eth1/address").trim(), vm.mac("eth1").to_string());
}
