//! Tables that iptables cannot read, because a rule in them was written by nft in words that iptables does not have: read by nft.
//!
//! nft does not tell our rules as we wrote them. But the kernel gives every rule a handle that never comes again in its table: what has
//! the handles that it had right after we wrote it is what we wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::{Copy, Held, TableState};
use super::layout::{Layout, Lead, Seen};
use crate::apply::nft::{NftChain, NftRule, NftTable, Statement, Verdict};
use crate::ruleset::ownership::is_our_chain;
use crate::ruleset::{Builtin, Chain};

/// The handles of what we wrote into one table.
#[derive(Debug, Default)]
pub struct Memory {
    chains: BTreeMap<Arc<str>, (Chain, Vec<u64>)>,
    leads: BTreeMap<(Builtin, Lead), (String, u64)>,
}

impl Memory {
    /// `written`: what we know to be there. `read`: the same table right after our write.
    pub fn learn(&mut self, written: &TableState, read: &NftTable) {
        *self = Memory::default();
        let chains: BTreeMap<&str, &NftChain> = read.chains.iter().map(|chain| (chain.name.as_str(), chain)).collect();
        for (name, held) in &written.chains {
            let Held::Written(chain) = held else { continue };
            let handles = chains.get(&**name).copied().map(handles).unwrap_or_default();
            // Another number: somebody else was at it meanwhile.
            if handles.len() == chain.len() {
                self.chains.insert(name.clone(), (chain.clone(), handles));
            }
        }
        for (key, state) in &written.leads {
            let [Copy { text: Some(text), .. }] = state.copies.as_slice() else { continue };
            let Some(chain) = chains.get(key.0.as_str()) else { continue };
            let mut ours = chain.rules.iter().filter(|rule| rule.target().is_some_and(|t| is_lead(t, key.1)));
            if let (Some(rule), None) = (ours.next(), ours.next()) {
                self.leads.insert(*key, (text.clone(), rule.handle));
            }
        }
    }
}

fn is_lead(target: &str, lead: Lead) -> bool {
    is_our_chain(target) && Lead::of(target) == lead
}

fn handles(chain: &NftChain) -> Vec<u64> {
    chain.rules.iter().map(|rule| rule.handle).collect()
}

/// What a table holds on our behalf.
pub fn state(table: &NftTable, memory: &Memory) -> TableState {
    let mut state = TableState::default();
    for chain in &table.chains {
        if is_our_chain(&chain.name) {
            state.chains.insert(chain.name.as_str().into(), held(chain, memory));
        } else if let Some(builtin) = Builtin::parse(&chain.name) {
            state.layouts.insert(builtin, layout(chain));
            for rule in &chain.rules {
                see(&mut state, builtin, rule, memory);
            }
        } else {
            let leading = chain.rules.iter().filter_map(NftRule::target).filter(|target| is_our_chain(target));
            state.pinned.extend(leading.map(str::to_owned));
        }
    }
    for ((builtin, lead), found) in &mut state.leads {
        found.in_place = state.layouts.get(builtin).is_some_and(|layout| layout.in_place(*lead));
    }
    state
}

/// The order of a built-in chain.
pub fn layout(chain: &NftChain) -> Layout {
    let mut layout = Layout::default();
    for rule in &chain.rules {
        layout.push(match rule.target().filter(|target| is_our_chain(target)) {
            Some(target) => Seen::Ours(Lead::of(target)),
            None => seen(rule),
        });
    }
    layout
}

fn held(chain: &NftChain, memory: &Memory) -> Held {
    match memory.chains.get(chain.name.as_str()) {
        _ if chain.rules.is_empty() => Held::Found(Vec::new()),
        Some((written, known)) if *known == handles(chain) => Held::Written(written.clone()),
        _ => Held::Unread,
    }
}

fn see(state: &mut TableState, builtin: Builtin, rule: &NftRule, memory: &Memory) {
    let Some(target) = rule.target().filter(|target| is_our_chain(target)) else { return };
    let lead = Lead::of(target);
    let known = memory.leads.get(&(builtin, lead)).filter(|(_, handle)| *handle == rule.handle);
    let copy = Copy { text: known.map(|(text, _)| text.clone()), handle: Some(rule.handle) };
    state.leads.entry((builtin, lead)).or_default().copies.push(copy);
}

/// A rule of a chain that iptables cannot read, as iptables would list it, as far as can be known: a jump without matches is known whole,
/// any other rule of ours compares equal to nothing. Of others' rules only what the places of ours depend on is told.
pub fn spelled(rule: &NftRule) -> String {
    match (rule.target().filter(|target| is_our_chain(target)), seen(rule)) {
        (Some(target), _) if is_bare_jump(rule) => format!("-j {target}"),
        (Some(target), _) => format!("# nft shows: \"{}\" -j {target}", rule.text.replace('"', "'")),
        (None, Seen::End) => "-j DROP".to_owned(),
        (None, Seen::Accept) => "# nft -j ACCEPT".to_owned(),
        (None, _) => "# nft".to_owned(),
    }
}

/// Whether every packet takes it.
fn is_bare_jump(rule: &NftRule) -> bool {
    rule.statements.iter().all(|statement| match statement {
        Statement::Verdict(verdict) => matches!(verdict, Verdict::Jump(_)),
        Statement::Other { name, .. } => name == "counter",
        _ => false,
    })
}

/// A rule of others.
fn seen(rule: &NftRule) -> Seen {
    let mut unconditional = true;
    for statement in &rule.statements {
        match statement {
            Statement::Verdict(Verdict::Drop | Verdict::Reject) if unconditional => return Seen::End,
            Statement::Xt { kind: Some(kind), name: Some(name) } => match (kind.as_str(), name.as_str()) {
                ("target", "REJECT") if unconditional => return Seen::End,
                ("match", "comment") => {}
                _ => unconditional = false,
            },
            Statement::Verdict(Verdict::Accept) => return Seen::Accept,
            Statement::Other { name, .. } if matches!(name.as_str(), "counter" | "log") => {}
            _ => unconditional = false,
        }
    }
    Seen::Other
}
