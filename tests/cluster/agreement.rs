//! The API server's rules and the plan's judge the same specs.

use serde_json::{Value, json};
use smartnat::api::MappingSpec;
use smartnat::plan::validate;

use crate::admission::{control, create, with};

/// The definition's own bound, so that the API server and the plan count alike.
const MAX_PORTS: usize = 256;

/// Where the two judge differently on purpose: the fields, and whether the API server takes them, which the plan does the other way round.
fn differences() -> Vec<(Value, bool)> {
    vec![
        // The plan reads an empty protocol as a missing one; the first SmartNat's definition had no empty one either.
        (json!({"ports": [{"port": 80, "protocol": ""}]}), false),
        // Written by hand in the first SmartNat's days, if ever; what is stored stays.
        (json!({"allowedSources": ["192.0.2.0/08"]}), false),
        // No Service can have such a name; the plan finds that out when it looks for it.
        (json!({"serviceName": "a".repeat(64)}), false),
    ]
}

/// Whether the API server and the plan take a spec.
fn judged(spec: &Value) -> ((bool, String), (bool, String)) {
    let (code, message) = create(control(), "default", spec);
    assert!(code == 201 || code == 422, "{spec}: {code} {message}");
    let plan = serde_json::from_value::<MappingSpec>(spec.clone())
        .map_err(|e| e.to_string())
        .and_then(|spec| validate(spec, MAX_PORTS).map_err(|refusal| refusal.message));
    ((code == 201, message), (plan.is_ok(), plan.err().unwrap_or_default()))
}

#[test]
fn the_api_server_and_the_plan_judge_alike() {
    let texts = [
        "203.0.113.10",
        "0.0.0.0",
        "0.0.0.1",
        "0.255.255.255",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4 ",
        " 1.2.3.4",
        "+1.2.3.4",
        "1.2.3.4/",
        "/24",
        "1.2.3.4/0",
        "1.2.3.4/24",
        "1.2.3.0/24",
        "1.2.3.4/32",
        "1.2.3.4/33",
        "1.2.3.4/-1",
        "1.2.3.4/+8",
        "1.2.3.4/008",
        "1.2.3.4/24/24",
        "1.2.3.4/255.255.255.0",
        "10.0.0.1/8",
        "0.0.0.0/0",
        "10.1.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.255",
        "128.0.0.1",
        "126.255.255.255",
        "169.254.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "223.255.255.255",
        "224.0.0.0",
        "224.0.0.251",
        "224.0.1.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.254",
        "255.255.255.255",
        "127.0.0.0/8",
        "224.0.0.0/4",
        "::",
        "::1",
        "::1/128",
        "::/0",
        "2001:db8::1",
        "2001:db8::/32",
        "2001:DB8::1",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "::ffff:1.2.3.4",
        "::ffff:1.2.3.4/120",
        "0x7f.1.2.3",
        "16909060",
        "1.2.3.4:80",
        "[2001:db8::1]",
        "example.com",
        "",
        "\u{0661}.2.3.4",
        "1.2.3.4\n",
    ];
    let mut specs: Vec<Value> = Vec::new();
    for text in texts {
        specs.push(with(json!({"addresses": [text]})));
        specs.push(with(json!({"addresses": ["203.0.113.10", text]})));
        specs.push(with(json!({"allowedSources": [text]})));
    }
    let ports = [
        json!({"port": 80}),
        json!({"port": 80, "protocol": "TCP"}),
        json!({"port": 80, "protocol": "udp"}),
        json!({"port": 80, "protocol": "uDp", "servicePort": "dns"}),
        json!({"port": 80, "protocol": "sctp"}),
        json!({"port": 81, "servicePort": 80}),
        json!({"port": 82, "servicePort": "80"}),
        json!({"port": 83, "servicePort": ""}),
        json!({"port": 84, "servicePort": null}),
        json!({"port": 85, "servicePort": 65536}),
        json!({"port": 0}),
        json!({"port": -1}),
        json!({"port": 65535}),
        json!({"port": 65536}),
        json!({"port": "80"}),
        json!({"port": null}),
        json!({"port": 86, "protocol": null}),
        json!({"port": 80.5}),
        json!({"servicePort": 80}),
        json!({}),
    ];
    for first in &ports {
        specs.push(with(json!({"ports": [first]})));
        specs.extend(ports.iter().map(|second| with(json!({"ports": [first, second]}))));
    }
    for mode in ["service", "direct", "SERVICE", "Direct", "ipvs", "", "direct "] {
        specs.push(with(json!({"mode": mode})));
    }
    for field in ["addresses", "serviceName", "ports", "allowedSources", "mode"] {
        specs.push(with(json!({field: null})));
    }
    specs.push(with(json!({"addresses": []})));
    specs.push(with(json!({"ports": []})));
    specs.push(with(json!({"allowedSources": []})));
    specs.push(with(json!({"serviceName": ""})));

    let apart: Vec<String> = specs
        .iter()
        .filter_map(|spec| {
            let ((api, said), (plan, refusal)) = judged(spec);
            (api != plan).then(|| format!("{spec}: API server {api} ({said}), plan {plan} ({refusal})"))
        })
        .collect();
    assert!(apart.is_empty(), "of {} specs, judged differently:\n{}", specs.len(), apart.join("\n"));

    for (fields, taken) in differences() {
        let ((api, _), (plan, _)) = judged(&with(fields.clone()));
        assert_eq!((api, plan), (taken, !taken), "no longer judged differently: {fields}");
    }
}
