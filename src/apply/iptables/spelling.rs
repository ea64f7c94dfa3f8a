//! Other spellings of our rules. A tool of another version may print a rule in other words than ours; what it prints right after we wrote
//! a rule is that rule, and is taken as equal from then on, instead of rewriting it for ever.

use std::collections::HashMap;
use std::fmt::Write;

use crate::model::Family;
use crate::ruleset::Rule;

#[derive(Debug, Default)]
pub struct Spelling {
    /// Our text of a rule -> the tool's.
    known: HashMap<String, String>,
}

impl Spelling {
    /// Beyond it all is forgotten and learned again with the next writes.
    const LIMIT: usize = 65_536;

    pub fn same(&self, ours: &str, theirs: &str) -> bool {
        ours == theirs || self.known.get(ours).is_some_and(|text| text == theirs)
    }

    pub fn same_chain(&self, family: Family, chain: &[Rule], lines: &[String]) -> bool {
        let mut text = String::new();
        chain.len() == lines.len()
            && chain.iter().zip(lines).all(|(rule, line)| {
                text.clear();
                // Writing to a String cannot fail.
                let _ = write!(text, "{}", rule.spelled(family));
                self.same(&text, line)
            })
    }

    /// Takes the tool's text of a rule that was just written. Returns whether it differs from ours.
    pub fn learn(&mut self, ours: &str, theirs: &str) -> bool {
        if ours == theirs {
            return false;
        }
        if self.known.is_empty() {
            tracing::debug!(ours, theirs, "iptables spells our rules in another way; taken as equal");
        }
        if self.known.len() >= Self::LIMIT {
            self.known.clear();
        }
        self.known.insert(ours.to_owned(), theirs.to_owned());
        true
    }

    /// Nothing is learned from a chain with another number of rules: somebody else changed it meanwhile.
    pub fn learn_chain(&mut self, family: Family, chain: &[Rule], lines: &[String]) -> bool {
        chain.len() == lines.len()
            && chain.iter().zip(lines).fold(false, |any, (rule, line)| self.learn(&rule.spelled(family), line) || any)
    }
}
