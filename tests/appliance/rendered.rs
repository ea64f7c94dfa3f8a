//! What the NixOS module declares for its example box, run for real: the units, drop-ins, networkd files, kernel parameters and firewall of
//! `tests/appliance/rendered` (by `tests/nix-eval.sh`), file by file as they are, on the machine's own programs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bed::peer::Proto;
use bed::vm::Vm;
use bed::{Bed, Layout, eventually_within, holds};
use regex::Regex;

use crate::probe::Probe;
use crate::support::{PATIENCE, Stage, ask, assert_served, await_both_pods, await_served, web};

/// The hardware addresses that the example gives its external interfaces, and the machine's interfaces in their place.
const CARDS: [(&str, &str); 2] = [("52:54:00:00:01:01", "eth1"), ("52:54:00:00:01:02", "eth2")];

/// Every file with its path below the tree, in order.
fn tree() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a directory can be read").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/appliance/rendered");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    found.iter().map(|path| (path.strip_prefix(&root).expect("it is below").to_owned(), read(path))).collect()
}

/// Puts the tree where NixOS has these files, gives the store paths in it the machine's own programs, and enables what is wanted.
fn put_tree(vm: &Vm) {
    vm.must("rm /etc/systemd/network/10-gateway.network /etc/systemd/network/30-*.network");
    vm.must("install -m 755 /payload/smartnat-manager /payload/kube-proxy /usr/local/bin/");
    vm.must("install -D -m 600 /payload/border/smartnat.kubeconfig /etc/smartnat/kubeconfig");
    vm.must("install -m 600 /payload/border/kube-proxy.kubeconfig /etc/kubeconfig");
    let programs = Regex::new(r"/nix/store/([A-Za-z0-9_.+-]+)/(s?bin)\b").unwrap();
    let wanted = Regex::new(r"(?m)^WantedBy=(\S+)$").unwrap();
    let mut directories = BTreeSet::new();
    let mut commands = String::new();
    for (path, mut content) in tree() {
        for (mac, interface) in CARDS {
            content = content.replace(mac, &vm.mac(interface).to_string());
        }
        for found in programs.captures_iter(&content) {
            directories.insert((found[1].to_owned(), found[2].to_owned()));
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(script) = path.to_string_lossy().strip_prefix("bin/") {
            let at = format!("/nix/store/{script}/bin/{script}");
            vm.put(&at, &content);
            vm.must(&format!("chmod 755 {at}"));
            continue;
        }
        // NixOS makes these links from the drop-ins, as systemd reads [Install] in the unit alone.
        if let (true, Some(target)) =
            (name == "overrides.conf" || name == "firewall.service", wanted.captures(&content))
        {
            let unit = if name == "overrides.conf" { path.parent().unwrap() } else { path.as_path() };
            let unit = unit.file_name().unwrap().to_string_lossy();
            let unit = unit.trim_end_matches(".d");
            commands += &format!("systemctl add-wants {} {unit}\n", &target[1]);
        }
        vm.put(&format!("/etc/{}", path.display()), &content);
    }
    for (name, bin) in directories {
        let own = if name.starts_with("firewall-") {
            continue;
        } else if name == "smartnat-manager" || name == "kube-proxy" {
            "/usr/local/bin".to_owned()
        } else {
            format!("/usr/{bin}")
        };
        vm.must(&format!("mkdir -p /nix/store/{name} && ln -sfn {own} /nix/store/{name}/{bin}"));
    }
    // The way by which the test gives its commands is no part of the example.
    vm.put(
        "/etc/systemd/system/firewall.service.d/way-in.conf",
        "[Service]\nExecStartPost=/usr/sbin/iptables -w -I nixos-fw -i mgmt0 -j nixos-fw-accept\n",
    );
    vm.must(&commands);
}

#[test]
fn what_the_nixos_module_declares_serves_from_its_first_boot() {
    let stage = Stage::set(Layout::Routed);
    let (bed, vm) = (&stage.bed, stage.bare());
    stage.node_port();
    // The example has one router first in its subnet, and the other last.
    bed.r2.ip("address add 198.51.100.254/24 dev eth0");
    put_tree(&vm);
    let probe = Probe::start(bed);
    vm.reboot();

    stage.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    stage.await_programmed("web");
    for (client, address) in [(&bed.client1, Bed::EXT1), (&bed.client2, Bed::EXT2)] {
        await_served(client, address);
        await_both_pods(client, address);
    }
    assert_eq!(assert_served(&bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "pods see the box");

    // Interfaces have the names of the module, and what it says of them.
    for name in ["wan0", "wan1"] {
        assert!(
            vm.must(&format!("networkctl status --no-pager {name}")).contains(&format!("20-smartnat-{name}.network"))
        );
    }
    assert!(vm.must("ip route show table main default").contains("via 10.0.0.1 dev eth0"));
    assert_eq!(vm.must("ip route show table main default").lines().count(), 1);
    assert_eq!(vm.must("sysctl -n net.ipv4.conf.wan0.rp_filter net.netfilter.nf_conntrack_max"), "0\n262144\n");
    assert!(vm.must("ip route show table all | grep 'default via 198.51.100.254'").contains("wan1"));
    assert_eq!(vm.must("systemctl list-units --failed --plain --no-legend 'smartnat*' 'kube-proxy*' firewall.service"), "");
    let started =
        "systemctl show -p ActiveEnterTimestampMonotonic --value smartnat-border systemd-networkd kube-proxy | grep .";
    let order: Vec<u64> = vm.must(started).lines().map(|l| l.parse().unwrap()).collect();
    assert!(order[0] > 0 && order[0] < order[1] && order[0] < order[2], "the border comes first: {order:?}");

    // The host firewall is there: figures for the cluster's side alone, and another port of the box for nobody.
    vm.must("systemd-run --unit=other systemd-socket-activate --accept --listen=9999 cat");
    let reached =
        |port: u16| bed.core.attempt(&format!("timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.0.2/{port}'"), "").is_ok();
    eventually_within(PATIENCE, "the figures are there", || holds(reached(8080)));
    assert!(
        vm.is("timeout 5 bash -c 'until (exec 3<>/dev/tcp/127.0.0.1/9999); do :; done'"),
        "something listens there"
    );
    assert!(!reached(9999), "the host firewall refuses what it does not know");
    assert!(ask(&bed.client1, Proto::Tcp, Bed::EXT1, 8080).is_err());

    // It would refuse mapped traffic as well, but for the module's rule.
    let rule =
        "nixos-fw -m conntrack --ctstate DNAT -j nixos-fw-accept -m comment --comment 'smartnat: mapped traffic'";
    vm.must(&format!("iptables -w -D {rule}"));
    assert!(ask(&bed.client1, Proto::Tcp, Bed::EXT1, 80).is_err());
    vm.must("systemctl restart firewall.service");
    await_served(&bed.client1, Bed::EXT1);

    // A switch to another generation restarts the daemon, and networkd; traffic does not notice.
    vm.must("systemctl restart smartnat.service systemd-networkd.service");
    await_served(&bed.client1, Bed::EXT1);
    await_served(&bed.client2, Bed::EXT2);
    probe.assert_nothing_passed();
}
