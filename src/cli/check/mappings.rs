use super::Finding;
use crate::plan::{Plan, noted};

const GROUP: &str = "mappings";
const SHOWN: usize = 10;

/// What the plan notes of Mappings on this box.
pub(super) fn evaluate(plan: &Plan) -> Vec<Finding> {
    let mut findings: Vec<Finding> = plan
        .mappings
        .iter()
        .filter_map(|(key, outcome)| {
            let notes = noted(&outcome.programmed.message)?;
            Some(Finding::warn(GROUP, format!("{key}: {notes}"), "see docs/mapping.md, Notes"))
        })
        .collect();
    let more = findings.len().saturating_sub(SHOWN);
    if more > 0 {
        findings.truncate(SHOWN);
        findings.push(Finding::warn(GROUP, format!("notes on {more} more Mappings"), "smartnat-manager status"));
    }
    findings
}
