//! Names that others chose, in everything that a plan says: each means itself there, or does not stand there.

use std::collections::BTreeSet;

use proptest::prelude::*;
use smartnat::apply::iptables::Listing;
use smartnat::model::{Link, LinkStack, World, check_interface_name, name_of_bytes};
use smartnat::plan::{InterfaceKind, Plan, plan};
use smartnat::ruleset::{Match, Rule, Sysctl};

use crate::world::{Spec, config, world};

/// What dev_valid_name lets through: no slash, colon or white space (0xa0 is white to the kernel), 1 to 15 bytes.
fn kernel_name() -> impl Strategy<Value = Vec<u8>> {
    let any = proptest::num::u8::ANY
        .prop_filter("a byte of a name", |b| !matches!(b, 0 | b'/' | b':' | b' ' | 9..=13 | 0xa0));
    let odd = prop::sample::select(br#"+"'\`!-*#;$%&|<>(){}[]=,@.~^?ceth01"#.to_vec());
    let byte = prop_oneof![1 => any, 6 => odd];
    let free = prop::collection::vec(byte.clone(), 1..=15).prop_filter("a name", |n| n != b"." && n != b"..");
    // Names that are near others in the world.
    let near = (
        prop::sample::select(vec!["eth1", "eth0", "cali1", "eth", "all", "default", "-j", "lo"]),
        prop::collection::vec(byte, 0..3),
    )
        .prop_map(|(text, mut tail)| {
            let mut name = text.as_bytes().to_vec();
            name.append(&mut tail);
            name
        });
    prop_oneof![free, near]
}

/// The words that iptables-restore makes of a line (add_param_to_argv in iptables/xshared.c).
fn restore_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped, mut open) = (Vec::new(), String::new(), false, false, false);
    for c in line.chars().chain([' ']) {
        match c {
            _ if open && escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if open => escaped = true,
            '"' => {
                open = !open;
                quoted = true;
            }
            _ if open => word.push(c),
            ' ' | '\t' | '\n' if word.is_empty() && !quoted => {}
            ' ' | '\t' | '\n' => {
                words.push(std::mem::take(&mut word));
                quoted = false;
            }
            _ => word.push(c),
        }
    }
    words
}

/// Whether iptables takes a packet from this interface for one that `word` names.
fn covers(word: &str, name: &str) -> bool {
    word.strip_suffix('+').map_or(word == name, |beginning| name.starts_with(beginning))
}

/// Each rule is one line, the tool reads from it the interfaces that are meant, and a listing with it is read back as it was.
fn check_rules(plan: &Plan) -> Result<Vec<(Rule, Vec<String>)>, TestCaseError> {
    let mut read = Vec::new();
    for ((family, _), rules) in &plan.dataplane.tables {
        for (chain, rule) in rules.chains.iter().flat_map(|(name, chain)| chain.iter().map(move |rule| (name, rule))) {
            let text = rule.spelled(*family);
            prop_assert!(!text.contains(char::is_control), "{text:?}");
            let words = restore_words(&text);
            let named = |option: &str| -> Vec<String> {
                let pairs = words.iter().zip(words.iter().skip(1));
                pairs.filter(|(word, _)| *word == option).map(|(_, name)| name.clone()).collect()
            };
            let meant =
                |of: fn(&Match) -> Option<&String>| rule.matches.iter().filter_map(of).cloned().collect::<Vec<_>>();
            let ins = meant(|m| if let Match::InInterface(name) = m { Some(name) } else { None });
            let outs = meant(|m| if let Match::OutInterface(name) = m { Some(name) } else { None });
            prop_assert_eq!(named("-i"), ins.clone(), "{}", text);
            prop_assert_eq!(named("-o"), outs.clone(), "{}", text);
            let listing = Listing::parse(&format!("-N {chain}\n-A {chain} {text}\n"));
            prop_assert_eq!(&listing.chains[&**chain], &vec![text]);
            read.push((rule.clone(), ins.into_iter().chain(outs).collect()));
        }
    }
    Ok(read)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_name_in_a_rule_means_one_interface(
        names in prop::collection::btree_set(kernel_name(), 1..12),
        above in prop::collection::vec(any::<bool>(), 12),
        pattern in prop::sample::select(vec!["eth[1-9][0-9]*", "eth.*", "e.*", ".*\\+"]),
        prefixes in prop::sample::select(vec![vec![], vec!["cali".to_owned()], vec!["e".to_owned(), "c".to_owned(), "a".to_owned(), "d".to_owned()]]),
    ) {
        let mut config = config();
        config.external_pattern = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        config.inside_prefixes = prefixes;
        config.snat = true;
        let mut world: World = world(&[Spec::direct("web", [0], &[(smartnat::model::Protocol::Tcp, 80)])]);
        for (i, (name, above)) in names.iter().zip(above).enumerate() {
            let stack = LinkStack { lower: above.then(|| "eth1".to_owned()).into_iter().collect(), ..LinkStack::default() };
            let link = Link { index: 100 + i as u32, up: true, stack, ..Link::default() };
            world.host.links.entry(name_of_bytes(name)).or_insert(link);
        }
        let plan = plan(&config, &world);
        let kinds = |wanted: &[InterfaceKind]| -> BTreeSet<String> {
            plan.interfaces.iter().filter(|i| wanted.contains(&i.kind)).map(|i| i.name.clone()).collect()
        };
        let inside = kinds(&[InterfaceKind::Inside, InterfaceKind::Gateway]);
        let outside = kinds(&[InterfaceKind::External, InterfaceKind::AboveExternal, InterfaceKind::Closed]);
        prop_assert_eq!(inside.len() + outside.len(), world.host.links.len());

        for (rule, named) in check_rules(&plan)? {
            for word in named {
                let covered: BTreeSet<&String> = world.host.links.keys().filter(|name| covers(&word, name)).collect();
                match word.strip_suffix('+') {
                    Some(prefix) => {
                        prop_assert!(config.inside_prefixes.iter().any(|p| p == prefix), "{rule}");
                        prop_assert!(covered.iter().all(|name| inside.contains(*name)), "{rule} covers {covered:?}");
                    }
                    None => {
                        prop_assert!(check_interface_name(&word).is_ok(), "{rule}");
                        prop_assert_eq!(covered.into_iter().collect::<Vec<_>>(), vec![&word]);
                    }
                }
            }
        }
        for sysctl in plan.dataplane.sysctls.keys() {
            if let Sysctl::Interface { interface, .. } = sysctl {
                let one = check_interface_name(interface).is_ok() && world.host.links.contains_key(interface);
                prop_assert!(interface == "all" || one, "{sysctl}");
            }
        }
        // Whoever is left out is told of, with a remedy.
        for i in plan.interfaces.iter().filter(|i| check_interface_name(&i.name).is_err()) {
            let prefixed = plan.interfaces.iter().any(|_| config.inside_prefixes.iter().any(|p| i.name.starts_with(p.as_str())));
            prop_assert!(i.slot.is_none());
            prop_assert!(i.problem.is_some() || i.kind == InterfaceKind::Inside && prefixed, "{i:?}");
        }
    }

    #[test]
    fn a_comment_is_one_word_whatever_an_object_is_called(namespace in ".{0,120}", name in ".{0,200}") {
        let mut world = world(&[Spec::direct("web", [0], &[(smartnat::model::Protocol::Tcp, 80)])]);
        let objects = std::sync::Arc::make_mut(world.objects.as_mut().unwrap());
        let key = smartnat::model::ObjectKey::new("default", "web");
        let odd = smartnat::model::ObjectKey::new(namespace.as_str(), name.as_str());
        let mut mapping = objects.mappings.remove(&key).unwrap();
        std::sync::Arc::make_mut(&mut mapping).spec.service_name = name.clone();
        objects.mappings.insert(odd.clone(), mapping);
        let service = objects.services.remove(&key).unwrap();
        objects.services.insert(odd, service);
        let plan = plan(&config(), &world);
        check_rules(&plan)?;
        for rule in plan.dataplane.tables.values().flat_map(|t| t.chains.values()).flat_map(|chain| chain.iter()) {
            let Some(Match::Comment(comment)) = rule.matches.iter().find(|m| matches!(m, Match::Comment(_))) else { continue };
            prop_assert!(comment.len() < 256, "{} bytes", comment.len());
            let words = restore_words(&rule.to_string());
            let place = words.iter().position(|w| w == "--comment").unwrap();
            let wanted: String = comment.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            prop_assert_eq!(&words[place + 1], &wanted);
        }
    }
}
