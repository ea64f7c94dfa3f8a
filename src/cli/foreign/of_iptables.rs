//! From what iptables-save tells to the common vocabulary.

use std::collections::BTreeMap;

use super::bits::{Bits, number};
use super::packet::{DNAT, MANGLE, SNAT};
use super::rule::{Action, Base, Chain, Condition, Effect, Origin, Rule, Step, Table};
use crate::apply::iptables::words;
use crate::ruleset::ownership;

/// All tables of one iptables-save, without the rules of our own chains.
pub(super) fn tables(save: &str, family: &str, origin: Origin, shared: bool) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let (family, name) = (family.to_owned(), name.to_owned());
            tables.push(Table { origin, shared, family, name, chains: BTreeMap::new() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some((name, rest)) = line.strip_prefix(':').and_then(|l| l.split_once(' ')) {
            if !ownership::is_our_chain(name) {
                let base = base(origin, &table.name, name, rest.starts_with("DROP"));
                table.chains.insert(name.to_owned(), Chain { base, rules: Vec::new() });
            }
        } else if let Some((chain, text)) = line.strip_prefix("-A ").and_then(|l| l.split_once(' '))
            && let Some(chain) = table.chains.get_mut(chain)
        {
            chain.rules.push(rule(text));
        }
    }
    tables
}

fn base(origin: Origin, table: &str, chain: &str, drops: bool) -> Option<Base> {
    let hook = match chain {
        "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING" => chain.to_lowercase(),
        _ => return None,
    };
    let priority = match (table, chain) {
        ("raw", _) => -300,
        ("mangle", _) => MANGLE,
        ("nat", "PREROUTING" | "OUTPUT") => DNAT,
        ("nat", _) => SNAT,
        ("security", _) if origin == Origin::IptablesLegacy => 50,
        ("security", _) => 150,
        _ => 0,
    };
    let kind = if table == "nat" { "nat" } else { "filter" }.to_owned();
    Some(Base { kind, hook, priority, drops })
}

/// `text`: without `-A CHAIN`.
pub(super) fn rule(text: &str) -> Rule {
    let mut words = words(text).peekable();
    let (mut steps, mut invert, mut module) = (Vec::new(), false, "");
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        let condition = match word {
            "!" => {
                invert = true;
                continue;
            }
            "-m" => {
                module = value();
                // Options of these are known below; that of the protocols' own come by themselves.
                match module {
                    "comment" | "conntrack" | "connmark" | "mark" | "state" | "tcp" | "udp" | "addrtype" => continue,
                    _ => Condition::Unknown,
                }
            }
            "--comment" => {
                value();
                continue;
            }
            "-j" | "-g" => {
                let target = value();
                let rest: Vec<&str> = words.by_ref().collect();
                if let Some(at) = rest.iter().position(|w| *w == "--tproxy-mark") {
                    let (mark, mask) = masked(rest.get(at + 1).copied().unwrap_or_default());
                    let bits = Bits::PACKET.and(Bits::of(!mask)).xor(Bits::of(mark));
                    steps.push(Step::Do(Action::Mark(bits.written(false))));
                }
                steps.extend(target_of(word == "-g", target, &rest).map(Step::Do));
                break;
            }
            "-i" => Condition::In { names: vec![pattern(value())], invert },
            "-o" => Condition::Out { names: vec![pattern(value())], invert },
            "-s" => net(value()).map_or(Condition::Unknown, |n| Condition::Source { nets: vec![n], invert }),
            "-d" => net(value()).map_or(Condition::Unknown, |n| Condition::Destination { nets: vec![n], invert }),
            "-p" => Condition::Protocol { any: vec![value().to_owned()], invert },
            "--ctstate" | "--state" => {
                let any = value().split(',').map(str::to_lowercase).collect();
                Condition::State { any, invert }
            }
            "--ctdir" => Condition::Original { invert: invert != (value() == "REPLY") },
            "--mark" => {
                let (mark, mask) = masked(value());
                match module {
                    "connmark" => Condition::ConnMark { mask, value: mark, invert },
                    _ => Condition::Mark { mask },
                }
            }
            _ => Condition::Unknown,
        };
        invert = false;
        steps.push(Step::If(condition));
    }
    Rule { text: crate::model::printable(text).into_owned(), steps }
}

fn target_of(goto: bool, target: &str, rest: &[&str]) -> Option<Action> {
    let option = |name: &str| rest.windows(2).find(|w| w[0] == name).map(|w| w[1]);
    match target {
        "ACCEPT" => Some(Action::Accept),
        "RETURN" => Some(Action::Return),
        "CT" if rest.contains(&"--notrack") => Some(Action::Does(Effect::NoTrack)),
        "CT" => None,
        "MARK" => Some(Action::Mark(mark(false, rest, option).written(false))),
        // Restoring writes the packet's mark.
        "CONNMARK" => Some(Action::Mark(mark(true, rest, option).written(!rest.contains(&"--restore-mark")))),
        other => match Effect::of_target(other) {
            Some(effect) => effect.map(Action::Does),
            None if goto => Some(Action::Goto(other.to_owned())),
            None => Some(Action::Jump(other.to_owned())),
        },
    }
}

/// What MARK and CONNMARK compute. iptables-save writes every setting as `--set-xmark`.
fn mark<'a>(connection: bool, rest: &[&str], option: impl Fn(&str) -> Option<&'a str>) -> Bits {
    let own = if connection { Bits::CONNECTION } else { Bits::PACKET };
    let all = |name| option(name).map_or(u32::MAX, number);
    if let Some(set) = option("--set-xmark").or_else(|| option("--set-mark")) {
        let (value, mask) = masked(set);
        return own.and(Bits::of(!mask)).xor(Bits::of(value));
    }
    let (nfmask, ctmask) = (all("--nfmask"), all("--ctmask"));
    if rest.contains(&"--restore-mark") {
        return Bits::PACKET.and(Bits::of(!nfmask)).xor(Bits::CONNECTION.and(Bits::of(ctmask)));
    }
    if rest.contains(&"--save-mark") {
        return Bits::CONNECTION.and(Bits::of(!ctmask)).xor(Bits::PACKET.and(Bits::of(nfmask)));
    }
    match (option("--and-mark"), option("--or-mark"), option("--xor-mark")) {
        (Some(and), _, _) => own.and(Bits::of(number(and))),
        (_, Some(or), _) => own.or(Bits::of(number(or))),
        (_, _, Some(xor)) => own.xor(Bits::of(number(xor))),
        _ => Bits::default(),
    }
}

/// `VALUE/MASK`, or a value that means all bits.
fn masked(text: &str) -> (u32, u32) {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    (number(value), number(mask))
}

fn net(text: &str) -> Option<ipnet::IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(crate::model::host_net))
}

/// `eth+` of iptables is `eth*` of nft.
fn pattern(name: &str) -> String {
    name.strip_suffix('+').map_or_else(|| name.to_owned(), |beginning| format!("{beginning}*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_mark(text: &str) -> super::super::rule::MarkWrite {
        match &rule(text).steps[..] {
            [.., Step::Do(Action::Mark(write))] => *write,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn conditions_and_targets_are_read() {
        let found = rule(
            "-i eth+ -m comment --comment \"a -j DROP\" -m conntrack ! --ctstate RELATED,DNAT -j REJECT --reject-with x",
        );
        let states = vec!["related".to_owned(), "dnat".to_owned()];
        assert_eq!(
            found.steps,
            [
                Step::If(Condition::In { names: vec!["eth*".to_owned()], invert: false }),
                Step::If(Condition::State { any: states, invert: true }),
                Step::Do(Action::Does(Effect::Reject)),
            ]
        );
        let odd = rule("-i a\"b -j DROP");
        assert_eq!(odd.steps.last(), Some(&Step::Do(Action::Does(Effect::Drop))), "a quote in a name is no quote");
        let limited = rule("-m limit --limit 5/min -j DROP");
        assert!(limited.steps.contains(&Step::If(Condition::Unknown)), "{limited:?}");
        assert_eq!(rule("-j NEW-TARGET").steps, [Step::Do(Action::Jump("NEW-TARGET".to_owned()))]);
        let ports = rule("-p tcp -m tcp --dport 1");
        let tcp = Condition::Protocol { any: vec!["tcp".to_owned()], invert: false };
        assert_eq!(ports.steps[0], Step::If(tcp));
        assert!(ports.steps[1..].iter().all(|s| *s == Step::If(Condition::Unknown)), "{ports:?}");
    }

    #[test]
    fn marks_are_computed_with_their_masks() {
        assert_eq!(only_mark("-j MARK --set-xmark 0x1/0xff").touched, 0xff);
        assert_eq!(only_mark("-j MARK --set-xmark 0x1/0xffffffff").touched, u32::MAX);
        let restored = only_mark("-j CONNMARK --restore-mark --nfmask 0xff00 --ctmask 0xff00");
        assert_eq!((restored.connection, restored.touched, restored.copied), (false, 0xff00, 0xff00));
        let saved = only_mark("-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff");
        assert_eq!((saved.connection, saved.touched, saved.copied), (true, u32::MAX, u32::MAX));
    }

    #[test]
    fn security_has_another_place_in_the_legacy_variant() {
        let priority = |origin| {
            let tables = tables("*security\n:INPUT ACCEPT [0:0]\nCOMMIT\n", "ip", origin, true);
            tables[0].chains["INPUT"].base.as_ref().map(|base| base.priority)
        };
        assert_eq!((priority(Origin::IptablesNft), priority(Origin::IptablesLegacy)), (Some(150), Some(50)));
    }

    #[test]
    fn tables_come_with_hooks_and_policies_and_without_our_chains() {
        let save = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:SMARTNAT-REFUSE - [0:0]\n:X - [0:0]\n\
            -A FORWARD -j X\n-A SMARTNAT-REFUSE -j DROP\n-A X -j RETURN\nCOMMIT\n";
        let tables = tables(save, "ip", Origin::IptablesNft, true);
        let chains = &tables[0].chains;
        assert_eq!(chains.keys().collect::<Vec<_>>(), ["FORWARD", "INPUT", "X"]);
        assert!(chains["FORWARD"].base.as_ref().is_some_and(|b| b.drops && b.priority == 0 && b.hook == "forward"));
        assert!(chains["X"].base.is_none() && chains["FORWARD"].rules.len() == 1);
    }
}
