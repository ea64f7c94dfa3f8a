//! From what a table holds to what it should hold: a change as a value, and its text for `iptables-restore --noflush`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use super::layout::{At, Layout, Lead};
use super::listing::{HookState, Listing};
use super::spelling::Spelling;
use super::words::readable;
use crate::apply::applied::{Repair, RepairKind, Writes, family_name};
use crate::apply::diff::diff_maps;
use crate::apply::nft::TableName;
use crate::model::Family;
use crate::ruleset::{Builtin, Chain, Rule, Table, TableRules};

/// What we know one table to hold on our behalf.
#[derive(Debug, Default)]
pub struct TableState {
    pub chains: BTreeMap<Arc<str>, Held>,
    pub leads: BTreeMap<(Builtin, Lead), LeadState>,
    pub layouts: BTreeMap<Builtin, Layout>,
    pub pinned: BTreeSet<String>,
    /// Built-in chains in which the place of our rule cannot be seen.
    pub blind: Vec<&'static str>,
}

/// The content of a chain: as we wrote it (or found it equal), or as it was read.
#[derive(Debug)]
pub enum Held {
    Written(Chain),
    Found(Vec<String>),
    /// There, in words that we cannot compare.
    Unread,
}

/// A rule of ours in a built-in chain, known by its text, by its handle, or by both.
#[derive(Debug, Clone)]
pub struct Copy {
    pub text: Option<String>,
    /// Where iptables cannot read the table: `-D` of a text would fail behind a rule that it does not understand.
    pub handle: Option<u64>,
}

/// Our rules of one sort in a built-in chain.
#[derive(Debug, Default)]
pub struct LeadState {
    pub copies: Vec<Copy>,
    /// Whether the first copy stands where it belongs.
    pub in_place: bool,
}

impl From<Listing> for TableState {
    fn from(listing: Listing) -> Self {
        let of = |lead, states: BTreeMap<Builtin, HookState>| {
            let copy = |text| Copy { text: Some(text), handle: None };
            let state = move |s: HookState| LeadState {
                copies: s.copies.into_iter().map(copy).collect(),
                in_place: s.in_place,
            };
            states.into_iter().map(move |(builtin, s)| ((builtin, lead), state(s)))
        };
        TableState {
            chains: listing.chains.into_iter().map(|(name, rules)| (name.into(), Held::Found(rules))).collect(),
            leads: of(Lead::Hook, listing.hooks).chain(of(Lead::Pass, listing.passes)).collect(),
            layouts: listing.layouts,
            pinned: listing.pinned,
            blind: Vec::new(),
        }
    }
}

/// What a repair says of something that is there with another content.
pub const CHANGED: &str = "was changed";

/// A chain by name, with what it is to hold.
pub type Filled<'a> = (&'a Arc<str>, &'a Chain);

/// What must happen to one table.
#[derive(Debug)]
pub struct Change<'a> {
    pub family: Family,
    pub table: Table,
    /// Chains that are not there yet.
    pub(super) make: Vec<Filled<'a>>,
    /// Chains to flush and fill.
    pub(super) fill: Vec<Filled<'a>>,
    /// Each of these is declared where it is filled: all that they lead to is there.
    pub(super) one_by_one: bool,
    /// Chains of ours that nothing needs any more.
    pub(super) delete: Vec<Arc<str>>,
    /// The same, emptied before they go.
    pub(super) flush: Vec<Arc<str>>,
    /// The same, kept by a foreign rule: emptied.
    pub(super) empty: Vec<Arc<str>>,
    pub(super) leads: Vec<LeadChange>,
}

#[derive(Debug, Clone)]
pub(super) struct LeadChange {
    builtin: Builtin,
    lead: Lead,
    remove: Vec<Copy>,
    insert: Option<(At, String)>,
}

impl<'a> Change<'a> {
    /// Compares a table; without `removes`, what is there and not wanted stays.
    pub fn plan(
        (family, table): (Family, Table),
        wanted: &'a TableRules,
        held: &TableState,
        spelling: &Spelling,
        removes: bool,
    ) -> Self {
        let chains = diff_maps(&wanted.chains, &held.chains, |chain, held| match held {
            // Comparing slices looks at every rule, also where both are one.
            Held::Written(written) => Arc::ptr_eq(written, chain) || written == chain,
            Held::Found(lines) => spelling.same_chain(family, chain, lines),
            Held::Unread => false,
        });
        let mut change = Change {
            make: chains.missing,
            fill: chains.altered.into_iter().map(|(name, chain, _)| (name, chain)).collect(),
            leads: lead_changes(family, wanted, held, spelling, removes),
            ..Change::nothing(family, table)
        };
        if removes {
            for (name, content) in chains.surplus {
                if !held.pinned.contains(&**name) {
                    change.delete.push(name.clone());
                } else if !content.is_empty() {
                    change.empty.push(name.clone());
                }
            }
        }
        change
    }

    fn nothing(family: Family, table: Table) -> Self {
        Change {
            family,
            table,
            make: Vec::new(),
            fill: Vec::new(),
            one_by_one: false,
            delete: Vec::new(),
            flush: Vec::new(),
            empty: Vec::new(),
            leads: Vec::new(),
        }
    }

    /// A part of it, with nothing in it yet.
    pub(super) fn part(&self) -> Self {
        Change::nothing(self.family, self.table)
    }

    /// The same without what is made before and what goes after it.
    pub(super) fn of_what_is_there(self) -> Self {
        Change { make: Vec::new(), delete: Vec::new(), one_by_one: true, ..self }
    }

    /// Together with the removal of chains that were left for later.
    pub(super) fn and_delete(mut self, gone: impl Iterator<Item = Arc<str>>) -> Self {
        self.delete.extend(gone);
        self
    }

    /// What there is to learn from it once it is written.
    pub fn to_learn(&self) -> Change<'a> {
        self.with_filled(self.filled().collect())
    }

    /// The same about these chains only.
    pub(super) fn with_filled(&self, fill: Vec<Filled<'a>>) -> Self {
        Change { fill, leads: self.leads.clone(), ..self.part() }
    }

    pub fn key(&self) -> (Family, Table) {
        (self.family, self.table)
    }

    /// Whether it makes chains, or fills them.
    pub fn fills(&self) -> bool {
        self.filled().next().is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.chains() == 0 && self.leads.is_empty()
    }

    /// How many chains it is about.
    pub fn chains(&self) -> usize {
        self.make.len() + self.fill.len() + self.delete.len() + self.flush.len() + self.empty.len()
    }

    /// The lines of its block, nearly.
    pub(super) fn lines(&self) -> usize {
        self.chains() + self.filled().map(|(_, chain)| chain.len()).sum::<usize>()
    }

    /// What is filled, new or not.
    pub fn filled(&self) -> impl Iterator<Item = Filled<'a>> {
        self.make.iter().chain(&self.fill).copied()
    }

    /// The built-in chains in which a rule of ours is put in.
    pub fn inserts(&self) -> impl Iterator<Item = Builtin> {
        self.leads.iter().filter(|lead| lead.insert.is_some()).map(|lead| lead.builtin)
    }

    /// What goes by its handle, once the rest is written: a script for `nft -f`. Nothing in most cases.
    pub fn deletions(&self) -> String {
        let table = TableName::of_iptables(self.family, self.table);
        let handles = self.leads.iter().flat_map(|l| l.remove.iter().filter_map(move |c| Some((l.builtin, c.handle?))));
        handles
            .map(|(builtin, handle)| format!("delete rule {} {} {builtin} handle {handle}\n", table.family, table.name))
            .collect()
    }

    /// The same in pieces that fail one by one: the chains, each rule of ours in a built-in chain, what goes. Nothing comes of it
    /// without its chains.
    pub fn pieces(self) -> Vec<Change<'a>> {
        let Change { family, table, make, fill, one_by_one, delete, flush, empty, leads } = self;
        let part = || Change::nothing(family, table);
        let mut parts = vec![Change { make, fill, one_by_one, ..part() }];
        parts.extend(leads.into_iter().map(|lead| Change { leads: vec![lead], ..part() }));
        parts.push(Change { delete, flush, empty, ..part() });
        parts.retain(|part| !part.is_empty());
        parts
    }

    pub fn count(&self, writes: &mut Writes) {
        // What is flushed goes in another block, and counts there.
        writes.chains += self.chains() - self.flush.len();
        writes.hooks += self.leads.len();
    }

    /// Appends this table's block. Declared chains are flushed; the kernel takes a block as a whole or not at all.
    pub fn render(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = self.try_render(out);
    }

    fn try_render(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "*{}", self.table)?;
        if !self.one_by_one {
            for (name, _) in self.filled() {
                writeln!(out, ":{name} - [0:0]")?;
            }
        }
        for name in self.delete.iter().chain(&self.flush).chain(&self.empty) {
            writeln!(out, "-F {name}")?;
        }
        for lead in &self.leads {
            for text in lead.remove.iter().filter(|c| c.handle.is_none()).filter_map(|c| c.text.as_ref()) {
                writeln!(out, "-D {} {}", lead.builtin, readable(text))?;
            }
        }
        for LeadChange { builtin, insert, .. } in &self.leads {
            match insert {
                Some((At::Number(number), rule)) => writeln!(out, "-I {builtin} {number} {rule}")?,
                Some((At::Last, rule)) => writeln!(out, "-A {builtin} {rule}")?,
                None => {}
            }
        }
        // A new name is found at once ahead of all others in the tool's list.
        let mut filled: Vec<Filled> = self.filled().collect();
        if self.one_by_one {
            filled.sort_by(|a, b| b.0.cmp(a.0));
        }
        for (name, chain) in filled {
            if self.one_by_one {
                writeln!(out, ":{name} - [0:0]")?;
            }
            for rule in chain.iter() {
                writeln!(out, "-A {name} {}", rule.spelled(self.family))?;
            }
        }
        for name in &self.delete {
            writeln!(out, "-X {name}")?;
        }
        writeln!(out, "COMMIT")
    }

    /// What of this change undoes other people's changes: `before` is what we knew before `found` was read.
    pub fn repairs(&self, before: &TableState, found: &TableState, spelling: &Spelling) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let mut push = |kind, name: &str, what: &str| {
            let name = format!("{} {} {name}", family_name(self.family), self.table);
            repairs.push(Repair { kind, name, what: what.to_owned() });
        };
        for (name, _) in self.filled() {
            match (before.chains.get(name), found.chains.get(name)) {
                (Some(_), None) => push(RepairKind::Chain, name, "was removed"),
                // Nobody knows.
                (Some(_), Some(Held::Unread)) => {}
                (Some(known), Some(read)) if !known.same(read, self.family, spelling) => {
                    push(RepairKind::Chain, name, CHANGED);
                }
                _ => {}
            }
        }
        for name in self.delete.iter().chain(&self.empty) {
            if !before.chains.contains_key(name) {
                push(RepairKind::Chain, name, "was added by somebody else");
            }
        }
        for lead in &self.leads {
            let key = (lead.builtin, lead.lead);
            let name = lead.builtin.as_str();
            match (before.leads.get(&key), found.leads.get(&key)) {
                (Some(_), None) => push(RepairKind::Hook, name, "was removed"),
                (None, Some(_)) => push(RepairKind::Hook, name, "was added by somebody else"),
                (Some(known), Some(read)) if read.copies.len() > known.copies.len() => {
                    push(RepairKind::Hook, name, "was there more than once");
                }
                (Some(known), Some(read)) if known.in_place && !read.in_place => match lead.lead {
                    Lead::Hook => push(RepairKind::Hook, name, "was not the first rule any more"),
                    Lead::Pass => push(RepairKind::Hook, name, "did not stand ahead of others' last word any more"),
                },
                (Some(known), Some(read))
                    if known.texts().any(|text| !read.texts().any(|other| spelling.same(text, other)))
                        && read.copies.iter().all(|copy| copy.handle.is_none()) =>
                {
                    push(RepairKind::Hook, name, CHANGED);
                }
                _ => {}
            }
        }
        repairs
    }

    /// Carries a successful write over into what we know.
    pub fn commit(&self, state: &mut TableState) {
        for (name, chain) in self.filled() {
            state.chains.insert(Arc::clone(name), Held::Written(chain.clone()));
        }
        for name in &self.delete {
            state.chains.remove(name);
        }
        for name in self.flush.iter().chain(&self.empty) {
            state.chains.insert(name.clone(), Held::Found(Vec::new()));
        }
        for LeadChange { builtin, lead, .. } in &self.leads {
            state.leads.remove(&(*builtin, *lead));
            state.layouts.entry(*builtin).or_default().take_out(*lead);
        }
        for LeadChange { builtin, lead, insert, .. } in &self.leads {
            let Some((at, rule)) = insert else { continue };
            state.leads.insert(
                (*builtin, *lead),
                LeadState { copies: vec![Copy { text: Some(rule.clone()), handle: None }], in_place: true },
            );
            state.layouts.entry(*builtin).or_default().put(*lead, *at);
        }
    }

    /// Compares what was just written with what the kernel then says, and learns other spellings. Returns whether there were any.
    pub fn learn(&self, read: &TableState, spelling: &mut Spelling) -> bool {
        let mut learned = false;
        for (name, chain) in self.filled() {
            if let Some(Held::Found(lines)) = read.chains.get(name) {
                learned |= spelling.learn_chain(self.family, chain, lines);
            }
        }
        for lead in &self.leads {
            if let (Some((_, text)), Some(state)) = (&lead.insert, read.leads.get(&(lead.builtin, lead.lead)))
                && let [Copy { text: Some(copy), .. }] = state.copies.as_slice()
            {
                learned |= spelling.learn(text, copy);
            }
        }
        learned
    }
}

/// In the order of writing: a hook comes before the pass of the same chain, whose number counts it.
fn lead_changes(
    family: Family,
    wanted: &TableRules,
    held: &TableState,
    spelling: &Spelling,
    removes: bool,
) -> Vec<LeadChange> {
    let of = |lead, rules: &BTreeMap<Builtin, Rule>| -> Vec<_> {
        rules.iter().map(|(builtin, rule)| ((*builtin, lead), rule.spelled(family))).collect()
    };
    let wanted: BTreeMap<(Builtin, Lead), String> =
        of(Lead::Hook, &wanted.hooks).into_iter().chain(of(Lead::Pass, &wanted.passes)).collect();
    let leads = diff_maps(&wanted, &held.leads, |text, state| {
        let same = |copy: &Copy| copy.text.as_ref().is_some_and(|other| spelling.same(text, other));
        state.in_place && matches!(state.copies.as_slice(), [copy] if same(copy))
    });
    let missing = leads.missing.into_iter().map(|(key, text)| (*key, Some(text), None));
    let altered = leads.altered.into_iter().map(|(key, text, state)| (*key, Some(text), Some(state)));
    let surplus = leads.surplus.into_iter().filter(|_| removes).map(|(key, state)| (*key, None, Some(state)));
    let mut changed: Vec<_> = missing.chain(altered).chain(surplus).collect();
    changed.sort_by_key(|(key, ..)| *key);

    let inserts = |builtin, lead| changed.iter().any(|(key, text, _)| *key == (builtin, lead) && text.is_some());
    // By its handle a copy goes only afterwards.
    let by_text = |state: &&LeadState| state.copies.iter().all(|copy| copy.handle.is_none());
    let goes = |builtin, lead| {
        let of_it = |(key, _, state): &&(_, _, Option<&LeadState>)| {
            *key == (builtin, lead) && state.is_none_or(|s| by_text(&s))
        };
        changed.iter().any(|change| of_it(&change))
    };
    let place = |(builtin, lead)| match lead {
        Lead::Hook => At::Number(1),
        Lead::Pass => {
            let nothing = Layout::default();
            let layout = held.layouts.get(&builtin).unwrap_or(&nothing);
            layout.place_of_pass(inserts(builtin, Lead::Hook), |lead| goes(builtin, lead))
        }
    };
    changed
        .iter()
        .map(|(key, text, state)| LeadChange {
            builtin: key.0,
            lead: key.1,
            remove: state.map(|s| s.copies.clone()).unwrap_or_default(),
            insert: text.map(|text| (place(*key), text.clone())),
        })
        .collect()
}

impl TableState {
    /// Takes what was read of single chains, ours and built-in ones.
    pub fn take_over(&mut self, read: TableState) {
        self.leads.retain(|(builtin, _), _| !read.layouts.contains_key(builtin));
        self.chains.extend(read.chains);
        self.leads.extend(read.leads);
        self.layouts.extend(read.layouts);
    }
}

impl LeadState {
    fn texts(&self) -> impl Iterator<Item = &String> {
        self.copies.iter().filter_map(|copy| copy.text.as_ref())
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        match self {
            Held::Written(chain) => chain.is_empty(),
            Held::Found(lines) => lines.is_empty(),
            Held::Unread => false,
        }
    }

    fn same(&self, read: &Held, family: Family, spelling: &Spelling) -> bool {
        match (self, read) {
            (Held::Written(chain), Held::Found(lines)) => spelling.same_chain(family, chain, lines),
            (Held::Found(a), Held::Found(b)) => a == b,
            (Held::Written(a), Held::Written(b)) => a == b,
            (Held::Found(lines), Held::Written(chain)) => spelling.same_chain(family, chain, lines),
            (Held::Unread, _) | (_, Held::Unread) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Match, Target};

    const KEY: (Family, Table) = (Family::Ipv4, Table::Nat);

    fn wanted() -> TableRules {
        let chain = |target| Chain::from([Rule::new([Match::InInterface("eth1".into())], target)]);
        TableRules {
            chains: BTreeMap::from([
                ("SMARTNAT-A".into(), chain(Target::Goto("SMARTNAT-B".into()))),
                ("SMARTNAT-B".into(), chain(Target::Return)),
            ]),
            hooks: BTreeMap::from([(Builtin::Prerouting, Rule::new([], Target::Jump("SMARTNAT-A".into())))]),
            ..TableRules::default()
        }
    }

    fn text_of(change: &Change) -> String {
        let mut text = String::new();
        change.render(&mut text);
        text
    }

    #[test]
    fn an_empty_table_gets_everything_in_one_block() {
        let wanted = wanted();
        let change = Change::plan(KEY, &wanted, &TableState::default(), &Spelling::default(), true);
        assert_eq!(
            text_of(&change),
            "*nat\n:SMARTNAT-A - [0:0]\n:SMARTNAT-B - [0:0]\n-I PREROUTING 1 -j SMARTNAT-A\n\
             -A SMARTNAT-A -i eth1 -g SMARTNAT-B\n-A SMARTNAT-B -i eth1 -j RETURN\nCOMMIT\n"
        );
        let mut state = TableState::default();
        change.commit(&mut state);
        assert!(Change::plan(KEY, &wanted, &state, &Spelling::default(), true).is_empty());
    }

    #[test]
    fn only_what_differs_is_written_and_the_border_alone_deletes_nothing() {
        let held = || {
            TableState::from(Listing::parse(
                "-N SMARTNAT-A\n-N SMARTNAT-B\n-N SMARTNAT-OLD\n-N SMARTNAT-PINNED\n-N FOREIGN\n-A PREROUTING -j ACCEPT\n\
                 -A PREROUTING -j SMARTNAT-A\n-A PREROUTING -j SMARTNAT-A\n-A INPUT -j SMARTNAT-OLD\n\
                 -A FOREIGN -j SMARTNAT-PINNED\n-A SMARTNAT-PINNED -j DROP\n\
                 -A SMARTNAT-A -i eth1 -g SMARTNAT-B\n-A SMARTNAT-B -i eth2 -j RETURN\n",
            ))
        };
        let (wanted, spelling) = (wanted(), Spelling::default());
        let full = Change::plan(KEY, &wanted, &held(), &spelling, true);
        assert_eq!(
            text_of(&full),
            "*nat\n:SMARTNAT-B - [0:0]\n-F SMARTNAT-OLD\n-F SMARTNAT-PINNED\n-D PREROUTING -j SMARTNAT-A\n\
             -D PREROUTING -j SMARTNAT-A\n-D INPUT -j SMARTNAT-OLD\n-I PREROUTING 1 -j SMARTNAT-A\n\
             -A SMARTNAT-B -i eth1 -j RETURN\n-X SMARTNAT-OLD\nCOMMIT\n"
        );
        let border = Change::plan(KEY, &wanted, &held(), &spelling, false);
        assert_eq!(
            text_of(&border),
            "*nat\n:SMARTNAT-B - [0:0]\n-D PREROUTING -j SMARTNAT-A\n-D PREROUTING -j SMARTNAT-A\n\
             -I PREROUTING 1 -j SMARTNAT-A\n-A SMARTNAT-B -i eth1 -j RETURN\nCOMMIT\n"
        );
        let mut state = held();
        full.commit(&mut state);
        assert!(Change::plan(KEY, &wanted, &state, &spelling, true).is_empty(), "a pinned chain is emptied once");
    }

    #[test]
    fn only_what_others_did_is_a_repair() {
        let (wanted, spelling) = (wanted(), Spelling::default());
        let mut before = TableState::default();
        Change::plan(KEY, &wanted, &before, &spelling, true).commit(&mut before);
        let found = TableState::from(Listing::parse(
            "-N SMARTNAT-B\n-N SMARTNAT-NEW\n-A PREROUTING -j ACCEPT\n-A PREROUTING -j SMARTNAT-A\n-A SMARTNAT-B -j DROP\n",
        ));
        let mut later = wanted.clone();
        later.add("SMARTNAT-C", vec![]);
        let change = Change::plan(KEY, &later, &found, &spelling, true);
        let told: Vec<String> = change.repairs(&before, &found, &spelling).iter().map(Repair::to_string).collect();
        assert_eq!(
            told,
            [
                "chain ipv4 nat SMARTNAT-A was removed",
                "chain ipv4 nat SMARTNAT-B was changed",
                "chain ipv4 nat SMARTNAT-NEW was added by somebody else",
                "hook ipv4 nat PREROUTING was not the first rule any more",
            ]
        );
    }

    #[test]
    fn another_spelling_of_the_same_rule_is_learned_once_and_then_equal() {
        let (wanted, mut spelling) = (wanted(), Spelling::default());
        let listing = "-N SMARTNAT-A\n-N SMARTNAT-B\n-A PREROUTING --jump SMARTNAT-A -j SMARTNAT-A\n\
                       -A SMARTNAT-A --in-interface eth1 -g SMARTNAT-B\n-A SMARTNAT-B --in-interface eth1 -j RETURN\n";
        let read = || TableState::from(Listing::parse(listing));
        let change = Change::plan(KEY, &wanted, &read(), &spelling, true);
        assert!(!change.is_empty());
        assert!(change.learn(&read(), &mut spelling));
        assert!(Change::plan(KEY, &wanted, &read(), &spelling, true).is_empty());
        let tampered = TableState::from(Listing::parse(&listing.replace("RETURN", "DROP")));
        assert!(!Change::plan(KEY, &wanted, &tampered, &spelling, true).is_empty());
    }
}
