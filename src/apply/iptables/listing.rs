//! Reading `iptables -S`: our chains whole, of everything else only where it leads to one of them. Or those of whoever is asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{Layout, Lead, Seen};
use super::words::unquoted_words;
use crate::ruleset::Builtin;
use crate::ruleset::ownership::{CHAIN_PREFIX, is_our_chain};

/// What one table holds on our behalf. Rules are in the spelling of the tool, without `-A CHAIN`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub chains: BTreeMap<String, Vec<String>>,
    pub hooks: BTreeMap<Builtin, HookState>,
    /// The same for the chains that belong ahead of others' last word.
    pub passes: BTreeMap<Builtin, HookState>,
    /// Chains of ours that a foreign chain leads to: they cannot be deleted.
    pub pinned: BTreeSet<String>,
    /// The order of the built-in chains that have rules, foreign ones too.
    pub(super) layouts: BTreeMap<Builtin, Layout>,
}

/// The rules of a built-in chain that lead to a chain of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookState {
    pub copies: Vec<String>,
    /// Whether the first copy stands where it belongs.
    pub in_place: bool,
}

impl Listing {
    pub fn parse(text: &str) -> Self {
        Self::parse_for(text, &[CHAIN_PREFIX], is_our_chain)
    }

    /// As [`Self::parse`] for the chains that `mine` knows by name; all of them begin with one of `prefixes`.
    pub fn parse_for(text: &str, prefixes: &[&str], mine: impl Fn(&str) -> bool) -> Self {
        let mut listing = Listing::default();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("-N ") {
                if mine(name) {
                    listing.chains.entry(name.to_owned()).or_default();
                }
                continue;
            }
            // A rule without match and target is only counted: `-A CHAIN`.
            let Some(rest) = line.strip_prefix("-A ") else { continue };
            let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            if mine(chain) {
                match listing.chains.get_mut(chain) {
                    Some(rules) => rules.push(rule.to_owned()),
                    None => drop(listing.chains.insert(chain.to_owned(), vec![rule.to_owned()])),
                }
                continue;
            }
            let builtin = Builtin::parse(chain);
            // Nearly every foreign rule is done with here.
            let target = if prefixes.iter().any(|prefix| rule.contains(prefix)) { target(rule) } else { None };
            let target = target.filter(|target| mine(target));
            match (builtin, target) {
                (Some(builtin), Some(target)) => listing.lead(builtin, target, rule),
                (Some(builtin), None) => listing.layouts.entry(builtin).or_default().push(Seen::foreign(rule)),
                (None, Some(target)) => drop(listing.pinned.insert(target.to_owned())),
                (None, None) => {}
            }
        }
        for (lead, states) in [(Lead::Hook, &mut listing.hooks), (Lead::Pass, &mut listing.passes)] {
            for (builtin, state) in states {
                state.in_place = listing.layouts.get(builtin).is_some_and(|layout| layout.in_place(lead));
            }
        }
        listing
    }

    fn lead(&mut self, builtin: Builtin, target: &str, rule: &str) {
        let lead = Lead::of(target);
        self.layouts.entry(builtin).or_default().push(Seen::Ours(lead));
        let states = if lead == Lead::Pass { &mut self.passes } else { &mut self.hooks };
        states.entry(builtin).or_default().copies.push(rule.to_owned());
    }

    /// Whether nothing is there of those whom it is about.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.hooks.is_empty() && self.passes.is_empty() && self.pinned.is_empty()
    }
}

/// What a rule jumps or goes to.
fn target(rule: &str) -> Option<&str> {
    let mut words = unquoted_words(rule);
    words.find(|w| *w == "-j" || *w == "-g")?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_chains_and_the_rules_that_lead_to_them_are_found_among_foreign_ones() {
        let listing = Listing::parse(
            "-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-N KUBE-SERVICES\n-N SMARTNAT-DNAT\n-N SMARTNAT-EMPTY\n\
             -A PREROUTING -m comment --comment \"a \\\" -j SMARTNAT-NO\" -j KUBE-SERVICES\n\
             -A PREROUTING -j SMARTNAT-DNAT\n-A PREROUTING -s 10.0.0.0/8 -g SMARTNAT-DNAT\n-A INPUT -j SMARTNAT-EMPTY\n\
             -A KUBE-SERVICES -j SMARTNAT-EMPTY\n\
             -A SMARTNAT-DNAT -s 1.2.3.4/32 -j RETURN\n-A SMARTNAT-DNAT -j ACCEPT\n",
        );
        assert_eq!(
            listing.chains,
            BTreeMap::from([
                ("SMARTNAT-DNAT".to_owned(), vec!["-s 1.2.3.4/32 -j RETURN".to_owned(), "-j ACCEPT".to_owned()]),
                ("SMARTNAT-EMPTY".to_owned(), vec![]),
            ])
        );
        let pre = &listing.hooks[&Builtin::Prerouting];
        assert_eq!(pre.copies, ["-j SMARTNAT-DNAT", "-s 10.0.0.0/8 -g SMARTNAT-DNAT"]);
        assert!(!pre.in_place);
        assert!(listing.hooks[&Builtin::Input].in_place);
        assert_eq!(listing.pinned, BTreeSet::from(["SMARTNAT-EMPTY".to_owned()]));
    }

    #[test]
    fn a_pass_is_told_from_a_hook_and_its_place_from_the_whole_chain() {
        let pass = "-A INPUT -j SMARTNAT-PASS-IN\n";
        let text =
            |behind: &str| format!("-A INPUT -j SMARTNAT-REFUSE\n-A INPUT -s 10.0.0.0/8 -j DROP\n{pass}{behind}");
        for (behind, expected) in
            [("", true), ("-A INPUT -j DROP\n", true), ("-A INPUT -s 10.0.0.1/32 -j DROP\n", false)]
        {
            let listing = Listing::parse(&text(behind));
            assert_eq!(listing.passes[&Builtin::Input].in_place, expected, "{behind}");
            assert_eq!(listing.passes[&Builtin::Input].copies, ["-j SMARTNAT-PASS-IN"]);
            assert_eq!(listing.hooks[&Builtin::Input].copies, ["-j SMARTNAT-REFUSE"]);
            assert!(listing.hooks[&Builtin::Input].in_place);
        }
    }

    #[test]
    fn a_chain_name_inside_a_comment_is_no_target() {
        assert_eq!(target("-m comment --comment \"x -j SMARTNAT-A\" -j ACCEPT"), Some("ACCEPT"));
        assert_eq!(target("-m comment --comment SMARTNAT-A -g SMARTNAT-B"), Some("SMARTNAT-B"));
        assert_eq!(target("-m comment --comment \"open -j SMARTNAT-A"), None);
    }
}
