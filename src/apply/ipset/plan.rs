//! The two halves of a change of sets: what comes before the rules change, and what comes after. A live set changes member by member,
//! never by flush and fill.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::save::{HeldKind, HeldSet, header, key, swappable};
use crate::apply::Scope;
use crate::apply::applied::{Repair, RepairKind, Writes};
use crate::apply::diff::{diff_maps, diff_sets};
use crate::ruleset::ownership::set_of;
use crate::ruleset::{IpSet, SetKind, SetMember};

/// Where in the apply order we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the rules: sets are made, ordinary ones filled, gates closed for what goes away.
    Prepare,
    /// After the rules: gates opened, ordinary sets emptied of what goes away.
    Finish,
}

pub type Held = BTreeMap<Arc<str>, HeldSet>;
pub type Wanted = BTreeMap<Arc<str>, IpSet>;

/// Commands for `ipset restore -exist`, and what they lead to.
#[derive(Debug, Default)]
pub struct Batch {
    pub commands: String,
    pub writes: Writes,
    /// The sets that change, as they will be.
    outcome: Held,
}

impl Batch {
    pub fn plan(phase: Phase, wanted: &Wanted, held: &Held, scope: Scope) -> Self {
        let mut batch = Batch::default();
        if phase == Phase::Finish && scope == Scope::Border {
            return batch;
        }
        let sets = diff_maps(wanted, held, |set, held| {
            held.kind == HeldKind::Ours(set.kind) && held.members == set.members && held.strays.is_empty()
        });
        if phase == Phase::Prepare {
            // A list:set can only name sets that are there.
            for lists in [false, true] {
                for (name, set) in sets.missing.iter().filter(|(_, set)| (set.kind == SetKind::List) == lists) {
                    batch.create(name, set);
                }
                for (name, set, held) in sets.altered.iter().filter(|(_, set, _)| (set.kind == SetKind::List) == lists)
                {
                    if held.kind == HeldKind::Ours(set.kind) {
                        batch.prepare_members(name, set, held, scope);
                    } else {
                        batch.replace(name, set, held);
                    }
                }
            }
        } else {
            for (name, set, held) in sets.altered {
                batch.finish_members(name, set, held);
            }
        }
        batch
    }

    /// Carries a successful batch over into what is known.
    ///
    /// What is as wanted is the wanted value itself: the next pass sees without a look at each member that nothing changed.
    pub fn commit(self, wanted: &Wanted, held: &mut Held) {
        for (name, mut state) in self.outcome {
            state.members = shared(wanted.get(&name), state.members);
            held.insert(name, state);
        }
    }

    fn create(&mut self, name: &str, set: &IpSet) {
        self.command(&["create", name, &header(set.kind)]);
        self.writes.sets += 1;
        let mut made = HeldSet::empty(set.kind);
        if !set.gate {
            self.fill(name, &mut made, set.members.iter());
        }
        self.outcome.insert(name.into(), made);
    }

    /// A set of our name that is something else. With the same type it is exchanged under the rules that use it; otherwise it has to go
    /// first, which the kernel refuses while a rule uses it.
    fn replace(&mut self, name: &str, set: &IpSet, held: &HeldSet) {
        if !swappable(set.kind, &held.kind) {
            self.command(&["destroy", name]);
            self.create(name, set);
            return;
        }
        let temporary = set_of("TMP", name);
        self.command(&["create", &temporary, &header(set.kind)]);
        let mut made = HeldSet::empty(set.kind);
        if !set.gate {
            self.fill(&temporary, &mut made, set.members.iter());
        }
        self.command(&["swap", name, &temporary]);
        self.command(&["destroy", &temporary]);
        self.writes.sets += 1;
        self.outcome.insert(name.into(), made);
    }

    fn prepare_members(&mut self, name: &str, set: &IpSet, held: &HeldSet, scope: Scope) {
        let diff = diff_sets(&set.members, &held.members);
        let mut state = held.clone();
        if !set.gate {
            self.fill(name, &mut state, diff.missing.into_iter());
        } else if scope == Scope::Full {
            let renewed = addresses(&diff.missing);
            self.empty(name, &mut state, diff.surplus.into_iter().filter(|m| !renewed.contains(&address(m))));
            self.drop_strays(name, &mut state);
        }
        self.outcome.insert(name.into(), state);
    }

    fn finish_members(&mut self, name: &str, set: &IpSet, held: &HeldSet) {
        let diff = diff_sets(&set.members, &held.members);
        let mut state = held.clone();
        if set.gate {
            self.fill(name, &mut state, diff.missing.into_iter());
        } else {
            self.empty(name, &mut state, diff.surplus.into_iter());
            self.drop_strays(name, &mut state);
        }
        self.outcome.insert(name.into(), state);
    }

    /// Adds members; one that carries another mark than before takes the new one (`-exist`).
    fn fill<'a>(&mut self, name: &str, state: &mut HeldSet, members: impl Iterator<Item = &'a SetMember>) {
        let members: Vec<&SetMember> = members.collect();
        let renewed = addresses(&members);
        if !renewed.is_empty() {
            Arc::make_mut(&mut state.members).retain(|old| !renewed.contains(&address(old)));
        }
        for member in members {
            self.command(&["add", name, &member.to_string()]);
            self.writes.members += 1;
            Arc::make_mut(&mut state.members).insert(member.clone());
        }
    }

    fn empty<'a>(&mut self, name: &str, state: &mut HeldSet, members: impl Iterator<Item = &'a SetMember>) {
        for member in members {
            self.command(&["del", name, &key(member)]);
            self.writes.members += 1;
            Arc::make_mut(&mut state.members).remove(member);
        }
    }

    fn drop_strays(&mut self, name: &str, state: &mut HeldSet) {
        for stray in std::mem::take(&mut state.strays) {
            self.command(&["del", name, &stray]);
            self.writes.members += 1;
        }
    }

    fn command(&mut self, words: &[&str]) {
        for (i, word) in words.iter().enumerate() {
            if i > 0 {
                self.commands.push(' ');
            }
            self.commands.push_str(word);
        }
        self.commands.push('\n');
    }
}

/// Takes the wanted values in the place of equal ones that were read.
pub fn share(wanted: &Wanted, held: &mut Held) {
    for (name, state) in held {
        state.members = shared(wanted.get(name), std::mem::take(&mut state.members));
    }
}

fn shared(wanted: Option<&IpSet>, members: Arc<BTreeSet<SetMember>>) -> Arc<BTreeSet<SetMember>> {
    match wanted {
        Some(set) if set.members == members => Arc::clone(&set.members),
        _ => members,
    }
}

/// Sets of ours that nothing needs, lists before what they list; the ones known to be stuck are left out.
pub fn unwanted(wanted: &Wanted, held: &Held) -> Vec<Arc<str>> {
    let surplus = diff_maps(wanted, held, |_, _| true).surplus;
    let (lists, others): (Vec<_>, Vec<_>) =
        surplus.into_iter().filter(|(_, h)| !h.stuck).partition(|(_, h)| h.is_list());
    lists.into_iter().chain(others).map(|(name, _)| name.clone()).collect()
}

/// What of the coming change undoes other people's changes: `before` is what we knew before `found` was read.
pub fn repairs(wanted: &Wanted, before: &Held, found: &Held) -> Vec<Repair> {
    let mut repairs = Vec::new();
    let mut push = |name: &str, what: String| {
        repairs.push(Repair { kind: RepairKind::Set, name: name.to_owned(), what });
    };
    let changes = diff_maps(before, found, |a, b| a.kind == b.kind && a.members == b.members && b.strays.is_empty());
    for (name, _) in changes.missing {
        if wanted.contains_key(name) {
            push(name, "was removed".to_owned());
        }
    }
    for (name, known, read) in changes.altered {
        let Some(set) = wanted.get(name) else { continue };
        if known.kind != read.kind {
            push(name, "was replaced by a set of another kind".to_owned());
            continue;
        }
        let gone = known.members.iter().filter(|m| !read.members.contains(m) && set.members.contains(m)).count();
        let come = read.members.iter().filter(|m| !known.members.contains(m) && !set.members.contains(m)).count();
        let come = come + read.strays.len();
        if gone + come > 0 {
            push(name, format!("was changed: {gone} members missing, {come} members that are not ours"));
        }
    }
    for (name, _) in changes.surplus {
        if !wanted.contains_key(name) {
            push(name, "was added by somebody else".to_owned());
        }
    }
    repairs
}

/// The addresses of members that carry a mark.
fn addresses(members: &[&SetMember]) -> HashSet<Option<IpAddr>> {
    members.iter().map(|m| address(m)).filter(Option::is_some).collect()
}

fn address(member: &SetMember) -> Option<IpAddr> {
    match member {
        SetMember::IpMark { address, .. } => Some(*address),
        _ => None,
    }
}
