//! Slots: small numbers that stand for an external interface's name in marks and table numbers.
//!
//! A slot belongs to a name, not to an ifindex: a NIC that comes back under another index keeps its connections. The kernel remembers for
//! us: the policy rule `oif NAME lookup BASE+SLOT` stays while the interface is away.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BorderConfig, InterfaceName};
use crate::ruleset::{LOCAL_TABLE, PolicyRule, RuleSelector};

/// Slots that our policy rules in the kernel remember.
pub fn remembered(config: &BorderConfig, own_rules: &[PolicyRule]) -> BTreeMap<InterfaceName, u16> {
    own_rules
        .iter()
        .filter_map(|rule| match &rule.selector {
            RuleSelector::OutInterface(name) => {
                // A twin remembers nothing, wherever the tables of slots begin.
                let table = rule.table().filter(|table| *table != LOCAL_TABLE)?;
                let slot = u16::try_from(table.checked_sub(config.route_table_base)?).ok()?;
                (1..=config.marks.max_slot()).contains(&slot).then(|| (name.clone(), slot))
            }
            _ => None,
        })
        .collect()
}

/// Keeps what was given, drops names that are external no more, and gives new names the slot that their name prefers, or the next free
/// one. So slots depend on history only where two names prefer the same one. Names for which none is left are missing from the answer.
pub fn assign(
    kept: &BTreeMap<InterfaceName, u16>,
    present: &BTreeSet<InterfaceName>,
    is_external: impl Fn(&str) -> bool,
    max: u16,
) -> BTreeMap<InterfaceName, u16> {
    let mut taken = BTreeSet::new();
    let mut slots: BTreeMap<InterfaceName, u16> = kept
        .iter()
        .filter(|(name, slot)| is_external(name) && (1..=max).contains(*slot) && taken.insert(**slot))
        .map(|(name, slot)| (name.clone(), *slot))
        .collect();
    for name in present {
        if slots.contains_key(name) {
            continue;
        }
        let first = preferred(name, max);
        let Some(slot) = (first..=max).chain(1..first).find(|slot| taken.insert(*slot)) else { break };
        slots.insert(name.clone(), slot);
    }
    slots
}

/// The number that the name ends in (eth1: 1), or one made of its bytes.
fn preferred(name: &str, max: u16) -> u16 {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    match name[name.len() - digits..].parse() {
        Ok(number) if (1..=max).contains(&number) => number,
        _ => {
            let sum = name.bytes().fold(0u32, |acc, byte| acc.wrapping_mul(31).wrapping_add(u32::from(byte)));
            // Below max, which is a u16.
            (sum % u32::from(max)) as u16 + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn rules_that_look_into_tables_of_slots_are_remembered_and_twins_never() {
        let rule = |priority, name: &str, table| {
            PolicyRule::lookup(Family::Ipv4, priority, RuleSelector::OutInterface(name.to_owned()), table)
        };
        let mut config = crate::plan::resolve_tests::config();
        let rules = [rule(109, "eth1", LOCAL_TABLE), rule(110, "eth1", 1001), rule(109, "eth2", LOCAL_TABLE)];
        assert_eq!(remembered(&config, &rules), BTreeMap::from([("eth1".to_owned(), 1)]));
        config.route_table_base = 200;
        assert_eq!(remembered(&config, &rules[2..]), BTreeMap::new());
    }

    #[test]
    fn a_slot_is_the_number_that_the_name_ends_in() {
        let slots = assign(&BTreeMap::new(), &names(&["eth1", "eth12", "wan"]), |_| true, 4094);
        assert_eq!((slots["eth1"], slots["eth12"]), (1, 12));
        assert!((1..=4094).contains(&slots["wan"]));
    }

    #[test]
    fn an_interface_that_went_away_keeps_its_slot_and_a_newcomer_gets_another() {
        let first = assign(&BTreeMap::new(), &names(&["eth1", "eth2"]), |_| true, 10);
        let without_eth1 = assign(&first, &names(&["wan1", "eth2"]), |_| true, 10);
        assert_eq!(without_eth1["eth1"], 1);
        assert_eq!(without_eth1["eth2"], 2);
        assert_eq!(without_eth1["wan1"], 3);
    }

    #[test]
    fn a_name_that_is_external_no_more_frees_its_slot() {
        let kept = BTreeMap::from([("eth1".to_owned(), 1), ("wan0".to_owned(), 2)]);
        let slots = assign(&kept, &names(&["eth2"]), |n| n.starts_with("eth"), 10);
        assert_eq!(slots, BTreeMap::from([("eth1".to_owned(), 1), ("eth2".to_owned(), 2)]));
    }

    #[test]
    fn names_beyond_the_last_slot_get_none() {
        let slots = assign(&BTreeMap::new(), &names(&["eth1", "eth2", "eth3"]), |_| true, 2);
        assert_eq!(slots.keys().collect::<Vec<_>>(), ["eth1", "eth2"]);
    }
}
