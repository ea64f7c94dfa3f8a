//! A small dataplane with something of every kind, and what the tests look at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use smartnat::apply::{Applied, Applier, ApplyError, Scope, Tools};
use smartnat::model::{Family, Host, Protocol};
use smartnat::ruleset::{
    Builtin, CtState, Dataplane, IpSet, Match, Ports, Rule, SetDirection, SetKind, SetMember, Sysctl, Table,
    TableRules, Target,
};
use tempfile::TempDir;

use crate::netns::sh;

pub const LIMIT: Duration = Duration::from_secs(30);

/// An applier with its state directory.
pub struct Bed {
    pub applier: Applier,
    pub tools: Tools,
    pub state: TempDir,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(Tools::new(LIMIT))
    }

    pub fn with(tools: Tools) -> Self {
        let state = tempfile::tempdir().unwrap();
        Bed { applier: Applier::new(tools.clone(), state.path().to_owned()), tools, state }
    }

    pub async fn apply(&mut self, plane: &Dataplane) -> Applied {
        self.try_apply(plane).await.unwrap()
    }

    pub async fn try_apply(&mut self, plane: &Dataplane) -> Result<Applied, ApplyError> {
        self.applier.apply(plane, &Host::default(), Scope::Full).await
    }

    /// As at a refresh.
    pub async fn refresh(&mut self, plane: &Dataplane) -> Applied {
        self.applier.invalidate();
        self.apply(plane).await
    }

    /// What the repairs of an apply say.
    pub async fn repairs(&mut self, plane: &Dataplane) -> Vec<String> {
        let applied = self.refresh(plane).await;
        let again = self.refresh(plane).await;
        assert!(again.writes.is_empty() && again.repairs.is_empty(), "a repair lasts: {again:?}");
        applied.repairs.iter().map(ToString::to_string).collect()
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> SetMember {
    SetMember::Net(text.parse().unwrap())
}

pub fn endpoint(address: &str, port: u16) -> SetMember {
    SetMember::IpPort { address: ip(address), protocol: Protocol::Tcp, port }
}

pub fn marked(address: &str, slot: u32) -> SetMember {
    SetMember::IpMark { address: ip(address), mark: slot << 16, mask: 0x0fff_0000 }
}

pub fn on_set(name: &str, direction: SetDirection, invert: bool) -> Match {
    Match::Set { name: name.into(), direction, invert }
}

pub fn jump(chain: &str) -> Rule {
    Rule::new([], Target::Jump(chain.into()))
}

pub fn goto(chain: &str) -> Rule {
    Rule::new([], Target::Goto(chain.into()))
}

pub fn table<const N: usize>(hooks: &[(Builtin, &str)], chains: [(&str, Vec<Rule>); N]) -> TableRules {
    TableRules {
        chains: chains.into_iter().map(|(name, rules)| (name.into(), rules.into())).collect(),
        hooks: hooks.iter().map(|(builtin, chain)| (*builtin, jump(chain))).collect(),
        ..TableRules::default()
    }
}

/// The chain of one Mapping: a port goes to a pod.
pub fn mapping_chain(port: u16, pod: &str) -> Vec<Rule> {
    vec![
        Rule::new([on_set("SN-SRC-a", SetDirection::Source, true)], Target::Return),
        Rule::new([], Target::SetConnMark { value: 0x2000_0000, mask: 0x2000_0000 }),
        Rule::new(
            [Match::Protocol(Protocol::Tcp), Match::DestinationPort(Protocol::Tcp, Ports::one(port))],
            Target::Dnat((ip(pod), 8080).into()),
        ),
    ]
}

/// The border for eth0 inside, IPv4 and IPv6.
pub fn border() -> Dataplane {
    let eth0 = || Match::InInterface("eth0".into());
    let chain = |set: &str| {
        vec![
            Rule::new([eth0()], Target::Return),
            Rule::new([on_set(set, SetDirection::Source, false)], Target::Drop),
            Rule::new([Match::CtState(CtState::Established)], Target::Return),
            Rule::new([], Target::Drop),
        ]
    };
    let hooks = [(Builtin::Input, "SMARTNAT-BORDER-IN"), (Builtin::Forward, "SMARTNAT-BORDER")];
    let mangle = |set| table(&hooks, [("SMARTNAT-BORDER-IN", chain(set)), ("SMARTNAT-BORDER", chain(set))]);
    let guard = vec![Rule::new([Match::NotDnated], Target::Return)];
    Dataplane {
        tables: BTreeMap::from([
            ((Family::Ipv4, Table::Mangle), mangle("SN-INNER")),
            ((Family::Ipv6, Table::Mangle), mangle("SN-INNER6")),
            (
                (Family::Ipv4, Table::Security),
                table(&[(Builtin::Input, "SMARTNAT-GUARD")], [("SMARTNAT-GUARD", guard)]),
            ),
        ]),
        sets: BTreeMap::from([
            ("SN-INNER".into(), IpSet::of(SetKind::HashNet(Family::Ipv4), [net("10.0.0.0/24"), net("10.0.1.1/32")])),
            ("SN-INNER6".into(), IpSet::of(SetKind::HashNet(Family::Ipv6), [net("2001:db8::/64")])),
        ]),
        sysctls: BTreeMap::from([(Sysctl::IpForward, "1".into())]),
        ..Dataplane::default()
    }
}

/// The border with two Mappings behind it.
pub fn full() -> Dataplane {
    let mut plane = border();
    let entry =
        vec![Rule::new([on_set("SN-EP", SetDirection::DestinationPort, true)], Target::Return), goto("SMARTNAT-M-a")];
    plane.tables.insert(
        (Family::Ipv4, Table::Nat),
        table(
            &[(Builtin::Prerouting, "SMARTNAT-DNAT")],
            [
                ("SMARTNAT-DNAT", entry),
                ("SMARTNAT-M-a", mapping_chain(80, "10.244.1.2")),
                ("SMARTNAT-M-b", mapping_chain(81, "10.244.1.3")),
            ],
        ),
    );
    plane.sets.extend([
        (
            "SN-EP".into(),
            IpSet::of(SetKind::HashIpPort(Family::Ipv4), [endpoint("203.0.113.10", 80), endpoint("203.0.113.10", 81)])
                .as_gate(),
        ),
        ("SN-SRC-a".into(), IpSet::of(SetKind::HashNet(Family::Ipv4), [net("198.51.100.0/24")])),
        ("SN-EG".into(), IpSet::of(SetKind::HashIpMark(Family::Ipv4), [marked("10.244.1.2", 1)])),
        ("SN-A-1".into(), IpSet::new(SetKind::Affinity(Family::Ipv4))),
        ("SN-L-1".into(), IpSet::of(SetKind::List, [SetMember::Set("SN-A-1".into())])),
    ]);
    plane
}

pub fn nat(plane: &mut Dataplane) -> &mut TableRules {
    plane.tables.get_mut(&(Family::Ipv4, Table::Nat)).unwrap()
}

/// Puts a rule ahead of the others of a chain.
pub fn insert_first(table: &mut TableRules, chain: &str, rule: Rule) {
    let rules = std::iter::once(rule).chain(table.chains[chain].iter().cloned()).collect();
    table.add(chain, rules);
}

pub fn set<'a>(plane: &'a mut Dataplane, name: &str) -> &'a mut IpSet {
    plane.sets.get_mut(name).unwrap()
}

/// The rules of one built-in chain, as listed.
pub fn listed(table: &str, chain: &str) -> Vec<String> {
    sh(&format!("iptables -t {table} -S {chain}")).lines().skip(1).map(str::to_owned).collect()
}

/// The members of a set, sorted, without timeouts.
pub fn members(name: &str) -> Vec<String> {
    let mut found: Vec<String> = sh(&format!("ipset save {name}"))
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("add {name} ")))
        .map(|member| member.split(" timeout").next().unwrap_or(member).to_owned())
        .collect();
    found.sort();
    found
}

/// Everything in tables and sets, without what changes by itself, and without what is ours.
pub fn foreign_state() -> String {
    everything()
        .lines()
        .filter(|line| !line.contains("SMARTNAT-") && !line.contains("SN-"))
        .map(|l| l.to_owned() + "\n")
        .collect()
}

/// Everything in tables and sets, as the tools save it.
pub fn everything() -> String {
    sh("iptables-save; ip6tables-save; ipset save")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.to_owned() + "\n")
        .collect()
}

/// Puts a script before each writing tool: `$real` is the tool itself. Returns tools that go through them.
pub fn wrapped(directory: &Path, limit: Duration, script: &str) -> Tools {
    for tool in ["iptables-restore", "ip6tables-restore", "ipset"] {
        let real = sh(&format!("command -v {tool}"));
        let path = directory.join(tool);
        let dir = directory.display();
        let script = format!("#!/bin/sh\nreal={}\ntool={tool}\ndir={dir}\n{script}\n", real.trim());
        ::bed::write_executable(&path, script);
    }
    Tools::from_directory(limit, directory.to_owned())
}

/// Somebody else's rules, chains and sets in every table that we use, with names and comments close to ours.
pub const FOREIGN: &str = r#"
for t in mangle nat filter security; do
  iptables -t $t -A INPUT -m comment --comment 'about "SMARTNAT" -j X' -j ACCEPT
  iptables -t $t -N smartnat-like; iptables -t $t -A smartnat-like -s 192.0.2.0/24 -j RETURN
  iptables -t $t -A OUTPUT -j smartnat-like
done
for t in mangle filter security; do ip6tables -t $t -A INPUT -s fd00::/8 -j ACCEPT; done
ipset create theirs hash:net comment; ipset add theirs 10.0.0.0/8 comment 'about SNs'
ipset create SNOW list:set; ipset add SNOW theirs
iptables -A FORWARD -m set --match-set theirs src -j DROP
iptables -t raw -A PREROUTING -p udp -j NOTRACK
"#;
