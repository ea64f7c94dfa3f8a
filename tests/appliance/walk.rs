//! From a bare system to served traffic and back, as `docs/install.md` tells it.

use bed::peer::Proto;
use bed::{Bed, Layout, eventually_within, holds};

use crate::probe::Probe;
use crate::support::{INSTALLATION, PATIENCE, Stage, assert_served, await_both_pods, await_served, install, web};

#[test]
fn one_script_makes_a_bare_system_serve_and_another_run_of_it_takes_everything_away() {
    let stage = Stage::set(Layout::Routed);
    let (bed, vm) = (&stage.bed, stage.bare());
    stage.node_port();
    stage.node("appliance");

    let said = install(&vm, &format!("{INSTALLATION} --dry-run"));
    assert!(said.contains("would install /usr/local/bin/kube-proxy"), "{said}");
    assert!(!vm.is("test -e /usr/local/bin/kube-proxy -o -e /etc/smartnat"), "a dry run changes nothing");

    let said = install(&vm, INSTALLATION);
    assert!(said.contains("it runs in ipvs mode"), "{said}");
    let probe = Probe::start(bed);
    stage.put(&web("web", &[Bed::EXT1, Bed::EXT2]));
    stage.await_programmed("web");
    // Each client at the address of the other interface too.
    for client in [&bed.client1, &bed.client2] {
        for address in [Bed::EXT1, Bed::EXT2] {
            await_served(client, address);
            await_both_pods(client, address);
        }
    }
    assert_eq!(assert_served(&bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "pods see the box");

    let again = install(&vm, INSTALLATION);
    assert!(again.contains("nothing was changed"), "{again}");

    // No root, two capabilities, and systemd's own opinion of the sandbox.
    let status = vm.must("cat /proc/$(systemctl show -p MainPID --value smartnat)/status");
    let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
    assert!(!line("Uid:").contains("\t0\t"), "{status}");
    assert!(line("CapBnd:").ends_with("0000000000003000") && line("NoNewPrivs:").ends_with('1'), "{status}");
    let score = vm.must("systemd-analyze security --no-pager smartnat.service | tail -1");
    let exposure: f64 = score.split_whitespace().find_map(|w| w.parse().ok()).unwrap();
    assert!(exposure < 2.5, "{score}");

    // The operator's commands have the settings of the units.
    let traced = vm.must(&format!(
        "smartnat-manager trace --interface eth1 --source {} --destination {} --protocol tcp --port 80",
        Bed::CLIENT1,
        Bed::EXT1
    ));
    assert!(traced.contains("default/web"), "{traced}");

    install(&vm, "--set SNCTRLR_SETUP_MASQUERADE=false --set SNCTRLR_SETUP_SNAT=true");
    for (client, at, address) in [(&bed.client1, Bed::CLIENT1, Bed::EXT1), (&bed.client2, Bed::CLIENT2, Bed::EXT2)] {
        eventually_within(PATIENCE, "pods see the client itself", || {
            holds(client.get(Proto::Tcp, address, 80).is_ok_and(|a| a.saw.ip() == at))
        });
        assert_eq!(assert_served(client, address).saw.ip(), at);
    }
    let world = std::net::SocketAddrV4::new(Bed::CLIENT1, 7000);
    bed.serve("client1", "world", &[world], &[world]);
    for proto in [Proto::Tcp, Proto::Udp] {
        let answer = bed.pod1.get(proto, Bed::CLIENT1, 7000);
        assert_eq!(answer.map(|a| a.saw.ip()), Ok(Bed::EXT1.into()), "a mapped pod goes out as its Mapping");
    }
    probe.assert_nothing_passed();
    drop(probe);

    let said = install(&vm, "--uninstall --purge --force");
    assert!(said.contains("Removed."), "{said}");
    let left = vm.must("{ iptables-save; ip6tables-save; ip rule; ip route show table all; ipset list -n; } | grep -iE 'smartnat|SN-|KUBE|lookup 1[0-9]{3}' || true");
    assert_eq!(left, "", "is left in the kernel");
    assert!(!vm.is("ls /etc/systemd/system/*smartnat* /etc/systemd/system/kube-proxy* /etc/smartnat /usr/local/bin/* /etc/kubeconfig"));
}
