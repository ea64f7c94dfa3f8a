use super::*;

fn minimal() -> SettingsArgs {
    SettingsArgs {
        default_gw_interface: Some("eth0".into()),
        interfaces_pattern: Some("eth[1-9][0-9]*".into()),
        instance_name: Some("border-1".into()),
        ..SettingsArgs::default()
    }
}

/// Names of the settings that were reported.
fn bad_names(args: SettingsArgs) -> Vec<&'static str> {
    args.validate().expect_err("must be refused").bad.into_iter().map(|b| b.name).collect()
}

#[test]
fn defaults_are_those_of_the_operator_guide() {
    let s = minimal().validate().unwrap();
    assert!(!s.debug);
    assert_eq!(s.autorefresh, Duration::from_secs(60));
    assert_eq!(s.tool_timeout, Duration::from_secs(10));
    assert_eq!(s.max_finalize_wait, Duration::from_secs(3600));
    assert_eq!(s.monitor.to_string(), "127.0.0.1:8080");
    assert_eq!(s.objects, super::ObjectSource::None);
    assert_eq!((s.namespace.as_str(), s.lease.as_secs()), ("smartnat-system", 40));
    assert_eq!(s.state_dir, PathBuf::from("/run/smartnat"));
    assert!(s.border.masquerade);
    assert!(!s.border.snat);
    assert!(s.border.accept);
    assert_eq!(s.border.gateway_offsets, 1.into());
    assert_eq!(s.border.max_ports_per_mapping, 50);
    assert_eq!(s.border.openings, [Opening::IcmpEcho, Opening::Dhcp]);
    assert_eq!(s.border.marks, MarkLayout::default());
    assert_eq!(s.border.route_table_base, 1000);
    assert!(s.border.inside_prefixes.is_empty());
    assert!(s.border.inside_interfaces.is_empty());
}

#[test]
fn every_bad_setting_is_reported_at_once() {
    let bad = |text: &str| Some(text.to_owned());
    let args = SettingsArgs {
        default_gw_interface: None,
        interfaces_pattern: bad("eth[1-9"),
        gw_address_offset: bad("0"),
        gw_address: bad("0.0.0.0"),
        monitor_ip: bad("localhost"),
        monitor_port: bad("70000"),
        debug_enabled: bad("maybe"),
        setup_masquerade: bad("on"),
        setup_snat: bad("2"),
        setup_accept: bad("perhaps"),
        iptables_timeout_sec: bad("0"),
        autorefresh_period_sec: bad("-1"),
        max_finalize_wait_minutes: bad("1h"),
        max_ports_per_mapping: bad("257"),
        manifests: None,
        kubeconfig: None,
        namespace: bad("Smart_Nat"),
        lease_seconds: bad("3"),
        state_dir: bad("run"),
        instance_name: bad("Border 1"),
        inside_prefixes: bad("cali+,+"),
        inside_interfaces: bad("eth1.100,a/b"),
        border_openings: bad("icmp-echo,ssh"),
        mark_bits: bad("10-20"),
        route_table_base: bad("254"),
    };
    let error = args.validate().unwrap_err();
    let names: std::collections::BTreeSet<_> = error.bad.iter().map(|b| b.name).collect();
    assert_eq!(names.len(), 23, "{error}");
    assert_eq!(error.bad.len(), 23, "each once: {error}");
    let text = error.to_string();
    assert!(text.starts_with("23 settings cannot be used:\n"), "{text}");
    assert!(
        text.contains("SNCTRLR_MAX_PORTS_PER_MAPPING (--max-ports-per-mapping) is \"257\": it is out of range"),
        "{text}"
    );
    for line in text.lines().skip(1) {
        assert!(line.contains("; "), "no remedy in {line:?}");
    }
}

#[test]
fn peers_of_vrrp_are_addresses_of_single_hosts() {
    let text = "vrrp,vrrp=192.0.2.2,vrrp=2001:db8::2,vrrp=fe80::2";
    let openings: Vec<Opening> = text.split(',').map(|o| o.parse().unwrap()).collect();
    let shown: Vec<String> = openings.iter().map(ToString::to_string).collect();
    assert_eq!(shown.join(","), text);
    assert_eq!(openings[1], Opening::VrrpPeer("192.0.2.2".parse().unwrap()));
    for wrong in [
        "",
        "192.0.2.0/24",
        "router",
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "224.0.0.18",
        "ff02::12",
        "255.255.255.255",
        "fe80::2%eth1",
    ] {
        let error = format!("vrrp={wrong}").parse::<Opening>().unwrap_err().to_string();
        assert!(error.contains("; use icmp-echo, dhcp, vrrp, vrrp=ADDRESS of a peer"), "{error}");
    }
}

#[test]
fn flags_named_in_messages_exist() {
    use clap::{Args, Command};
    let known: Vec<String> = SettingsArgs::augment_args(Command::new("x"))
        .get_arguments()
        .filter_map(|a| Some((a.get_env()?.to_str()?.to_owned(), a.get_long()?.to_owned())))
        .map(|(env, long)| {
            // KUBECONFIG is everybody's variable, and has no prefix.
            let name = env.strip_prefix("SNCTRLR_").unwrap_or(&env);
            assert_eq!(long, name.to_lowercase().replace('_', "-"));
            long
        })
        .collect();
    assert_eq!(known.len(), 25);
}

#[test]
fn empty_means_default_except_where_it_has_a_meaning() {
    let empty = || Some(String::new());
    let args = SettingsArgs {
        gw_address_offset: empty(),
        monitor_port: empty(),
        debug_enabled: empty(),
        setup_masquerade: empty(),
        setup_snat: empty(),
        setup_accept: empty(),
        iptables_timeout_sec: empty(),
        max_ports_per_mapping: empty(),
        manifests: empty(),
        kubeconfig: empty(),
        namespace: empty(),
        lease_seconds: empty(),
        mark_bits: empty(),
        ..minimal()
    };
    assert_eq!(args.validate().unwrap(), minimal().validate().unwrap());

    let monitor = SettingsArgs { monitor_ip: empty(), ..minimal() }.validate().unwrap().monitor;
    assert_eq!(monitor.ip, None);
    assert_eq!(monitor.local().to_string(), "127.0.0.1:8080");
    assert!(SettingsArgs { border_openings: empty(), ..minimal() }.validate().unwrap().border.openings.is_empty());
    assert_eq!(bad_names(SettingsArgs { interfaces_pattern: empty(), ..minimal() }), ["SNCTRLR_INTERFACES_PATTERN"]);
}

#[test]
fn booleans_in_any_spelling() {
    for (text, expected) in
        [("true", true), ("TRUE", true), ("1", true), ("Yes", true), ("false", false), ("0", false), ("NO", false)]
    {
        let s = SettingsArgs { setup_snat: Some(text.into()), ..minimal() }.validate().unwrap();
        assert_eq!(s.border.snat, expected, "{text}");
    }
}

#[test]
fn the_pattern_matches_whole_names() {
    let s = SettingsArgs { interfaces_pattern: Some("eth1|wan".into()), ..minimal() }.validate().unwrap();
    for (name, expected) in [("eth1", true), ("wan", true), ("eth10", false), ("xwan", false), ("wan0", false)] {
        assert_eq!(s.border.external_pattern.is_match(name), expected, "{name}");
    }
    assert_eq!(
        bad_names(SettingsArgs { interfaces_pattern: Some("eth1)|(?:eth2".into()), ..minimal() }),
        ["SNCTRLR_INTERFACES_PATTERN"]
    );
}

#[test]
fn prefixes_openings_marks_and_offset_are_read() {
    let s = SettingsArgs {
        inside_prefixes: Some("cali+, veth,cali".into()),
        border_openings: Some("vrrp,tcp/179@192.0.2.1".into()),
        mark_bits: Some("20-31".into()),
        gw_address_offset: Some("-1".into()),
        ..minimal()
    }
    .validate()
    .unwrap();
    assert_eq!(s.border.inside_prefixes, ["cali", "veth"]);
    assert_eq!(s.border.openings.iter().map(ToString::to_string).collect::<Vec<_>>(), ["vrrp", "tcp/179@192.0.2.1/32"]);
    assert_eq!(s.border.marks.to_string(), "20-31");
    assert_eq!(s.border.gateway_offsets, (-1).into());
}

#[test]
fn a_router_may_be_named_for_all_interfaces_or_for_single_ones() {
    let addresses = |text: &str| {
        let args = SettingsArgs { gw_address: Some(text.into()), ..minimal() };
        let of = |s: Settings| ["eth1", "eth2"].map(|name| s.border.gateway_addresses.of(name).map(|a| a.to_string()));
        args.validate().map(of)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(addresses("").unwrap(), [None, None]);
    assert_eq!(addresses("203.0.113.1").unwrap(), [some("203.0.113.1"), some("203.0.113.1")]);
    assert_eq!(addresses("eth2=169.254.1.1").unwrap(), [None, some("169.254.1.1")]);
    assert_eq!(addresses("203.0.113.1, eth2 = 100.64.0.1").unwrap(), [some("203.0.113.1"), some("100.64.0.1")]);
    for (text, complaint) in [
        ("203.0.113.1,203.0.113.2", "two addresses for all"),
        ("eth2=203.0.113.1,eth2=203.0.113.2", "two addresses for eth2"),
        ("0.0.0.0", "no address of a host"),
        ("eth1=224.0.0.18", "multicast"),
        ("255.255.255.255", "no address of a host"),
        ("127.0.0.1", "the box itself"),
        ("2001:db8::1", "IPv4 gateways only"),
        ("203.0.113.1/24", "no prefix length"),
        ("eth1=router", "no IP address"),
        ("1", "no IP address"),
    ] {
        let error = addresses(text).unwrap_err().to_string();
        assert!(error.contains(complaint) && error.contains("SNCTRLR_GW_ADDRESS"), "{text}: {error}");
    }
}

#[test]
fn an_interface_may_have_a_gateway_offset_of_its_own() {
    let offsets = |text: &str| {
        let args = SettingsArgs { gw_address_offset: Some(text.into()), ..minimal() };
        args.validate().map(|s| ["eth1", "eth2"].map(|name| s.border.gateway_offsets.of(name)))
    };
    assert_eq!(offsets("-1, eth2=3").unwrap(), [-1, 3]);
    assert_eq!(offsets("eth2 = -2").unwrap(), [1, -2]);
    for (text, complaint) in [
        ("1,2", "two offsets for all"),
        ("eth2=1,eth2=2", "two offsets for eth2"),
        ("1,eth2=0", "0 would be"),
        ("1,eth2=", "no whole number"),
        ("1,a/b=1", "a/b"),
    ] {
        let error = offsets(text).unwrap_err().to_string();
        assert!(error.contains(complaint) && error.contains("SNCTRLR_GW_ADDRESS_OFFSET"), "{text}: {error}");
    }
}

#[test]
fn impossible_interface_names_are_refused() {
    let of_128_bytes = "a".repeat(128);
    for name in [of_128_bytes.as_str(), "eth 0", "eth/0", ".."] {
        assert_eq!(
            bad_names(SettingsArgs { default_gw_interface: Some(name.into()), ..minimal() }),
            [GATEWAY],
            "{name}"
        );
    }
    let altname = SettingsArgs { default_gw_interface: Some("a".repeat(127)), ..minimal() };
    assert_eq!(altname.validate().unwrap().border.gateway_interface.len(), 127);
}

#[test]
fn tables_must_have_room_for_every_slot() {
    let base = (u32::MAX - 10).to_string();
    assert_eq!(bad_names(SettingsArgs { route_table_base: Some(base), ..minimal() }), [TABLE_BASE]);
}

#[test]
fn local_settings_ask_for_no_interface() {
    let s = SettingsArgs { monitor_port: Some("9090".into()), ..SettingsArgs::default() }.validate_local().unwrap();
    assert_eq!(s.monitor.local().port(), 9090);
    let e = SettingsArgs { monitor_port: Some("x".into()), ..SettingsArgs::default() }.validate_local().unwrap_err();
    assert_eq!(e.bad.len(), 1);
}
