//! From what nft tells to the common vocabulary.

use ipnet::IpNet;
use serde_json::Value;

use super::bits::Bits;
use super::rule::{Action, Base, Chain, Condition, Effect, MarkWrite, Origin, Rule, Step, Table};
use crate::apply::nft::{NftChain, NftRule, NftTable, Statement, TableName, Verdict};

/// A table of others. A dormant one has no base chains: the kernel does not ask it.
pub(super) fn table(table: &NftTable) -> Table {
    let mut of = named(&table.name, Origin::Nft);
    of.chains = table.chains.iter().map(|c| (c.name.clone(), chain(c))).collect();
    if table.dormant {
        of.chains.values_mut().for_each(|chain| chain.base = None);
    }
    of
}

pub(super) fn named(name: &TableName, origin: Origin) -> Table {
    Table { origin, shared: false, family: name.family.clone(), name: name.name.clone(), chains: Default::default() }
}

pub(super) fn chain(chain: &NftChain) -> Chain {
    let base = chain.base.as_ref().map(|b| Base {
        kind: b.kind.clone(),
        hook: b.hook.clone(),
        priority: b.priority,
        drops: b.drops,
    });
    Chain { base, rules: chain.rules.iter().map(rule).collect() }
}

fn rule(rule: &NftRule) -> Rule {
    Rule { text: rule.text.clone(), steps: rule.statements.iter().filter_map(step).collect() }
}

fn step(statement: &Statement) -> Option<Step> {
    let does = |effect| Some(Step::Do(Action::Does(effect)));
    match statement {
        Statement::Match(value) => Some(Step::If(condition(value))),
        Statement::Verdict(verdict) => Some(Step::Do(action(verdict)?)),
        Statement::VerdictMap(value) => Some(Step::Do(Action::OneOf(mapped_verdicts(value)))),
        Statement::Set { key, value } => mark_write(key, value).map(|w| Step::Do(Action::Mark(w))),
        Statement::Xt { kind: Some(kind), .. } if kind == "match" => Some(Step::If(Condition::Unknown)),
        Statement::Xt { name, .. } => target(name.as_deref()),
        Statement::Other { name, .. } => match name.as_str() {
            "counter" | "log" | "comment" | "ct helper" | "ct timeout" | "ct expectation" | "set" | "map" | "dup" => {
                None
            }
            "notrack" => does(Effect::NoTrack),
            "tproxy" => does(Effect::Proxy),
            "queue" | "synproxy" => does(Effect::Queue),
            "dnat" | "redirect" => does(Effect::TranslateDestination),
            "snat" | "masquerade" => does(Effect::TranslateSource),
            "flow" => does(Effect::Offload),
            "fwd" => does(Effect::Drop),
            // limit, quota, ct count, and whatever comes to be: they may let the rule go on, or not.
            _ => Some(Step::If(Condition::Unknown)),
        },
    }
}

fn action(verdict: &Verdict) -> Option<Action> {
    Some(match verdict {
        Verdict::Accept => Action::Accept,
        Verdict::Drop => Action::Does(Effect::Drop),
        Verdict::Reject => Action::Does(Effect::Reject),
        Verdict::Continue => return None,
        Verdict::Return => Action::Return,
        Verdict::Jump(to) => Action::Jump(to.clone()),
        Verdict::Goto(to) => Action::Goto(to.clone()),
    })
}

/// A target of iptables in a rule that iptables made, by its name.
fn target(name: Option<&str>) -> Option<Step> {
    let everything = |connection| Action::Mark(Bits::default().written(connection));
    Some(Step::Do(match name {
        Some("CT") => Action::OneOf(Some(vec![Action::Does(Effect::NoTrack)])),
        Some("MARK") => everything(false),
        Some("CONNMARK") => everything(true),
        _ => match name.and_then(Effect::of_target) {
            Some(effect) => Action::Does(effect?),
            None => Action::OneOf(None),
        },
    }))
}

/// `None`: the map has a name, its elements were not read.
fn mapped_verdicts(value: &Value) -> Option<Vec<Action>> {
    let elements = value["data"]["set"].as_array()?;
    let verdict = |element: &Value| {
        let (name, inner) = element.get(1)?.as_object()?.iter().next()?;
        let target = || inner["target"].as_str().unwrap_or_default().to_owned();
        Some(match name.as_str() {
            "accept" => Action::Accept,
            "drop" => Action::Does(Effect::Drop),
            "return" => Action::Return,
            "jump" => Action::Jump(target()),
            "goto" => Action::Goto(target()),
            _ => return None,
        })
    };
    Some(elements.iter().filter_map(verdict).collect())
}

fn condition(value: &Value) -> Condition {
    let (left, right) = (&value["left"], &value["right"]);
    let invert = match value["op"].as_str() {
        Some("==" | "in") | None => false,
        Some("!=") => true,
        _ => return Condition::Unknown,
    };
    if let Some(key) = left["ct"]["key"].as_str() {
        return match (key, strings(right)) {
            ("state", Some(any)) => Condition::State { any, invert },
            // The translated state of iptables, in nft's words.
            ("status", Some(any)) if any.iter().all(|s| s == "dnat" || s == "snat") => Condition::State { any, invert },
            ("direction", Some(any)) if any == ["original"] => Condition::Original { invert },
            ("direction", Some(any)) if any == ["reply"] => Condition::Original { invert: !invert },
            ("mark", _) => match number(right) {
                Some(value) => Condition::ConnMark { mask: u32::MAX, value, invert },
                None => Condition::Unknown,
            },
            _ => Condition::Unknown,
        };
    }
    if let Some(operands) = left["&"].as_array()
        && let Some(mask) = operands.iter().find_map(number)
    {
        let of = |name: &str| operands.iter().any(|o| o[name]["key"] == "mark");
        return match number(right) {
            Some(value) if of("ct") => Condition::ConnMark { mask, value, invert },
            _ if of("meta") => Condition::Mark { mask },
            _ => Condition::Unknown,
        };
    }
    let protocols = |invert| match strings(right) {
        Some(any) => Condition::Protocol { any, invert },
        None => Condition::Unknown,
    };
    match left["meta"]["key"].as_str() {
        Some("l4proto") => return protocols(invert),
        Some("nfproto") if right == "ipv4" => return Condition::Ipv4 { invert },
        Some("nfproto") if right == "ipv6" => return Condition::Ipv4 { invert: !invert },
        Some("mark") => return Condition::Mark { mask: u32::MAX },
        Some("iifname" | "iif") => {
            return strings(right).map_or(Condition::Unknown, |names| Condition::In { names, invert });
        }
        Some("oifname" | "oif") => {
            return strings(right).map_or(Condition::Unknown, |names| Condition::Out { names, invert });
        }
        _ => {}
    }
    let payload = &left["payload"];
    if payload["protocol"] == "ip" && payload["field"] == "protocol" {
        return protocols(invert);
    }
    if matches!(payload["protocol"].as_str(), Some("ip" | "ip6"))
        && let Some(nets) = nets(right)
    {
        match payload["field"].as_str() {
            Some("saddr") => return Condition::Source { nets, invert },
            Some("daddr") => return Condition::Destination { nets, invert },
            _ => {}
        }
    }
    Condition::Unknown
}

fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|n| n.to_string()))
}

/// One word or several. `None` for a named set, or something else.
fn strings(value: &Value) -> Option<Vec<String>> {
    let many = value.as_array().or_else(|| value["set"].as_array());
    let words: Option<Vec<String>> = match many {
        Some(many) => many.iter().map(word).collect(),
        None => word(value).map(|w| vec![w]),
    };
    words.filter(|words| words.iter().all(|w| !w.starts_with('@')))
}

fn nets(value: &Value) -> Option<Vec<IpNet>> {
    let one = |v: &Value| -> Option<IpNet> {
        if let Some(text) = v.as_str() {
            return text.parse().ok().map(crate::model::host_net);
        }
        let prefix = &v["prefix"];
        IpNet::new(prefix["addr"].as_str()?.parse().ok()?, prefix["len"].as_u64()?.try_into().ok()?).ok()
    };
    match value["set"].as_array() {
        Some(many) => many.iter().map(one).collect(),
        None => one(value).map(|net| vec![net]),
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| n.try_into().ok())
}

fn mark_write(key: &Value, value: &Value) -> Option<MarkWrite> {
    let connection = match (key["meta"]["key"].as_str(), key["ct"]["key"].as_str()) {
        (Some("mark"), _) => false,
        (_, Some("mark")) => true,
        _ => return None,
    };
    Some(bits(value).written(connection))
}

fn bits(value: &Value) -> Bits {
    if let Some(number) = number(value) {
        return Bits::of(number);
    }
    if value["meta"]["key"] == "mark" {
        return Bits::PACKET;
    }
    if value["ct"]["key"] == "mark" {
        return Bits::CONNECTION;
    }
    type Operation = fn(Bits, Bits) -> Bits;
    let operations: [(&str, Operation); 3] = [("&", Bits::and), ("|", Bits::or), ("^", Bits::xor)];
    for (sign, operation) in operations {
        // New versions write a chain of the same operation as one list.
        if let Some(operands) = value[sign].as_array() {
            return operands.iter().map(bits).reduce(operation).unwrap_or_default();
        }
    }
    Bits::default()
}
