//! The directory as a source of the daemon: looked at on every change, and now and then without one.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::directory::{Changed, Directory, DirectoryIdentity, Gone, InForce, Scan};
use super::file::is_manifest;
use crate::model::Objects;
use crate::sources::{SourceEvent, SourceName, SourceState};

/// The name under which this source speaks.
pub const SOURCE: SourceName = "manifests";

/// After a change of one file it is read when nothing happened for so long and it is not open for writing, ...
const QUIET: Duration = Duration::from_millis(4);
/// ... after a change of several, which may belong together, when nothing happened for so long ...
const QUIET_OF_SEVERAL: Duration = Duration::from_millis(100);
/// ... but not later than this after the first change.
const PATIENCE: Duration = Duration::from_secs(2);
/// inotify says nothing about a file system mounted over the directory, nor about files that links lead to.
const UNASKED: Duration = Duration::from_secs(2);

/// Watches a directory of manifests and sends its objects, whole, whenever they changed.
///
/// Nothing is sent before every file has been good once: a plan made of less would take away what the kernel holds for the rest. Later a
/// broken file, a directory that cannot be read or one that was replaced by an empty one are told as [`SourceState::Away`], and what was
/// sent before stays in force. Ends when nobody receives any more.
pub async fn run(dir: PathBuf, events: mpsc::Sender<SourceEvent>) {
    let (notices, mut news) = mpsc::unbounded_channel();
    let mut watch = Watch { dir: dir.clone(), notices, watcher: None, problem: None };
    let mut teller = Teller { dir: dir.clone(), events, sent: None, state: None };
    let mut directory = Directory::new(dir);
    let mut change = Change { everything: true, ..Change::default() };
    let mut told = teller.state(SourceState::Syncing).await;
    while told.is_ok() {
        // First watch, then look: what changes in between is seen by one of the two.
        watch.renew(change.replaced);
        let watched = watch.watcher.is_some();
        let look = tokio::task::spawn_blocking(move || {
            if change.replaced {
                directory.was_replaced();
            }
            let scan = directory.scan(&change.into_changed(watched));
            (directory, scan)
        });
        let scan;
        (directory, scan) = match look.await {
            Ok(done) => done,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            // The runtime is shutting down.
            Err(_) => return,
        };
        told = teller.tell(scan).await;
        change = tokio::select! {
            () = teller.events.closed() => return,
            change = next_change(&mut news) => change,
        };
    }
}

/// What inotify said, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
enum Notice {
    /// A file was written to; it may still be open.
    Writing(OsString),
    /// Any other change of a file, and the end of writing it.
    Settled(OsString),
    /// The directory itself was deleted or moved.
    Replaced,
    /// Events were lost.
    Everything,
}

fn notices(dir: &Path, event: notify::Result<notify::Event>) -> Vec<Notice> {
    let Ok(event) = event else { return vec![Notice::Everything] };
    if event.need_rescan() {
        return vec![Notice::Everything];
    }
    let begun = match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) => true,
        // Also our own looks open files; only the end of a write says something.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => return Vec::new(),
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) if event.paths.iter().any(|p| p == dir) => {
            return vec![Notice::Replaced];
        }
        _ => false,
    };
    let names = event.paths.iter().filter(|p| *p != dir).filter_map(|p| p.file_name()).map(OsString::from);
    names.map(if begun { Notice::Writing } else { Notice::Settled }).collect()
}

/// What changed between two looks.
#[derive(Debug, Default)]
struct Change {
    names: HashSet<OsString>,
    writing: HashSet<OsString>,
    everything: bool,
    replaced: bool,
}

impl Change {
    fn add(&mut self, notice: Notice) {
        match notice {
            Notice::Writing(name) => {
                self.writing.insert(name.clone());
                self.names.insert(name);
            }
            Notice::Settled(name) => {
                self.writing.remove(&name);
                self.names.insert(name);
            }
            Notice::Replaced => self.replaced = true,
            Notice::Everything => self.everything = true,
        }
    }

    /// `watched`: what is not told did not happen, as far as inotify can know.
    fn into_changed(self, watched: bool) -> Changed {
        match self.everything || self.replaced {
            true => Changed::All,
            false if !self.names.is_empty() => Changed::Names(self.names),
            false if watched => Changed::Nothing,
            false => Changed::Look,
        }
    }

    /// How long nothing is to happen before it counts as done. Who renames a new file into its place touches two names, but one manifest.
    fn quiet(&self) -> Duration {
        let one = self.names.iter().filter(|name| is_manifest(name)).nth(1).is_none();
        if one && !self.everything && !self.replaced { QUIET } else { QUIET_OF_SEVERAL }
    }
}

/// Waits for a change and until it has come to rest; or for [`UNASKED`], to look without one.
async fn next_change(news: &mut mpsc::UnboundedReceiver<Notice>) -> Change {
    let mut change = Change::default();
    let Ok(Some(first)) = timeout_at(Instant::now() + UNASKED, news.recv()).await else { return change };
    change.add(first);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let until = if change.writing.is_empty() { deadline.min(Instant::now() + change.quiet()) } else { deadline };
        match timeout_at(until, news.recv()).await {
            Ok(Some(notice)) if Instant::now() < deadline => change.add(notice),
            Ok(Some(notice)) => {
                change.add(notice);
                return change;
            }
            Ok(None) | Err(_) => return change,
        }
    }
}

/// The inotify watch, which belongs to a directory, not to a path.
struct Watch {
    dir: PathBuf,
    notices: mpsc::UnboundedSender<Notice>,
    watcher: Option<(DirectoryIdentity, RecommendedWatcher)>,
    problem: Option<String>,
}

impl Watch {
    /// Watches what now stands at the path. Without a watch the looks now and then must do, which is logged.
    fn renew(&mut self, replaced: bool) {
        let identity = DirectoryIdentity::of(&self.dir).ok();
        let watched = self.watcher.as_ref().map(|(identity, _)| *identity);
        if !replaced && watched.is_some() && watched == identity {
            return;
        }
        self.watcher = None;
        // A directory that is not there is told by the look that follows.
        let Some(identity) = identity else { return };
        match self.begin() {
            Ok(watcher) => {
                self.watcher = Some((identity, watcher));
                self.problem = None;
            }
            Err(e) => {
                let problem = e.to_string();
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        directory = %self.dir.display(), error = %problem,
                        "cannot watch the manifests; looking every {} s instead; is fs.inotify.max_user_watches or \
                         max_user_instances too low?", UNASKED.as_secs()
                    );
                }
                self.problem = Some(problem);
            }
        }
    }

    fn begin(&self) -> notify::Result<RecommendedWatcher> {
        let (dir, channel) = (self.dir.clone(), self.notices.clone());
        let mut watcher = notify::recommended_watcher(move |event| {
            for notice in notices(&dir, event) {
                // Nobody listens any more: the source has ended.
                let _ = channel.send(notice);
            }
        })?;
        watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// The snapshot's owner went away.
struct Hangup;

/// Tells the owner of the snapshot what is new, and only that.
struct Teller {
    dir: PathBuf,
    events: mpsc::Sender<SourceEvent>,
    sent: Option<Arc<Objects>>,
    state: Option<SourceState>,
}

impl Teller {
    async fn tell(&mut self, scan: Result<Option<Scan>, Gone>) -> Result<(), Hangup> {
        let dir = self.dir.display();
        let state = match scan {
            Ok(None) => return Ok(()),
            Ok(Some(scan)) => {
                let whole = scan.broken.iter().all(|(_, in_force)| *in_force == InForce::LastGood);
                let state = match scan.broken.is_empty() {
                    true => SourceState::Current,
                    false => SourceState::Away { reason: self.describe_broken(&scan, whole) },
                };
                let sent = self.sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, &scan.objects));
                if (whole || self.sent.is_some()) && !sent {
                    self.sent = Some(Arc::clone(&scan.objects));
                    self.events.send(SourceEvent::Objects(scan.objects)).await.map_err(|_| Hangup)?;
                }
                state
            }
            Err(Gone::Unreadable(e)) => SourceState::Away {
                reason: format!("cannot read the manifests in {dir}: {e}; what was read before stays in force"),
            },
            Err(Gone::Emptied) => SourceState::Away {
                reason: format!(
                    "{dir} is another directory than before, without manifests (a file system not mounted?); what was read \
                     before stays in force"
                ),
            },
        };
        self.state(state).await
    }

    fn describe_broken(&self, scan: &Scan, whole: bool) -> String {
        let files: Vec<_> = scan
            .broken
            .iter()
            .map(|(file, in_force)| match in_force {
                InForce::LastGood => format!("{file} (what it said before stays in force)"),
                InForce::Nothing => format!("{file} (nothing of it is in force)"),
            })
            .collect();
        let files = files.join("; ");
        if whole || self.sent.is_some() {
            files
        } else {
            format!("nothing is taken from {} until every file has been good once: {files}", self.dir.display())
        }
    }

    async fn state(&mut self, state: SourceState) -> Result<(), Hangup> {
        if self.state.as_ref() != Some(&state) {
            let event = SourceEvent::State { source: SOURCE, state: state.clone() };
            self.events.send(event).await.map_err(|_| Hangup)?;
            self.state = Some(state);
        }
        Ok(())
    }
}
