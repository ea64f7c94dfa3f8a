//! A border with Mappings, written by hand: the rules that a plan's output is a grown form of.
//!
//! `eth0` is the gateway and cluster interface, `eth1` (slot 1) and `eth2` (slot 2) are external. The Mappings:
//!
//! | Mapping | endpoint | behind it | sources |
//! | --- | --- | --- | --- |
//! | shop/web | 203.0.113.10 tcp 80, udp 53 | pods' 8080, 9090 | 192.0.2.0/24, pods |
//! | shop/empty | 203.0.113.11 tcp 80, udp 53 | no pod | 192.0.2.0/24 |
//! | shop/vip | 198.51.100.10 tcp 443 | ClusterIP 10.96.0.10:443, local | everyone |
//! | shop/sticky | 203.0.113.11 tcp 8443 | pods' 8080, session affinity | everyone |

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use smartnat::model::{Family, Host, InterfaceAddress, Link, MainRoute, MarkLayout, Protocol};
use smartnat::ruleset::{
    Builtin, CtDirection, CtState, Dataplane, IpSet, MAIN_TABLE, Match, PolicyRule, Ports, Probability, RejectWith,
    Route, RouteTarget, Rule, RuleSelector, SetDirection, SetKind, SetMember, Sysctl, Table, TableRules, Target,
};

pub const POD_A: &str = "10.244.1.2";
pub const POD_B: &str = "10.244.2.2";
pub const CLUSTER_IP: &str = "10.96.0.10";

const SLOTS: [(&str, u32); 2] = [("eth1", 1), ("eth2", 2)];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn host() -> Host {
    let mut host = Host::default();
    let links: [(&str, &[&str]); 4] = [
        ("lo", &["127.0.0.1/8", "10.96.0.10/32", "::1/128"]),
        ("eth0", &["10.0.0.2/24", "fd00::2/64", "fe80::2/64"]),
        ("eth1", &["203.0.113.10/24", "203.0.113.11/24", "2001:db8:1::10/64", "fe80::10/64"]),
        ("eth2", &["198.51.100.10/24"]),
    ];
    for (index, (name, addresses)) in links.iter().enumerate() {
        let address = |(i, text): (usize, &&str)| {
            let net = net(text);
            InterfaceAddress { secondary: *name == "eth1" && i == 1, ..InterfaceAddress::of(net) }
        };
        let link = Link {
            index: index as u32 + 1,
            up: true,
            carrier: true,
            mtu: 1500,
            addresses: addresses.iter().enumerate().map(address).collect(),
            ..Link::default()
        };
        host.links.insert((*name).to_owned(), link);
    }
    let routes = [
        ("0.0.0.0/0", "eth0", Some("10.0.0.1")),
        ("10.0.0.0/24", "eth0", None),
        ("10.244.0.0/16", "eth0", Some("10.0.0.3")),
        ("203.0.113.0/24", "eth1", None),
        ("198.51.100.0/24", "eth2", None),
        ("::/0", "eth0", Some("fd00::1")),
        ("fd00::/64", "eth0", None),
        ("2001:db8:1::/64", "eth1", None),
    ];
    host.main_routes = routes
        .iter()
        .map(|(destination, interface, gateway)| MainRoute {
            destination: net(destination),
            interface: Some((*interface).to_owned()),
            gateway: gateway.map(ip),
            metric: 0,
        })
        .collect();
    host
}

/// The whole dataplane, with pod egress by eth1 and masquerade on or off.
pub fn dataplane(masquerade: bool) -> Dataplane {
    let mut plane = Dataplane::default();
    plane.tables.insert((Family::Ipv4, Table::Mangle), mangle());
    plane.tables.insert((Family::Ipv4, Table::Nat), nat(masquerade));
    plane.tables.insert((Family::Ipv4, Table::Filter), refuse());
    plane.tables.insert((Family::Ipv4, Table::Security), guard());
    plane.tables.insert((Family::Ipv6, Table::Mangle), mangle6());
    sets(&mut plane);
    routing(&mut plane);
    plane.sysctls.insert(Sysctl::IpForward, "1".to_owned());
    plane
}

fn marks() -> MarkLayout {
    MarkLayout::default()
}

/// `--set-xmark` and `! 0/mask` need both.
fn slot(n: u32) -> (u32, u32) {
    (n << 16, marks().slot_mask())
}

fn connmark(value: u32, mask: u32) -> Match {
    Match::ConnMark { value, mask, invert: false }
}

fn no_connmark(value: u32, mask: u32) -> Match {
    Match::ConnMark { value, mask, invert: true }
}

fn set(name: &str, direction: SetDirection) -> Match {
    Match::Set { name: name.to_owned(), direction, invert: false }
}

fn not_in(name: &str, direction: SetDirection) -> Match {
    Match::Set { name: name.to_owned(), direction, invert: true }
}

fn from(name: &str) -> Match {
    Match::InInterface(name.to_owned())
}

fn out(name: &str) -> Match {
    Match::OutInterface(name.to_owned())
}

fn goto(chain: &str) -> Target {
    Target::Goto(chain.to_owned())
}

fn jump(chain: &str) -> Target {
    Target::Jump(chain.to_owned())
}

fn mapped() -> Match {
    connmark(marks().mapped(), marks().mapped())
}

fn new() -> Match {
    Match::CtState(CtState::New)
}

fn comment(text: &str) -> Match {
    Match::Comment(text.to_owned())
}

fn table(hooks: &[(Builtin, &str)], chains: Vec<(&str, Vec<Rule>)>) -> TableRules {
    TableRules {
        hooks: hooks.iter().map(|(hook, chain)| (*hook, Rule::new([], jump(chain)))).collect(),
        chains: chains.into_iter().map(|(name, rules)| (name.into(), rules.into())).collect(),
        ..TableRules::default()
    }
}

fn mangle() -> TableRules {
    let all_slots = marks().slot_mask();
    let inside = marks().inside();
    let begun_inside = marks().begun_inside();
    let mut pre = vec![Rule::new([from("lo")], Target::Return)];
    let mut chains = Vec::new();
    for (name, n) in SLOTS {
        let (value, mask) = slot(n);
        let chain = if n == 1 { "SMARTNAT-E1" } else { "SMARTNAT-E2" };
        pre.push(Rule::new([from(name)], goto(chain)));
        chains.push((chain, vec![Rule::new([new()], Target::SetConnMark { value, mask })]));
    }
    pre.push(Rule::new([from("eth0")], goto("SMARTNAT-INSIDE")));
    let marked = Match::Mark { value: 0, mask: all_slots, invert: true };
    let unmarked = Match::Mark { value: 0, mask: all_slots, invert: false };
    let egress = [
        new(),
        set("SN-EG", SetDirection::Source),
        Match::DestinationLocal { invert: true },
        not_in("SN-EGDST", SetDirection::Destination),
    ];
    let inside_rules = vec![
        Rule::new(egress, Target::MapMark { set: "SN-EG".to_owned() }),
        Rule::new([new(), marked.clone()], Target::SaveMark { mask: all_slots }),
        Rule::new([new(), marked], Target::SetConnMark { value: begun_inside, mask: begun_inside }),
        Rule::new(
            [new(), unmarked, Match::DestinationLocal { invert: false }],
            Target::SetConnMark { value: inside, mask: all_slots },
        ),
        Rule::new([no_connmark(0, all_slots), no_connmark(inside, all_slots)], Target::RestoreMark { mask: all_slots }),
    ];
    let output = vec![
        Rule::new([connmark(begun_inside, begun_inside), Match::CtDirection(CtDirection::Reply)], Target::Return),
        Rule::new([connmark(0, begun_inside), Match::CtDirection(CtDirection::Original)], Target::Return),
        Rule::new([no_connmark(0, all_slots)], Target::RestoreMark { mask: all_slots }),
    ];
    let post = SLOTS
        .iter()
        .map(|(name, n)| {
            Rule::new(
                [out(name), new(), Match::CtDirection(CtDirection::Original), connmark(0, all_slots)],
                Target::SetConnMark { value: begun_inside | slot(*n).0, mask: begun_inside | all_slots },
            )
        })
        .collect();
    chains.extend([
        ("SMARTNAT-PRE", pre),
        ("SMARTNAT-INSIDE", inside_rules),
        ("SMARTNAT-OUT", output),
        ("SMARTNAT-POST", post),
        ("SMARTNAT-BORDER-IN", border(openings())),
        ("SMARTNAT-BORDER", border(Vec::new())),
    ]);
    let hooks = [
        (Builtin::Prerouting, "SMARTNAT-PRE"),
        (Builtin::Output, "SMARTNAT-OUT"),
        (Builtin::Input, "SMARTNAT-BORDER-IN"),
        (Builtin::Forward, "SMARTNAT-BORDER"),
        (Builtin::Postrouting, "SMARTNAT-POST"),
    ];
    table(&hooks, chains)
}

fn border(openings: Vec<Rule>) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new([from("lo")], Target::Return),
        Rule::new([from("eth0")], Target::Return),
        Rule::new([set("SN-INNER", SetDirection::Source)], Target::Drop),
    ];
    for (name, n) in SLOTS {
        let (value, mask) = slot(n);
        let answer = [
            from(name),
            Match::CtState(CtState::Established),
            Match::CtDirection(CtDirection::Reply),
            connmark(value, mask),
        ];
        rules.push(Rule::new(answer, Target::Return));
    }
    rules.push(Rule::new([mapped()], Target::Return));
    rules.extend(openings);
    rules.push(Rule::new([], Target::Drop));
    rules
}

fn openings() -> Vec<Rule> {
    let udp = Protocol::Udp;
    vec![
        Rule::new(
            [Match::IpProtocol("icmp"), Match::IcmpType(8), set("SN-EXT", SetDirection::Destination)],
            Target::Return,
        ),
        Rule::new(
            [Match::Protocol(udp), Match::SourcePort(udp, 67), Match::DestinationPort(udp, Ports::one(68))],
            Target::Return,
        ),
        Rule::new([Match::Destination(net("224.0.0.18/32")), Match::IpProtocol("vrrp")], Target::Return),
    ]
}

fn nat(masquerade: bool) -> TableRules {
    let endpoint = |address: &str, protocol, port, chain: &str| {
        let matches = [
            Match::Destination(net(&format!("{address}/32"))),
            Match::Protocol(protocol),
            Match::DestinationPort(protocol, Ports::one(port)),
        ];
        Rule::new(matches, goto(chain))
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let dispatch = vec![
        endpoint("203.0.113.10", tcp, 80, "SMARTNAT-M-web-0"),
        endpoint("203.0.113.10", udp, 53, "SMARTNAT-M-web-1"),
        endpoint("203.0.113.11", tcp, 80, "SMARTNAT-M-empty-0"),
        endpoint("203.0.113.11", udp, 53, "SMARTNAT-M-empty-1"),
        endpoint("198.51.100.10", tcp, 443, "SMARTNAT-M-vip-0"),
        endpoint("203.0.113.11", tcp, 8443, "SMARTNAT-M-sticky-0"),
    ];
    let to = |protocol, to: String| Rule::new([Match::Protocol(protocol)], Target::Dnat(to.parse().unwrap()));
    let half = || Match::Statistic(Probability { weight: 1, of: 2 });
    let mut chains = vec![
        (
            "SMARTNAT-DNAT",
            vec![
                Rule::new([not_in("SN-EP", SetDirection::DestinationPort)], Target::Return),
                Rule::new([], goto("SMARTNAT-T1")),
            ],
        ),
        ("SMARTNAT-T1", dispatch),
        ("SMARTNAT-P-web-0", vec![to(tcp, format!("{POD_B}:8080"))]),
        ("SMARTNAT-P-web-1", vec![to(udp, format!("{POD_B}:9090"))]),
    ];
    for (i, protocol, port) in [(0, tcp, 8080), (1, udp, 9090)] {
        let mut rules = admission(&format!("shop/web:{protocol}/{}", [80, 53][i]), Some("SN-SRC-web"), masquerade);
        rules.push(Rule::new([half()], goto(["SMARTNAT-P-web-0", "SMARTNAT-P-web-1"][i])));
        rules.push(to(protocol, format!("{POD_A}:{port}")));
        chains.push((["SMARTNAT-M-web-0", "SMARTNAT-M-web-1"][i], rules));
        let mut rules = admission(&format!("shop/empty:{protocol}/{}", [80, 53][i]), Some("SN-SRC-empty"), masquerade);
        rules.push(Rule::new([], Target::Accept));
        chains.push((["SMARTNAT-M-empty-0", "SMARTNAT-M-empty-1"][i], rules));
    }
    let mut vip = admission("shop/vip:tcp/443", None, masquerade);
    vip.push(to(tcp, format!("{CLUSTER_IP}:443")));
    chains.push(("SMARTNAT-M-vip-0", vip));
    chains.extend(sticky(masquerade));
    let masquerade_mark = marks().masquerade();
    chains.push((
        "SMARTNAT-SNAT",
        vec![
            Rule::new(
                [Match::Mark { value: masquerade_mark, mask: masquerade_mark, invert: false }],
                Target::Masquerade,
            ),
            Rule::new(
                [
                    out("eth1"),
                    connmark(marks().begun_inside() | slot(1).0, marks().begun_inside() | marks().slot_mask()),
                    set("SN-EG-10", SetDirection::Source),
                ],
                Target::Snat { address: ip("203.0.113.10"), ports: None },
            ),
        ],
    ));
    table(&[(Builtin::Prerouting, "SMARTNAT-DNAT"), (Builtin::Postrouting, "SMARTNAT-SNAT")], chains)
}

/// Source filter, mapped connmark, masquerade mark (from the inside always).
fn admission(name: &str, sources: Option<&str>, masquerade: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(sources) = sources {
        rules.push(Rule::new([not_in(sources, SetDirection::Source), comment(name)], Target::Return));
    }
    let mapped = marks().mapped();
    rules.push(Rule::new([comment(name)], Target::SetConnMark { value: mapped, mask: mapped }));
    let inside_only = if masquerade { None } else { Some(from("eth0")) };
    let masquerade = marks().masquerade();
    rules.push(Rule::new(inside_only, Target::SetMark { value: masquerade, mask: masquerade }));
    rules
}

/// Session affinity: the pod that remembers the client, else a random one, which then remembers it.
fn sticky(masquerade: bool) -> Vec<(&'static str, Vec<Rule>)> {
    let mut start = admission("shop/sticky:tcp/8443", None, masquerade);
    start.extend([
        Rule::new([set("SN-AFF-all", SetDirection::Source)], goto("SMARTNAT-A-sticky")),
        Rule::new([Match::Statistic(Probability { weight: 1, of: 2 })], goto("SMARTNAT-P-sticky-b")),
        Rule::new([], goto("SMARTNAT-P-sticky-a")),
    ]);
    let leaf = |remembered: &str, pod: &str| {
        vec![
            Rule::new([], Target::AddSource { set: remembered.to_owned(), timeout: 60 }),
            Rule::new([Match::Protocol(Protocol::Tcp)], Target::Dnat(format!("{pod}:8080").parse().unwrap())),
        ]
    };
    let remembered = vec![
        Rule::new([set("SN-AFF-a", SetDirection::Source)], goto("SMARTNAT-P-sticky-a")),
        Rule::new([set("SN-AFF-b", SetDirection::Source)], goto("SMARTNAT-P-sticky-b")),
    ];
    vec![
        ("SMARTNAT-M-sticky-0", start),
        ("SMARTNAT-A-sticky", remembered),
        ("SMARTNAT-P-sticky-a", leaf("SN-AFF-a", POD_A)),
        ("SMARTNAT-P-sticky-b", leaf("SN-AFF-b", POD_B)),
    ]
}

fn refuse() -> TableRules {
    let tcp = Match::Protocol(Protocol::Tcp);
    let rules = vec![
        Rule::new([tcp, mapped(), Match::NotDnated], Target::Reject(RejectWith::TcpReset)),
        Rule::new([mapped(), Match::NotDnated], Target::Reject(RejectWith::PortUnreachable)),
    ];
    table(&[(Builtin::Input, "SMARTNAT-REFUSE")], vec![("SMARTNAT-REFUSE", rules)])
}

fn guard() -> TableRules {
    let rules = vec![Rule::new([mapped(), Match::NotDnated], Target::Drop)];
    table(&[(Builtin::Input, "SMARTNAT-GUARD")], vec![("SMARTNAT-GUARD", rules)])
}

fn mangle6() -> TableRules {
    let inside = || vec![Rule::new([from("lo")], Target::Return), Rule::new([from("eth0")], Target::Return)];
    let link_local = || net("fe80::/10");
    let from_itself = || {
        Rule::new(
            [Match::NotSource(link_local()), Match::NotDestination(net("ff00::/8")), Match::SourceLocal],
            Target::Drop,
        )
    };
    let pre = vec![
        Rule::new([from("eth0")], goto("SMARTNAT-INSIDE")),
        Rule::new([Match::CtState(CtState::Established)], Target::Return),
        Rule::new([from("lo")], Target::Return),
        Rule::new([Match::NotDestination(net("ff00::/8")), Match::DestinationLocal { invert: true }], Target::Drop),
        Rule::new([Match::Destination(link_local()), Match::DestinationNotHere], Target::Drop),
        from_itself(),
    ];
    let mut border_in = inside();
    let icmp = |kind, hops| [Match::IpProtocol("ipv6-icmp"), Match::Icmp6Type(kind), Match::HopLimit(hops)];
    border_in.extend([135, 136].map(|kind| Rule::new(icmp(kind, 255), Target::Return)));
    let query = [Match::Source(link_local())].into_iter().chain(icmp(130, 1));
    border_in.push(Rule::new(query, Target::Return));
    border_in.push(Rule::new([Match::Source(net("::/64"))], Target::Drop));
    let mut border = inside();
    border_in.push(Rule::new([], Target::Drop));
    border.push(Rule::new([], Target::Drop));
    table(
        &[
            (Builtin::Prerouting, "SMARTNAT-PRE"),
            (Builtin::Input, "SMARTNAT-BORDER-IN"),
            (Builtin::Forward, "SMARTNAT-BORDER"),
            (Builtin::Output, "SMARTNAT-OUT"),
        ],
        vec![
            ("SMARTNAT-PRE", pre),
            // What goes back by the link that it came by would be answered with a redirect.
            (
                "SMARTNAT-OUT",
                vec![Rule::new([Match::IpProtocol("ipv6-icmp"), Match::CtState(CtState::Invalid)], Target::Drop)],
            ),
            ("SMARTNAT-INSIDE", vec![from_itself()]),
            ("SMARTNAT-BORDER-IN", border_in),
            ("SMARTNAT-BORDER", border),
        ],
    )
}

fn sets(plane: &mut Dataplane) {
    let v4 = Family::Ipv4;
    let nets = |nets: &[&str]| nets.iter().map(|n| SetMember::Net(net(n))).collect::<BTreeSet<_>>();
    let inner = ["10.0.0.0/24", "10.244.0.0/16", "10.96.0.0/16"];
    let pods = [POD_A, POD_B];
    let (mark, mask) = slot(1);
    let endpoints = [
        ("203.0.113.10", Protocol::Tcp, 80),
        ("203.0.113.10", Protocol::Udp, 53),
        ("203.0.113.11", Protocol::Tcp, 80),
        ("203.0.113.11", Protocol::Udp, 53),
        ("198.51.100.10", Protocol::Tcp, 443),
        ("203.0.113.11", Protocol::Tcp, 8443),
    ];
    let mut add = |name: &str, kind, members: BTreeSet<SetMember>| plane.add_set(name, IpSet::of(kind, members));
    add(
        "SN-EP",
        SetKind::HashIpPort(v4),
        endpoints
            .iter()
            .map(|(address, protocol, port)| SetMember::IpPort {
                address: ip(address),
                protocol: *protocol,
                port: *port,
            })
            .collect(),
    );
    add("SN-INNER", SetKind::HashNet(v4), nets(&inner));
    add("SN-EGDST", SetKind::HashNet(v4), nets(&inner));
    add("SN-SRC-web", SetKind::HashNet(v4), nets(&["192.0.2.0/24", "10.244.0.0/16"]));
    add("SN-SRC-empty", SetKind::HashNet(v4), nets(&["192.0.2.0/24"]));
    add(
        "SN-EG",
        SetKind::HashIpMark(v4),
        pods.iter().map(|pod| SetMember::IpMark { address: ip(pod), mark, mask }).collect(),
    );
    add("SN-EG-10", SetKind::HashIp(v4), pods.iter().map(|pod| SetMember::Ip(ip(pod))).collect());
    let external = ["203.0.113.10", "203.0.113.11", "198.51.100.10"];
    add("SN-EXT", SetKind::HashIp(v4), external.iter().map(|a| SetMember::Ip(ip(a))).collect());
    add("SN-AFF-a", SetKind::Affinity(v4), BTreeSet::new());
    add("SN-AFF-b", SetKind::Affinity(v4), BTreeSet::new());
    let remembered = ["SN-AFF-a", "SN-AFF-b"];
    add("SN-AFF-all", SetKind::List, remembered.iter().map(|s| SetMember::Set((*s).to_owned())).collect());
}

fn routing(plane: &mut Dataplane) {
    let mut rule = |priority, selector, table| {
        plane.rules.insert(PolicyRule::lookup(Family::Ipv4, priority, selector, table));
    };
    let mask = marks().slot_mask();
    rule(90, RuleSelector::FwMark { mark: marks().inside(), mask }, MAIN_TABLE);
    rule(101, RuleSelector::FwMark { mark: slot(1).0, mask }, 1001);
    rule(102, RuleSelector::FwMark { mark: slot(2).0, mask }, 1002);
    rule(201, RuleSelector::From(ip("203.0.113.10").into()), 1001);
    rule(201, RuleSelector::From(ip("203.0.113.11").into()), 1001);
    rule(202, RuleSelector::From(ip("198.51.100.10").into()), 1002);
    let external = [
        (1001, "eth1", "203.0.113.0/24", "203.0.113.10", "203.0.113.1"),
        (1002, "eth2", "198.51.100.0/24", "198.51.100.10", "198.51.100.1"),
    ];
    for (table, interface, subnet, source, gateway) in external {
        let interface = interface.to_owned();
        let everywhere = net("0.0.0.0/0");
        let link = RouteTarget::Link { interface: interface.clone(), source: ip(source) };
        let gateway = RouteTarget::Gateway { interface, gateway: ip(gateway) };
        plane.routes.insert(Route { table, destination: net(subnet), target: link, metric: 0 });
        plane.routes.insert(Route { table, destination: everywhere, target: gateway, metric: 0 });
        plane.routes.insert(Route {
            table,
            destination: everywhere,
            target: RouteTarget::Unreachable,
            metric: 4_278_198_272,
        });
    }
}
