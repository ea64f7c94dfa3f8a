//! `cleanup --first-smartnat`. It takes no writer's lock: what it removes is never the daemon's, which repairs only what is its own.

use std::path::Path;

use super::super::{Answer, CliError, say};
use crate::apply::Tools;
use crate::apply::first_smartnat::{self, Leftovers, RT_TABLES, Removed};
use crate::model::MarkLayout;
use crate::settings::LocalSettings;

pub(super) async fn run(settings: &LocalSettings, marks: MarkLayout, dry_run: bool) -> Result<Answer, CliError> {
    let tools = Tools::new(settings.tool_timeout);
    let found = first_smartnat::leftovers(&tools, Path::new(RT_TABLES))
        .await
        .map_err(|e| CliError::failed("nothing was removed", e))?;
    let removed = if dry_run || found.is_empty() {
        Removed::default()
    } else {
        first_smartnat::remove(&tools, &found, marks).await.map_err(|e| {
            CliError::failed(
                "cleanup of the first SmartNat stopped; what is left can be removed by running it again",
                e,
            )
        })?
    };
    say(&text(&Told::of(&found, removed), dry_run))?;
    Ok(Answer::Done)
}

/// What is told, in words.
#[derive(Debug, Default)]
struct Told {
    /// Tables of which variant, chains, jumps to them.
    chains: Vec<(String, Vec<String>, usize)>,
    sets: Vec<String>,
    rules: (usize, Vec<String>),
    routes: usize,
    flows: usize,
    left: Vec<String>,
    table_lines: Vec<String>,
}

impl Told {
    fn of(found: &Leftovers, Removed { sets_in_use: in_use, flows }: Removed) -> Self {
        let mut left = found.left.clone();
        for chains in &found.chains {
            let kept = chains.pinned();
            left.extend(kept.iter().map(|c| format!("chain {c}, emptied: a chain of somebody else's leads to it")));
        }
        left.extend(in_use.iter().map(|set| format!("set {set}: a rule or set of somebody else's uses it")));
        Told {
            chains: found.chains.iter().map(|c| (c.restore.to_owned(), c.names(), c.jumps())).collect(),
            sets: found.sets.iter().filter(|set| !in_use.contains(set)).cloned().collect(),
            rules: (found.rules(), found.rule_names()),
            routes: found.routes(),
            flows,
            left,
            table_lines: found.table_lines.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty() && self.rules.0 == 0 && self.routes == 0
    }
}

fn text(told: &Told, dry_run: bool) -> String {
    let mut out = match (told.is_empty(), dry_run) {
        (true, _) => "Nothing of the first SmartNat was in the kernel.\n".to_owned(),
        (false, true) => "Of the first SmartNat would be removed:\n".to_owned(),
        (false, false) => "Removed of the first SmartNat:\n".to_owned(),
    };
    for (restore, chains, jumps) in &told.chains {
        out += &format!("  by {restore}: {} chains, {jumps} jumps to them: {}\n", chains.len(), chains.join(", "));
    }
    if !told.sets.is_empty() {
        out += &format!("  {} sets: {}\n", told.sets.len(), told.sets.join(", "));
    }
    if told.rules.0 > 0 {
        out += &format!("  {} policy rules: {}\n", told.rules.0, told.rules.1.join("; "));
    }
    if told.routes > 0 {
        out += &format!("  {} routes of its tables\n", told.routes);
    }
    if told.flows > 0 {
        out += &format!("  {} UDP flows that it had begun: their next packet begins anew\n", told.flows);
    }
    if !told.left.is_empty() {
        out += "Left alone, please look at it yourself:\n";
        told.left.iter().for_each(|what| out += &format!("  {what}\n"));
    }
    if !told.table_lines.is_empty() {
        out += &format!("It added these lines to {RT_TABLES}; they do no harm and may be removed by hand:\n");
        told.table_lines.iter().for_each(|line| out += &format!("  {line}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_what_stays_and_what_is_left_to_the_administrator_is_told() {
        assert_eq!(text(&Told::default(), false), "Nothing of the first SmartNat was in the kernel.\n");
        let told = Told {
            chains: vec![("iptables-restore".into(), vec!["nat SNM-PREROUTING".into(), "nat MAP-X".into()], 1)],
            sets: vec!["DNAT-X".into()],
            rules: (2000, vec!["from 203.0.113.10 lookup 1687754607 (eth1) (2000 times)".into()]),
            routes: 2,
            flows: 3,
            left: vec!["set Y: why".into()],
            table_lines: vec!["1687754607 eth1".into()],
        };
        assert_eq!(
            text(&told, false),
            "Removed of the first SmartNat:\n\
             \x20 by iptables-restore: 2 chains, 1 jumps to them: nat SNM-PREROUTING, nat MAP-X\n\
             \x20 1 sets: DNAT-X\n\
             \x20 2000 policy rules: from 203.0.113.10 lookup 1687754607 (eth1) (2000 times)\n\
             \x20 2 routes of its tables\n\
             \x20 3 UDP flows that it had begun: their next packet begins anew\n\
             Left alone, please look at it yourself:\n\
             \x20 set Y: why\n\
             It added these lines to /etc/iproute2/rt_tables; they do no harm and may be removed by hand:\n\
             \x20 1687754607 eth1\n"
        );
        assert!(text(&told, true).starts_with("Of the first SmartNat would be removed:\n"));
    }
}
