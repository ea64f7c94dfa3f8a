//! Which chains together show every form of rule that was written, and how the tool spells those.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};

use super::change::{Change, TableState};
use super::listing::Listing;
use super::words::words;
use crate::apply::tool::{ToolError, Tools};

/// Chains that are read at the most: a rule of our own has some twenty forms.
const MOST: usize = 48;

impl<'a> Change<'a> {
    /// A few of its chains, in which each form of rule stands once.
    pub fn sample(&self) -> Change<'a> {
        let mut seen = HashSet::new();
        let mut text = String::new();
        let chosen = self.filled().filter(|(_, chain)| {
            // All of its rules are looked at.
            chain.iter().fold(false, |new, rule| {
                text.clear();
                // Writing to a String cannot fail.
                let _ = write!(text, "{}", rule.spelled(self.family));
                seen.insert(form(&text)) || new
            })
        });
        let chosen = chosen.take(MOST).collect();
        self.with_filled(chosen)
    }
}

/// Whether a word is an option or one of its fixed values, or a target of iptables' own. Names of our chains and sets are not: they end
/// in a digest, which may have no digit.
fn is_vocabulary(word: &str) -> bool {
    let letters = || word.bytes().filter(|b| *b != b'-');
    letters().all(|b| b.is_ascii_lowercase()) || letters().all(|b| b.is_ascii_uppercase())
}

/// Rules are of one form if they have the same options, and values that differ in letters and digits only.
fn form(rule: &str) -> u64 {
    let mut form = DefaultHasher::new();
    let mut option = "";
    for word in words(rule) {
        if option == "--comment" {
            word.starts_with('"').hash(&mut form);
        } else if is_vocabulary(word) {
            word.hash(&mut form);
        } else {
            let mut last = 0;
            for byte in word.bytes().map(|b| if b.is_ascii_alphanumeric() { b'a' } else { b }) {
                if byte != last {
                    byte.hash(&mut form);
                }
                last = byte;
            }
            b' '.hash(&mut form);
        }
        option = word;
    }
    form.finish()
}

/// Reads the chains of a sample one by one: that takes as long in a large table as in a small one.
pub async fn read(tools: &Tools, sample: &Change<'_>) -> Result<TableState, ToolError> {
    let mut text = String::new();
    for chain in sample.filled().map(|(name, _)| &**name).chain(sample.inserts().map(|builtin| builtin.as_str())) {
        text += &tools.iptables(sample.family, &["-t", sample.table.as_str(), "-S", chain]).await?;
    }
    Ok(TableState::from(Listing::parse(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_make_a_form_and_what_a_tool_may_spell_otherwise_does() {
        let base = "-m comment --comment ns/a:tcp/80 -m set ! --match-set SN-S-abc123 src -j RETURN";
        assert_eq!(form(base), form(&base.replace("ns/a:tcp/80", "b").replace("abc123", "2zz4")));
        assert_eq!(form(base), form(&base.replace("abc123", "abcdef")));
        for (from, to) in [("ns/a:tcp/80", "\"a b\""), ("! ", ""), ("src", "dst,dst"), ("RETURN", "ACCEPT")] {
            assert_ne!(form(base), form(&base.replace(from, to)), "{to}");
        }
        let mark = "-j CONNMARK --set-xmark 0x1/0xf";
        assert_eq!(form(mark), form(&mark.replace("0x1", "0xa0")));
        assert_ne!(form("-p tcp -m tcp --dport 80 -g A-1"), form("-p tcp -m tcp --dport 80:90 -g A-1"));
        assert_ne!(
            form("-p tcp -j DNAT --to-destination 10.0.0.1:80"),
            form("-p tcp -j DNAT --to-destination 10.0.0.1")
        );
    }
}
