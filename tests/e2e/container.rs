//! As `deploy/daemonset` runs it: a privileged container that ends, then the daemon with next to nothing.

use bed::Bed;

use crate::support::{assert_dropped, assert_served, daemon, manifests, mapping};

#[test]
fn after_the_init_container_a_daemon_without_rights_to_kernel_parameters_serves() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).contained();
    let border = daemon.command(&["border"]);
    assert!(border.status.success(), "{}", String::from_utf8_lossy(&border.stderr));
    bed.border.set_sysctl("net/ipv4/ip_forward", "1");

    daemon.start_again();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.client1, Bed::EXT1B);
    manifests.put(mapping("late", &[Bed::EXT1B])).write();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1B);
    daemon.kill();
    daemon.start_again();
    assert_served(&bed.client1, Bed::EXT1);
    assert_eq!(daemon.get("/healthcheck").unwrap().code, 200);
}

#[test]
fn without_the_init_container_the_daemon_names_the_parameter_that_it_cannot_set() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).contained();
    daemon.launch();
    let told = bed::eventually("the failure is told", || {
        let reply = daemon.get("/healthcheck")?;
        (reply.code == 503).then_some(reply.body)
    });
    assert!(told.contains("net/ipv4/conf/all/") && told.contains("/proc/sys is read-only"), "{told}");
}

#[test]
fn in_a_pid_namespace_of_its_own_it_knows_its_own_writes_and_those_of_others() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).own_pids().start();
    daemon.settle(&manifests);
    let calls = || daemon.metric("smartnat_tool_calls_total", "");
    let looks = || daemon.log().matches("applied scope=").count();
    for (name, address) in [("late", Bed::EXT1B), ("later", Bed::EXT2)] {
        manifests.put(mapping(name, &[address])).write();
        daemon.settle(&manifests);
        let (before, passes) = (calls(), looks());
        // Far longer than the debounce of the kernel's notices.
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!((calls(), looks()), (before, passes), "its own write was looked at: {}", daemon.log());
    }
    assert_served(&bed.client1, Bed::EXT1B);

    let before = calls();
    bed.border.run("iptables -t mangle -I PREROUTING -j ACCEPT");
    bed::eventually("what somebody else wrote is noticed", || (calls() > before).then_some(()));
    bed::eventually("our hook is the first again", || {
        let rules = bed.border.run("iptables -t mangle -S PREROUTING");
        rules.lines().nth(1)?.contains("SMARTNAT").then_some(())
    });
}
