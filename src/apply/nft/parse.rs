//! The JSON of nft (libnftables-json(5)). It differs from version to version: what is not understood is kept raw, and what JSON tells
//! wrongly (1.0.6 the flags of tables) is taken from the listing for people.

use std::collections::BTreeMap;

use serde_json::Value;

use super::values::{Base, NftChain, NftRule, NftTable, Statement, TableName, Verdict, shown};

/// From `nft list tables`: the JSON of 1.0.6 is empty once a table has a flag.
pub(super) fn tables(listing: &str) -> Vec<TableName> {
    let name = |line: &str| {
        let (family, name) = line.strip_prefix("table ")?.split_once(' ')?;
        Some(TableName::new(family, name))
    };
    listing.lines().filter_map(name).collect()
}

/// Names of the chains of one table's listing.
pub(super) fn chain_names(listing: &str) -> Vec<&str> {
    listing.lines().filter_map(|line| line.strip_prefix("\tchain ")?.split(" {").next()).collect()
}

pub(super) fn chains(json: &str) -> Result<Vec<(TableName, NftChain)>, serde_json::Error> {
    let chain = |o: &Value| {
        let value = o.get("chain")?;
        Some((table_name(value, "table")?, chain_of(value)?))
    };
    Ok(objects(json)?.iter().filter_map(chain).collect())
}

/// A table from `nft -j -t -a list table …` and the same for people (`listing`), which has the texts of rules by handle.
pub fn table(name: &TableName, json: &str, listing: &str) -> Result<NftTable, serde_json::Error> {
    let texts = texts(listing);
    let mut table = NftTable { name: name.clone(), dormant: is_dormant(listing), chains: vec![], flowtables: vec![] };
    // iptables' tables hold ten thousands of chains.
    let mut numbers = BTreeMap::new();
    for object in objects(json)? {
        if let Some(chain) = object.get("chain").and_then(chain_of) {
            numbers.insert(chain.name.clone(), table.chains.len());
            table.chains.push(chain);
        } else if let Some(name) = object.get("flowtable").and_then(|f| f["name"].as_str()) {
            table.flowtables.push(name.to_owned());
        } else if let Some(rule) = object.get("rule") {
            let of = rule["chain"].as_str().unwrap_or_default();
            if let Some(chain) = numbers.get(of).and_then(|number| table.chains.get_mut(*number)) {
                chain.rules.push(rule_of(rule, &texts));
            }
        }
    }
    Ok(table)
}

fn objects(json: &str) -> Result<Vec<Value>, serde_json::Error> {
    let mut all: Value = serde_json::from_str(json)?;
    match all["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Err(serde::de::Error::custom("there is no list under \"nftables\"")),
    }
}

fn table_name(value: &Value, key: &str) -> Option<TableName> {
    Some(TableName::new(value["family"].as_str()?, value[key].as_str()?))
}

fn chain_of(value: &Value) -> Option<NftChain> {
    let base = value["hook"].as_str().map(|hook| Base {
        kind: value["type"].as_str().unwrap_or("filter").to_owned(),
        hook: hook.to_owned(),
        priority: value["prio"].as_i64().unwrap_or_default(),
        drops: value["policy"].as_str() == Some("drop"),
    });
    let name = shown(value["name"].as_str()?);
    Some(NftChain { name, handle: value["handle"].as_u64().unwrap_or_default(), base, rules: Vec::new() })
}

fn rule_of(value: &Value, texts: &BTreeMap<u64, String>) -> NftRule {
    let expressions = value["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let handle = value["handle"].as_u64().unwrap_or_default();
    // Should the listing not have it: changed between the two looks.
    let text = texts.get(&handle).cloned().unwrap_or_else(|| shown(&value["expr"].to_string()));
    NftRule { handle, statements: expressions.iter().map(statement).collect(), text }
}

fn statement(value: &Value) -> Statement {
    // Old versions write a verdict without anything as a plain string.
    let single = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.iter().next());
    let (name, inner) = match (value, single) {
        (Value::String(name), _) => (name.as_str(), &Value::Null),
        (_, Some((name, inner))) => (name.as_str(), inner),
        _ => return Statement::Other { name: String::new(), value: value.clone() },
    };
    let target = || inner["target"].as_str().unwrap_or_default().to_owned();
    let text = |key: &str| inner[key].as_str().map(str::to_owned);
    match name {
        "match" => Statement::Match(inner.clone()),
        "accept" => Statement::Verdict(Verdict::Accept),
        "drop" => Statement::Verdict(Verdict::Drop),
        "reject" => Statement::Verdict(Verdict::Reject),
        "continue" => Statement::Verdict(Verdict::Continue),
        "return" => Statement::Verdict(Verdict::Return),
        "jump" => Statement::Verdict(Verdict::Jump(target())),
        "goto" => Statement::Verdict(Verdict::Goto(target())),
        "vmap" => Statement::VerdictMap(inner.clone()),
        "mangle" => Statement::Set { key: inner["key"].clone(), value: inner["value"].clone() },
        "xt" => Statement::Xt { kind: text("type"), name: text("name") },
        other => Statement::Other { name: other.to_owned(), value: inner.clone() },
    }
}

/// Texts of rules by handle. Handles are unique in a table.
fn texts(listing: &str) -> BTreeMap<u64, String> {
    let with_handle = listing.lines().filter_map(|line| {
        let (text, handle) = line.rsplit_once(" # handle ")?;
        Some((handle.trim().parse().ok()?, shown(text.trim())))
    });
    with_handle.collect()
}

pub(super) fn is_dormant(listing: &str) -> bool {
    let flags = listing.lines().filter_map(|l| l.strip_prefix("\tflags "));
    flags.into_iter().any(|flags| flags.split(',').any(|flag| flag.trim() == "dormant"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "fw", "handle": 4, "flags": "ip"}},
        {"set": {"family": "inet", "name": "s", "table": "fw", "type": "ipv4_addr", "handle": 7}},
        {"flowtable": {"family": "inet", "name": "ft", "table": "fw", "handle": 8}},
        {"chain": {"family": "inet", "table": "fw", "name": "sub", "handle": 1}},
        {"chain": {"family": "inet", "table": "fw", "name": "forward", "handle": 2, "type": "filter",
                   "hook": "forward", "prio": 10, "policy": "drop"}},
        {"rule": {"family": "inet", "table": "fw", "chain": "forward", "handle": 14,
                  "expr": [{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 1}},
                           {"counter": {"packets": 0, "bytes": 0}}, {"jump": {"target": "sub"}}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "forward", "handle": 15,
                  "expr": [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}},
                           {"xt": {"type": "target", "name": "REJECT"}}, {"xt": null}, "drop", {"new": 1, "two": 2}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "sub", "handle": 16, "expr": [{"drop": null}]}}]}"#;
    const LISTING: &str = "table inet fw { # handle 4\n\tflags dormant\n\tchain sub { # handle 1\n\t\tdrop # handle 16\n\
        \t}\n\tchain forward { # handle 2\n\t\ttype filter hook forward priority filter + 10; policy drop;\n\
        \t\tmeta mark 0x1 counter jump sub # handle 14\n\t}\n}\n";

    #[test]
    fn a_table_is_taken_apart_and_what_is_unknown_is_kept() {
        let table = table(&TableName::new("inet", "fw"), JSON, LISTING).unwrap();
        assert!(table.dormant);
        assert_eq!(table.flowtables, ["ft"]);
        let forward = table.chain("forward").unwrap();
        let base = Base { kind: "filter".to_owned(), hook: "forward".to_owned(), priority: 10, drops: true };
        assert_eq!(forward.base.as_ref(), Some(&base));
        assert_eq!(forward.rules[0].text, "meta mark 0x1 counter jump sub");
        assert_eq!((forward.rules[0].handle, forward.rules[0].target()), (14, Some("sub")));
        let second = &forward.rules[1];
        assert!(second.text.contains("\"mangle\""), "a rule that the listing does not have is shown raw: {second:?}");
        assert!(matches!(&second.statements[0], Statement::Set { value, .. } if *value == 1));
        assert!(matches!(&second.statements[1], Statement::Xt { name: Some(n), .. } if n == "REJECT"));
        assert_eq!(second.statements[2], Statement::Xt { kind: None, name: None });
        assert_eq!(second.statements[3], Statement::Verdict(Verdict::Drop));
        assert!(matches!(&second.statements[4], Statement::Other { .. }));
        assert_eq!(table.chain("sub").unwrap().rules.len(), 1);
    }

    #[test]
    fn tables_and_chains_are_named() {
        let names = tables("table inet fw\ntable ip6 nat\n");
        assert_eq!(names, [TableName::new("inet", "fw"), TableName::new("ip6", "nat")]);
        assert_eq!(chain_names(LISTING), ["sub", "forward"]);
        assert!(!names[0].is_of_iptables() && TableName::new("ip6", "nat").is_of_iptables());
        assert_eq!(chains(JSON).unwrap().len(), 2);
        assert!(chains("# no JSON").is_err() && chains("{}").is_err());
    }

    #[test]
    fn text_of_others_stays_on_its_line() {
        let listing = "\t\taccept comment \"a\u{1b}[2J\tb\" # handle 3\n";
        assert_eq!(texts(listing)[&3], "accept comment \"a\\u{1b}[2J\\tb\"");
        assert!(!is_dormant(LISTING.replace("flags dormant", "flags owner").as_str()));
    }
}
