use std::fs;
use std::sync::Arc;
use std::time::Duration;

use smartnat::apply::iptables::Trouble;
use smartnat::apply::{ApplyError, ToolError};
use smartnat::model::{Family, Protocol};
use smartnat::ruleset::{Match, Rule, SetDirection, Table, Target};

use crate::bed::{Bed, LIMIT, everything, full, goto, insert_first, ip, nat, on_set, wrapped};
use crate::netns::{in_netns, sh, soon};

/// The whole chain of causes, as a log prints it.
fn told(error: &ApplyError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[test]
fn a_failed_restore_leaves_what_was_there_and_says_what_the_tool_said() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let good = full();
        bed.apply(&good).await;
        let before = everything();
        let mut bad = good.clone();
        let missing = Rule::new([on_set("SN-NOT-THERE", SetDirection::Source, false)], Target::Drop);
        nat(&mut bad).add("SMARTNAT-M-a", vec![missing]);
        let error = bed.try_apply(&bad).await.unwrap_err();
        let text = told(&error);
        for part in
            ["iptables-restore --noflush --wait", "exit status: 2", "SN-NOT-THERE doesn't exist", "goes on working"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("`-A SMARTNAT-M-a -m set --match-set SN-NOT-THERE src -j DROP`"), "{text}");
        assert_eq!(everything(), before);
        let back = bed.apply(&good).await;
        assert!(back.writes.is_empty() && back.repairs.is_empty(), "{back:?}");
    });
}

#[test]
fn a_tree_that_is_too_deep_is_refused_as_a_whole() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let good = full();
        bed.apply(&good).await;
        let before = everything();
        let mut deep = good.clone();
        for i in 0..20 {
            nat(&mut deep).add(&format!("SMARTNAT-D-{i:02}"), vec![goto(&format!("SMARTNAT-D-{:02}", i + 1))]);
        }
        nat(&mut deep).add("SMARTNAT-D-20", vec![]);
        nat(&mut deep).add("SMARTNAT-DNAT", vec![goto("SMARTNAT-D-00")]);
        let text = told(&bed.try_apply(&deep).await.unwrap_err());
        assert!(text.contains("Too many links"), "{text}");
        assert_eq!(everything(), before);
    });
}

#[test]
fn a_failure_after_the_first_half_is_read_back_and_made_good() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let good = full();
        bed.apply(&good).await;
        let mut bad = good.clone();
        // The sets of this plane are written before its rules fail.
        bad.sets.remove("SN-EG");
        crate::bed::set(&mut bad, "SN-EP").members = Arc::default();
        nat(&mut bad).add("SMARTNAT-M-a", vec![goto("SMARTNAT-NOWHERE")]);
        assert!(matches!(bed.try_apply(&bad).await, Err(ApplyError::Table(_))));
        let back = bed.apply(&good).await;
        assert_eq!((back.writes.members, back.repairs.len()), (2, 0), "{back:?}");
        assert_eq!(bed.apply(&good).await.tool_calls, 0);
    });
}

#[test]
fn a_tool_that_hangs_is_killed_at_the_limit() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        let hang = r#"case $tool in iptables-restore) echo $$ >"$dir/pid"; exec sleep 600;; esac; exec "$real" "$@""#;
        let mut bed = Bed::with(wrapped(directory.path(), Duration::from_secs(2), hang));
        let error = bed.try_apply(&full()).await.unwrap_err();
        let ApplyError::Several(failures) = &error else { panic!("{error:?}") };
        let hung = |failure: &&ApplyError| matches!(failure, ApplyError::Table(e) if matches!(e.what, Trouble::Write(ToolError::Timeout { .. })));
        assert_eq!(failures.iter().filter(hung).count(), 3, "{error:?}");
        assert!(matches!(failures.last(), Some(ApplyError::Open)), "{error:?}");
        assert!(told(&error).contains("SNCTRLR_IPTABLES_TIMEOUT_SEC"), "{}", told(&error));
        let pid = fs::read_to_string(directory.path().join("pid")).unwrap();
        let alive = || fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|c| c.contains("sleep"));
        soon("the end of the tool", async {
            while alive() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}

#[test]
fn a_warning_on_stderr_is_no_failure() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        let warn = r#"echo "Warning: iptables-legacy tables present" >&2; exec "$real" "$@""#;
        let mut bed = Bed::with(wrapped(directory.path(), LIMIT, warn));
        bed.apply(&full()).await;
        assert_eq!(bed.apply(&full()).await.tool_calls, 0);
        assert!(sh("iptables -t nat -S PREROUTING").contains("SMARTNAT-DNAT"));
    });
}

#[test]
fn rules_that_a_tool_prints_in_other_words_are_not_rewritten_for_ever() {
    in_netns(|| async {
        let mut plane = full();
        // iptables drops the address of a network's host bits and puts the destination behind the source; given as text it would differ.
        let odd = Rule::new([Match::IpProtocol("112"), Match::Comment("x".into())], Target::Return);
        let udp = Rule::new([Match::IpProtocol("17")], Target::Dnat((ip("10.0.0.1"), 53).into()));
        assert!(odd.to_string().contains("-p 112"));
        let border = plane.tables.get_mut(&(Family::Ipv4, Table::Mangle)).unwrap();
        insert_first(border, "SMARTNAT-BORDER", odd);
        insert_first(nat(&mut plane), "SMARTNAT-M-b", udp);
        let mut bed = Bed::new();
        bed.apply(&plane).await;
        assert!(sh("iptables -t nat -S SMARTNAT-M-b").contains(&format!("-p {}", Protocol::Udp)));
        let refreshed = bed.refresh(&plane).await;
        assert!(refreshed.writes.is_empty() && refreshed.repairs.is_empty(), "{refreshed:?}");
        sh("iptables -t nat -R SMARTNAT-M-b 1 -p tcp -j RETURN");
        assert_eq!(bed.repairs(&plane).await, ["chain ipv4 nat SMARTNAT-M-b was changed"]);
    });
}

#[test]
fn an_apply_that_is_dropped_half_way_is_read_back_and_finished_by_the_next() {
    in_netns(|| async {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"case $tool in iptables-restore)
            [ -e "$dir/go" ] || { : >"$dir/reached"; exec sleep 600; };; esac
            exec "$real" "$@""#;
        let mut bed = Bed::with(wrapped(directory.path(), LIMIT, script));
        let plane = full();
        let reached = async {
            while !directory.path().join("reached").exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            result = bed.try_apply(&plane) => panic!("the tool does not end: {result:?}"),
            () = soon("the call of the tool", reached) => {}
        }
        fs::write(directory.path().join("go"), "").unwrap();
        let finished = bed.apply(&full()).await;
        assert!(finished.writes.chains > 0 && finished.repairs.is_empty(), "{finished:?}");
        assert_eq!(bed.apply(&full()).await.tool_calls, 0);
        assert!(sh("iptables -t nat -S PREROUTING").contains("SMARTNAT-DNAT"));
    });
}
