//! Who may connect, and where the objects come from.

use std::fs;

use bed::{Bed, eventually};

use crate::support::{
    assert_alive, assert_cut, assert_dropped, assert_nothing_lost, assert_refused, assert_served, daemon, flood,
    manifests, mapping, open_stream,
};

#[test]
fn only_allowed_sources_reach_a_mapping_and_others_hear_nothing() {
    let bed = Bed::new();
    let web = mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/25").source("198.51.100.66");
    let manifests = manifests([web]);
    let _daemon = daemon(&bed, &manifests).start();
    for address in [Bed::EXT1, Bed::EXT2] {
        assert_served(&bed.client1, address);
        assert_dropped(&bed.client2, address);
    }
    assert_served(&bed.attacker2, Bed::EXT2);
    assert_dropped(&bed.attacker1, Bed::EXT1);
}

/// One, a few, and many sources are asked for in different ways.
#[test]
fn sources_that_come_and_go_one_by_one_are_in_force_each_time() {
    let bed = Bed::new();
    let web = |more: u8| {
        let web = mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/25");
        (1..=more).fold(web, |web, i| web.source(&format!("198.18.{i}.0/24")))
    };
    let mut manifests = manifests([web(0)]);
    let daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    for more in (1..7).chain((0..7).rev()) {
        manifests.put(web(more)).write();
        daemon.settle(&manifests);
        assert_served(&bed.client1, Bed::EXT1);
        assert_dropped(&bed.client2, Bed::EXT2);
        manifests.put(web(more).source("198.51.100.66")).write();
        daemon.settle(&manifests);
        assert_served(&bed.attacker2, Bed::EXT2);
        assert_dropped(&bed.client2, Bed::EXT2);
    }
    assert_alive(&stream);
    assert_eq!(stream.stop().broken, None);
}

/// A connection that a conntrack helper expects begins with the mark of the one that it belongs to; here somebody else's rule gives it.
#[test]
fn a_mark_that_a_connection_begins_with_allows_nobody() {
    let bed = Bed::new();
    let web = mapping("web", &[Bed::EXT1]).source("192.0.2.0/25").source("198.18.1.1");
    let manifests = manifests([web]);
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.run("iptables -t mangle -A PREROUTING -i eth1 -j CONNMARK --set-mark 0x20000000/0x20000000");
    assert_refused(&bed.attacker1, Bed::EXT1);
}

#[test]
fn sources_tightened_while_connections_are_up_cut_those_alone_that_are_allowed_no_more() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2])]);
    let daemon = daemon(&bed, &manifests).start();
    let (stays, goes) = (open_stream(&bed.client1, Bed::EXT1), open_stream(&bed.client2, Bed::EXT2));
    assert_alive(&goes);
    manifests.put(mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/25")).write();
    daemon.settle(&manifests);
    assert_cut(goes);
    assert_alive(&stays);
    assert_dropped(&bed.client2, Bed::EXT2);
    assert_eq!(stays.stop().broken, None);
    let count = bed.conntrack().iter().filter(|line| line.contains("src=192.0.2.130")).count();
    assert_eq!(count, 0, "{:?}", bed.conntrack());
    assert!(daemon.metric("smartnat_flows_removed_total", "") >= 1.0);

    manifests.put(mapping("web", &[Bed::EXT1, Bed::EXT2]).source("192.0.2.0/24")).write();
    daemon.settle(&manifests);
    assert_served(&bed.client2, Bed::EXT2);
}

#[test]
fn a_broken_file_changes_nothing_and_is_named() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    let floods = flood(&bed.client1, Bed::EXT1);
    manifests.replace("kind: Mapping\n  metadata: {{{\n");
    eventually("the broken file is named in the health report", || {
        let reply = daemon.get("/healthcheck")?;
        assert_eq!(reply.code, 200, "a source that is away is no failure: {}", reply.body);
        reply.body.contains("objects.yaml").then_some(())
    });
    assert_alive(&stream);
    assert_served(&bed.client1, Bed::EXT1);
    manifests.put(mapping("late", &[Bed::EXT1B])).write();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1B);
    assert_nothing_lost(floods, 5);
    assert_eq!(stream.stop().broken, None);
}

#[test]
fn a_manifests_directory_that_goes_away_and_comes_back_changes_nothing() {
    let bed = Bed::new();
    let mut manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).refreshing().start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    let floods = flood(&bed.client1, Bed::EXT1);
    let away = manifests.dir().with_extension("away");
    fs::rename(manifests.dir(), &away).unwrap();
    eventually("the source is reported as away", || {
        let status = daemon.status();
        let source = status["sources"].as_array()?.iter().find(|s| s["name"] == "manifests")?.clone();
        (source["state"] == "away").then_some(())
    });
    daemon.passes(2);
    assert_alive(&stream);
    assert_served(&bed.client1, Bed::EXT1);

    fs::rename(&away, manifests.dir()).unwrap();
    manifests.put(mapping("late", &[Bed::EXT1B])).write();
    daemon.settle(&manifests);
    assert_served(&bed.client1, Bed::EXT1B);
    assert_nothing_lost(floods, 5);
    assert_eq!(stream.stop().broken, None);
}

#[test]
fn a_daemon_restarted_without_its_source_leaves_the_kernel_as_it_is() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let mut daemon = daemon(&bed, &manifests).start();
    let stream = open_stream(&bed.client1, Bed::EXT1);
    daemon.kill();
    let away = manifests.dir().with_extension("away");
    fs::rename(manifests.dir(), &away).unwrap();
    daemon.launch();
    eventually("the daemon is up, not ready", || (daemon.get("/readyz")?.code == 503).then_some(()));
    assert_alive(&stream);
    assert_served(&bed.client1, Bed::EXT1);
    assert_dropped(&bed.client1, Bed::EXT1B);
    fs::rename(&away, manifests.dir()).unwrap();
    eventually("the daemon is ready once its source is back", || (daemon.get("/readyz")?.code == 200).then_some(()));
    assert_eq!(stream.stop().broken, None);
}
