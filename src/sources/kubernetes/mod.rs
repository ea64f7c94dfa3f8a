//! Mappings, Services and EndpointSlices of a cluster, watched.
//!
//! Three watches, each with a pace of its own, feed one task. It keeps only what a plan uses, delivers whole [`Objects`] when something of
//! that changed, and hands every Mapping's [`Record`](crate::cluster::Record) to who answers in the API. What was delivered stays in force
//! whatever happens to the API: only a complete list, or an event that says so, takes anything away.

mod mapping;
mod outbox;
mod read;
mod state;
mod watches;
mod working;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use read::read;

use super::debounce::Debounce;
use super::{SourceEvent, SourceName};
use crate::cluster::{Fleet, RecordEvent, Session, Sessions};
use crate::model::Objects;
use outbox::Outbox;
use state::States;
use watches::{Notice, Watches};
use working::{Change, Working};

/// The name under which this source speaks.
pub const SOURCE: SourceName = "kubernetes";

/// A lone change is delivered after this much quiet, ...
const QUIET: Duration = Duration::from_millis(10);
/// ... and under a storm this long after its first one.
const BOUND: Duration = Duration::from_millis(100);

/// Watches as long as somebody receives the objects.
///
/// Objects are delivered while `fleet` says that this instance may serve under its name, from the first moment that all three lists are
/// there. `instance` is that name: a Mapping may be programmed once its status has an entry for it.
pub async fn run(
    mut sessions: Sessions,
    mut fleet: watch::Receiver<Fleet>,
    instance: String,
    daemon: mpsc::Sender<SourceEvent>,
    records: mpsc::Sender<RecordEvent>,
) {
    let mut source = Source {
        working: Working::new(instance),
        states: States::default(),
        outbox: Outbox::default(),
        dirty: Debounce::new(QUIET, BOUND),
        undelivered: true,
    };
    let mut watches = Watches::none();
    let mut server = String::new();
    sessions.mark_changed();
    loop {
        tokio::select! {
            () = daemon.closed() => return,
            Ok(()) = sessions.changed() => {
                let session: Option<Session> = sessions.borrow_and_update().clone();
                if let Some(session) = session {
                    server.clone_from(&session.server);
                    watches = Watches::begin(&session);
                    source.states.begin();
                }
            }
            Ok(()) = fleet.changed() => source.dirty.mark(Instant::now()),
            Some(notice) = watches.next() => source.take(notice, &server),
            Ok(room) = records.reserve(), if !source.outbox.is_empty() => source.outbox.send(room),
            () = source.dirty.due() => {
                source.dirty.clear();
                // Looked at without taking notice of it: a change is to mark what waits, above.
                let may_serve = fleet.borrow().standing.may_serve();
                if let Some(objects) = source.delivery().filter(|_| may_serve) {
                    source.undelivered = false;
                    if daemon.send(SourceEvent::Objects(objects)).await.is_err() {
                        return;
                    }
                }
            }
        }
        // After the objects that it speaks of.
        if let Some(state) = source.states.news()
            && daemon.send(SourceEvent::State { source: SOURCE, state }).await.is_err()
        {
            return;
        }
    }
}

struct Source {
    working: Working,
    states: States,
    outbox: Outbox,
    dirty: Debounce,
    /// There is something that was not delivered.
    undelivered: bool,
}

impl Source {
    fn take(&mut self, notice: Notice, server: &str) {
        match notice {
            Notice::Mappings(change) => self.changed(change, Working::take_mappings),
            Notice::Services(change) => self.changed(change, Working::take_services),
            Notice::Slices(change) => self.changed(change, Working::take_slices),
            Notice::Watching(resource) => self.states.watching(resource),
            Notice::Failed(resource, error) => self.states.failed(resource, &error, server),
        }
    }

    fn changed<T>(&mut self, change: Change<T>, take: impl FnOnce(&mut Working, Change<T>, &mut Outbox) -> bool) {
        if take(&mut self.working, change, &mut self.outbox) {
            self.undelivered = true;
            self.dirty.mark(Instant::now());
        }
    }

    /// What is to be delivered, if it is complete and was not.
    fn delivery(&self) -> Option<Arc<Objects>> {
        self.undelivered.then(|| self.working.complete()).flatten()
    }
}
