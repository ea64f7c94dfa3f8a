use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc::Permit;

use crate::cluster::{Record, RecordEvent};
use crate::model::ObjectKey;

/// Records on their way to who answers in the API. A reader that is slow gets the last state of each Mapping; it never holds up the watches.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    all: Option<BTreeMap<ObjectKey, Arc<Record>>>,
    /// Since then; `None` for what is gone.
    since: BTreeMap<ObjectKey, Option<Arc<Record>>>,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.since.is_empty()
    }

    pub fn put_all(&mut self, all: BTreeMap<ObjectKey, Arc<Record>>) {
        self.since.clear();
        self.all = Some(all);
    }

    pub fn put(&mut self, key: ObjectKey, record: Option<Arc<Record>>) {
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
