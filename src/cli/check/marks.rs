use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Finding;
use super::gather::{Gather, Ran};
use crate::cli::foreign::Foreign;
use crate::cli::foreign::bits::number;
use crate::cli::foreign::packet::{CONNTRACK, MANGLE};
use crate::cli::foreign::rule::{Action, Base, Condition, MarkWrite, Origin, Rule, Step, Table};
use crate::model::MarkLayout;
use crate::ruleset::ownership;

const GROUP: &str = "marks";
/// More would not be read.
const SHOWN: usize = 5;

/// `ip -json rule` of both families.
pub(super) async fn gather(gather: &Gather) -> Vec<(&'static str, Ran)> {
    vec![
        ("ip rule", gather.run("ip", &["-json", "rule"]).await),
        ("ip -6 rule", gather.run("ip", &["-6", "-json", "rule"]).await),
    ]
}

pub(super) fn evaluate(marks: MarkLayout, foreign: &Foreign, rules: &[(&'static str, Ran)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut users, mut harmless) = (Vec::new(), Vec::new());
    for table in &foreign.tables {
        let (bad, good) = of_table(marks, table);
        users.extend(bad);
        harmless.extend(good);
    }
    let mut routing = Vec::new();
    for (tool, rules) in rules {
        match rules {
            Ran::Well(text) => {
                let of_others = policy_rules_using(marks.mask(), text);
                routing.extend(of_others.into_iter().map(|rule| format!("{tool}: {rule}")));
            }
            Ran::Missing => findings.push(unread(tool, "ip is not installed (apt-get install iproute2)")),
            Ran::Badly(why) => findings.push(unread(tool, why)),
        }
    }
    for unseen in &foreign.unread {
        let what = format!("whether others use bits {marks} is not known: {}", unseen.what);
        findings.push(Finding::warn(GROUP, what, unseen.remedy.clone()));
    }
    if users.is_empty() && routing.is_empty() && findings.is_empty() {
        let nobody = match harmless.is_empty() {
            true => format!("nobody else uses bits {marks} of packet and connection marks"),
            false => format!("nobody else uses bits {marks} of packet and connection marks where it matters"),
        };
        let looked = foreign.looked.join("; ");
        findings.push(Finding::ok(GROUP, format!("{nobody}; looked at {looked}; ip rule of both families")));
    }
    findings.extend(harmless.into_iter().take(SHOWN).map(|what| Finding::ok(GROUP, what)));
    let more = (users.len() + routing.len()).saturating_sub(SHOWN);
    let routing = routing.into_iter().map(|rule| (format!("bits of SmartNat's ({marks}) are used by {rule}"), None));
    let all: Vec<(String, Option<String>)> = users.into_iter().chain(routing).collect();
    for (what, remedy) in all.into_iter().take(SHOWN) {
        let mask = remedy.unwrap_or_else(|| "give that rule a mask that leaves ours alone".to_owned());
        let remedy = format!("move SNCTRLR_MARK_BITS to bits that nobody uses, or {mask}");
        findings.push(Finding::fail(GROUP, what, remedy));
    }
    if more > 0 {
        let see = "see iptables-save, nft list ruleset and ip rule";
        findings.push(Finding::fail(GROUP, format!("{more} more rules use them"), see));
    }
    findings
}

fn unread(tool: &str, why: &str) -> Finding {
    Finding::warn(GROUP, format!("uses of marks cannot be read: {tool}: {why}"), "run check as root")
}

/// Rules of a table that use our bits to our harm, each with a remedy of its own if it has one, and those that write them where it does
/// not matter.
fn of_table(marks: MarkLayout, table: &Table) -> (Vec<(String, Option<String>)>, Vec<String>) {
    let hooks = hooks(table);
    let (mut bad, mut good) = (Vec::new(), Vec::new());
    for (name, chain) in &table.chains {
        let bases: Vec<&Base> = hooks.get(name.as_str()).into_iter().flatten().copied().collect();
        for rule in &chain.rules {
            let place = format!("{table}, chain {name}: {}", rule.text);
            let write = writes(marks, rule);
            let breaks: BTreeSet<String> =
                write.iter().flat_map(|w| bases.iter().flat_map(|base| broken(marks, *w, base))).collect();
            let written = write.map(|w| {
                let which = if w.connection { "connection" } else { "packet" };
                (w, format!("bits of SmartNat's ({marks}) in {which} marks are written by {place}"))
            });
            let to_ours = rule.targets().any(ownership::is_our_chain);
            match written {
                Some((write, what)) if !breaks.is_empty() => {
                    let breaks: Vec<String> = breaks.into_iter().collect();
                    bad.push((format!("{what}; {}", breaks.join("; ")), Some(masked(marks, write, table))));
                }
                _ if !to_ours && reads(marks, rule) => {
                    bad.push((format!("bits of SmartNat's ({marks}) are read by {place}"), None));
                }
                Some((_, what)) => good.push(format!("{what}; nothing of SmartNat's depends on them there")),
                None => {}
            }
        }
    }
    (bad, good)
}

/// A form of the write that leaves our bits alone.
fn masked(marks: MarkLayout, write: MarkWrite, table: &Table) -> String {
    let (own, kept) = (if write.connection { "ct" } else { "meta" }, marks.mask());
    match table.origin {
        Origin::Nft => format!("keep them in that rule: {own} mark set {own} mark and 0x{kept:08x} or VALUE"),
        _ => format!("give that rule a mask that leaves ours alone (VALUE/0x{:08x})", !kept),
    }
}

/// The base chains from which each chain is reached.
fn hooks(table: &Table) -> BTreeMap<&str, Vec<&Base>> {
    let mut reached: BTreeMap<&str, Vec<&Base>> = BTreeMap::new();
    for (name, base, _) in table.bases() {
        let (mut waiting, mut seen) = (vec![name], BTreeSet::new());
        while let Some(name) = waiting.pop() {
            let Some(chain) = table.chains.get(name).filter(|_| seen.insert(name)) else { continue };
            reached.entry(name).or_default().push(base);
            waiting.extend(chain.rules.iter().flat_map(Rule::targets));
        }
    }
    reached
}

/// All writes of a rule to our bits as one.
fn writes(marks: MarkLayout, rule: &Rule) -> Option<MarkWrite> {
    let writes = rule.steps.iter().filter_map(|step| match step {
        Step::Do(Action::Mark(write)) if write.touched & marks.mask() != 0 => Some(*write),
        _ => None,
    });
    // Two writes to different marks in one rule: the connection's matters more.
    writes.max_by_key(|w| w.connection)
}

/// Whether a rule asks for our bits. The mapped flag alone may be asked for: it tells others which packets are ours.
fn reads(marks: MarkLayout, rule: &Rule) -> bool {
    rule.steps.iter().any(|step| match step {
        Step::If(Condition::Mark { mask }) => mask & marks.mask() != 0,
        Step::If(Condition::ConnMark { mask, .. }) => mask & marks.mask() & !marks.mapped() != 0,
        _ => false,
    })
}

/// What a write breaks at this place. Packets that arrive by external interfaces do not choose their way by a mark.
fn broken(marks: MarkLayout, write: MarkWrite, base: &Base) -> Vec<String> {
    let touched = write.touched & marks.mask();
    let hook = base.hook.as_str();
    let mut broken = Vec::new();
    if write.connection {
        // There is no connection yet.
        if hook == "ingress" || (hook == "prerouting" && base.priority <= CONNTRACK) {
            return broken;
        }
        if touched & marks.mapped() != 0 {
            broken.push(format!(
                "0x{:x} gone, the border drops packets of Mappings, and pods answer clients past the box",
                marks.mapped()
            ));
        }
        if touched & marks.slot_mask() != 0 {
            broken.push(
                "answers leave by another interface than the client's, and the border drops later packets".to_owned(),
            );
        }
        if touched & marks.begun_inside() != 0 {
            broken.push("the border drops answers to connections begun inside".to_owned());
        }
        return broken;
    }
    // A slot that comes from the connection is the right one.
    if touched & !write.copied & marks.slot_mask() != 0 {
        match hook {
            "prerouting" if base.priority >= MANGLE => {
                broken.push("answers of pods leave by the main table, not by the client's interface".to_owned());
            }
            "output" if base.priority >= MANGLE => {
                broken.push("what the box itself sends on such connections leaves by the main table".to_owned());
            }
            _ => {}
        }
    }
    broken
}

/// Foreign policy rules of `ip -json rule` that ask for marks with bits of `mask` set. One that asks for none of them takes no packet
/// that bears a mark of ours.
fn policy_rules_using(mask: u32, json: &str) -> Vec<String> {
    let rules: Value = serde_json::from_str(json).unwrap_or_default();
    let own_protocol = ownership::ROUTE_PROTOCOL.to_string();
    rules
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| rule["protocol"].as_str() != Some(&own_protocol))
        .filter_map(|rule| {
            let mark = rule["fwmark"].as_str()?;
            let bits = rule["fwmask"].as_str().map_or(u32::MAX, number);
            let shown = rule["fwmask"].as_str().map(|mask| format!("/{mask}")).unwrap_or_default();
            let lookup = rule["table"].as_str().map(|table| format!(" lookup {table}")).unwrap_or_default();
            (number(mark) & bits & mask != 0).then(|| format!("{}: fwmark {mark}{shown}{lookup}", rule["priority"]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::cli::foreign::{of_nft, of_save};

    fn looked(tables: Vec<Table>) -> Foreign {
        Foreign { tables, looked: vec!["everything".to_owned()], unread: vec![] }
    }

    fn findings(tables: Vec<Table>) -> Vec<Finding> {
        evaluate(MarkLayout::default(), &looked(tables), &[("ip rule", Ran::Well("[]".into()))])
    }

    fn of_rule(rule: &str) -> Vec<Finding> {
        let chain = rule.split(' ').nth(1).unwrap();
        let save = format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:X - [0:0]\n{}{rule}\nCOMMIT\n",
            if ["PREROUTING", "OUTPUT"].contains(&chain) {
                String::new()
            } else {
                format!(":{chain} - [0:0]\n-A PREROUTING -j {chain}\n")
            }
        );
        findings(of_save(&save))
    }

    #[test]
    fn rules_that_touch_our_bits_are_found() {
        for rule in [
            "-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff",
            "-A PREROUTING -m mark --mark 0x1 -j DROP",
            "-A PREROUTING -m connmark --mark 0x20000/0xff0000 -j ACCEPT",
            "-A OUTPUT -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-A OUTPUT -j CONNMARK --save-mark",
            "-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000",
            "-A DIVERT -j TPROXY --on-port 80 --on-ip 0.0.0.0 --tproxy-mark 0x10000/0x10000",
        ] {
            let found = of_rule(rule);
            assert!(found.iter().any(|f| f.level == Level::Fail), "{rule}: {found:?}");
        }
    }

    #[test]
    fn our_rules_and_other_bits_are_no_matter() {
        for rule in [
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A SMARTNAT-PRE -j CONNMARK --set-xmark 0x10000/0xfff0000",
            "-A PREROUTING -m mark --mark 0x10000000/0x10000000 -j SMARTNAT-SNAT",
            "-A PREROUTING -p tcp -m tcp --dport 22 -j ACCEPT",
            // What check itself advises.
            "-A PREROUTING -m connmark --mark 0x20000000/0x20000000 -j ACCEPT",
        ] {
            let found = of_rule(rule);
            assert!(found.iter().all(|f| f.level == Level::Ok), "{rule}: {found:?}");
        }
    }

    /// One rule of nft at a hook, as nft tells it.
    fn of_nft_rule(hook: &str, priority: i64, expression: &str) -> Vec<Finding> {
        findings(vec![of_nft(hook, priority, expression)])
    }

    const META: &str = r#"{"meta": {"key": "mark"}}"#;
    const CT: &str = r#"{"ct": {"key": "mark"}}"#;

    fn set(key: &str, value: &str) -> String {
        format!(r#"{{"mangle": {{"key": {key}, "value": {value}}}}}"#)
    }

    #[track_caller]
    fn assert_breaks(found: &[Finding], parts: &[&str]) {
        let told = found.iter().find(|f| f.level == Level::Fail).unwrap_or_else(|| panic!("no failure: {found:?}"));
        assert!(parts.iter().all(|p| told.what.contains(p)), "{told:?}");
        assert!(!told.remedy.is_empty());
    }

    #[test]
    fn each_kind_of_overwritten_mark_is_told_with_what_it_breaks() {
        let all = set(META, "1");
        assert_breaks(
            &of_nft_rule("prerouting", -140, &all),
            &["packet marks", "answers of pods leave by the main table"],
        );
        assert_breaks(&of_nft_rule("output", 0, &all), &["what the box itself sends"]);
        let saved = set(CT, META);
        let parts = ["connection marks", "drops packets of Mappings", "another interface", "begun inside"];
        assert_breaks(&of_nft_rule("prerouting", -150, &saved), &parts);
        assert_breaks(
            &of_nft_rule("postrouting", 0, &set(CT, r#"{"map": {"key": 1, "data": "@m"}}"#)),
            &["0x20000000"],
        );
    }

    #[test]
    fn what_leaves_our_bits_alone_or_does_not_matter_is_no_failure() {
        let masked = format!(r#"{{"|": [{{"&": [{META}, {}]}}, 1]}}"#, 0x7fff_0000u32);
        let other_bits = of_nft_rule("prerouting", -150, &set(META, &masked));
        assert!(other_bits.len() == 1 && other_bits[0].level == Level::Ok, "{other_bits:?}");
        // The reported input: ahead of our rules nothing of the inside is lost, and what comes from outside does not look at it.
        for found in [
            of_nft_rule("prerouting", -160, &set(META, CT)),
            of_nft_rule("prerouting", -140, &set(META, CT)),
            // Nothing of ours looks at a packet's mark once it is on its way.
            of_nft_rule("prerouting", -90, &set(META, CT)),
            of_nft_rule("forward", 0, &set(META, "1")),
            of_nft_rule("input", 0, &set(r#"{"meta": {"key": "nftrace"}}"#, "1")),
            of_nft_rule("prerouting", -300, &set(CT, "1")),
        ] {
            assert!(found.iter().all(|f| f.level == Level::Ok), "{found:?}");
        }
        let told = of_nft_rule("prerouting", -160, &set(META, CT));
        assert!(told.iter().any(|f| f.what.contains("are written by nft table")), "it is named all the same: {told:?}");
    }

    #[test]
    fn what_was_not_read_is_not_called_well() {
        let mut foreign = looked(vec![]);
        let (what, remedy) = ("nft is not installed".to_owned(), "install it".to_owned());
        foreign.unread.push(crate::cli::foreign::Unread { what, remedy });
        let found = evaluate(MarkLayout::default(), &foreign, &[]);
        assert!(found.iter().all(|f| f.level == Level::Warn), "{found:?}");
    }

    #[test]
    fn policy_rules_of_others_are_found_and_ours_are_not() {
        let json = r#"[{"priority":0,"src":"all","table":"local","protocol":"kernel"},
            {"priority":101,"src":"all","fwmark":"0x10000","fwmask":"0xfff0000","table":"1001","protocol":"83"},
            {"priority":5210,"src":"all","fwmark":"0x80000","fwmask":"0xff0000","table":"main"},
            {"priority":5300,"src":"all","fwmark":"0x1","fwmask":"0xff","table":"52"},
            {"priority":5400,"src":"all","fwmark":"0x7","table":"9"},
            {"priority":5500,"src":"all","fwmark":"0x80000","fwmask":"0xff0000","action":"unreachable"},
            {"not":null,"priority":32765,"src":"all","fwmark":"0xca6c","table":"51820"}]"#;
        let found = policy_rules_using(MarkLayout::default().mask(), json);
        assert_eq!(found, ["5210: fwmark 0x80000/0xff0000 lookup main", "5500: fwmark 0x80000/0xff0000"]);
    }

    #[test]
    fn many_rules_are_summed_up() {
        let rules = "-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff\n".repeat(7);
        let found = findings(of_save(&format!("*mangle\n:PREROUTING ACCEPT [0:0]\n{rules}COMMIT\n")));
        assert_eq!(found.len(), SHOWN + 1);
        assert!(found.iter().all(|f| f.level == Level::Fail) && found[SHOWN].what.starts_with("2 more"), "{found:?}");
        let none = findings(vec![]);
        assert!(none[0].level == Level::Ok && none[0].what.contains("looked at everything"), "{none:?}");
    }
}
