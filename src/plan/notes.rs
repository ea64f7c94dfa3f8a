//! What is worth knowing of a Mapping although its clients are served.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ResolvedPort;
use crate::api::MappingMode;

/// So many addresses are named; of more, only the number.
const MAX_NAMED: usize = 5;

/// Stands between what a router says of a Mapping and each note.
const NOTE: &str = "; note: ";

pub(super) fn with_notes(message: String, notes: impl IntoIterator<Item = String>) -> String {
    notes.into_iter().fold(message, |message, note| message + NOTE + &note)
}

/// What is noted in a message, also in that of another router.
pub fn noted(message: &str) -> Option<&str> {
    message.split_once(NOTE).map(|(_, notes)| notes)
}

/// Of ports that are served: endpoints at which nobody can answer.
pub(super) fn not_chosen(mode: MappingMode, ports: Vec<&ResolvedPort>) -> Option<String> {
    let barred = named(&ports)?;
    Some(match mode {
        MappingMode::Direct => format!("not chosen, as nobody can answer there: {barred}"),
        MappingMode::Service => format!("kube-proxy may choose where nobody can answer: {barred}"),
    })
}

/// Of ports whose clients are refused: endpoints that there are, and at which nobody can answer.
pub(super) fn unanswered(ports: Vec<&ResolvedPort>) -> Option<String> {
    Some(format!("nobody can answer at {}", named(&ports)?))
}

fn named(ports: &[&ResolvedPort]) -> Option<String> {
    let barred: BTreeMap<IpAddr, &String> =
        ports.iter().flat_map(|p| &p.barred).map(|(address, why)| (*address, why)).collect();
    let texts = barred.iter().map(|(address, why)| format!("{address} ({why})")).collect();
    (!barred.is_empty()).then(|| bounded(texts, MAX_NAMED))
}

/// The first of some texts, and how many more there are.
pub(super) fn bounded(mut texts: Vec<String>, max: usize) -> String {
    let more = texts.len().saturating_sub(max);
    texts.truncate(max);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join(", ")
}
