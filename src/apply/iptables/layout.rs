//! The order of a built-in chain: where our rules stand in it, and where they belong.

use super::words::words;
use crate::ruleset::ownership::is_pass_chain;

/// Our two places in a built-in chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lead {
    /// First.
    Hook,
    /// Directly ahead of the first DROP or REJECT without matches, else last.
    Pass,
}

impl Lead {
    /// By the chain that it leads to.
    pub fn of(chain: &str) -> Self {
        if is_pass_chain(chain) { Lead::Pass } else { Lead::Hook }
    }
}

/// One rule of a built-in chain, as far as the places of ours depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Ours(Lead),
    /// DROP or REJECT without matches: nothing comes past it.
    End,
    /// ACCEPT, with matches or without. Ahead of it or behind it, our own ACCEPT comes to the same.
    Accept,
    Other,
}

impl Seen {
    /// A rule of others, in the spelling of `iptables -S` without `-A CHAIN`.
    pub fn foreign(rule: &str) -> Self {
        let mut words = words(rule);
        let mut unconditional = true;
        while let Some(word) = words.next() {
            match word {
                "-j" => {
                    return match words.next() {
                        Some("DROP" | "REJECT") if unconditional => Seen::End,
                        Some("ACCEPT") => Seen::Accept,
                        _ => Seen::Other,
                    };
                }
                // A comment is no match: its name, its option and its text.
                "-m" if words.clone().next() == Some("comment") => drop(words.nth(2)),
                _ => unconditional = false,
            }
        }
        Seen::Other
    }
}

/// Where a rule is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Counted from 1, in the chain as it then is.
    Number(usize),
    Last,
}

/// All rules of a built-in chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout(Vec<Seen>);

impl Layout {
    pub fn push(&mut self, seen: Seen) {
        self.0.push(seen);
    }

    /// Whether anything ends it.
    pub fn has_end(&self) -> bool {
        self.0.contains(&Seen::End)
    }

    /// All of our rules of a sort are removed.
    pub fn take_out(&mut self, lead: Lead) {
        self.0.retain(|s| *s != Seen::Ours(lead));
    }

    /// One of ours is put in.
    pub fn put(&mut self, lead: Lead, at: At) {
        let index = match at {
            At::Number(number) => number.saturating_sub(1).min(self.0.len()),
            At::Last => self.0.len(),
        };
        self.0.insert(index, Seen::Ours(lead));
    }

    /// Whether the first of our rules of a sort stands where it belongs. Nothing but ACCEPTs between a pass and its exact place is as
    /// good: Felix keeps one last, and two that both insist on being last would never rest.
    pub fn in_place(&self, lead: Lead) -> bool {
        let Some(ours) = self.0.iter().position(|s| *s == Seen::Ours(lead)) else { return false };
        match lead {
            Lead::Hook => ours == 0,
            Lead::Pass => {
                let end = self.0.iter().position(|s| *s == Seen::End).unwrap_or(self.0.len());
                ours < end && self.0[ours + 1..end].iter().all(|s| *s == Seen::Accept)
            }
        }
    }

    /// Where a pass goes: `hook_inserted`, a hook is put first before; `gone`, which of ours are taken out before.
    pub fn place_of_pass(&self, hook_inserted: bool, gone: impl Fn(Lead) -> bool) -> At {
        let mut left = self.0.iter().filter(|s| !matches!(s, Seen::Ours(lead) if gone(*lead)));
        match left.position(|s| *s == Seen::End) {
            Some(end) => At::Number(end + 1 + usize::from(hook_inserted)),
            None => At::Last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_drop_or_reject_without_matches_ends_a_chain() {
        for end in [
            "-j DROP",
            "-j REJECT --reject-with icmp-host-prohibited",
            "-m comment --comment bye -j DROP",
            "-m comment --comment \"bye -j ACCEPT\" -j DROP",
            "-m comment --comment \"a\" -m comment --comment \"b\" -j REJECT --reject-with tcp-reset",
        ] {
            assert_eq!(Seen::foreign(end), Seen::End, "{end}");
        }
        for other in [
            "-s 192.0.2.0/24 -j DROP",
            "-i eth1 -j REJECT --reject-with icmp-port-unreachable",
            "-m conntrack --ctstate INVALID -j DROP",
            "-m comment --comment \"x\" -m mark --mark 0x1 -j DROP",
            "-m limit --limit 5/min -j DROP",
            "! -i lo -j DROP",
            "-j DOCKER-USER",
            "-g DROP",
            "-j LOG --log-prefix \"-j DROP\"",
            "-m comment --comment DROP",
            "",
        ] {
            assert_eq!(Seen::foreign(other), Seen::Other, "{other}");
        }
        assert_eq!(Seen::foreign("-m mark --mark 0x10000/0x10000 -j ACCEPT"), Seen::Accept);
        assert_eq!(Seen::foreign("-j ACCEPT"), Seen::Accept);
    }

    fn layout(rules: &str) -> Layout {
        let seen = |c| match c {
            'h' => Seen::Ours(Lead::Hook),
            'p' => Seen::Ours(Lead::Pass),
            'e' => Seen::End,
            'a' => Seen::Accept,
            _ => Seen::Other,
        };
        Layout(rules.chars().map(seen).collect())
    }

    #[test]
    fn a_pass_belongs_directly_ahead_of_the_first_end_and_else_last() {
        for (rules, expected) in [
            ("p", true),
            ("hp", true),
            ("oope", true),
            ("oop", true),
            ("oopaae", true),
            ("oopaa", true),
            ("pe", true),
            ("poe", false),
            ("oep", false),
            ("opo", false),
            ("opao", false),
            ("peoe", true),
            ("o", false),
        ] {
            assert_eq!(layout(rules).in_place(Lead::Pass), expected, "{rules}");
        }
        assert!(layout("hp").in_place(Lead::Hook) && !layout("oh").in_place(Lead::Hook));
    }

    #[test]
    fn its_number_counts_what_is_there_when_it_is_put_in() {
        let all_gone = |_| true;
        let none_gone = |_| false;
        assert_eq!(layout("ooe").place_of_pass(false, all_gone), At::Number(3));
        assert_eq!(layout("ooe").place_of_pass(true, all_gone), At::Number(4));
        assert_eq!(layout("oho").place_of_pass(true, all_gone), At::Last);
        assert_eq!(layout("ohpe").place_of_pass(true, all_gone), At::Number(3));
        assert_eq!(layout("hpoe").place_of_pass(false, |lead| lead == Lead::Pass), At::Number(3));
        assert_eq!(layout("ohpe").place_of_pass(true, none_gone), At::Number(5));
    }
}
