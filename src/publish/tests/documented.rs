use std::collections::BTreeSet;

const REFERENCE: &str = include_str!("../../../docs/mapping.md");
/// Actions of Events, and what a condition may be: no reasons.
const OTHERS: [&str; 5] = ["Accept", "Program", "Release", "True", "False"];

fn is_camel_case(word: &str) -> bool {
    word.len() > 3 && word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphabetic)
}

/// Variants of an enum in a source.
fn variants<'a>(source: &'a str, name: &str) -> BTreeSet<&'a str> {
    let body = source.split(&format!("pub enum {name} {{")).nth(1).and_then(|rest| rest.split("\n}").next()).unwrap();
    body.lines().filter_map(|l| l.trim().strip_suffix(',')).filter(|l| is_camel_case(l)).collect()
}

/// Words of CamelCase that stand in quotes.
fn quoted(source: &str) -> BTreeSet<&str> {
    source.split('"').skip(1).step_by(2).filter(|w| is_camel_case(w) && !OTHERS.contains(w)).collect()
}

#[test]
fn every_reason_stands_in_the_reference() {
    let outcome = include_str!("../../plan/outcome.rs");
    let refusals = variants(outcome, "RefusalReason");
    let programmed = variants(outcome, "ProgrammedReason");
    assert!(refusals.contains("Conflict") && programmed.contains("Pending"), "{refusals:?} {programmed:?}");
    let verdicts = quoted(include_str!("../statement.rs"));
    let events = quoted(include_str!("../events.rs"));
    assert!(verdicts.contains("InstanceSilent") && events.contains("ForcedRelease"), "{verdicts:?} {events:?}");
    let section = |title: &str| REFERENCE.split(title).nth(1).and_then(|rest| rest.split("\n##").next()).unwrap();
    for (title, reasons) in [
        ("### Accepted=False", refusals),
        ("### Programmed\n", programmed),
        ("## status", verdicts),
        ("## Events", events),
    ] {
        let text = if title == "## status" { REFERENCE } else { section(title) };
        let missing: Vec<&str> = reasons.into_iter().filter(|r| !text.contains(&format!("`{r}`"))).collect();
        assert!(missing.is_empty(), "docs/mapping.md, {title}: {missing:?}");
    }
}
