//! Reading `iptables -S`: our chains whole, of everything else only where it leads to one of them. Or those of whoever is asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::ruleset::Builtin;
use crate::ruleset::ownership::{CHAIN_PREFIX, is_our_chain};

/// What one table holds on our behalf. Rules are in the spelling of the tool, without `-A CHAIN`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub chains: BTreeMap<String, Vec<String>>,
    pub hooks: BTreeMap<Builtin, HookState>,
    /// Chains of ours that a foreign chain leads to: they cannot be deleted.
    pub pinned: BTreeSet<String>,
}

/// The rules of a built-in chain that lead to a chain of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookState {
    pub copies: Vec<String>,
    /// Whether the first copy is the first rule of its built-in chain.
    pub first: bool,
}

impl Listing {
    pub fn parse(text: &str) -> Self {
        Self::parse_for(text, &[CHAIN_PREFIX], is_our_chain)
    }

    /// As [`Self::parse`] for the chains that `mine` knows by name; all of them begin with one of `prefixes`.
    pub fn parse_for(text: &str, prefixes: &[&str], mine: impl Fn(&str) -> bool) -> Self {
        let mut listing = Listing::default();
        // The built-in chain that is being listed, if a foreign or own rule of it was seen: only the first rule can be a hook in place.
        let mut begun: BTreeSet<Builtin> = BTreeSet::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("-N ") {
                if mine(name) {
                    listing.chains.entry(name.to_owned()).or_default();
                }
                continue;
            }
            let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) else { continue };
            if mine(chain) {
                match listing.chains.get_mut(chain) {
                    Some(rules) => rules.push(rule.to_owned()),
                    None => drop(listing.chains.insert(chain.to_owned(), vec![rule.to_owned()])),
                }
                continue;
            }
            let builtin = Builtin::parse(chain);
            let first = builtin.is_some_and(|b| begun.insert(b));
            // Nearly every foreign rule is done with here.
            if !prefixes.iter().any(|prefix| rule.contains(prefix)) {
                continue;
            }
            let Some(target) = target(rule).filter(|target| mine(target)) else { continue };
            match builtin {
                Some(builtin) => listing
                    .hooks
                    .entry(builtin)
                    .or_insert(HookState { copies: Vec::new(), first })
                    .copies
                    .push(rule.to_owned()),
                None => drop(listing.pinned.insert(target.to_owned())),
            }
        }
        listing
    }
}

/// What a rule jumps or goes to.
fn target(rule: &str) -> Option<&str> {
    let mut words = unquoted_words(rule);
    words.find(|w| *w == "-j" || *w == "-g")?;
    words.next()
}

/// Words outside of double quotes (a comment may contain anything).
pub fn unquoted_words(rule: &str) -> impl Iterator<Item = &str> {
    let mut rest = rule;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start_matches(' ');
            if let Some(quoted) = rest.strip_prefix('"') {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let closes = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    closes
                });
                rest = end.map_or("", |end| &quoted[end + 1..]);
                continue;
            }
            if rest.is_empty() {
                return None;
            }
            let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = tail;
            return Some(word);
        }
    })
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
        assert!(!pre.first);
        assert!(listing.hooks[&Builtin::Input].first);
        assert_eq!(listing.pinned, BTreeSet::from(["SMARTNAT-EMPTY".to_owned()]));
    }

    #[test]
    fn a_chain_name_inside_a_comment_is_no_target() {
        assert_eq!(target("-m comment --comment \"x -j SMARTNAT-A\" -j ACCEPT"), Some("ACCEPT"));
        assert_eq!(target("-m comment --comment SMARTNAT-A -g SMARTNAT-B"), Some("SMARTNAT-B"));
        assert_eq!(target("-m comment --comment \"open -j SMARTNAT-A"), None);
    }
}
