//! From the rules of version 3.0.0 to those of this one, under traffic.

use bed::Bed;

use crate::support::{
    assert_alive, assert_nothing_lost, assert_served, await_flows, daemon, flood, manifests, mapping, open_stream,
};

/// The nat table as 3.0.0 wrote it: a chain of its own for each port's pods, and a mark on the packet that is masqueraded.
fn nat_before(save: &str) -> String {
    let mut out = String::new();
    let mut last_pool = String::new();
    for line in save.lines() {
        let chain = line.strip_prefix("-A ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let pool = chain.replace("SMARTNAT-M-", "SMARTNAT-B-");
        if line.starts_with(":SMARTNAT-M-") {
            out += &format!("{line}\n{}\n", line.replace("SMARTNAT-M-", "SMARTNAT-B-"));
        } else if chain.starts_with("SMARTNAT-M-") && line.contains("-j DNAT") {
            if last_pool != pool {
                out += &format!("-A {chain} -j MARK --set-xmark 0x10000000/0x10000000\n-A {chain} -g {pool}\n");
            }
            out += &format!("{}\n", line.replace(chain, &pool));
            last_pool = pool;
        } else if chain == "SMARTNAT-SNAT" && line.contains("-j MASQUERADE") {
            out += "-A SMARTNAT-SNAT -m mark --mark 0x10000000/0x10000000 -j MASQUERADE\n";
        } else {
            out += &format!("{line}\n");
        }
    }
    assert!(out.contains("-g SMARTNAT-B-") && out.contains("-m mark --mark 0x10000000"), "{save}");
    out
}

/// The mangle table as it was: the border's first rule looked twice at the connection's mark.
fn mangle_before(save: &str) -> String {
    let now = "--mark 0x20000000/0x28000000";
    assert!(save.contains(now), "{save}");
    save.replace(now, "--mark 0x20000000/0x20000000 -m connmark ! --mark 0xfff0000/0xfff0000")
}

#[test]
fn connections_of_the_version_before_go_on_and_no_new_one_is_lost() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let mut daemon = daemon(&bed, &manifests).start();
    daemon.stop();
    let save = |table| bed.border.run(&format!("iptables-save -t {table}"));
    let before = nat_before(&save("nat")) + &mangle_before(&save("mangle"));
    bed.border.feed("iptables-restore", &before);

    let streams = [(&bed.client1, Bed::EXT1), (&bed.client2, Bed::EXT2)].map(|(from, to)| open_stream(from, to));
    assert_eq!(assert_served(&bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "by the rules of before");
    let floods = flood(&bed.client2, Bed::EXT2);
    await_flows(&floods, 20);
    daemon.start_again();
    streams.iter().for_each(assert_alive);
    await_flows(&floods, 20);
    assert_nothing_lost(floods, 40);
    streams.into_iter().for_each(|stream| assert_eq!(stream.stop().broken, None));
    assert_eq!(assert_served(&bed.client1, Bed::EXT1).saw.ip(), Bed::BORDER, "by those of now");
    let nat = save("nat");
    assert!(!nat.contains("SMARTNAT-B-") && !nat.contains("-m mark"), "{nat}");
}
