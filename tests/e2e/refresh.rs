//! What a look at the kernel costs where nobody changed anything, and what others may do without starting one.

use bed::{Bed, eventually};

use crate::support::{assert_served, daemon, manifests, mapping};

#[test]
fn a_refresh_calls_no_tool_until_somebody_changes_something() {
    for own_pids in [false, true] {
        let bed = Bed::new();
        let manifests = manifests([mapping("web", &[Bed::EXT1])]);
        let daemon = daemon(&bed, &manifests).refreshing();
        let daemon = if own_pids { daemon.own_pids() } else { daemon }.start();
        // Sets are read once behind the last write of them.
        daemon.passes(3);
        let figures = || ["smartnat_tool_calls_total", "smartnat_repairs_total"].map(|m| daemon.metric(m, ""));
        let quiet = figures();
        daemon.passes(3);
        assert_eq!(figures(), quiet, "{}", daemon.log());
        let arp = "sysctl -qw net.ipv4.conf.eth1.arp_ignore=0";
        for script in ["iptables -t nat -F SMARTNAT-DNAT", "ipset flush SN-EP", arp, "nft flush ruleset"] {
            let before = figures();
            bed.border.run(script);
            eventually(&format!("the repair of `{script}`"), || (figures()[1] > before[1]).then_some(()));
            assert_served(&bed.client1, Bed::EXT1);
        }
        daemon.passes(3);
        let quiet = figures();
        daemon.passes(2);
        assert_eq!(figures(), quiet, "{}", daemon.log());
    }
}

#[test]
fn what_others_do_in_chains_of_theirs_starts_no_pass() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    daemon.settle(&manifests);
    bed.border.feed("sh -e", "for t in mangle nat filter; do iptables -t $t -N FOREIGN; done");
    for number in 0..10 {
        let script = format!(
            "for t in mangle nat filter; do iptables -t $t -A FOREIGN -s 192.0.2.{number} -j RETURN; done
             printf '*nat\\n:FOREIGN - [0:0]\\n-A FOREIGN -j RETURN\\nCOMMIT\\n' | iptables-restore --noflush
             nft add table inet bed; nft add chain inet bed c; nft add rule inet bed c counter; nft delete table inet bed"
        );
        bed.border.feed("sh -e", &script);
    }
    // What counts comes behind all of them.
    bed.border.run("iptables -t mangle -I PREROUTING -j ACCEPT");
    eventually("the repair", || (daemon.metric("smartnat_repairs_total", "") > 0.0).then_some(()));
    // Each such notice starts a pass.
    let told = daemon.log().matches("another process changed nf_tables").count();
    assert_eq!(told, 1, "{}", daemon.log());
}
