//! What a traced packet meets besides SmartNat's rules: where the knowledge of `trace` ends.

use super::Foreign;
use super::packet::{Kind, Lane, Mapped, Scene};
use super::rule::{Base, Chain, Table};
use super::walk::walk;
use crate::ruleset::ownership;
use crate::trace::{Outcome, Trace};

/// More would not be read.
const SHOWN: usize = 4;

/// For a packet of another host than this one.
pub(in crate::cli) const ELSEWHERE: &str =
    "Beyond: rules of others, policy rules too, were not looked at: the host is a description\n";

/// Base chains of others in the packet's way, each with its policy and what it does to packets of Mappings.
pub(in crate::cli) fn beyond(scene: &Scene, foreign: &Foreign, trace: &Trace) -> String {
    let mut lines = Vec::new();
    for table in foreign.tables.iter().filter(|t| t.meets(trace.packet.source.is_ipv4())) {
        for (name, base, chain) in table.bases() {
            if in_the_way(base, trace) && (base.drops || chain.rules.iter().any(|r| !r.is_of_ours())) {
                lines.push(line(scene, table, name, base, chain, trace));
            }
        }
    }
    let mut text = String::new();
    if lines.is_empty() && foreign.unread.is_empty() {
        text += &format!("Beyond: nobody else has rules in its way; looked at {}\n", foreign.looked.join("; "));
    }
    if !lines.is_empty() {
        text += "Beyond: it also meets rules of others, which the verdict does not know of:\n";
        lines.iter().for_each(|line| text += &format!("        {line}\n"));
    }
    for unread in &foreign.unread {
        text += &format!("Beyond: not looked at: {} ({})\n", unread.what, unread.remedy);
    }
    text
}

/// Whether the packet gets as far as this hook, by the verdict.
fn in_the_way(base: &Base, trace: &Trace) -> bool {
    let any = |of: fn(&Outcome) -> bool| trace.outcomes.iter().any(of);
    let forwarded = any(|o| matches!(o, Outcome::Forwarded { .. }));
    let delivered = any(|o| matches!(o, Outcome::Delivered { .. }));
    // IPVS sends on what is delivered to a ClusterIP.
    let balanced = delivered && trace.mapping().is_some();
    match base.hook.as_str() {
        "ingress" | "prerouting" => true,
        "forward" => forwarded,
        "input" => delivered,
        "output" => balanced,
        "postrouting" => forwarded || balanced,
        _ => false,
    }
}

fn line(scene: &Scene, table: &Table, name: &str, base: &Base, chain: &Chain, trace: &Trace) -> String {
    let others = chain.rules.iter().filter(|r| !r.is_of_ours()).count();
    let policy = if base.drops { "drop" } else { "accept" };
    let rules = if others == 1 { "1 rule".to_owned() } else { format!("{others} rules") };
    let mut text =
        format!("{table}, chain {name} ({}, priority {}): policy {policy}, {rules}", base.hook, base.priority);
    if trace.mapping().is_none() {
        return text;
    }
    let lane = Lane { external: Some(&trace.packet.interface), inside: None };
    let events = walk(table, name, Mapped { scene, lane, kind: Kind::First, base });
    let mut acts: Vec<String> = Vec::new();
    for event in &events {
        let may = if event.certain { "" } else { "maybe " };
        let at = if event.chain == name { String::new() } else { format!(" in chain {}", event.chain) };
        let act = format!("{may}{} by `{}`{at}", event.effect.verb(), event.text);
        if !acts.contains(&act) {
            acts.push(act);
        }
    }
    let more = acts.len().saturating_sub(SHOWN);
    acts.truncate(SHOWN);
    if more > 0 {
        acts.push(format!("{more} more"));
    }
    text += &match acts.is_empty() {
        true => "; lets new connections of Mappings pass".to_owned(),
        false => format!("; to new connections of Mappings: {}", acts.join(", ")),
    };
    text
}

impl super::rule::Rule {
    /// A jump to one of our chains.
    fn is_of_ours(&self) -> bool {
        self.targets().any(ownership::is_our_chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::foreign::{Unread, of_nft_chain};
    use crate::model::MarkLayout;
    use crate::trace::{DroppedBy, Packet, PacketKind, SourceSeen};

    fn trace(outcome: Outcome) -> Trace {
        let kind = PacketKind::Tcp { source_port: 40000, destination_port: 80 };
        let packet = Packet::first("eth1", "192.0.2.9".parse().unwrap(), "203.0.113.10".parse().unwrap(), kind);
        let dataplane = crate::ruleset::Dataplane::default();
        let mut trace = crate::trace::trace(&dataplane, &crate::model::Host::default(), &packet);
        trace.outcomes = [outcome].into();
        trace
    }

    fn forwarded() -> Trace {
        let to = "10.244.1.2:8080".parse().unwrap();
        trace(Outcome::Forwarded { to, source: SourceSeen::Kept, out_interface: "eth0".to_owned() })
    }

    fn scene() -> Scene {
        Scene {
            marks: MarkLayout::default(),
            external: Default::default(),
            inside: Default::default(),
            pods: Default::default(),
            served: Default::default(),
            answered: Default::default(),
            by_service: false,
            accepts: true,
        }
    }

    fn foreign(tables: Vec<Table>) -> Foreign {
        Foreign { tables, looked: vec!["everything".to_owned()], unread: vec![] }
    }

    #[test]
    fn what_a_packet_also_meets_follows_its_verdict() {
        let drops = foreign(vec![
            of_nft_chain("filter", "forward", 10, "drop", &[]),
            of_nft_chain("filter", "input", 20, "drop", &[]),
            of_nft_chain("filter", "prerouting", -300, "accept", &[r#"{"notrack": null}"#]),
        ]);
        let told = beyond(&scene(), &drops, &forwarded());
        assert!(told.contains("chain c (forward, priority 10): policy drop, 0 rules"), "{told}");
        assert!(told.contains("(prerouting, priority -300): policy accept, 1 rule"), "{told}");
        assert!(!told.contains("input"), "{told}");
        let told = beyond(&scene(), &drops, &trace(Outcome::Dropped(DroppedBy::NoRoute)));
        assert!(!told.contains("forward") && told.contains("prerouting"), "{told}");
    }

    #[test]
    fn where_nothing_is_or_nobody_looked_is_said() {
        let told = beyond(&scene(), &foreign(vec![]), &forwarded());
        assert_eq!(told, "Beyond: nobody else has rules in its way; looked at everything\n");
        let mut blind = foreign(vec![]);
        blind.unread.push(Unread { what: "nft is not installed".to_owned(), remedy: "install it".to_owned() });
        assert_eq!(
            beyond(&scene(), &blind, &forwarded()),
            "Beyond: not looked at: nft is not installed (install it)\n"
        );
    }
}
