use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use serde_json::{Error, to_string_pretty};

use super::status::{StatusDocument, mapping_document};
use super::{Outcomes, Report, Transitions};
use crate::model::ObjectKey;

/// A piece is sent when it has so many bytes.
const PIECE: usize = 32 * 1024;
/// Where the Mappings go in a document without any. Within a string a line never ends.
const NO_MAPPINGS: &str = "\n  \"mappings\": []";

/// The text of [`StatusDocument`], a piece at a time as it is read: that of ten thousand Mappings takes 15 MB.
pub(super) struct StatusText {
    report: Report,
    instance: Arc<str>,
    place: Place,
}

enum Place {
    Beginning,
    /// With what comes behind all Mappings.
    After(Option<ObjectKey>, String),
    Done,
}

impl StatusText {
    pub(super) fn new(report: Report, instance: Arc<str>) -> Self {
        StatusText { report, instance, place: Place::Beginning }
    }

    /// The document without Mappings, in front of where they go and behind it.
    fn frame(&self) -> Result<(String, String), Error> {
        let interfaces = self.report.outcomes.interfaces.clone();
        let outcomes = Arc::new(Outcomes { mappings: Arc::default(), interfaces });
        let report = Report { outcomes, ..self.report.clone() };
        let whole = to_string_pretty(&StatusDocument { report: &report, instance: &self.instance })? + "\n";
        Ok(match whole.split_once(NO_MAPPINGS) {
            Some((front, behind)) => (front.to_owned(), behind.to_owned()),
            None => (whole, String::new()),
        })
    }

    fn piece(&mut self) -> Result<Option<String>, Error> {
        let (mut text, mut last, behind) = match std::mem::replace(&mut self.place, Place::Done) {
            Place::Beginning => {
                let (front, behind) = self.frame()?;
                (front + "\n  \"mappings\": [", None, behind)
            }
            Place::After(last, behind) => (String::new(), last, behind),
            Place::Done => return Ok(None),
        };
        let started = Transitions { accepted: self.report.started, programmed: self.report.started };
        let from = last.as_ref().map_or(Unbounded, Excluded);
        let mut next = None;
        for (key, outcome) in self.report.outcomes.mappings.range((from, Unbounded)) {
            let transitions = self.report.transitions.get(key).unwrap_or(&started);
            let mapping = to_string_pretty(&mapping_document(key, outcome, &self.instance, transitions))?;
            text += if last.is_none() && next.is_none() { "\n    " } else { ",\n    " };
            text += &mapping.replace('\n', "\n    ");
            next = Some(key);
            if text.len() >= PIECE {
                break;
            }
        }
        let any = last.is_some() || next.is_some();
        match next.cloned() {
            Some(key) if text.len() >= PIECE => {
                last = Some(key);
                self.place = Place::After(last, behind);
            }
            _ => {
                text += if any { "\n  ]" } else { "]" };
                text += &behind;
            }
        }
        Ok(Some(text))
    }
}

impl Iterator for StatusText {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.piece().transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::plan::{MappingOutcome, Programmed, ProgrammedReason};

    fn outcome(n: usize) -> MappingOutcome {
        let message = format!("note {n}: \n  \"mappings\": []");
        MappingOutcome {
            uid: None,
            generation: Some(1),
            refused: None,
            programmed: Programmed { ok: true, reason: ProgrammedReason::Programmed, message },
            service_vip: None,
            configured: [].into(),
            endpoints: n,
        }
    }

    #[test]
    fn the_pieces_are_the_document() {
        for mappings in [0, 1, 2, 1_000] {
            let mut report = Report::new(SystemTime::now());
            let mappings = (0..mappings).map(|n| (ObjectKey::new("shop", format!("m-{n}")), outcome(n)));
            report.outcomes = Arc::new(Outcomes::of(mappings, vec![]));
            let whole = to_string_pretty(&StatusDocument { report: &report, instance: "border" }).unwrap() + "\n";
            let pieces: Vec<String> = StatusText::new(report, "border".into()).map(Result::unwrap).collect();
            assert_eq!(pieces.concat(), whole);
            assert!(pieces.iter().all(|piece| piece.len() < 2 * PIECE), "{}", pieces.len());
            assert!(!pieces[0].is_empty() && pieces.len() >= whole.len() / (2 * PIECE));
        }
    }
}
