use std::fs;
use std::sync::Arc;

use smartnat::apply::Scope;
use smartnat::model::Host;
use smartnat::ruleset::Sysctl;

use crate::bed::{Bed, LIMIT, border, endpoint, full, mapping_chain, nat, net, set, wrapped};
use crate::netns::in_netns;

/// Keeps what each writer is fed, in order, with the tool before every line.
const RECORD: &str = r#"
case "$*" in *restore*|*noflush*) tee "$dir/input" | "$real" "$@"; rc=$?; sed "s/^/$tool: /" "$dir/input" >>"$dir/log"; exit $rc;; esac
exec "$real" "$@""#;

/// The lines of one apply, reduced to what is asked for.
fn recorded(directory: &std::path::Path, wanted: &[&str]) -> Vec<String> {
    let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
    fs::remove_file(directory.join("log")).ok();
    log.lines().filter(|line| wanted.iter().any(|w| line.contains(w))).map(str::to_owned).collect()
}

#[test]
fn gates_open_after_the_rules_and_ordinary_sets_are_filled_before() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        let mut bed = Bed::with(wrapped(directory.path(), LIMIT, RECORD));
        let plane = full();
        bed.apply(&plane).await;
        assert_eq!(
            recorded(
                directory.path(),
                &["SN-EP 203.0.113.10,tcp:80", "SN-SRC-a 198", ":SMARTNAT-M-a", "create SN-EP", "add SN-L-1"]
            ),
            [
                "ipset: create SN-EP hash:ip,port family inet maxelem 1048576",
                "ipset: add SN-SRC-a 198.51.100.0/24",
                "ipset: add SN-L-1 SN-A-1",
                "iptables-restore: :SMARTNAT-M-a - [0:0]",
                "ipset: add SN-EP 203.0.113.10,tcp:80",
            ]
        );
    });
}

#[test]
fn gates_close_before_the_rules_and_ordinary_sets_are_emptied_after() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        let mut bed = Bed::with(wrapped(directory.path(), LIMIT, RECORD));
        let mut plane = full();
        bed.apply(&plane).await;
        recorded(directory.path(), &[]);
        nat(&mut plane).chains.remove("SMARTNAT-M-b");
        nat(&mut plane).add("SMARTNAT-M-a", mapping_chain(80, "10.244.9.9"));
        set(&mut plane, "SN-EP").members =
            Arc::new([endpoint("203.0.113.10", 80), endpoint("203.0.113.11", 80)].into());
        set(&mut plane, "SN-INNER").members = Arc::new([net("10.0.0.0/24"), net("10.0.2.0/24")].into());
        plane.sets.remove("SN-EG");
        let applied = bed.apply(&plane).await;
        assert_eq!(
            recorded(directory.path(), &["ipset", "-F", "-X", ":SMARTNAT"]),
            [
                "ipset: del SN-EP 203.0.113.10,tcp:81",
                "ipset: add SN-INNER 10.0.2.0/24",
                "iptables-restore: :SMARTNAT-M-a - [0:0]",
                "iptables-restore: -F SMARTNAT-M-b",
                "iptables-restore: -X SMARTNAT-M-b",
                "ipset: add SN-EP 203.0.113.11,tcp:80",
                "ipset: del SN-INNER 10.0.1.1",
                "ipset: destroy SN-EG",
            ]
        );
        assert_eq!(applied.tool_calls, 4);
    });
}

#[test]
fn a_moved_hook_is_deleted_and_inserted_within_one_restore() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        let mut bed = Bed::with(wrapped(directory.path(), LIMIT, RECORD));
        let plane = full();
        bed.apply(&plane).await;
        recorded(directory.path(), &[]);
        crate::netns::sh("iptables -t nat -I PREROUTING -j ACCEPT");
        bed.refresh(&plane).await;
        assert_eq!(
            recorded(directory.path(), &[""]),
            [
                "iptables-restore: *nat",
                "iptables-restore: -D PREROUTING -j SMARTNAT-DNAT",
                "iptables-restore: -I PREROUTING 1 -j SMARTNAT-DNAT",
                "iptables-restore: COMMIT",
            ]
        );
    });
}

#[test]
fn forwarding_goes_on_only_when_the_border_stands() {
    for scope in [Scope::Border, Scope::Full] {
        in_netns(move || async move {
            crate::netns::sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
            let directory = tempfile::tempdir().unwrap();
            let script = r#"case "$*" in *noflush*) echo "$tool $(cat /proc/sys/net/ipv4/ip_forward)" >>"$dir/log";; esac
                exec "$real" "$@""#;
            let mut bed = Bed::with(wrapped(directory.path(), LIMIT, script));
            bed.applier.apply(&border(), &Host::default(), scope).await.unwrap();
            assert_eq!(
                recorded(directory.path(), &[""]),
                ["iptables-restore 0", "ip6tables-restore 0", "iptables-restore 0"]
            );
            assert_eq!(crate::netns::sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
        });
    }
}

#[test]
fn forwarding_of_one_interface_goes_on_only_when_the_border_stands() {
    for scope in [Scope::Border, Scope::Full] {
        in_netns(move || async move {
            crate::netns::sh(
                "echo 1 >/proc/sys/net/ipv4/ip_forward; ip link add eth9 type veth peer name r9
                echo 0 >/proc/sys/net/ipv4/conf/eth9/forwarding; echo 0 >/proc/sys/net/ipv4/conf/r9/forwarding",
            );
            let directory = tempfile::tempdir().unwrap();
            let script = r#"case "$*" in *noflush*) echo "$tool $(cat /proc/sys/net/ipv4/conf/eth9/forwarding)" >>"$dir/log";; esac
                exec "$real" "$@""#;
            let mut bed = Bed::with(wrapped(directory.path(), LIMIT, script));
            let mut plane = border();
            plane.sysctls.insert(Sysctl::Forwarding("eth9".into()), "1".into());
            bed.applier.apply(&plane, &Host::default(), scope).await.unwrap();
            assert_eq!(
                recorded(directory.path(), &[""]),
                ["iptables-restore 0", "ip6tables-restore 0", "iptables-restore 0"]
            );
            let switches = "/proc/sys/net/ipv4/conf/eth9/forwarding /proc/sys/net/ipv4/conf/r9/forwarding";
            assert_eq!(crate::netns::sh(&format!("cat {switches}")), "1\n0\n");
        });
    }
}
