//! Tables that iptables cannot read, on a box without nft: chain by chain, only those that are asked for. Ours that nobody asks for, and
//! second copies of our rules, stay unseen.

use super::Key;
use super::change::{Copy, LeadState, TableState};
use super::layout::Lead;
use super::listing::Listing;
use crate::apply::tool::Tools;
use crate::ruleset::{Builtin, TableRules};

/// With more chains than this, reading them one by one takes longer than writing them all again.
const MANY: usize = 100;

/// What of `wanted` is there. A chain that cannot be read counts as missing, and is written.
pub async fn read(tools: &Tools, key: Key, wanted: &TableRules) -> TableState {
    let mut text = String::new();
    if wanted.chains.len() <= MANY {
        for name in wanted.chains.keys() {
            text += &list(tools, key, name).await.unwrap_or_default();
        }
    }
    let mut closed = Vec::new();
    for builtin in wanted.builtins() {
        match list(tools, key, builtin.as_str()).await {
            Some(listing) => text += &listing,
            None => closed.push(builtin),
        }
    }
    let mut state = TableState::from(Listing::parse(&text));
    for builtin in closed {
        if let Some(rule) = wanted.hooks.get(&builtin) {
            let rule = rule.spelled(key.0);
            // It is found ahead of what cannot be read only, where it can be moved, too. Else it is put first; the next look finds it.
            if check(tools, key, builtin, &rule).await {
                let copies = vec![Copy { text: Some(rule), handle: None }];
                state.leads.insert((builtin, Lead::Hook), LeadState { copies, in_place: false });
            }
        }
        if let Some(rule) = wanted.passes.get(&builtin) {
            let rule = rule.spelled(key.0);
            if !check(tools, key, builtin, &rule).await {
                // Another copy with every look would be worse than none.
                state.blind.push(builtin.as_str());
            }
            let copies = vec![Copy { text: Some(rule), handle: None }];
            state.leads.insert((builtin, Lead::Pass), LeadState { copies, in_place: true });
        }
    }
    state
}

async fn list(tools: &Tools, (family, table): Key, chain: &str) -> Option<String> {
    tools.iptables(family, &["-t", table.as_str(), "-S", chain]).await.ok()
}

async fn check(tools: &Tools, (family, table): Key, builtin: Builtin, rule: &str) -> bool {
    let mut args = vec!["-t", table.as_str(), "-C", builtin.as_str()];
    // No rule of ours that leads to a chain has a word with a blank in it.
    args.extend(rule.split(' '));
    tools.iptables(family, &args).await.is_ok()
}
