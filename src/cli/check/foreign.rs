use std::collections::BTreeSet;

use super::{Finding, Level};
use crate::cli::foreign::packet::{DNAT, Kind, Lane, MANGLE, Mapped, SNAT, Scene};
use crate::cli::foreign::rule::{Base, Effect, Origin, Table};
use crate::cli::foreign::walk::{Event, walk};
use crate::cli::foreign::{Foreign, Unread};

const GROUP: &str = "foreign";
/// More would not be read.
const SHOWN: usize = 3;

/// What rules of others do to packets of Mappings, and what of them was not looked at.
pub(super) fn evaluate(scene: &Scene, foreign: &Foreign) -> Vec<Finding> {
    let mut findings: Vec<Finding> = foreign.unread.iter().map(unread).collect();
    for table in &foreign.tables {
        for (chain, base, _) in table.bases() {
            findings.extend(of_chain(scene, table, chain, base));
        }
    }
    if findings.iter().all(|f| f.level == Level::Ok) {
        let looked = foreign.looked.join("; ");
        findings.push(Finding::ok(GROUP, format!("nothing seen that stops packets of Mappings; looked at {looked}")));
    } else {
        findings.push(Finding::ok(GROUP, format!("looked at {}", foreign.looked.join("; "))));
    }
    findings
}

fn unread(unread: &Unread) -> Finding {
    let what = format!("{}; what they drop, translate or mark is not known", unread.what);
    Finding::warn(GROUP, what, unread.remedy.clone())
}

/// Kinds of mapped packets that a base chain is asked for.
fn kinds(scene: &Scene, table: &Table, base: &Base) -> &'static [Kind] {
    match (table.family.as_str(), base.hook.as_str()) {
        ("arp", _) => &[Kind::First],
        _ if !table.meets(true) => &[],
        _ if base.kind == "nat" => match base.hook.as_str() {
            "prerouting" | "postrouting" => &[Kind::First],
            _ => &[],
        },
        (_, "ingress" | "prerouting" | "forward" | "postrouting") => &Kind::ALL,
        // IPVS sees the first packet of a connection.
        (_, "input" | "output") if scene.by_service => &[Kind::First],
        _ => &[],
    }
}

struct Hit<'a> {
    kind: Kind,
    /// The client's interface.
    external: Option<&'a str>,
    event: Event<'a>,
}

fn of_chain(scene: &Scene, table: &Table, chain: &str, base: &Base) -> Vec<Finding> {
    let mut hits: Vec<Hit> = Vec::new();
    let lanes = scene.lanes();
    for kind in kinds(scene, table, base) {
        for lane in &lanes {
            for event in walk(table, chain, Mapped { scene, lane: *lane, kind: *kind, base }) {
                if matters(table, base, &event) {
                    hits.push(Hit { kind: *kind, external: lane.external, event });
                }
            }
        }
    }
    let mut findings = Vec::new();
    for group in [Group::Stops, Group::Untracked, Group::Diverts, Group::Source, Group::Offload] {
        let of_group: Vec<&Hit> = hits.iter().filter(|h| Group::of(h.event.effect) == group).collect();
        let sure: Vec<&Hit> = of_group.iter().copied().filter(|h| h.event.certain).collect();
        let told = if sure.is_empty() { &of_group } else { &sure };
        if !told.is_empty() {
            findings.push(finding(scene, table, chain, base, group, told, !sure.is_empty()));
        }
    }
    findings
}

/// Whether an effect at this place touches what SmartNat does.
fn matters(table: &Table, base: &Base, event: &Event) -> bool {
    // kube-proxy's own rules meet its own addresses; how it runs is told in its group.
    let of_kube_proxy = (event.chain.starts_with("KUBE-") || table.name == "kube-proxy") && !event.certain;
    match event.effect {
        _ if of_kube_proxy => false,
        Effect::TranslateDestination => {
            base.hook == "prerouting" && (base.priority < DNAT || (base.priority == DNAT && event.certain))
        }
        Effect::TranslateSource => base.hook == "postrouting" && base.priority < SNAT,
        _ => true,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Stops,
    Untracked,
    Diverts,
    Source,
    Offload,
}

impl Group {
    fn of(effect: Effect) -> Self {
        match effect {
            Effect::Drop | Effect::Reject | Effect::Queue => Group::Stops,
            Effect::NoTrack => Group::Untracked,
            Effect::Proxy | Effect::TranslateDestination => Group::Diverts,
            Effect::TranslateSource => Group::Source,
            Effect::Offload => Group::Offload,
        }
    }

    fn does(self, arp: bool) -> &'static str {
        match self {
            Group::Stops if arp => "stops ARP, so that routers do not find this box:",
            Group::Stops => "stops",
            Group::Untracked => "keeps connection tracking (without it nothing is mapped) from",
            Group::Diverts => "leads elsewhere, ahead of SmartNat,",
            Group::Source => "gives another source address, ahead of SmartNat, to",
            Group::Offload => "takes past all rules, answers by the main table's way,",
        }
    }
}

fn finding(
    scene: &Scene,
    table: &Table,
    chain: &str,
    base: &Base,
    group: Group,
    hits: &[&Hit<'_>],
    certain: bool,
) -> Finding {
    let rules: BTreeSet<(&str, &str)> = hits.iter().map(|h| (h.event.chain, h.event.text)).collect();
    let mut by: Vec<String> = rules
        .iter()
        .take(SHOWN)
        .map(|(at, text)| if *at == chain { format!("`{text}`") } else { format!("`{text}` in chain {at}") })
        .collect();
    if rules.len() > SHOWN {
        by.push(format!("{} more", rules.len() - SHOWN));
    }
    let kinds: BTreeSet<Kind> = hits.iter().map(|h| h.kind).collect();
    let whom = match table.family.as_str() {
        "arp" => "all of it".to_owned(),
        _ => kinds.iter().map(|k| k.of_whom()).collect::<Vec<_>>().join(" and "),
    };
    let of: BTreeSet<&str> = hits.iter().filter_map(|h| h.external).collect();
    let of = match of.len() < scene.external.len() && !of.is_empty() {
        true => format!(" by {}", of.into_iter().collect::<Vec<_>>().join(", ")),
        false => String::new(),
    };
    let does = group.does(table.family == "arp");
    let place = format!("{table}, chain {chain} ({}, priority {})", base.hook, base.priority);
    let may = if certain { "" } else { "may, by what cannot be judged here: " };
    let what = format!("{place}: {may}{does} {whom}{of}, by {}", by.join(", "));
    let remedy = remedy(scene, table, chain, base, &kinds);
    // Another source address is seen by pods only: answers find their way all the same.
    if certain && group != Group::Source {
        Finding::fail(GROUP, what, remedy)
    } else {
        Finding::warn(GROUP, what, remedy)
    }
}

/// A rule ahead of all others of the chain, by which these packets pass it. That an accept ends one base chain only is what makes it
/// harmless: the border is another one.
fn remedy(scene: &Scene, table: &Table, chain: &str, base: &Base, kinds: &BTreeSet<Kind>) -> String {
    let flag = scene.marks.mapped();
    let nft = table.origin == Origin::Nft;
    let tool = match table.origin {
        Origin::Nft => "nft",
        Origin::IptablesNft => "iptables",
        Origin::IptablesLegacy => "iptables-legacy",
    };
    let insert = |condition: &str| match nft {
        true => format!("nft insert rule {} {} {chain} {condition}accept", table.family, table.name),
        false => format!("{tool} -t {} -I {chain} {condition}-j ACCEPT", table.name),
    };
    let odd = |name: &str| !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    if odd(&table.name) || odd(chain) || scene.external.iter().chain(&scene.inside).any(|name| odd(name)) {
        // A command with such a name would do something else.
        return "let that chain leave out packets of Mappings, or delete it by its handle".to_owned();
    }
    if table.family == "arp" {
        return format!("{}, or one for the interfaces of SmartNat alone", insert(""));
    }
    let lane = Lane { external: None, inside: None };
    let marked = kinds.iter().all(|kind| Mapped { scene, lane, kind: *kind, base }.marked());
    if marked {
        let condition = match nft {
            // `and`, for a shell reads `&` as its own.
            true => format!("ct mark and 0x{flag:x} != 0 "),
            false => format!("-m connmark --mark 0x{flag:x}/0x{flag:x} "),
        };
        let setting = match is_filter(table) && !scene.accepts {
            true => "SNCTRLR_SETUP_ACCEPT=true, or ",
            false => "",
        };
        return format!("{setting}{} (an accept ends this chain only)", insert(&condition));
    }
    // Nothing tells mapped packets yet. What arrives by an external interface is judged by the border, whatever passes here.
    let answers = kinds.contains(&Kind::Answer).then_some(&scene.inside);
    let clients = kinds.iter().any(|k| *k != Kind::Answer).then_some(&scene.external);
    let names: Vec<&str> = clients.into_iter().chain(answers).flatten().map(String::as_str).collect();
    if names.is_empty() {
        return "let it leave out what arrives by external interfaces, and answers of pods".to_owned();
    }
    if !nft && base.priority == MANGLE {
        return format!("let that rule leave out what arrives by {} (! -i)", names.join(", "));
    }
    match nft {
        true => {
            let quoted: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
            format!("{} (the border judges what passes)", insert(&format!("iifname '{{ {} }}' ", quoted.join(", "))))
        }
        false => {
            let commands: Vec<String> = names.iter().map(|n| insert(&format!("-i {n} "))).collect();
            format!("{} (the border judges what passes)", commands.join("; "))
        }
    }
}

fn is_filter(table: &Table) -> bool {
    table.shared && table.name == "filter"
}

#[cfg(test)]
mod tests;
