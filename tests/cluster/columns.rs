//! What `kubectl get mappings` shows.

use serde_json::{Value, json};

use crate::admission::{control, mapping, with};

/// The lines of a table that kubectl printed, cut where the columns of its header begin.
fn cells(table: &str) -> Vec<Vec<String>> {
    let header = table.lines().next().unwrap_or_default();
    let begin = |i: &usize| *i == 0 || header[..*i].ends_with(' ') && !header[*i..].starts_with(' ');
    let starts: Vec<usize> = (0..header.len()).filter(begin).collect();
    let cut = |line: &str| {
        let ends = starts.iter().skip(1).map(|i| *i.min(&line.len())).chain([line.len()]);
        starts.iter().zip(ends).map(|(start, end)| line[*start.min(&end)..end].trim_end().to_owned()).collect()
    };
    table.lines().map(cut).collect()
}

fn condition(kind: &str, ok: bool, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": if ok { "True" } else { "False" }, "reason": reason, "message": message,
        "lastTransitionTime": "2026-11-23T22:00:00Z", "observedGeneration": 1,
    })
}

/// Columns only: a daemon's own status is another test's matter.
#[test]
fn kubectl_get_shows_what_is_served_and_what_is_wrong_and_why() {
    let control = control();
    control.create_namespace("columns");
    let conflict = "203.0.113.10:80/tcp is held by columns/served; choose another address or port";
    let rows = [
        (
            "conflicting",
            with(json!({"mode": "direct"})),
            json!([
                condition("Accepted", false, "Conflict", conflict),
                condition("Programmed", false, "Conflict", conflict)
            ]),
        ),
        (
            "served",
            with(
                json!({"addresses": ["203.0.113.10", "198.51.100.10"], "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}),
            ),
            json!([
                condition("Accepted", true, "Accepted", ""),
                condition("Programmed", true, "Programmed", "on border-1")
            ]),
        ),
        (
            "waiting",
            with(json!({"addresses": ["203.0.113.11"]})),
            json!([
                condition("Accepted", true, "Accepted", ""),
                condition("Programmed", false, "NoReadyEndpoints", "no pod of web is ready"),
            ]),
        ),
    ];
    for (name, spec, conditions) in &rows {
        control.create(&mapping("columns", name, spec));
        let status = json!({"status": {"serviceVIP": "10.96.0.10", "conditions": conditions}}).to_string();
        control.kubectl(&[
            "patch",
            "mapping",
            "-n",
            "columns",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ]);
    }
    let table = |more: &[&str]| {
        let mut shown = cells(&control.kubectl(&[&["get", "mappings", "-n", "columns"], more].concat()));
        let age = shown[0].iter().position(|title| title == "AGE").unwrap();
        shown[1..].iter_mut().for_each(|row| assert!(row.remove(age).ends_with('s'), "an age of some seconds"));
        shown[0].remove(age);
        shown
    };
    assert_eq!(
        table(&[]),
        [
            ["NAME", "ADDRESSES", "SERVICE", "MODE", "ACCEPTED", "PROGRAMMED", "REASON", "MESSAGE"],
            ["conflicting", r#"["203.0.113.10"]"#, "web", "direct", "False", "False", "Conflict", conflict],
            [
                "served",
                r#"["203.0.113.10","198.51.100.10"]"#,
                "web",
                "service",
                "True",
                "True",
                "Programmed",
                "on border-1"
            ],
            [
                "waiting",
                r#"["203.0.113.11"]"#,
                "web",
                "service",
                "True",
                "False",
                "NoReadyEndpoints",
                "no pod of web is ready"
            ],
        ]
    );
    let wide = table(&["-o", "wide"]);
    assert_eq!(wide[0][1..5], ["ADDRESSES", "PORTS", "SERVICE", "CLUSTERIP"]);
    assert_eq!(wide[2][2..5], [r#"[{"port":80},{"port":53,"protocol":"UDP"}]"#, "web", "10.96.0.10"]);
}
