use std::collections::BTreeMap;

use tokio::sync::mpsc::Permit;

use crate::cluster::{KeptRecord, RecordEvent};
use crate::model::ObjectKey;

/// Records on their way to who answers in the API. A reader that is slow gets the last state of each Mapping; it never holds up the watches.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    all: Option<BTreeMap<ObjectKey, KeptRecord>>,
    /// Since then; `None` for what is gone.
    since: BTreeMap<ObjectKey, Option<KeptRecord>>,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.since.is_empty()
    }

    pub fn put_all(&mut self, all: BTreeMap<ObjectKey, KeptRecord>) {
        self.since.clear();
        self.all = Some(all);
    }

    pub fn put(&mut self, key: ObjectKey, record: Option<KeptRecord>) {
        self.since.insert(key, record);
    }

    pub fn send(&mut self, room: Permit<'_, RecordEvent>) {
        if let Some(all) = self.all.take() {
            room.send(RecordEvent::All(all));
        } else if let Some((key, record)) = self.since.pop_first() {
            room.send(match record {
                Some(record) => RecordEvent::Set(key, record),
                None => RecordEvent::Gone(key),
            });
        }
    }
}
