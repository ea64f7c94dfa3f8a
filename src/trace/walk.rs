use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::matching::{Answer, Matcher, Memory};
use super::outcome::mapping_of;
use super::packet::Shown;
use super::route::{self, By, Decision};
use super::{
    Alternative, DroppedBy, Effect, Lookup, Outcome, Packet, PacketKind, PacketState, Place, SourceSeen, Step, Trace,
};
use crate::model::{Family, Host};
use crate::ruleset::ownership::MAX_CHAIN_DEPTH;
use crate::ruleset::{Builtin, CtDirection, Dataplane, Rule, Table, Target};

/// What a plan makes has as many branches as pods; more than this would be a mistake that must not hang its reader.
const MAX_BRANCHES: usize = 200_000;

/// The packet and its connection on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub kind: PacketKind,
    pub hop_limit: u8,
    pub in_interface: &'a str,
    pub out_interface: Option<&'a str>,
    pub mark: u32,
    /// `None` for packets that are invalid or not tracked.
    pub connection: Option<Connection>,
    pub untracked: bool,
    pub memory: Memory<'a>,
    source_seen: SourceSeen,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Connection {
    pub new: bool,
    /// Of TCP: a SYN begins it.
    pub syn: bool,
    pub direction: CtDirection,
    pub mark: u32,
    pub dnat: bool,
}

/// A chain under way. The hook's own rule counts as a chain of one rule.
#[derive(Debug, Clone, Copy)]
struct Frame<'a> {
    chain: &'a str,
    rules: &'a [Rule],
    next: usize,
    depth: usize,
}

/// Where the packet stands: a hook, the tables that are still to be asked there (the present one first), the chains to return to.
#[derive(Debug, Clone)]
struct Position<'a> {
    hook: Builtin,
    tables: &'static [Table],
    frames: Vec<Frame<'a>>,
}

/// What happened so far, as a list that branches share.
#[derive(Clone)]
struct Path<'a>(Option<Rc<Node<'a>>>);

struct Node<'a> {
    step: RawStep<'a>,
    before: Path<'a>,
}

enum RawStep<'a> {
    Rule { table: Table, taken: Matched<'a>, effect: Effect },
    Route(String),
}

/// A rule that matched.
#[derive(Clone, Copy)]
struct Matched<'a> {
    chain: &'a str,
    /// All rules of the chain.
    rules: &'a [Rule],
    index: usize,
    rule: &'a Rule,
    by_chance: bool,
}

/// Whether the walk through the present table goes on.
enum After {
    Next,
    /// The table's hook is done with the packet.
    Passed,
    End(Outcome),
}

/// Chain and next rule of every frame, innermost last.
type Frames<'a> = Vec<(&'a str, usize, usize)>;
type Key<'a> = (Builtin, usize, Frames<'a>, State<'a>);

pub(super) struct Walk<'a> {
    dataplane: &'a Dataplane,
    host: &'a Host,
    packet: &'a Packet,
    family: Family,
    matcher: Matcher<'a>,
    /// Worst number of evaluations from here to the end.
    known: HashMap<Key<'a>, usize>,
    branches: usize,
    outcomes: BTreeSet<Outcome>,
    lookups: BTreeSet<Lookup>,
    /// The first way to each sort of outcome, in the order of finding.
    ways: Vec<(Outcome, Path<'a>)>,
    sorts: BTreeSet<Outcome>,
}

impl<'a> Walk<'a> {
    pub fn new(dataplane: &'a Dataplane, host: &'a Host, packet: &'a Packet) -> Self {
        Walk {
            dataplane,
            host,
            packet,
            family: Family::of(packet.destination),
            matcher: Matcher::new(dataplane, host),
            known: HashMap::new(),
            branches: 0,
            outcomes: BTreeSet::new(),
            lookups: BTreeSet::new(),
            ways: Vec::new(),
            sorts: BTreeSet::new(),
        }
    }

    pub fn run(mut self) -> Trace {
        let connection = match self.packet.state {
            PacketState::New | PacketState::PickedUp => Some(Connection {
                new: true,
                syn: self.packet.state == PacketState::New,
                direction: CtDirection::Original,
                mark: 0,
                dnat: false,
            }),
            PacketState::Established { direction, connmark, dnat, .. } => {
                Some(Connection { new: false, syn: false, direction, mark: connmark, dnat })
            }
            PacketState::Invalid | PacketState::Untracked => None,
        };
        let state = State {
            source: self.packet.source,
            destination: self.packet.destination,
            kind: self.packet.kind,
            hop_limit: self.packet.hop_limit,
            in_interface: &self.packet.interface,
            out_interface: None,
            mark: 0,
            connection,
            untracked: self.packet.state == PacketState::Untracked,
            memory: Memory::default(),
            source_seen: SourceSeen::Kept,
        };
        let evaluations = self.hook(Builtin::Prerouting, &[Table::Mangle, Table::Nat], state, Path(None));
        let mut ways = self.ways.into_iter().map(|(outcome, path)| (outcome, path.steps()));
        let steps = ways.next().map(|(_, steps)| steps).unwrap_or_default();
        let alternatives = ways
            .map(|(outcome, mut other)| {
                let shared = steps.iter().zip(&other).take_while(|(a, b)| a == b).count();
                Alternative { shared, steps: other.split_off(shared), outcome }
            })
            .collect();
        Trace {
            packet: self.packet.clone(),
            steps,
            alternatives,
            outcomes: self.outcomes,
            lookups: self.lookups,
            evaluations,
        }
    }

    /// Begins with the first of `tables`, or leaves the hook when there is none. Returns the worst number of evaluations from here on.
    fn hook(&mut self, hook: Builtin, tables: &'static [Table], mut state: State<'a>, path: Path<'a>) -> usize {
        let Some((&table, rest)) = tables.split_first() else { return self.leave(hook, state, path) };
        let begins = state.connection.as_ref().is_some_and(|c| c.new);
        if table == Table::Nat && !begins {
            let path = if hook == Builtin::Prerouting { self.translate(&mut state, path) } else { path };
            return self.hook(hook, rest, state, path);
        }
        let ours = self.dataplane.tables.get(&(self.family, table)).into_iter().flat_map(|t| t.of_builtin(hook));
        let frame = |rule| Frame { chain: hook.as_str(), rules: std::slice::from_ref(rule), next: 0, depth: 0 };
        let mut frames: Vec<_> = ours.map(frame).collect();
        // The innermost frame is asked first.
        frames.reverse();
        self.walk(Position { hook, tables, frames }, state, path)
    }

    /// What connection tracking does to later packets of a translated connection, in place of the nat table's rules.
    fn translate(&self, state: &mut State<'a>, path: Path<'a>) -> Path<'a> {
        let PacketState::Established { destination: Some(to), .. } = self.packet.state else { return path };
        state.destination = to.ip();
        state.kind = state.kind.to_port(to.port());
        path.and(RawStep::Route(format!(
            "connection tracking makes the destination {}",
            Shown(to.ip(), state.kind.destination_port())
        )))
    }

    /// After the last table of a hook.
    fn leave(&mut self, hook: Builtin, state: State<'a>, path: Path<'a>) -> usize {
        let to = SocketAddr::new(state.destination, state.kind.destination_port());
        match (hook, state.out_interface) {
            (Builtin::Forward, _) => self.hook(Builtin::Postrouting, &[Table::Mangle, Table::Nat], state, path),
            (Builtin::Postrouting, Some(out)) => {
                let outcome = Outcome::Forwarded { to, source: state.source_seen, out_interface: out.to_owned() };
                self.end(outcome, path)
            }
            (Builtin::Input, _) => self.end(Outcome::Delivered { to }, path),
            _ => self.route(state, path),
        }
    }

    fn route(&mut self, mut state: State<'a>, path: Path<'a>) -> usize {
        const LATER: [Table; 3] = [Table::Mangle, Table::Filter, Table::Security];
        const INPUT: [Table; 4] = [Table::Mangle, Table::Filter, Table::Security, Table::Nat];
        let (to, mark) = (state.destination, state.mark);
        let decision = route::decide(self.dataplane, self.host, state.in_interface, (state.source, to), mark);
        if let Some(priority) = decision.priority() {
            self.lookups.insert(Lookup { destination: to, mark, priority });
        }
        match decision {
            Decision::Local => {
                let path = path.and(RawStep::Route(format!("{to} is for the box itself")));
                self.hook(Builtin::Input, &INPUT, state, path)
            }
            Decision::Forward { interface, gateway, by } => {
                let via = gateway.map(|g| format!("via {g} ")).unwrap_or_default();
                let path = path.and(RawStep::Route(format!("{to}: {via}dev {interface}, by {}", describe(&by))));
                if state.hop_limit <= 1 {
                    return self.end(Outcome::Dropped(DroppedBy::HopLimit), path);
                }
                state.out_interface = Some(interface);
                self.hook(Builtin::Forward, &LATER, state, path)
            }
            Decision::NoRoute { by } => {
                let text = match by {
                    Some(by) => format!("{to}: an unreachable route, by {}", describe(&by)),
                    None => format!("{to}: no route"),
                };
                self.end(Outcome::Dropped(DroppedBy::NoRoute), path.and(RawStep::Route(text)))
            }
            Decision::Martian(reason) => self.end(Outcome::Dropped(DroppedBy::Martian(reason)), path),
        }
    }

    /// Follows a table's rules from `position` on, and everything after it. Where chance decides, the way on which the rule matches is
    /// followed to its end before the other. What was followed from here before is not followed again.
    fn walk(&mut self, mut position: Position<'a>, mut state: State<'a>, path: Path<'a>) -> usize {
        let frames = position.frames.iter().map(|f| (f.chain, f.next, f.depth)).collect();
        let key = (position.hook, position.tables.len(), frames, state.clone());
        if let Some(worst) = self.known.get(&key) {
            return *worst;
        }
        let mut path = path;
        let mut asked = 0;
        let mut worst = 0;
        let rest = loop {
            let Some(frame) = position.frames.last_mut() else { break self.next_table(&position, state, path) };
            let Some(rule) = frame.rules.get(frame.next) else {
                position.frames.pop();
                continue;
            };
            let (chain, rules, index) = (frame.chain, frame.rules, frame.next);
            frame.next += 1;
            asked += 1;
            let by_chance = match self.matcher.rule(rule, &state) {
                Err(reason) => break self.end(Outcome::Unknown { reason }, path),
                Ok(Answer::No) => continue,
                Ok(Answer::Yes) => false,
                Ok(Answer::Either { matched, missed }) => {
                    self.branches += 1;
                    if self.branches > MAX_BRANCHES {
                        let reason = format!("more than {MAX_BRANCHES} branches");
                        break self.end(Outcome::Unknown { reason }, path);
                    }
                    let taken = Matched { chain, rules, index, rule, by_chance: true };
                    let state_there = State { memory: matched, ..state.clone() };
                    let there = self.branch(taken, position.clone(), state_there, path.clone());
                    worst = worst.max(asked + there);
                    state.memory = missed;
                    continue;
                }
            };
            let taken = Matched { chain, rules, index, rule, by_chance };
            match self.apply(taken, &mut position, &mut state, &mut path) {
                After::Next => {}
                After::Passed => break self.next_table(&position, state, path),
                After::End(outcome) => break self.end(outcome, path),
            }
        };
        let worst = worst.max(asked + rest);
        self.known.insert(key, worst);
        worst
    }

    /// The way on which a rule matched by chance.
    fn branch(
        &mut self,
        taken: Matched<'a>,
        mut position: Position<'a>,
        mut state: State<'a>,
        mut path: Path<'a>,
    ) -> usize {
        match self.apply(taken, &mut position, &mut state, &mut path) {
            After::Next => self.walk(position, state, path),
            After::Passed => self.next_table(&position, state, path),
            After::End(outcome) => self.end(outcome, path),
        }
    }

    fn next_table(&mut self, position: &Position<'a>, state: State<'a>, path: Path<'a>) -> usize {
        self.hook(position.hook, &position.tables[1..], state, path)
    }

    /// Does what the target of a matching rule says.
    fn apply(
        &mut self,
        taken: Matched<'a>,
        position: &mut Position<'a>,
        state: &mut State<'a>,
        path: &mut Path<'a>,
    ) -> After {
        let rule = taken.rule;
        let table = position.tables[0];
        let (effect, after) = match &rule.target {
            Target::Accept => (Effect::Accept, After::Passed),
            Target::Drop => (Effect::Drop, After::End(Outcome::Dropped(DroppedBy::Rule(place(table, taken))))),
            Target::Reject(with) => (Effect::Refuse(*with), After::End(Outcome::Refused { with: *with })),
            Target::Return => {
                position.frames.pop();
                (Effect::Return, After::Next)
            }
            Target::Jump(name) | Target::Goto(name) => {
                let after = self.enter(name, matches!(rule.target, Target::Goto(_)), position);
                (Effect::Chain(name.clone()), after)
            }
            Target::Dnat(to) => {
                let ports = state.kind.to_port(to.port());
                // The status is set when something was changed (nf_nat_setup_info).
                let changed = state.destination != to.ip() || state.kind != ports;
                state.destination = to.ip();
                state.kind = ports;
                if let Some(connection) = &mut state.connection {
                    connection.dnat |= changed;
                }
                (Effect::Destination(*to), After::Passed)
            }
            Target::Snat { address, .. } => {
                state.source_seen = SourceSeen::Snat(*address);
                (Effect::Source(state.source_seen), After::Passed)
            }
            Target::Masquerade => {
                state.source_seen = SourceSeen::Masquerade;
                (Effect::Source(state.source_seen), After::Passed)
            }
            Target::SetMark { value, mask } => {
                state.mark = set_bits(state.mark, *value, *mask);
                (Effect::Mark(state.mark), After::Next)
            }
            Target::SetConnMark { .. } | Target::SaveMark { .. } | Target::RestoreMark { .. } => {
                (connmark(&rule.target, state), After::Next)
            }
            Target::MapMark { set } => match self.matcher.mark_of(set, state.source) {
                Ok(Some((value, mask))) => {
                    state.mark = set_bits(state.mark, value, mask);
                    (Effect::Mark(state.mark), After::Next)
                }
                Ok(None) => (Effect::Nothing, After::Next),
                Err(reason) => (Effect::Nothing, After::End(Outcome::Unknown { reason })),
            },
            Target::AddSource { set, .. } => {
                state.memory = Memory::in_one_of([set.as_str()].into());
                (Effect::Remember(set.clone()), After::Next)
            }
        };
        *path = path.and(RawStep::Rule { table, taken, effect });
        after
    }

    /// A goto leaves the present chain for good: its end leads to where the present chain was called.
    fn enter(&self, name: &str, goto: bool, position: &mut Position<'a>) -> After {
        let table = position.tables[0];
        let unknown = |reason| After::End(Outcome::Unknown { reason });
        let chains = self.dataplane.tables.get(&(self.family, table)).map(|t| &t.chains);
        let Some((chain, rules)) = chains.and_then(|chains| chains.get_key_value(name)) else {
            return unknown(format!("the chain {name} does not exist in table {table}"));
        };
        let depth = 1 + position.frames.last().map_or(0, |frame| frame.depth);
        if depth > MAX_CHAIN_DEPTH {
            return unknown(format!("{name} in table {table} is chain {depth} from {}", position.hook));
        }
        if goto {
            position.frames.pop();
        }
        position.frames.push(Frame { chain, rules, next: 0, depth });
        After::Next
    }

    fn end(&mut self, outcome: Outcome, path: Path<'a>) -> usize {
        // Ends that differ in their destination alone need one explanation.
        let mut sort = outcome.clone();
        if let Outcome::Forwarded { to, .. } | Outcome::Delivered { to } = &mut sort {
            to.set_ip(match to {
                SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            });
            to.set_port(0);
        }
        if self.sorts.insert(sort) {
            self.ways.push((outcome.clone(), path));
        }
        self.outcomes.insert(outcome);
        0
    }
}

impl<'a> Path<'a> {
    fn and(&self, step: RawStep<'a>) -> Self {
        Path(Some(Rc::new(Node { step, before: self.clone() })))
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut here = self;
        while let Some(node) = &here.0 {
            steps.push(match &node.step {
                RawStep::Rule { table, taken, effect } => {
                    Step::Rule { place: place(*table, *taken), by_chance: taken.by_chance, effect: effect.clone() }
                }
                RawStep::Route(text) => Step::Route(text.clone()),
            });
            here = &node.before;
        }
        steps.reverse();
        steps
    }
}

fn place(table: Table, Matched { chain, rules, index, rule, .. }: Matched<'_>) -> Place {
    let mapping = mapping_of([rule]).or_else(|| mapping_of(rules)).map(str::to_owned);
    Place { table, chain: chain.to_owned(), number: index + 1, rule: rule.to_string(), mapping }
}

/// The bits of `mask` cleared, then `value` xored in (xt_mark, xt_connmark, xt_set).
fn set_bits(old: u32, value: u32, mask: u32) -> u32 {
    (old & !mask) ^ value
}

/// xt_connmark's target; a packet without a connection passes unchanged.
fn connmark(target: &Target, state: &mut State<'_>) -> Effect {
    let Some(connection) = &mut state.connection else { return Effect::Nothing };
    match target {
        Target::SetConnMark { value, mask } => connection.mark = set_bits(connection.mark, *value, *mask),
        Target::SaveMark { mask } => connection.mark = set_bits(connection.mark, state.mark & mask, *mask),
        Target::RestoreMark { mask } => {
            state.mark = set_bits(state.mark, connection.mark & mask, *mask);
            return Effect::Mark(state.mark);
        }
        _ => return Effect::Nothing,
    }
    Effect::ConnMark(connection.mark)
}

fn describe(by: &By<'_>) -> String {
    match by.0 {
        None => "the main table".to_owned(),
        Some(rule) => format!("rule {}: {} {}", rule.priority, rule.selector, rule.action),
    }
}
