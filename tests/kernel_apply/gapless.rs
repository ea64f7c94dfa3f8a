//! What is not read at a refresh, because the kernel's notices say that nobody changed it; and that nobody's change is
//! missed for it.

use smartnat::apply::Applied;
use smartnat::ruleset::Dataplane;
use smartnat::sources::SourceEvent;
use smartnat::sources::tables::run;
use tokio::sync::mpsc;

use crate::bed::{Bed, LIMIT, everything, full, mapping_chain, nat, wrapped};
use crate::netns::{in_netns, sh, soon};
use crate::overrun::lost_messages;

/// As the daemon does: listening begins before the first reading.
fn listening(bed: &Bed) -> mpsc::Receiver<SourceEvent> {
    let (sender, events) = mpsc::channel(64);
    tokio::spawn(run(bed.tools.ledger().clone(), sender));
    events
}

/// A bed in which everything was written, and the sets were read once since.
async fn settled(plane: &Dataplane) -> (Bed, mpsc::Receiver<SourceEvent>) {
    let mut bed = Bed::new();
    let events = listening(&bed);
    bed.apply(plane).await;
    let first = bed.refresh(plane).await;
    // A digest of the sets right after a write might be of somebody else's.
    assert_eq!(first.tool_calls, 1, "{first:?}");
    (bed, events)
}

fn told(applied: &Applied) -> Vec<String> {
    applied.repairs.iter().map(ToString::to_string).collect()
}

#[test]
fn a_refresh_where_nobody_changed_anything_calls_no_tool() {
    in_netns(|| async {
        let plane = full();
        let (mut bed, _events) = settled(&plane).await;
        for _ in 0..3 {
            let applied = bed.refresh(&plane).await;
            assert_eq!(applied.tool_calls, 0, "{applied:?}");
        }
        // Nor does one after a write of our own, but for the set that changed.
        let mut later = plane.clone();
        nat(&mut later).add("SMARTNAT-M-a", mapping_chain(80, "10.244.9.9"));
        assert_eq!(bed.apply(&later).await.tool_calls, 1);
        assert_eq!(bed.refresh(&later).await.tool_calls, 0);
        assert_eq!(bed.repairs(&later).await, [""; 0]);
    });
}

#[test]
fn what_somebody_changes_is_found_at_the_next_refresh_wherever_it_is() {
    in_netns(|| async {
        let plane = full();
        let (mut bed, _events) = settled(&plane).await;
        let before = everything();
        for (script, expected) in [
            ("iptables -t nat -F SMARTNAT-M-a", "chain ipv4 nat SMARTNAT-M-a was changed"),
            ("iptables -t nat -A SMARTNAT-M-b -j RETURN", "chain ipv4 nat SMARTNAT-M-b was changed"),
            ("iptables -t nat -D SMARTNAT-M-b 1", "chain ipv4 nat SMARTNAT-M-b was changed"),
            (
                "iptables -t nat -F SMARTNAT-M-b; iptables -t nat -X SMARTNAT-M-b",
                "chain ipv4 nat SMARTNAT-M-b was removed",
            ),
            (
                "iptables -t nat -E SMARTNAT-M-b OTHER; iptables -t nat -F OTHER; iptables -t nat -X OTHER",
                "chain ipv4 nat SMARTNAT-M-b was removed",
            ),
            ("iptables -t nat -N SMARTNAT-M-z", "chain ipv4 nat SMARTNAT-M-z was added by somebody else"),
            ("iptables -t nat -D PREROUTING -j SMARTNAT-DNAT", "hook ipv4 nat PREROUTING was removed"),
            ("iptables -t nat -A PREROUTING -j SMARTNAT-DNAT", "hook ipv4 nat PREROUTING was there more than once"),
            (
                "iptables -t nat -F PREROUTING; iptables -t nat -A PREROUTING -s 1.1.1.1 -j SMARTNAT-DNAT",
                "hook ipv4 nat PREROUTING was changed",
            ),
            ("iptables -t nat -A OUTPUT -j SMARTNAT-DNAT", "hook ipv4 nat OUTPUT was added by somebody else"),
            ("ip6tables -t mangle -F", "chain ipv6 mangle SMARTNAT-BORDER was changed"),
            ("nft delete table ip nat", "chain ipv4 nat SMARTNAT-DNAT was removed"),
            ("nft flush ruleset", "chain ipv4 mangle SMARTNAT-BORDER was removed"),
            (
                "ipset add SN-INNER 192.0.2.0/24",
                "set SN-INNER was changed: 0 members missing, 1 members that are not ours",
            ),
            (
                "ipset del SN-EP 203.0.113.10,tcp:80",
                "set SN-EP was changed: 1 members missing, 0 members that are not ours",
            ),
            ("ipset flush SN-INNER6", "set SN-INNER6 was changed: 1 members missing, 0 members that are not ours"),
            (
                "ipset add SN-EG 10.244.1.2 skbmark 0x50000/0xfff0000 -exist",
                "set SN-EG was changed: 1 members missing, 1 members that are not ours",
            ),
        ] {
            sh(script);
            let applied = bed.refresh(&plane).await;
            assert!(told(&applied).contains(&expected.to_owned()), "{script}: {applied:?}");
            assert_eq!(everything(), before, "{script}");
            let sets = bed.refresh(&plane).await;
            assert!(sets.tool_calls <= 1 && sets.writes.is_empty() && sets.repairs.is_empty(), "{script}: {sets:?}");
            assert_eq!(bed.refresh(&plane).await.tool_calls, 0, "{script}");
        }
    });
}

#[test]
fn changes_that_do_not_concern_us_are_not_looked_at() {
    in_netns(|| async {
        let plane = full();
        let (mut bed, _events) = settled(&plane).await;
        for script in [
            "iptables -t nat -N FOREIGN; iptables -t nat -A FOREIGN -s 192.0.2.1 -j RETURN",
            "printf '*nat\n:FOREIGN - [0:0]\n-A FOREIGN -j ACCEPT\nCOMMIT\n' | iptables-restore --noflush",
            "iptables -t raw -A PREROUTING -j ACCEPT; ip6tables -t raw -A PREROUTING -j ACCEPT",
            "nft add table inet other; nft add chain inet other c; nft add rule inet other c counter; nft delete table inet other",
            "ipset create theirs hash:net; ipset add theirs 192.0.2.0/24",
        ] {
            sh(script);
            let applied = bed.refresh(&plane).await;
            assert_eq!(applied.tool_calls, 0, "{script}: {applied:?}");
        }
    });
}

#[test]
fn what_somebody_puts_into_a_built_in_chain_is_looked_at_there_only() {
    in_netns(|| async {
        let plane = full();
        let (mut bed, _events) = settled(&plane).await;
        sh("iptables -t mangle -A FORWARD -s 192.0.2.1 -j ACCEPT");
        let behind = bed.refresh(&plane).await;
        assert_eq!((behind.tool_calls, behind.writes.hooks), (1, 0), "{behind:?}");
        sh("iptables -t mangle -I FORWARD -s 192.0.2.2 -j ACCEPT; iptables -t mangle -A SMARTNAT-BORDER -j ACCEPT
            iptables -t mangle -D SMARTNAT-BORDER 5");
        let ahead = bed.refresh(&plane).await;
        assert_eq!(told(&ahead), ["hook ipv4 mangle FORWARD was not the first rule any more"]);
        // Together with a chain, in one table.
        sh("iptables -t mangle -I INPUT -j ACCEPT; iptables -t mangle -F SMARTNAT-BORDER-IN");
        let both = bed.refresh(&plane).await;
        assert_eq!(
            told(&both),
            [
                "chain ipv4 mangle SMARTNAT-BORDER-IN was changed",
                "hook ipv4 mangle INPUT was not the first rule any more"
            ]
        );
        assert_eq!(bed.refresh(&plane).await.tool_calls, 0);
    });
}

#[test]
fn a_change_between_our_reading_and_our_writing_or_right_behind_it_is_found() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        // By a process that is not ours, ahead of our write and in the same moment behind it.
        let between = r#"if [ -e "$dir/go" ] && [ $tool = iptables-restore ]; then
              rm "$dir/go"; iptables -t nat -F SMARTNAT-M-b
            fi; exec "$real" "$@""#;
        let mut plane = full();
        let mut bed = Bed::with(wrapped(directory.path(), LIMIT, between));
        let _events = listening(&bed);
        bed.apply(&plane).await;
        bed.refresh(&plane).await;
        assert_eq!(bed.refresh(&plane).await.tool_calls, 0);

        std::fs::write(directory.path().join("go"), "").unwrap();
        nat(&mut plane).add("SMARTNAT-M-a", mapping_chain(80, "10.244.9.9"));
        bed.apply(&plane).await;
        assert_eq!(sh("iptables -t nat -S SMARTNAT-M-b"), "-N SMARTNAT-M-b\n", "somebody was at it");
        assert_eq!(bed.repairs(&plane).await, ["chain ipv4 nat SMARTNAT-M-b was changed"]);

        nat(&mut plane).add("SMARTNAT-M-a", mapping_chain(80, "10.244.8.8"));
        bed.apply(&plane).await;
        // Nothing was heard of our own write yet.
        sh("iptables -t nat -F SMARTNAT-M-a");
        assert_eq!(bed.repairs(&plane).await, ["chain ipv4 nat SMARTNAT-M-a was changed"]);
        assert_eq!(bed.refresh(&plane).await.tool_calls, 0);
    });
}

#[test]
fn what_was_not_heard_is_read() {
    in_netns(|| async {
        let plane = full();
        let (mut bed, mut events) = settled(&plane).await;
        // The runtime's only thread waits here, so the notices pile up. They hide the one that counts.
        sh("iptables -N FOREIGN
            { echo '*filter'; for i in $(seq 30000); do echo \"-A FOREIGN -s 10.0.0.1 -p tcp --dport $i -j ACCEPT\"; done; echo COMMIT; } |
            iptables-restore --noflush
            iptables -t nat -F SMARTNAT-M-a");
        assert!(lost_messages() > 0, "the change was too small");
        assert_eq!(soon("the loss", events.recv()).await, Some(SourceEvent::TablesChanged));
        assert_eq!(bed.repairs(&plane).await, ["chain ipv4 nat SMARTNAT-M-a was changed"]);
        assert_eq!(bed.refresh(&plane).await.tool_calls, 0, "listening goes on");
    });
}

#[test]
fn where_nobody_listens_everything_is_read() {
    in_netns(|| async {
        let plane = full();
        let (mut bed, events) = settled(&plane).await;
        drop(events);
        soon("the end of the listener", async {
            while bed.tools.ledger().is_listening() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // Four tables of IPv4, three of IPv6.
        assert_eq!(bed.refresh(&plane).await.tool_calls, 7);
        sh("iptables -t nat -F SMARTNAT-M-a");
        assert_eq!(bed.repairs(&plane).await, ["chain ipv4 nat SMARTNAT-M-a was changed"]);
    });
}
