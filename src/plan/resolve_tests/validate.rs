use super::*;
use crate::api::{MappingMode, MappingPort};
use crate::model::Protocol;
use crate::plan::{PortSelector, Refusal, RefusalReason, Sources, ValidatedMapping};

fn validate(spec: MappingSpec) -> Result<ValidatedMapping, Refusal> {
    crate::plan::validate(spec, 50)
}

/// Changes the good spec and returns the refusal.
fn refusal(change: impl FnOnce(&mut MappingSpec)) -> Refusal {
    let mut spec = spec();
    change(&mut spec);
    validate(spec).unwrap_err()
}

/// A refusal names the field, the value and what to do.
fn assert_refused(refusal: &Refusal, reason: RefusalReason, parts: &[&str]) {
    assert_eq!(refusal.reason, reason, "{}", refusal.message);
    for part in parts {
        assert!(refusal.message.contains(part), "{part:?} is not in {:?}", refusal.message);
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let valid = validate(MappingSpec {
        mode: None,
        ports: vec![MappingPort { port: Some(80), ..MappingPort::default() }],
        ..spec()
    })
    .unwrap();
    assert_eq!(valid.mode, MappingMode::Service);
    assert_eq!(valid.sources, Sources::Everyone);
    assert_eq!(valid.ports[0].protocol, Protocol::Tcp);
    assert_eq!(valid.ports[0].service_port, PortSelector::Number(80));
}

/// The first SmartNat's own sample, without its port of a planned feature.
#[test]
fn the_habits_of_the_first_smartnat_are_accepted() {
    let valid = validate(MappingSpec {
        addresses: strings(&["192.168.3.1", "192.168.3.11"]),
        allowed_sources: strings(&["10.1.2.3/8", "192.168.5.1"]),
        service_name: "myService".to_owned(),
        mode: Some("Service".to_owned()),
        ports: vec![MappingPort { port: Some(8080), ..MappingPort::default() }, port(9999, 53, "UDP")],
    })
    .unwrap();
    assert_eq!(valid.addresses, [ip("192.168.3.1"), ip("192.168.3.11")]);
    assert_eq!(valid.sources, Sources::Nets(vec!["10.0.0.0/8".parse().unwrap(), "192.168.5.1/32".parse().unwrap()]));
    assert_eq!(valid.mode, MappingMode::Service);
    assert_eq!((valid.ports[1].protocol, valid.ports[1].port), (Protocol::Udp, 9999));
}

#[test]
fn a_service_port_may_be_named() {
    let mut named = spec();
    named.ports[0].service_port = Some(ServicePortRef::Name("http".to_owned()));
    assert_eq!(validate(named).unwrap().ports[0].service_port, PortSelector::Name("http".to_owned()));
}

#[test]
fn an_address_given_twice_counts_once() {
    let mut twice = spec();
    twice.addresses = strings(&["203.0.113.11", "203.0.113.10", "203.0.113.11"]);
    assert_eq!(validate(twice).unwrap().addresses, [ip("203.0.113.11"), ip("203.0.113.10")]);
}

#[test]
fn addresses_that_no_client_can_reach_are_refused() {
    for (text, what) in [
        ("0.0.0.0", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("224.0.0.18", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("203.0.113.10/24", "without a prefix length"),
        ("203.0.113.010", "leading zeros"),
        ("web.example.com", "no IP address"),
        ("", "no IP address"),
    ] {
        let refused = refusal(|s| s.addresses.push(text.to_owned()));
        assert_refused(&refused, RefusalReason::InvalidAddress, &["spec.addresses[1]", text, what]);
    }
}

#[test]
fn ipv6_is_refused_for_now() {
    let refused = refusal(|s| s.addresses.push("2001:db8::1".to_owned()));
    assert_refused(&refused, RefusalReason::AddressFamilyNotSupported, &["spec.addresses[1]", "2001:db8::1", "IPv4"]);
    let refused = refusal(|s| s.addresses.push("::ffff:203.0.113.11".to_owned()));
    assert_refused(&refused, RefusalReason::AddressFamilyNotSupported, &["spec.addresses[1]"]);
    for text in ["2001:db8::/32", "2001:db8::1", "::/0"] {
        let refused = refusal(|s| s.allowed_sources = strings(&["192.0.2.0/24", text]));
        assert_refused(&refused, RefusalReason::AddressFamilyNotSupported, &["spec.allowedSources[1]", "IPv4"]);
    }
}

#[test]
fn a_source_that_is_no_network_is_refused_and_never_widens_to_everyone() {
    for text in ["office", "", "10.0.0.0/33", "10.0.0.0/", "10.0.0", " 10.0.0.0/8"] {
        let refused = refusal(|s| s.allowed_sources = strings(&[text]));
        assert_refused(&refused, RefusalReason::InvalidSource, &["spec.allowedSources[0]", text, "192.0.2.0/24"]);
    }
}

#[test]
fn sources_are_sorted_merged_and_freed_of_what_others_cover() {
    let sources = |texts: &[&str]| validate(MappingSpec { allowed_sources: strings(texts), ..spec() }).unwrap().sources;
    let nets = |texts: &[&str]| Sources::Nets(texts.iter().map(|t| t.parse().unwrap()).collect());
    assert_eq!(sources(&["192.0.2.1", "10.0.0.0/8", "10.1.0.0/16"]), nets(&["10.0.0.0/8", "192.0.2.1/32"]));
    assert_eq!(sources(&["192.0.2.128/25", "192.0.2.0/25"]), nets(&["192.0.2.0/24"]));
    assert_eq!(sources(&["192.0.2.77/24", "192.0.2.0/24"]), nets(&["192.0.2.0/24"]));
    assert_eq!(sources(&["10.0.0.0/8", "0.0.0.0/0"]), Sources::Everyone);
    assert_eq!(sources(&["128.0.0.0/1", "0.0.0.0/1"]), Sources::Everyone);
}

#[test]
fn missing_fields_are_named_all_at_once() {
    let refused = validate(MappingSpec::default()).unwrap_err();
    assert_refused(&refused, RefusalReason::MissingField, &["spec.addresses", "spec.serviceName", "spec.ports"]);
    let refused = refusal(|s| s.ports.push(MappingPort { port: None, ..port(1, 80, "tcp") }));
    assert_refused(&refused, RefusalReason::MissingField, &["spec.ports[1].port", "1 to 65535"]);
}

#[test]
fn an_unknown_mode_is_refused() {
    let refused = refusal(|s| s.mode = Some("proxy".to_owned()));
    assert_refused(&refused, RefusalReason::InvalidMode, &["spec.mode", "\"proxy\"", "service or direct"]);
}

#[test]
fn numbers_that_are_no_ports_are_refused() {
    for number in [0, -1, 65_536, i32::MAX] {
        let text = number.to_string();
        let refused = refusal(|s| s.ports[0].port = Some(number));
        assert_refused(&refused, RefusalReason::InvalidPort, &["spec.ports[0].port", &text, "1 to 65535"]);
        let refused = refusal(|s| s.ports[0].service_port = Some(ServicePortRef::Number(number)));
        assert_refused(&refused, RefusalReason::InvalidPort, &["spec.ports[0].servicePort", &text, "1 to 65535"]);
    }
    let refused = refusal(|s| s.ports[0].service_port = Some(ServicePortRef::Name(String::new())));
    assert_refused(&refused, RefusalReason::InvalidPort, &["spec.ports[0].servicePort is empty"]);
}

#[test]
fn sctp_is_refused() {
    let refused = refusal(|s| s.ports.push(port(81, 81, "SCTP")));
    assert_refused(&refused, RefusalReason::InvalidProtocol, &["spec.ports[1].protocol", "\"SCTP\"", "tcp or udp"]);
}

#[test]
fn a_port_may_stand_once_per_protocol() {
    let mut both = spec();
    both.ports = vec![port(53, 53, "tcp"), port(53, 53, "udp")];
    assert_eq!(validate(both).unwrap().ports.len(), 2);
    let refused = refusal(|s| s.ports = vec![port(80, 1, "tcp"), port(81, 1, "tcp"), port(80, 2, "TCP")]);
    assert_refused(&refused, RefusalReason::DuplicatePort, &["spec.ports[2].port", "80/tcp", "spec.ports[0]"]);
}

#[test]
fn more_ports_than_the_setting_allows_are_refused_naming_it() {
    let ports = |n: i32| (1..=n).map(|p| port(p, p, "tcp")).collect::<Vec<_>>();
    let mut most = spec();
    most.ports = ports(50);
    assert_eq!(validate(most).unwrap().ports.len(), 50);
    let refused = refusal(|s| s.ports = ports(51));
    assert_refused(&refused, RefusalReason::TooManyPorts, &["51", "50", "SNCTRLR_MAX_PORTS_PER_MAPPING"]);
}

#[test]
fn a_message_names_five_faults_and_counts_the_rest() {
    let refused = refusal(|s| s.addresses = strings(&["a", "b", "c", "d", "e", "f", "g"]));
    assert_refused(&refused, RefusalReason::InvalidAddress, &["spec.addresses[0]", "spec.addresses[4]", "and 2 more"]);
    assert!(!refused.message.contains("spec.addresses[5]"), "{}", refused.message);
}
