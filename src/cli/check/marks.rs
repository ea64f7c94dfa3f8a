use serde_json::Value;

use super::Finding;
use super::gather::{Gather, Ran};
use crate::model::MarkLayout;
use crate::ruleset::ownership;

const GROUP: &str = "marks";
/// More would not be read.
const SHOWN: usize = 5;

/// Where marks of others are used.
pub(super) struct Users {
    /// Outputs of iptables-save of both families and variants, each with the tool's name.
    saves: Vec<(&'static str, Ran)>,
    /// `ip -json rule` of both families.
    rules: Vec<(&'static str, Ran)>,
}

pub(super) async fn gather(gather: &Gather) -> Users {
    let mut saves = Vec::new();
    for tool in ["iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"] {
        saves.push((tool, gather.run(tool, &[]).await));
    }
    let rules = vec![
        ("ip rule", gather.run("ip", &["-json", "rule"]).await),
        ("ip -6 rule", gather.run("ip", &["-6", "-json", "rule"]).await),
    ];
    Users { saves, rules }
}

pub(super) fn evaluate(marks: MarkLayout, users: &Users) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut foreign = Vec::new();
    for (tool, save) in &users.saves {
        match save {
            Ran::Well(text) => {
                foreign.extend(rules_using(marks.mask(), text).into_iter().map(|rule| format!("{tool}: {rule}")));
            }
            // The legacy variant need not be there.
            Ran::Missing => {}
            Ran::Badly(why) => findings.push(unread(tool, why)),
        }
    }
    for (tool, rules) in &users.rules {
        match rules {
            Ran::Well(text) => {
                foreign
                    .extend(policy_rules_using(marks.mask(), text).into_iter().map(|rule| format!("{tool}: {rule}")));
            }
            Ran::Missing => findings.push(unread(tool, "ip is not installed (apt-get install iproute2)")),
            Ran::Badly(why) => findings.push(unread(tool, why)),
        }
    }
    if foreign.is_empty() && findings.is_empty() {
        findings.push(Finding::ok(GROUP, format!("nobody else uses bits {marks} of packet and connection marks")));
    }
    let more = foreign.len().saturating_sub(SHOWN);
    for rule in foreign.iter().take(SHOWN) {
        findings.push(Finding::fail(
            GROUP,
            format!("bits of SmartNat's ({marks}) are used by {rule}"),
            "move SNCTRLR_MARK_BITS to bits that nobody uses, or give that rule a mask that leaves ours alone",
        ));
    }
    if more > 0 {
        findings.push(Finding::fail(GROUP, format!("{more} more rules use them"), "see iptables-save and ip rule"));
    }
    findings
}

fn unread(tool: &str, why: &str) -> Finding {
    Finding::warn(GROUP, format!("uses of marks cannot be read: {tool}: {why}"), "run check as root")
}

/// Foreign rules of an iptables-save that read or write bits of `mask`.
fn rules_using(mask: u32, save: &str) -> Vec<&str> {
    save.lines()
        .filter(|line| line.strip_prefix("-A ").is_some_and(|rest| !ours(rest)))
        .filter(|line| bits_of(line) & mask != 0)
        .collect()
}

/// In one of our chains, or a jump to one.
fn ours(rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    let target = words.windows(2).find(|w| matches!(w[0], "-j" | "-g")).map_or("", |w| w[1]);
    words.first().is_some_and(|chain| ownership::is_our_chain(chain)) || ownership::is_our_chain(target)
}

/// Bits of marks that a rule matches or changes. iptables-save prints every mark option as `VALUE` or `VALUE/MASK` (a value alone means
/// all bits), and the masks of save and restore by themselves.
fn bits_of(rule: &str) -> u32 {
    let words: Vec<&str> = rule.split(' ').collect();
    let mut bits = 0;
    for pair in words.windows(2) {
        match pair[0] {
            "--mark" | "--set-xmark" | "--set-mark" | "--tproxy-mark" => {
                bits |= pair[1].split_once('/').map_or(u32::MAX, |(_, mask)| number(mask));
            }
            "--and-mark" => bits |= !number(pair[1]),
            "--or-mark" | "--xor-mark" | "--nfmask" | "--ctmask" => bits |= number(pair[1]),
            _ => {}
        }
    }
    let whole = words.iter().any(|w| matches!(*w, "--save-mark" | "--restore-mark"));
    if whole && !words.contains(&"--nfmask") && !words.contains(&"--ctmask") {
        bits = u32::MAX;
    }
    bits
}

/// Hexadecimal or decimal; something else counts as all bits, to be on the safe side.
fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .unwrap_or(u32::MAX)
}

/// Foreign policy rules of `ip -json rule` whose fwmark meets `mask`.
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
            (bits & mask != 0).then(|| {
                format!("{}: fwmark {mark} lookup {}", rule["priority"], rule["table"].as_str().unwrap_or_default())
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn used(rule: &str) -> bool {
        !rules_using(MarkLayout::default().mask(), &format!("*mangle\n{rule}\nCOMMIT\n")).is_empty()
    }

    #[test]
    fn rules_that_touch_our_bits_are_found() {
        for rule in [
            "-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff",
            "-A PREROUTING -m mark --mark 0x1 -j DROP",
            "-A PREROUTING -m connmark --mark 0x20000/0xff0000 -j ACCEPT",
            "-A OUTPUT -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-A OUTPUT -j CONNMARK --save-mark",
            "-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000",
            "-A DIVERT -j TPROXY --on-port 80 --on-ip 0.0.0.0 --tproxy-mark 0x10000/0x10000",
        ] {
            assert!(used(rule), "{rule}");
        }
    }

    #[test]
    fn our_rules_and_other_bits_are_no_matter() {
        for rule in [
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A SMARTNAT-PRE -j CONNMARK --set-xmark 0x10000/0xfff0000",
            "-A POSTROUTING -m mark --mark 0x10000000/0x10000000 -j SMARTNAT-SNAT",
            "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
            ":PREROUTING ACCEPT [0:0]",
        ] {
            assert!(!used(rule), "{rule}");
        }
    }

    #[test]
    fn policy_rules_of_others_are_found_and_ours_are_not() {
        let json = r#"[{"priority":0,"src":"all","table":"local","protocol":"kernel"},
            {"priority":101,"src":"all","fwmark":"0x10000","fwmask":"0xfff0000","table":"1001","protocol":"83"},
            {"priority":5210,"src":"all","fwmark":"0x80000","fwmask":"0xff0000","table":"main"},
            {"priority":5300,"src":"all","fwmark":"0x1","fwmask":"0xff","table":"52"},
            {"priority":5400,"src":"all","fwmark":"0x7","table":"9"}]"#;
        let found = policy_rules_using(MarkLayout::default().mask(), json);
        assert_eq!(found, ["5210: fwmark 0x80000 lookup main", "5400: fwmark 0x7 lookup 9"]);
    }

    #[test]
    fn many_rules_are_summed_up() {
        let save = "-A X -j MARK --set-xmark 0x1/0xffffffff\n".repeat(7);
        let users = Users { saves: vec![("iptables-save", Ran::Well(save))], rules: vec![] };
        let findings = evaluate(MarkLayout::default(), &users);
        assert_eq!(findings.len(), SHOWN + 1);
        assert!(findings.iter().all(|f| f.level == Level::Fail) && findings[SHOWN].what.starts_with("2 more"));
        let none = Users {
            saves: vec![("iptables-save", Ran::Well(String::new()))],
            rules: vec![("ip rule", Ran::Well("[]".into()))],
        };
        assert_eq!(evaluate(MarkLayout::default(), &none)[0].level, Level::Ok);
    }
}
