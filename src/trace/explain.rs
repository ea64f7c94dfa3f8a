//! The explanation for people.

use std::fmt;
use std::net::SocketAddr;

use super::packet::Shown;
use super::{DroppedBy, Effect, Outcome, Place, Reason, SourceSeen, Step, Trace};
use crate::ruleset::RejectWith;

/// How many destinations a verdict names before it counts the rest.
const SHOWN_DESTINATIONS: usize = 8;

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.packet)?;
        for (i, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>4}  {step}", i + 1)?;
        }
        for alternative in &self.alternatives {
            writeln!(f, "Or, after step {}:", alternative.shared)?;
            for (i, step) in alternative.steps.iter().enumerate() {
                writeln!(f, "{:>4}  {step}", alternative.shared + i + 1)?;
            }
            writeln!(f, "      then {}", alternative.outcome)?;
        }
        if let Some(mapping) = self.mapping() {
            writeln!(f, "Mapping: {mapping}")?;
        }
        if let Some(Reason { why, decided_by: Place { table, chain, number, .. } }) = self.reason() {
            writeln!(f, "Because: {} ({table} {chain} rule {number})", why.of(&self.packet))?;
        }
        f.write_str("Verdict: ")?;
        self.verdict(f)
    }
}

impl Trace {
    /// One line. Forwarded to many by the same way is said once, with the destinations as a list.
    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(&Outcome, Vec<&SocketAddr>)> = Vec::new();
        for outcome in &self.outcomes {
            let Outcome::Forwarded { to, source, out_interface } = outcome else {
                groups.push((outcome, Vec::new()));
                continue;
            };
            let same = groups.iter_mut().find(|(first, _)| {
                matches!(first, Outcome::Forwarded { source: s, out_interface: o, .. } if s == source && o == out_interface)
            });
            match same {
                Some((_, many)) => many.push(to),
                None => groups.push((outcome, vec![to])),
            }
        }
        for (i, (outcome, many)) in groups.iter().enumerate() {
            if i > 0 {
                f.write_str("; or ")?;
            }
            let Outcome::Forwarded { source, out_interface, .. } = outcome else {
                write!(f, "{outcome}")?;
                continue;
            };
            if let [one] = many.as_slice() {
                write!(f, "forwarded to {}", shown(one))?;
            } else {
                let listed: Vec<_> = many.iter().take(SHOWN_DESTINATIONS).map(|to| shown(to).to_string()).collect();
                write!(f, "forwarded to one of {}", listed.join(", "))?;
                if many.len() > SHOWN_DESTINATIONS {
                    write!(f, " and {} more", many.len() - SHOWN_DESTINATIONS)?;
                }
            }
            write!(f, " by {out_interface}, {source}")?;
        }
        Ok(())
    }
}

fn shown(to: &SocketAddr) -> Shown {
    Shown(to.ip(), to.port())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Forwarded { to, source, out_interface } => {
                write!(f, "forwarded to {} by {out_interface}, {source}", shown(to))
            }
            Outcome::Delivered { to } => write!(f, "delivered to the box itself at {}", shown(to)),
            Outcome::Refused { with } => write!(f, "refused by {with}"),
            Outcome::Dropped(by) => write!(f, "dropped: {by}"),
            Outcome::Unknown { reason } => write!(f, "unknown: {reason}"),
        }
    }
}

impl fmt::Display for RejectWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectWith::TcpReset => "a TCP reset",
            RejectWith::PortUnreachable => "an ICMP port unreachable",
        })
    }
}

impl fmt::Display for SourceSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceSeen::Kept => f.write_str("source kept"),
            SourceSeen::Masquerade => f.write_str("source masqueraded"),
            SourceSeen::Snat(address) => write!(f, "source {address}"),
        }
    }
}

impl fmt::Display for DroppedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DroppedBy::Rule(place) => {
                write!(f, "{} {} rule {}: {}", place.table, place.chain, place.number, place.rule)
            }
            DroppedBy::NoRoute => f.write_str("no route"),
            DroppedBy::Martian(reason) => write!(f, "martian: {reason}"),
            DroppedBy::HopLimit => f.write_str("its hop limit is used up"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Route(text) => write!(f, "routing {text}"),
            Step::Rule { place, by_chance, effect } => {
                write!(f, "{:<8} {} {}: {}", place.table.as_str(), place.chain, place.number, place.rule)?;
                if *by_chance {
                    f.write_str("  (by chance)")?;
                }
                // Where the target says it all, repeating it is noise.
                match effect {
                    Effect::Chain(_) | Effect::Return | Effect::Accept | Effect::Drop | Effect::Refuse(_) => Ok(()),
                    Effect::Remember(_) | Effect::Source(_) | Effect::Destination(_) => Ok(()),
                    Effect::Mark(mark) => write!(f, "  => mark 0x{mark:x}"),
                    Effect::ConnMark(mark) => write!(f, "  => connmark 0x{mark:x}"),
                    Effect::Nothing => f.write_str("  => nothing to change"),
                }
            }
        }
    }
}
