use super::*;
use crate::cli::foreign::{of_nft_chain, of_save};
use crate::model::MarkLayout;

fn scene() -> Scene {
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Scene {
        marks: MarkLayout::default(),
        external: set(&["eth1", "eth2"]),
        inside: set(&["eth0"]),
        pods: ["10.244.1.2".parse().unwrap(), "10.244.2.2".parse().unwrap()].into(),
        served: ["203.0.113.10".parse().unwrap()].into(),
        answered: ["10.0.0.2".parse().unwrap(), "203.0.113.10".parse().unwrap()].into(),
        by_service: false,
        accepts: true,
    }
}

fn judged(scene: &Scene, tables: Vec<Table>) -> Vec<Finding> {
    let foreign = Foreign { tables, looked: vec!["everything".to_owned()], unread: vec![] };
    let mut findings = evaluate(scene, &foreign);
    findings.retain(|f| f.level != Level::Ok);
    findings
}

fn of_forward(policy: &str, rules: &[&str]) -> Vec<Finding> {
    judged(&scene(), vec![of_nft_chain("filter", "forward", 10, policy, rules)])
}

fn of_filter(scene: &Scene, rules: &str) -> Vec<Finding> {
    let policies = [":INPUT", ":FORWARD", ":OUTPUT"].map(|chain| match rules.contains(&format!("{chain} ")) {
        true => String::new(),
        false => format!("{chain} ACCEPT [0:0]\n"),
    });
    judged(scene, of_save(&format!("*filter\n{}{rules}COMMIT\n", policies.concat())))
}

const DROP: &str = r#"{"drop": null}"#;
const ACCEPT: &str = r#"{"accept": null}"#;

fn with(left: &str, op: &str, right: &str, verdict: &str) -> String {
    format!(r#"{{"match": {{"op": "{op}", "left": {left}, "right": {right}}}}}, {verdict}"#)
}

const STATE: &str = r#"{"ct": {"key": "state"}}"#;

#[track_caller]
fn assert_one(found: &[Finding], level: Level, parts: &[&str]) {
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].level, level, "{found:?}");
    assert!(parts.iter().all(|p| found[0].what.contains(p)), "{found:?}");
    assert!(!found[0].remedy.is_empty());
}

#[test]
fn a_policy_or_a_rule_that_drops_all_is_a_failure_with_a_remedy() {
    let found = of_forward("drop", &[]);
    assert_one(&found, Level::Fail, &["nft table inet fw", "chain c (forward, priority 10)", "policy drop"]);
    assert!(found[0].remedy.contains("nft insert rule inet fw c ct mark and 0x20000000 != 0 accept"), "{found:?}");
    assert_one(&of_forward("accept", &[DROP]), Level::Fail, &["stops"]);
    assert_one(&of_forward("accept", &[r#"{"reject": {"type": "tcp reset"}}"#]), Level::Fail, &["stops"]);
    // Later packets pass, the first one does not.
    let established = with(STATE, "in", r#"["established", "related"]"#, ACCEPT);
    assert_one(&of_forward("drop", &[&established]), Level::Fail, &["new connections of Mappings, by"]);
    let new = with(STATE, "in", r#""new""#, ACCEPT);
    assert_one(&of_forward("drop", &[&new]), Level::Fail, &["later packets of clients and answers of pods"]);
}

#[test]
fn who_follows_the_remedy_or_accepts_the_pods_is_left_in_peace() {
    let ct = r#"{"&": [{"ct": {"key": "mark"}}, 536870912]}"#;
    for accept in [with(ct, "!=", "0", ACCEPT), with(ct, "==", "536870912", ACCEPT)] {
        assert_eq!(of_forward("drop", &[&accept]), [], "{accept}");
    }
    let dnat = with(r#"{"ct": {"key": "status"}}"#, "in", r#""dnat""#, ACCEPT);
    assert_eq!(of_forward("drop", &[&dnat]), []);
    let invalid = with(STATE, "in", r#""invalid""#, DROP);
    assert_eq!(of_forward("accept", &[&invalid]), []);
    let daddr = r#"{"payload": {"protocol": "ip", "field": "daddr"}}"#;
    let saddr = r#"{"payload": {"protocol": "ip", "field": "saddr"}}"#;
    let pods = r#"{"prefix": {"addr": "10.244.0.0", "len": 16}}"#;
    let both = [with(daddr, "==", pods, ACCEPT), with(saddr, "==", pods, ACCEPT)];
    assert_eq!(of_forward("drop", &[&both[0], &both[1]]), []);
    assert_one(&of_forward("drop", &[&both[0]]), Level::Warn, &["answers of pods, by"]);
}

#[test]
fn what_depends_on_more_than_is_known_may_stop_them() {
    let port = with(r#"{"payload": {"protocol": "tcp", "field": "dport"}}"#, "==", "80", DROP);
    assert_one(&of_forward("accept", &[&port]), Level::Warn, &["may"]);
    let accept = with(r#"{"payload": {"protocol": "tcp", "field": "dport"}}"#, "==", "80", ACCEPT);
    assert_one(&of_forward("drop", &[&accept]), Level::Warn, &["may", "policy drop"]);
    let map = r#"{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@jumps"}}"#;
    assert_one(&of_forward("accept", &[map]), Level::Warn, &["may"]);
    let unknown = format!(r#"{{"brand-new": {{"x": 1}}}}, {DROP}"#);
    assert_one(&of_forward("accept", &[&unknown]), Level::Warn, &["may"]);
    let icmp = with(r#"{"meta": {"key": "l4proto"}}"#, "==", r#""icmp""#, DROP);
    assert_eq!(of_forward("accept", &[&icmp]), []);
    let six = with(r#"{"meta": {"key": "nfproto"}}"#, "==", r#""ipv6""#, DROP);
    assert_eq!(of_forward("accept", &[&six]), []);
    // Not these: they never come from or to such an interface.
    let docker = with(r#"{"meta": {"key": "iifname"}}"#, "==", r#""docker0""#, DROP);
    assert_eq!(of_forward("accept", &[&docker]), []);
}

#[test]
fn hooks_that_mapped_packets_do_not_meet_are_none_of_our_business() {
    for (hook, family) in [("input", "inet"), ("output", "inet")] {
        let mut table = of_nft_chain("filter", hook, 0, "drop", &[]);
        table.family = family.to_owned();
        assert_eq!(judged(&scene(), vec![table.clone()]), []);
        let service = Scene { by_service: true, ..scene() };
        assert_one(&judged(&service, vec![table]), Level::Fail, &[hook, "policy drop"]);
    }
    let mut table = of_nft_chain("filter", "forward", 0, "drop", &[]);
    table.family = "ip6".to_owned();
    assert_eq!(judged(&scene(), vec![table]), []);
}

#[test]
fn ahead_of_the_marks_the_remedy_goes_by_interface() {
    let raw = of_nft_chain("filter", "prerouting", -300, "accept", &[r#"{"notrack": null}"#]);
    let found = judged(&scene(), vec![raw]);
    assert_one(&found, Level::Fail, &["connection tracking"]);
    assert!(found[0].remedy.contains(r#"c iifname '{ "eth1", "eth2", "eth0" }' accept"#), "{found:?}");
    let nat = of_nft_chain("nat", "prerouting", -110, "accept", &[r#"{"redirect": {"port": 80}}"#]);
    assert_one(&judged(&scene(), vec![nat]), Level::Fail, &["leads elsewhere"]);
    let behind = of_nft_chain("nat", "prerouting", -90, "accept", &[r#"{"redirect": {"port": 80}}"#]);
    assert_eq!(judged(&scene(), vec![behind]), []);
    let source = of_nft_chain("nat", "postrouting", 90, "accept", &[r#"{"masquerade": null}"#]);
    assert_one(&judged(&scene(), vec![source]), Level::Warn, &["another source address"]);
    let offload = of_nft_chain("filter", "forward", 0, "accept", &[r#"{"flow": {"op": "add", "flowtable": "@ft"}}"#]);
    assert_one(&judged(&scene(), vec![offload]), Level::Fail, &["past all rules"]);
    let invalid = of_nft_chain("filter", "prerouting", -300, "accept", &[&with(STATE, "in", r#""invalid""#, DROP)]);
    assert_one(&judged(&scene(), vec![invalid]), Level::Fail, &["stops"]);
}

#[test]
fn iptables_own_filter_table_is_judged_with_our_jump_in_it() {
    let all = scene();
    assert_eq!(of_filter(&all, ":FORWARD DROP [0:0]\n"), []);
    assert_eq!(of_filter(&all, "-A FORWARD -p tcp -j ACCEPT\n-A FORWARD -j REJECT\n"), []);
    assert_eq!(of_filter(&all, ":FORWARD DROP [0:0]\n-A FORWARD -j SMARTNAT-PASS\n"), []);
    let off = Scene { accepts: false, ..scene() };
    let found = of_filter(&off, ":FORWARD DROP [0:0]\n");
    assert_one(&found, Level::Fail, &["iptables table filter", "policy drop"]);
    assert!(found[0].remedy.starts_with("SNCTRLR_SETUP_ACCEPT=true, or iptables -t filter -I FORWARD"), "{found:?}");
    let ahead = ":OTHERS - [0:0]\n-A FORWARD -j OTHERS\n-A OTHERS -j DROP\n";
    assert_one(&of_filter(&all, ahead), Level::Fail, &["`-j DROP` in chain OTHERS"]);
    let user = ":DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -s 192.0.2.0/24 -j DROP\n";
    assert_one(&of_filter(&all, user), Level::Warn, &["may", "DOCKER-USER"]);
    let advised = "-A FORWARD -m connmark --mark 0x20000000/0x20000000 -j ACCEPT\n-A FORWARD -j OTHERS\n";
    assert_eq!(of_filter(&off, &format!(":OTHERS - [0:0]\n{advised}-A OTHERS -j DROP\n")), []);
}

#[test]
fn a_deny_list_that_returns_and_a_limit_are_followed() {
    let chain = ":X - [0:0]\n-A FORWARD -j X\n-A X -m conntrack --ctstate NEW,ESTABLISHED -j RETURN\n-A X -j DROP\n";
    assert_eq!(of_filter(&scene(), chain), []);
    let unsure = ":X - [0:0]\n-A FORWARD -j X\n-A X -p udp -j RETURN\n-A X -j DROP\n";
    assert_one(&of_filter(&scene(), unsure), Level::Warn, &["may"]);
    let limit =
        "-A FORWARD -m limit --limit 5/sec -j ACCEPT\n-A FORWARD -m hashlimit --hashlimit-above 9/sec -j DROP\n";
    assert_one(&of_filter(&scene(), limit), Level::Warn, &["may"]);
    assert_one(&of_filter(&scene(), "-A FORWARD -j SOMETARGET\n"), Level::Warn, &["may"]);
}

#[test]
fn each_interface_is_judged_by_itself() {
    let one = "-A FORWARD -i eth2 -j DROP\n";
    assert_one(
        &of_filter(&scene(), one),
        Level::Fail,
        &["new connections of Mappings and later packets of clients by eth2"],
    );
    let both = "-A FORWARD -i eth1 -j ACCEPT\n-A FORWARD -i eth2 -j ACCEPT\n-A FORWARD -o eth+ -j ACCEPT\n";
    let off = Scene { accepts: false, ..scene() };
    assert_eq!(of_filter(&off, &format!(":FORWARD DROP [0:0]\n{both}")), []);
}

/// docker puts one such rule there for each published container.
#[test]
fn what_is_dropped_on_its_way_to_others_is_not_told() {
    let raw = |rule: &str| {
        let save = format!("*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {rule} -j DROP\nCOMMIT\n");
        judged(&scene(), of_save(&save))
    };
    assert_eq!(raw("-d 172.17.0.2/32 ! -i docker0"), []);
    assert_one(&raw("-d 203.0.113.0/24 ! -i docker0"), Level::Fail, &["new connections of Mappings"]);
    assert_one(&raw("-d 10.0.0.2/32 ! -i docker0"), Level::Warn, &["answers of pods"]);
    let kept = Scene { answered: [].into(), ..scene() };
    let save = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 172.17.0.2/32 -j DROP\nCOMMIT\n";
    assert_one(&judged(&kept, of_save(save)), Level::Warn, &["answers of pods"]);
}

#[test]
fn arp_that_is_dropped_is_told() {
    let mut table = of_nft_chain("filter", "input", 0, "drop", &[]);
    table.family = "arp".to_owned();
    assert_one(&judged(&scene(), vec![table]), Level::Fail, &["stops ARP"]);
}

#[test]
fn without_nft_it_is_said_that_nobody_looked() {
    let unread = Unread { what: "nft is not installed".to_owned(), remedy: "apt-get install nftables".to_owned() };
    let foreign = Foreign { unread: vec![unread], ..Foreign::default() };
    let found = evaluate(&scene(), &foreign);
    assert!(found[0].level == Level::Warn && found[0].what.contains("is not known"), "{found:?}");
    assert!(!found.iter().any(|f| f.what.contains("nothing seen")), "{found:?}");
}
