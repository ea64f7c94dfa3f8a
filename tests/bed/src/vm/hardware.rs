//! What the machine is made of, as arguments of QEMU, and the wires of the bed that it is put on.

use std::net::Ipv4Addr;
use std::path::Path;

use super::{image, ssh};
use crate::packet::Mac;
use crate::{Bed, Layout};

const INTERFACES: [&str; 4] = ["eth0", "eth1", "eth2", SPARE];
/// Its place is empty when the machine starts.
const SPARE: &str = "eth3";
/// The slot of the disk that a test brings along.
pub const PAYLOAD_SLOT: &str = "port-payload";

/// QEMU's arguments for a machine whose files are in a directory; its root disk there is `root.ext4`. What varies between two runs is the
/// directory alone.
pub fn arguments(bed: &Bed, dir: &Path) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut arguments: Vec<String> = format!(
        "-M q35 -accel tcg,thread=multi -cpu Nehalem-v1 -smp 2 -m 1024 -nodefaults -no-user-config -display none \
         -vga none -no-reboot -kernel {} -initrd {} -serial file:{} -qmp unix:{},server=on,wait=off \
         -device pcie-root-port,id=port-root,chassis=7,slot=7 -device pcie-root-port,id={PAYLOAD_SLOT},chassis=8,slot=8 \
         -drive if=none,id=root,file={},format=raw,cache=unsafe \
         -device virtio-blk-pci,bus=port-root,drive=root,serial=root \
         -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng -device vmgenid,guid=auto",
        image::path("vmlinuz").display(),
        image::path("initrd").display(),
        file("console"),
        file("qmp"),
        file("root.ext4"),
    )
    .split_whitespace()
    .map(str::to_owned)
    .collect();
    // The initramfs finds the root by its serial. A crash ends QEMU: a guest that is dead still takes connections over slirp. What systemd
    // does is told on the console: there a boot is seen to go on.
    let kernel = "rw console=ttyS0 net.ifnames=0 panic=-1 quiet systemd.show_status=1";
    arguments.extend(["-append".to_owned(), kernel.to_owned()]);
    // The kernel names NICs in the order of their buses: the way in comes last.
    for (n, interface) in (1..).zip(INTERFACES) {
        let port = format!("pcie-root-port,id=port-{interface},chassis={n},slot={n}");
        let net = format!("tap,id=net-{interface},ifname=tap-{interface},script=no,downscript=no");
        arguments.extend(["-device".to_owned(), port, "-netdev".to_owned(), net]);
        if interface != SPARE {
            let mac = mac(bed, interface);
            let nic =
                format!("virtio-net-pci,id={interface},bus=port-{interface},netdev=net-{interface},mac={mac},romfile=");
            arguments.extend(["-device".to_owned(), nic]);
        }
    }
    let way_in = format!("user,id=net-mgmt,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22", ssh::PORT);
    arguments.extend(
        ["-device", "pcie-root-port,id=port-mgmt,chassis=9,slot=9", "-netdev", &way_in, "-device"].map(str::to_owned),
    );
    arguments.push("virtio-net-pci,bus=port-mgmt,netdev=net-mgmt,mac=52:54:00:00:00:99,romfile=".to_owned());
    arguments
}

/// The MAC address of a guest's interface, the same as that of the box in whose place it stands.
pub fn mac(bed: &Bed, interface: &str) -> Mac {
    let address = match (bed.options.layout, interface) {
        (Layout::Routed, "eth0") => Bed::BORDER,
        (Layout::Routed, "eth1") => Bed::EXT1,
        (Layout::Routed, "eth2") => Bed::EXT2,
        (Layout::SameSubnet, "eth0") => Bed::SAME_BORDER,
        (Layout::SameSubnet, "eth1") => Bed::SAME_EXT1[0],
        (Layout::SameSubnet, "eth2") => Bed::SAME_EXT2[0],
        (_, SPARE) => Ipv4Addr::new(198, 51, 100, 30),
        (_, other) => panic!("the machine has no {other}"),
    };
    Mac::of(address)
}

/// The border's ends of the cables become ports of bridges, with other MAC addresses than the guest's NICs, beside a tap for each NIC.
pub fn put_on_bridges(bed: &Bed) {
    for name in ["all", "default"] {
        bed.border.set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
    }
    for (n, interface) in INTERFACES.into_iter().enumerate() {
        let tap = format!("tap-{interface}");
        bed.border.ip(&format!("tuntap add dev {tap} mode tap"));
        let bridge = if interface == SPARE { "br-eth2".to_owned() } else { format!("br-{interface}") };
        if interface != SPARE {
            bed.border.ip(&format!(
                "link add name {bridge} up type bridge forward_delay 0 mcast_snooping 0\naddress flush dev {interface}\n\
                 link set {interface} address 02:ff:00:00:00:0{n}\nlink set {interface} master {bridge}"
            ));
        }
        bed.border.ip(&format!("link set {tap} master {bridge}\nlink set {tap} up"));
    }
}
