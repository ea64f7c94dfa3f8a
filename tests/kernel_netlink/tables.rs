use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use smartnat::sources::SourceEvent;
use smartnat::sources::tables::{Ledger, run};
use tokio::sync::mpsc;

use crate::netns::{in_netns, sh, soon};
use crate::overrun::lost_messages;

/// A running watcher that has joined.
fn watch(ledger: &Ledger) -> mpsc::Receiver<SourceEvent> {
    let (sender, events) = mpsc::channel(64);
    tokio::spawn(run(ledger.clone(), sender));
    events
}

async fn changed(events: &mut mpsc::Receiver<SourceEvent>, what: &str) {
    assert_eq!(soon(what, events.recv()).await, Some(SourceEvent::TablesChanged));
}

/// Runs a tool as a process that is known to be ours before it writes anything.
fn as_our_own(ledger: &Ledger, command: &str) {
    let mut child =
        Command::new("sh").args(["-c", &format!("read go; exec {command}")]).stdin(Stdio::piped()).spawn().unwrap();
    let call = ledger.begin(child.id());
    assert!(call.is_some(), "nobody listens");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(child.wait().unwrap().success());
}

/// Far longer than the debounce.
async fn nothing(events: &mut mpsc::Receiver<SourceEvent>, what: &str) {
    let told = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
    assert!(told.is_err(), "{what}: {told:?}");
}

#[test]
fn a_change_by_someone_else_is_told_and_our_own_is_not() {
    in_netns(|| async {
        let ledger = Ledger::default();
        let mut events = watch(&ledger);

        sh("iptables -A INPUT -p tcp --dport 1 -j ACCEPT");
        changed(&mut events, "a rule by someone else").await;

        as_our_own(&ledger, "iptables -A INPUT -p tcp --dport 2 -j ACCEPT");
        nothing(&mut events, "our own").await;

        sh("ip6tables -t mangle -A INPUT -j ACCEPT");
        changed(&mut events, "another family and table").await;
    });
}

#[test]
fn a_change_where_nothing_can_be_ours_is_not_told() {
    in_netns(|| async {
        let ledger = Ledger::default();
        let mut events = watch(&ledger);
        // The first user of a table makes it.
        sh("iptables -t nat -N FOREIGN; iptables -t nat -N SMARTNAT-A");
        changed(&mut events, "the table").await;
        let generation = ledger.mark();
        sh("iptables -t nat -A FOREIGN -s 192.0.2.1 -j RETURN; iptables -t nat -N OTHER; iptables -t nat -A OTHER -j FOREIGN
            printf '*nat\n:FOREIGN - [0:0]\n-A FOREIGN -j ACCEPT\nCOMMIT\n' | iptables-restore --noflush
            iptables -t nat -F OTHER; iptables -t nat -X OTHER; iptables -t raw -A PREROUTING -j ACCEPT
            nft add table inet other; nft add chain inet other c; nft add rule inet other c counter drop; nft delete table inet other");
        nothing(&mut events, "elsewhere").await;
        assert!(ledger.caught_up().await && ledger.mark() > generation);
        for (script, what) in [
            ("iptables -t nat -A FOREIGN -j SMARTNAT-A", "a rule that leads to ours"),
            ("iptables -t nat -D FOREIGN -j SMARTNAT-A", "the same, gone"),
            ("iptables -t nat -A SMARTNAT-A -j RETURN", "a rule in ours"),
            ("iptables -t nat -D SMARTNAT-A 1", "the same, gone"),
            ("iptables -t nat -E SMARTNAT-A OTHER", "another name"),
            ("nft rename chain ip nat OTHER SMARTNAT-A", "its own again"),
            ("nft rename chain ip nat SMARTNAT-A OTHER", "another name by nft"),
            ("iptables -P FORWARD DROP", "a policy"),
            ("nft add table ip nat '{ flags dormant; }'", "a table put to sleep"),
            ("nft delete table ip nat", "a table gone"),
        ] {
            sh(script);
            changed(&mut events, what).await;
        }
    });
}

#[test]
fn many_changes_at_once_are_told_once() {
    in_netns(|| async {
        let mut events = watch(&Ledger::default());
        sh("for i in $(seq 30); do iptables -A INPUT -p tcp --dport $i -j ACCEPT; done");
        changed(&mut events, "thirty rules").await;
        let more = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
        assert!(more.is_err(), "{more:?}");
    });
}

#[test]
fn reading_the_tables_is_no_change() {
    in_netns(|| async {
        let mut events = watch(&Ledger::default());
        sh("iptables-save >/dev/null; nft list ruleset >/dev/null");
        let read = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
        assert!(read.is_err(), "{read:?}");
    });
}

#[test]
fn a_change_too_large_for_the_socket_is_told() {
    in_netns(|| async {
        let mut events = watch(&Ledger::default());
        // The runtime's only thread waits here, so the announcements pile up.
        sh("{ echo '*filter'; for i in $(seq 30000); do echo \"-A INPUT -s 10.0.0.1 -p tcp --dport $i -j ACCEPT\"; done; echo COMMIT; } |
            iptables-restore");
        assert!(lost_messages() > 0, "the change was too small");
        changed(&mut events, "a storm").await;
        sh("iptables -F INPUT");
        changed(&mut events, "a change after the storm").await;
    });
}

#[test]
fn our_own_storm_costs_no_other_notice() {
    in_netns(|| async {
        let ledger = Ledger::default();
        let mut events = watch(&ledger);
        let rules: String =
            (1..=30_000).map(|i| format!("-A FORWARD -s 10.0.0.1 -p udp --dport {i} -j ACCEPT\n")).collect();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules");
        std::fs::write(&file, format!("*filter\n{rules}COMMIT\n")).unwrap();
        as_our_own(&ledger, &format!("iptables-restore {}", file.display()));
        assert_eq!(lost_messages(), 0);
        nothing(&mut events, "our own").await;
        sh("iptables -A SMARTNAT-A -j ACCEPT || iptables -N SMARTNAT-A");
        changed(&mut events, "somebody else's").await;
    });
}

#[test]
fn the_task_ends_when_nobody_listens() {
    in_netns(|| async {
        let (sender, events) = mpsc::channel(1);
        let task = tokio::spawn(run(Ledger::default(), sender));
        drop(events);
        soon("the end of the task", task).await.unwrap();
    });
}
