//! `smartnat-manager trace` on the documented example: what an operator reads last.

use std::process::{Command, Output};

fn run(arguments: &str) -> Output {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples");
    Command::new(env!("CARGO_BIN_EXE_smartnat-manager"))
        .args(["--manifests", &format!("{example}/manifests"), "trace", "--host", &format!("{example}/host.yaml")])
        .args(arguments.split(' '))
        .env_clear()
        .env("SNCTRLR_DEFAULT_GW_INTERFACE", "eth0")
        .env("SNCTRLR_INTERFACES_PATTERN", "eth[1-9][0-9]*")
        .output()
        .unwrap()
}

/// The lines behind the rules, without the name of the deciding chain, which is a hash.
#[track_caller]
fn assert_told(arguments: &str, told: &[&str]) {
    let output = run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    let lines: Vec<&str> = lines.map(|line| line.split(" (").next().unwrap()).collect();
    let (beyond, lines) = lines.split_last().unwrap();
    assert_eq!(lines, told, "{text}");
    assert_eq!(*beyond, "Beyond: rules of others, policy rules too, were not looked at: the host is a description");
}

#[test]
fn a_served_client_is_told_its_pods() {
    assert_told(
        "--source 192.0.2.10 --destination 203.0.113.10 --port 80 --interface eth1",
        &[
            "Mapping: default/web:tcp/80",
            "Because: the Mapping allows 192.0.2.10",
            "Verdict: forwarded to one of 10.244.1.2:8080, 10.244.2.2:8080 by eth0, source masqueraded",
        ],
    );
}

#[test]
fn a_source_that_is_not_allowed_is_told_so_from_outside_and_inside() {
    assert_told(
        "--source 198.18.0.9 --destination 203.0.113.10 --protocol udp --port 53 --interface eth2",
        &[
            "Mapping: default/web:udp/53",
            "Because: 198.18.0.9 is not among the Mapping's allowedSources",
            "Verdict: dropped: mangle SMARTNAT-OPEN rule 3: -j DROP",
        ],
    );
    assert_told(
        "--source 10.244.1.2 --destination 203.0.113.10 --port 80 --interface eth0",
        &[
            "Mapping: default/web:tcp/80",
            "Because: 10.244.1.2 is not among the Mapping's allowedSources",
            "Verdict: delivered to the box itself at 203.0.113.10:80",
        ],
    );
}

#[test]
fn what_is_not_mapped_is_told_so() {
    assert_told(
        "--source 192.0.2.10 --destination 203.0.113.10 --port 22 --interface eth1",
        &[
            "Because: no Mapping has tcp port 22 of 203.0.113.10 on this box, and no opening of the border lets it in",
            "Verdict: dropped: mangle SMARTNAT-OPEN rule 3: -j DROP",
        ],
    );
}

#[test]
fn a_forged_source_and_an_unknown_interface_are_told_apart() {
    assert_told(
        "--source 10.244.1.2 --destination 203.0.113.10 --port 80 --interface eth1",
        &[
            "Because: 10.244.1.2 belongs to the inside; arriving by eth1 it counts as forged",
            "Verdict: dropped: mangle SMARTNAT-BORDER-IN rule 6: -m set --match-set SN-INNER src -j DROP",
        ],
    );
    assert_told(
        "--source 192.0.2.10 --destination 203.0.113.10 --port 80 --interface wlan0",
        &[
            "Because: wlan0 is neither an inside interface nor an external one that Mappings are served on",
            "Verdict: dropped: mangle SMARTNAT-OPEN rule 3: -j DROP",
        ],
    );
}

#[test]
fn a_question_without_a_port_is_a_wrong_command_line() {
    let output = run("--source 192.0.2.10 --destination 203.0.113.10 --interface eth1");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--port"));
}
