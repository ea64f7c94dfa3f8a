//! What the NixOS module declares for its example box and for the image, run for real: the units, drop-ins, networkd files, kernel parameters,
//! firewall and first boot of `tests/appliance/rendered` (by `tests/nix-eval.sh`), file by file as they are, on the machine's own programs.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bed::peer::Proto;
use bed::vm::Vm;
use bed::{Bed, Layout, eventually_within, holds};
use regex::Regex;

use crate::probe::Probe;
use crate::support::{PATIENCE, Stage, ask, assert_served, await_both_pods, await_served, web};

/// The hardware addresses that the example gives its interfaces, and the machine's interfaces in their place.
const CARDS: [(&str, &str); 3] =
    [("52:54:00:00:00:01", "eth0"), ("52:54:00:00:01:01", "eth1"), ("52:54:00:00:01:02", "eth2")];

/// Every file that a machine has by its declaration, with its path below the tree, in order.
fn tree(of: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a directory can be read").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/appliance/rendered").join(of);
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    found.iter().map(|path| (path.strip_prefix(&root).expect("it is below").to_owned(), read(path))).collect()
}

/// Puts the tree where NixOS has these files, gives the store paths in it the machine's own programs, and enables what is wanted.
fn put_tree(vm: &Vm, of: &str) {
    vm.must("rm /etc/systemd/network/10-gateway.network /etc/systemd/network/30-*.network");
    vm.must("install -m 755 /payload/smartnat-manager /payload/kube-proxy /usr/local/bin/");
    let programs = Regex::new(r"/nix/store/([A-Za-z0-9_.+-]+)/(s?bin)\b").unwrap();
    let wanted = Regex::new(r"(?m)^WantedBy=(\S+)$").unwrap();
    let mut directories = BTreeSet::new();
    let mut scripts = BTreeSet::new();
    let mut commands = String::new();
    let tree = tree(of);
    let has = |path: &Path| tree.iter().any(|(other, _)| other == path);
    for (path, content) in &tree {
        let content = CARDS
            .iter()
            .fold(content.clone(), |text, (mac, interface)| text.replace(mac, &vm.mac(interface).to_string()));
        for found in programs.captures_iter(&content) {
            directories.insert((found[1].to_owned(), found[2].to_owned()));
        }
        if let Ok(script) = path.strip_prefix("bin") {
            let script = script.to_string_lossy();
            let at = format!("/nix/store/{script}/bin/{script}");
            vm.put(&at, &content);
            vm.must(&format!("chmod 755 {at}"));
            scripts.insert(script.into_owned());
            continue;
        }
        // NixOS makes these links: from drop-ins, as systemd reads [Install] in the unit alone, and from units that are its own as a whole.
        let drop_ins = PathBuf::from(format!("{}.d", path.display()));
        let unit =
            path.parent().filter(|dir| dir.extension().is_some_and(|e| e == "d")).map(|dir| dir.with_extension(""));
        let unit = unit.or_else(|| (!has(&drop_ins.join("overrides.conf"))).then(|| path.clone()));
        if let (Some(unit), Some(target)) = (unit, wanted.captures(&content)) {
            commands += &format!("systemctl add-wants {} {}\n", &target[1], unit.file_name().unwrap().display());
        }
        vm.put(&format!("/etc/{}", path.display()), &content);
    }
    for (name, bin) in directories {
        let own = if scripts.contains(&name) {
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

/// When these units came up, in microseconds since the boot; nothing where one did not.
fn came_up(vm: &Vm, units: &str) -> Vec<u64> {
    let times = vm.must(&format!("systemctl show -p ActiveEnterTimestampMonotonic --value {units} | grep ."));
    times.lines().map(|line| line.parse().unwrap()).collect()
}

fn assert_both_served(stage: &Stage) {
    for (client, address) in [(&stage.bed.client1, Bed::EXT1), (&stage.bed.client2, Bed::EXT2)] {
        await_served(client, address);
        await_both_pods(client, address);
    }
    assert_eq!(assert_served(&stage.bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "pods see the box");
}

#[test]
fn what_the_nixos_module_declares_serves_from_its_first_boot() {
    let stage = Stage::set(Layout::Routed);
    let (bed, vm) = (&stage.bed, stage.bare());
    stage.node("appliance");
    stage.node_port();
    // The example has one router first in its subnet, and the other last.
    bed.r2.ip("address add 198.51.100.254/24 dev eth0");
    put_tree(&vm, "border-1");
    vm.must("install -D -m 600 /payload/border/smartnat.kubeconfig /etc/smartnat/kubeconfig");
    vm.must("install -m 600 /payload/border/kube-proxy.kubeconfig /etc/kubeconfig");
    // The bare system, which answers, is off.
    vm.shut_down();
    let probe = Probe::start(bed);
    vm.power_on();
    vm.await_answer();

    stage.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    stage.await_programmed("web");
    assert_both_served(&stage);

    // Interfaces have the names of the module, and what it says of them.
    for name in ["wan0", "wan1"] {
        assert!(
            vm.must(&format!("networkctl status --no-pager {name}")).contains(&format!("20-smartnat-{name}.network"))
        );
    }
    assert!(vm.must("ip route show table main default").contains("via 10.0.0.1 dev lan0"));
    assert_eq!(vm.must("ip route show table main default").lines().count(), 1);
    assert_eq!(vm.must("sysctl -n net.ipv4.conf.wan0.rp_filter net.netfilter.nf_conntrack_max"), "0\n262144\n");
    assert!(vm.must("ip route show table all | grep 'default via 198.51.100.254'").contains("wan1"));
    assert_eq!(
        vm.must("systemctl list-units --failed --plain --no-legend 'smartnat*' 'kube-proxy*' firewall.service"),
        ""
    );
    let order = came_up(&vm, "smartnat-border systemd-networkd kube-proxy");
    assert!(order[0] > 0 && order[0] < order[1] && order[0] < order[2], "the border comes first: {order:?}");

    // The host firewall is there: figures for the cluster's side alone, and another port of the box for nobody.
    vm.must("systemd-run --unit=other systemd-socket-activate --accept --listen=9999 cat");
    let reached = |port: u16| {
        let to = (Bed::BORDER, port).into();
        bed.core.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).is_ok()
    };
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

/// A file of systemd-networkd, as an operator gives it.
fn network(interface: &str, more: &str) -> (String, String) {
    let name = format!("05-{interface}.network");
    (name, format!("[Match]\nName={interface}\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n{more}"))
}

#[test]
fn an_image_is_told_at_boot_who_it_is_and_keeps_what_it_was_told() {
    let stage = Stage::set(Layout::Routed);
    let (bed, vm) = (&stage.bed, stage.bare());
    stage.node("border-7");
    stage.node_port();
    put_tree(&vm, "image");
    vm.shut_down();

    let core = Bed::CORE;
    let drive = tempfile::tempdir().unwrap();
    let inside = format!(
        "[Address]\nAddress={}/24\n[Route]\nGateway={core}\n[Route]\nDestination=10.244.0.0/16\nGateway={core}\n",
        Bed::BORDER
    );
    let outside = |address| format!("[Address]\nAddress={address}/24\nRouteMetric=4096\n");
    let kubeconfig = |of: &str| std::fs::read_to_string(stage.kubeconfig(of)).unwrap();
    let files = [
        network("eth0", &inside),
        network("eth1", &outside(Bed::EXT1)),
        network("eth2", &outside(Bed::EXT2)),
        ("smartnat.kubeconfig".to_owned(), kubeconfig("smartnat")),
        ("kube-proxy.kubeconfig".to_owned(), kubeconfig("kube-proxy")),
        ("hostname".to_owned(), "border-7\n".to_owned()),
    ];
    for (name, content) in files {
        std::fs::write(drive.path().join(name), content).unwrap();
    }
    stage.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    let served_by = |name: &str| {
        eventually_within(PATIENCE, &format!("instance {name} serves"), || {
            let mapping = stage.control.get("mapping", "default", "web");
            holds(mapping["status"]["instances"].as_array().is_some_and(|all| all.iter().any(|i| i["name"] == name)))
        });
        assert_both_served(&stage);
    };

    vm.give(Some(("SMARTNAT", drive.path())), &[]);
    let probe = Probe::start(bed);
    vm.power_on();
    vm.await_answer();
    served_by("border-7");
    let order = came_up(&vm, "smartnat-provision smartnat-border systemd-networkd");
    assert!(
        order[0] > 0 && order[0] < order[1] && order[1] < order[2],
        "first what it was given, then the border: {order:?}"
    );
    assert_eq!(
        vm.must("stat -c %a /var/lib/smartnat-provision /var/lib/smartnat-provision/smartnat.kubeconfig"),
        "700\n600\n"
    );
    assert!(!vm.is("findmnt -S LABEL=SMARTNAT"), "the drive is not left mounted");

    // Without the drive, after a power cut, it is the same box; what comes by credentials is taken before, and user data after.
    vm.put(
        "/etc/ec2-metadata/user-data",
        r#"{"smartnat.env": "SNCTRLR_INSTANCE_NAME=by-user-data\n", "run": "reboot"}"#,
    );
    vm.must("sync");
    vm.cut_power();
    vm.give(None, &[("smartnat.env", "SNCTRLR_INSTANCE_NAME=by-credential\n")]);
    vm.power_on();
    vm.await_answer();
    served_by("by-user-data");
    let said = vm.must("journalctl -b --no-pager -o cat -u smartnat-provision -u smartnat-user-data");
    for line in
        ["smartnat.env from system credentials: taken", "smartnat.env from EC2 user data: taken", "\"run\" is unknown"]
    {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
    assert_eq!(vm.must("hostname"), "border-7\n");
    probe.assert_nothing_passed();
}
