use std::collections::BTreeSet;

use super::super::{Outcomes, PassReport};
use super::*;
use crate::cluster::credential::{Credential, CredentialKind};
use crate::model::ObjectKey;
use crate::plan::{MappingOutcome, Programmed, ProgrammedReason, Refusal, RefusalReason};

fn report() -> Report {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
    let mut r = Report::new(now);
    r.source_state("host", SourceState::Current, now);
    r.source_state("manifests", SourceState::Away { reason: "gone".into() }, now);
    let mapping = |refused: bool, ok: bool| MappingOutcome {
        uid: None,
        generation: None,
        refused: refused.then(|| Refusal { reason: RefusalReason::Conflict, message: String::new() }),
        programmed: Programmed { ok, reason: ProgrammedReason::Programmed, message: String::new() },
        service_vip: None,
        configured: [].into(),
        endpoints: 2,
    };
    let interface = |name: &str, kind, up, neighbour| InterfaceOutcome {
        up,
        carrier: true,
        gateway_neighbour: neighbour,
        ..InterfaceOutcome::down(name, kind)
    };
    let mappings = [
        (ObjectKey::new("a", "1"), mapping(false, true)),
        (ObjectKey::new("a", "2"), mapping(false, false)),
        (ObjectKey::new("a", "3"), mapping(true, false)),
    ];
    let interfaces = vec![
        interface("lo", InterfaceKind::Inside, true, None),
        interface("eth0", InterfaceKind::Gateway, true, None),
        interface("eth1", InterfaceKind::External, true, Some(NeighbourState::Stale)),
        interface("eth2", InterfaceKind::Absent, false, Some(NeighbourState::Failed)),
    ];
    r.pass_ok(
        PassReport {
            took: Duration::from_millis(16),
            full: true,
            outcomes: Outcomes::of(mappings, interfaces),
            tool_calls: 3,
            writes: [("chain", 7), ("set", 2)].into(),
            repairs: [("route", 1)].into(),
            flows_removed: [("server_gone", 4)].into(),
        },
        now,
    );
    r.pass_failed("x", "y", 1, now);
    let expires = jiff::Timestamp::from_second(1_800_000_000).ok();
    r.credential = Some(Credential { kind: CredentialKind::ClientCertificate, begins: None, expires });
    r
}

fn conntrack() -> ConntrackCounts {
    ConntrackCounts { entries: 12, limit: 262_144, drop: 1, early_drop: 2, insert_failed: 3 }
}

fn text(openmetrics: bool) -> String {
    render(&report(), Some(conntrack()), openmetrics).unwrap().1
}

#[test]
fn every_figure_is_there() {
    let text = text(false);
    for line in [
        "smartnat_passes_total 2",
        "smartnat_apply_failures_total 1",
        "smartnat_tool_calls_total 4",
        "smartnat_pass_duration_seconds_count 1",
        "smartnat_pass_duration_seconds_sum 0.016",
        "smartnat_pass_duration_seconds_bucket{le=\"0.01\"} 0",
        "smartnat_pass_duration_seconds_bucket{le=\"0.025\"} 1",
        "smartnat_pass_duration_seconds_bucket{le=\"+Inf\"} 1",
        "smartnat_writes_total{kind=\"chain\"} 7",
        "smartnat_repairs_total{kind=\"route\"} 1",
        "smartnat_flows_removed_total{reason=\"server_gone\"} 4",
        "smartnat_endpoints 6.0",
        "smartnat_mappings{state=\"programmed\"} 1.0",
        "smartnat_mappings{state=\"not_programmed\"} 1.0",
        "smartnat_mappings{state=\"refused\"} 1.0",
        "smartnat_link_up{interface=\"eth0\"} 1.0",
        "smartnat_link_up{interface=\"eth2\"} 0.0",
        "smartnat_gateway_neighbour_reachable{interface=\"eth1\"} 1.0",
        "smartnat_gateway_neighbour_reachable{interface=\"eth2\"} 0.0",
        "smartnat_source_up{source=\"host\"} 1.0",
        "smartnat_source_up{source=\"manifests\"} 0.0",
        "smartnat_last_good_pass_timestamp_seconds 1700000000.5",
        "smartnat_credential_expiry_timestamp_seconds 1800000000.0",
        "smartnat_conntrack_entries 12.0",
        "smartnat_conntrack_entries_limit 262144.0",
        "smartnat_conntrack_drops_total{reason=\"early_drop\"} 2",
        "smartnat_ready 1.0",
        concat!("smartnat_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1.0"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("interface=\"lo\""), "interfaces inside are nobody's concern here");
}

/// Every sample belongs to a family that has HELP and TYPE above it, each once, as Prometheus' linter wants it.
fn check_families(text: &str, counter_family_has_total: bool) {
    let mut helped = BTreeSet::new();
    let mut family = ("", "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').unwrap();
            assert!(helped.contains(family.0), "TYPE without HELP: {line}");
            if family.1 == "counter" {
                assert_eq!(family.0.ends_with("_total"), counter_family_has_total, "{line}");
            }
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let suffix = name.strip_prefix(family.0).unwrap_or_else(|| panic!("{line} is not of family {}", family.0));
            let expected: &[&str] = match family.1 {
                "counter" if counter_family_has_total => &[""],
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("type {other}"),
            };
            assert!(expected.contains(&suffix), "{line}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "no number in {line}");
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn both_formats_name_their_families_by_their_rules() {
    check_families(&text(false), true);
    check_families(&text(true), false);
    assert!(text(true).contains("# UNIT smartnat_pass_duration_seconds seconds\n"));
    assert!(!text(false).contains("# UNIT"));
}

#[test]
fn a_fresh_report_has_no_family_without_samples() {
    let (media, text) = render(&Report::new(SystemTime::UNIX_EPOCH), None, true).unwrap();
    assert!(media.starts_with("application/openmetrics-text"));
    check_families(&text, false);
    assert!(!text.contains("smartnat_repairs") && !text.contains("smartnat_conntrack"), "{text}");
    assert!(text.contains("smartnat_last_good_pass_timestamp_seconds 0.0\n"));
}

#[test]
fn every_metric_stands_in_the_reference() {
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let text = text(false);
    let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 15);
    for name in names {
        let row = |l: &str| l.starts_with(&format!("| `{name}`")) || l.starts_with(&format!("| `{name}{{"));
        assert!(reference.lines().any(row), "{name} has no row in docs/configuration.md");
    }
}
