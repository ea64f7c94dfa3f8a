//! Walks through a base chain with a packet of a mapped connection.

use super::packet::{Mapped, Truth};
use super::rule::{Action, Chain, Effect, Origin, Rule, Step, Table};
use crate::ruleset::{Builtin, ownership};

/// The kernel follows no more jumps than this.
const DEPTH: usize = 16;

/// Something that a rule, or the policy, does to the packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cli) struct Event<'a> {
    pub effect: Effect,
    /// Every such packet meets it; else it depends on what is not known here.
    pub certain: bool,
    /// The chain that holds the rule.
    pub chain: &'a str,
    /// The rule, or `policy drop`.
    pub text: &'a str,
}

/// All that the rules of a base chain do to the packet, in order.
pub(in crate::cli) fn walk<'a>(table: &'a Table, name: &'a str, packet: Mapped<'a>) -> Vec<Event<'a>> {
    let mut walk = Walk { table, packet, events: Vec::new() };
    let flow = walk.chain(name, true, 0);
    let Some(Chain { base: Some(base), .. }) = table.chains.get(name) else { return walk.events };
    if base.drops
        && let Flow::Goes { certain } = flow
    {
        walk.events.push(Event { effect: Effect::Drop, certain, chain: name, text: "policy drop" });
    }
    walk.events
}

/// How a chain is left.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Ended,
    /// At its end, or by a return. `certain`: no rule may have ended the packet's way before.
    Goes {
        certain: bool,
    },
}

struct Walk<'a> {
    table: &'a Table,
    packet: Mapped<'a>,
    events: Vec<Event<'a>>,
}

impl<'a> Walk<'a> {
    /// `certain`: every such packet enters.
    fn chain(&mut self, name: &'a str, certain: bool, depth: usize) -> Flow {
        let table = self.table;
        let Some(chain) = table.chains.get(name).filter(|_| depth < DEPTH) else {
            return Flow::Goes { certain: true };
        };
        let waiting = self.awaited(name, chain);
        // Whether no rule before may have ended the way, or left this chain.
        let (mut whole, mut here) = (true, true);
        for (i, rule) in chain.rules.iter().enumerate() {
            if waiting == Some(i) {
                return Flow::Ended;
            }
            let mut truth = Truth::Yes;
            for step in &rule.steps {
                let sure = certain && whole && here && truth == Truth::Yes;
                match step {
                    Step::If(condition) => {
                        truth = truth.and(self.packet.holds(condition));
                        if truth == Truth::No {
                            break;
                        }
                    }
                    Step::Do(action) => match self.act(action, rule, name, sure, depth) {
                        Done::Nothing => {}
                        Done::Left if truth == Truth::Yes => return Flow::Goes { certain: whole },
                        Done::Left => here = false,
                        Done::Ended if truth == Truth::Yes => return Flow::Ended,
                        Done::Ended | Done::MayEnd => whole = false,
                        Done::LeftUnsure if truth == Truth::Yes => return Flow::Goes { certain: false },
                        Done::LeftUnsure => (whole, here) = (false, false),
                    },
                }
            }
        }
        if waiting == Some(chain.rules.len()) { Flow::Ended } else { Flow::Goes { certain: whole } }
    }

    fn act(&mut self, action: &'a Action, rule: &'a Rule, chain: &'a str, sure: bool, depth: usize) -> Done {
        let mut event = |effect, certain| self.events.push(Event { effect, certain, chain, text: &rule.text });
        match action {
            Action::Accept => Done::Ended,
            Action::Return => Done::Left,
            Action::Mark(_) => Done::Nothing,
            Action::Does(effect) => {
                event(*effect, sure);
                match effect {
                    Effect::Drop | Effect::Reject | Effect::Queue => Done::Ended,
                    Effect::TranslateDestination | Effect::TranslateSource => Done::Ended,
                    Effect::NoTrack | Effect::Proxy | Effect::Offload => Done::Nothing,
                }
            }
            Action::Jump(to) | Action::Goto(to) if ownership::is_our_chain(to) => {
                if ownership::is_pass_chain(to) && self.packet.marked() { Done::Ended } else { Done::Nothing }
            }
            // A target of iptables that is not known here.
            Action::Jump(to) | Action::Goto(to) if !self.table.chains.contains_key(to) => {
                event(Effect::Drop, false);
                Done::MayEnd
            }
            Action::Jump(to) => match self.chain(to, sure, depth + 1) {
                Flow::Ended => Done::Ended,
                Flow::Goes { certain: true } => Done::Nothing,
                Flow::Goes { certain: false } => Done::MayEnd,
            },
            Action::Goto(to) => match self.chain(to, sure, depth + 1) {
                Flow::Ended => Done::Ended,
                Flow::Goes { certain: true } => Done::Left,
                Flow::Goes { certain: false } => Done::LeftUnsure,
            },
            Action::OneOf(None) => {
                event(Effect::Drop, false);
                Done::MayEnd
            }
            Action::OneOf(Some(actions)) => {
                for action in actions {
                    self.act(action, rule, chain, false, depth);
                }
                Done::MayEnd
            }
        }
    }

    /// Ahead of which rule the daemon will put a jump that ends the way of mapped packets: the first drop without conditions, else the
    /// end. `None` where there is one already, or none to come.
    fn awaited(&self, name: &str, chain: &Chain) -> Option<usize> {
        let base = chain.base.as_ref()?;
        let hook =
            base.hook == "forward" || (self.packet.scene.by_service && ["input", "output"].contains(&&*base.hook));
        let of_ours = self.table.origin != Origin::Nft && self.table.family == "ip" && self.table.name == "filter";
        let there = |rule: &Rule| {
            rule.steps.iter().any(|s| matches!(s, Step::Do(Action::Jump(to)) if ownership::is_pass_chain(to)))
        };
        let ours = self.table.shared && of_ours && hook && self.packet.scene.accepts && Builtin::parse(name).is_some();
        if !ours || chain.rules.iter().any(there) {
            return None;
        }
        let drops = |rule: &Rule| matches!(rule.steps[..], [Step::Do(Action::Does(Effect::Drop | Effect::Reject))]);
        Some(chain.rules.iter().position(drops).unwrap_or(chain.rules.len()))
    }
}

/// What an action means for the way through its chain.
enum Done {
    Nothing,
    Ended,
    MayEnd,
    Left,
    LeftUnsure,
}
