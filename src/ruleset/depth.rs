use std::collections::BTreeMap;

use super::{Builtin, Rule, TableRules};

/// Chains on the longest way from a built-in chain to a last chain, gotos counted like jumps, the built-in chain not counted: what
/// the kernel limits to [`super::ownership::MAX_CHAIN_DEPTH`] (nft_chain_validate). A chain that is not there counts as one.
///
/// Chains that lead back to themselves have no longest way: `usize::MAX`, which the kernel refuses too.
pub fn depth(rules: &TableRules, hook: Builtin) -> usize {
    let mut known = BTreeMap::new();
    rules.of_builtin(hook).map(|rule| below(rules, std::slice::from_ref(rule), &mut known)).max().unwrap_or(0)
}

/// The longest way that begins with one of these rules. `known` holds finished chains, and `usize::MAX` for those under way, so that
/// meeting one again saturates.
fn below<'a>(rules: &'a TableRules, chain: &'a [Rule], known: &mut BTreeMap<&'a str, usize>) -> usize {
    let mut longest = 0;
    for name in chain.iter().filter_map(|rule| rule.target.chain()) {
        let further = match known.get(name) {
            Some(depth) => *depth,
            None => {
                known.insert(name, usize::MAX);
                let further = rules.chains.get(name).map_or(0, |chain| below(rules, chain, known));
                known.insert(name, further);
                further
            }
        };
        longest = longest.max(further.saturating_add(1));
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::Target;

    fn goto(chain: &str) -> Rule {
        Rule::new([], Target::Goto(chain.to_owned()))
    }

    fn jump(chain: &str) -> Rule {
        Rule::new([], Target::Jump(chain.to_owned()))
    }

    fn table(chains: &[(&str, Vec<Rule>)]) -> TableRules {
        TableRules {
            chains: chains.iter().map(|(name, rules)| ((*name).into(), rules.as_slice().into())).collect(),
            hooks: [(Builtin::Prerouting, jump("A"))].into(),
            ..TableRules::default()
        }
    }

    #[test]
    fn the_longest_way_counts_and_gotos_count_like_jumps() {
        let rules =
            table(&[("A", vec![goto("B"), jump("C")]), ("B", vec![]), ("C", vec![goto("D")]), ("D", vec![goto("B")])]);
        assert_eq!(depth(&rules, Builtin::Prerouting), 4, "A, C, D, B");
        assert_eq!(depth(&rules, Builtin::Input), 0, "no hook, no chain");
    }

    #[test]
    fn a_loop_is_infinitely_deep() {
        let rules = table(&[("A", vec![goto("B")]), ("B", vec![goto("A")])]);
        assert_eq!(depth(&rules, Builtin::Prerouting), usize::MAX);
    }
}
