use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smartnat::sources::SourceEvent;
use smartnat::sources::tables::run;
use tokio::sync::mpsc;

use crate::netns::{in_netns, sh, soon};
use crate::overrun::lost_messages;

type Own = Arc<Mutex<BTreeSet<u32>>>;

/// A running watcher that takes the given processes for our own, and has joined.
async fn watch(own: &Own) -> mpsc::Receiver<SourceEvent> {
    let (sender, mut events) = mpsc::channel(64);
    let own = Arc::clone(own);
    tokio::spawn(run(move |pid, _: &str| own.lock().unwrap().contains(&pid), sender));
    // The task runs up to its first wait, behind which it is listening.
    tokio::task::yield_now().await;
    sh("iptables -N JOINED");
    changed(&mut events, "the first change").await;
    events
}

async fn changed(events: &mut mpsc::Receiver<SourceEvent>, what: &str) {
    assert_eq!(soon(what, events.recv()).await, Some(SourceEvent::TablesChanged));
}

/// Runs iptables as a process that is known to be ours before it writes anything.
fn as_our_own(own: &Own, arguments: &str) {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; exec iptables {arguments}")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    own.lock().unwrap().insert(child.id());
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_change_by_someone_else_is_told_and_our_own_is_not() {
    in_netns(|| async {
        let own = Own::default();
        let mut events = watch(&own).await;

        sh("iptables -A INPUT -p tcp --dport 1 -j ACCEPT");
        changed(&mut events, "a rule by someone else").await;

        as_our_own(&own, "-A INPUT -p tcp --dport 2 -j ACCEPT");
        // Far longer than the debounce.
        let ours = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
        assert!(ours.is_err(), "{ours:?}");

        sh("ip6tables -t mangle -A INPUT -j ACCEPT");
        changed(&mut events, "another family and table").await;
    });
}

#[test]
fn many_changes_at_once_are_told_once() {
    in_netns(|| async {
        let mut events = watch(&Own::default()).await;
        sh("for i in $(seq 30); do iptables -A INPUT -p tcp --dport $i -j ACCEPT; done");
        changed(&mut events, "thirty rules").await;
        let more = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
        assert!(more.is_err(), "{more:?}");
    });
}

#[test]
fn reading_the_tables_is_no_change() {
    in_netns(|| async {
        let mut events = watch(&Own::default()).await;
        sh("iptables-save >/dev/null; nft list ruleset >/dev/null");
        let read = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
        assert!(read.is_err(), "{read:?}");
    });
}

#[test]
fn a_change_too_large_for_the_socket_is_told() {
    in_netns(|| async {
        let mut events = watch(&Own::default()).await;
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
fn the_task_ends_when_nobody_listens() {
    in_netns(|| async {
        let (sender, events) = mpsc::channel(1);
        let task = tokio::spawn(run(|_, _: &str| false, sender));
        drop(events);
        soon("the end of the task", task).await.unwrap();
    });
}
