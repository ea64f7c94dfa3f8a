use smartnat::model::{Family, Protocol};
use smartnat::ruleset::{CtDirection, CtState, Match, Ports, Probability, RejectWith, Rule, SetDirection, Target};

use crate::bed::{ip, on_set};
use crate::netns::{in_netns, sh};

/// Rules that together hold every match, in every form that it has.
fn matches(family: Family) -> Vec<Vec<Match>> {
    use Protocol::{Tcp, Udp};
    let four = family == Family::Ipv4;
    let net = |four_text: &str, six: &str| if four { four_text.parse().unwrap() } else { six.parse().unwrap() };
    let mark = |value, mask, invert| [Match::Mark { value, mask, invert }, Match::ConnMark { value, mask, invert }];
    let mut rules = vec![
        vec![],
        vec![Match::Source(net("10.0.0.0/8", "2001:db8::/32")), Match::Destination(net("10.1.1.1/32", "::1/128"))],
        vec![Match::Source(net("0.0.0.0/0", "::/0")), Match::Destination(net("10.1.2.3/24", "2001:db8::5/64"))],
        vec![
            Match::SourceLocal,
            Match::NotDestination(net("224.0.0.0/4", "ff00::/8")),
            Match::NotSource(net("169.254.0.0/16", "fe80::/10")),
        ],
        vec![Match::Destination(net("169.254.0.0/16", "fe80::/10")), Match::DestinationNotHere],
        vec![Match::OutInterface("eth1".into()), Match::InInterface("cali+".into())],
        vec![Match::Protocol(Tcp), Match::SourcePort(Tcp, 67), Match::DestinationPort(Tcp, Ports::one(68))],
        vec![
            Match::Protocol(Udp),
            Match::DestinationPort(Udp, Ports { first: 1, last: 65535 }),
            Match::CtState(CtState::New),
            Match::SourcePort(Udp, 5),
        ],
        vec![Match::Protocol(Tcp), Match::DestinationPort(Tcp, Ports { first: 0, last: 443 })],
        vec![Match::IpProtocol("vrrp")],
        vec![Match::CtState(CtState::Established), Match::CtDirection(CtDirection::Reply)],
        vec![Match::CtState(CtState::New), Match::CtDirection(CtDirection::Original)],
        vec![Match::CtState(CtState::Invalid)],
        vec![Match::NotDnated],
        vec![on_set("SN-a", SetDirection::Source, false), on_set("SN-a", SetDirection::Destination, true)],
        vec![on_set("SN-p", SetDirection::DestinationPort, true)],
        vec![Match::DestinationLocal { invert: false }],
        vec![Match::DestinationLocal { invert: true }],
        vec![Match::Comment("plain_text-1".into())],
        vec![Match::Comment("default/web: it's \"quoted\" \\ and % more".into()), Match::Protocol(Tcp)],
        vec![Match::Comment(String::new())],
    ];
    for (value, mask) in [(0x10000, 0x0fff_0000), (0, 0x0fff_0000), (7, u32::MAX), (0, u32::MAX)] {
        rules.push(mark(value, mask, false).into());
        rules.push(mark(value, mask, true).into());
    }
    for of in [2, 3, 7, 10, 97, 1000, 4093] {
        rules.push(vec![Match::Statistic(Probability { weight: 1, of })]);
        rules.push(vec![Match::Statistic(Probability { weight: of - 1, of })]);
    }
    let icmp = |m| vec![Match::IpProtocol(if four { "icmp" } else { "ipv6-icmp" }), m];
    rules.push(icmp(Match::IcmpCode { family, kind: if four { 11 } else { 3 }, code: 1 }));
    if four {
        rules.extend([icmp(Match::IcmpType(8)), vec![Match::Ipv4Options]]);
    } else {
        rules.push([icmp(Match::Icmp6Type(135)), vec![Match::HopLimit(255)]].concat());
    }
    rules
}

fn targets(table: &str, family: Family) -> Vec<(Vec<Match>, Target)> {
    let four = family == Family::Ipv4;
    let address = if four { ip("10.1.2.3") } else { ip("2001:db8::5") };
    let tcp = || vec![Match::Protocol(Protocol::Tcp)];
    match table {
        "nat" => vec![
            (tcp(), Target::Dnat((address, 8080).into())),
            (vec![], Target::Snat { address, ports: None }),
            (tcp(), Target::Snat { address, ports: Some(Ports { first: 1024, last: 65535 }) }),
            (vec![], Target::Masquerade),
        ],
        "filter" => {
            vec![(tcp(), Target::Reject(RejectWith::TcpReset)), (vec![], Target::Reject(RejectWith::PortUnreachable))]
        }
        _ => [
            Target::Accept,
            Target::Drop,
            Target::Return,
            Target::Jump("SMARTNAT-B".into()),
            Target::Goto("SMARTNAT-B".into()),
            Target::SetMark { value: 0x1000_0000, mask: 0x1000_0000 },
            Target::SetMark { value: 1, mask: u32::MAX },
            Target::SetConnMark { value: 0x10000, mask: 0x0fff_0000 },
            Target::SetConnMark { value: 1, mask: u32::MAX },
            Target::SaveMark { mask: 0x0fff_0000 },
            Target::RestoreMark { mask: 0x0fff_0000 },
            Target::MapMark { set: "SN-m".into() },
            Target::AddSource { set: "SN-t".into(), timeout: 10800 },
        ]
        .map(|target| (vec![], target))
        .into(),
    }
}

fn check(family: Family) {
    let (tool, inet) = if family == Family::Ipv4 { ("iptables", "inet") } else { ("ip6tables", "inet6") };
    sh(&format!(
        "ipset create SN-a hash:ip family {inet}; ipset create SN-p hash:ip,port family {inet}
         ipset create SN-m hash:ip family {inet} skbinfo; ipset create SN-t hash:ip family {inet} timeout 0"
    ));
    for table in ["mangle", "nat", "filter"] {
        let mut rules: Vec<Rule> = targets(table, family).into_iter().map(|(m, t)| Rule::new(m, t)).collect();
        if table == "mangle" {
            rules.extend(matches(family).into_iter().map(|m| Rule::new(m, Target::Return)));
        }
        let written: Vec<String> = rules.iter().map(|rule| rule.spelled(family)).collect();
        let mut input = format!("*{table}\n:SMARTNAT-A - [0:0]\n:SMARTNAT-B - [0:0]\n");
        for rule in &written {
            input += &format!("-A SMARTNAT-A {rule}\n");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), input + "COMMIT\n").unwrap();
        sh(&format!("{tool}-restore --noflush {}", file.path().display()));
        let read: Vec<String> = sh(&format!("{tool} -t {table} -S SMARTNAT-A"))
            .lines()
            .filter_map(|line| line.strip_prefix("-A SMARTNAT-A "))
            .map(str::to_owned)
            .collect();
        assert_eq!(read, written);
    }
}

#[test]
fn every_rule_reads_back_as_we_spell_it_in_ipv4() {
    in_netns(|| async { check(Family::Ipv4) });
}

#[test]
fn every_rule_reads_back_as_we_spell_it_in_ipv6() {
    in_netns(|| async { check(Family::Ipv6) });
}
