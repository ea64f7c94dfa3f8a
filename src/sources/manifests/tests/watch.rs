use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::super::{SOURCE, run};
use super::{BROKEN, Manifests, service, services};
use crate::model::Objects;
use crate::sources::{SourceEvent, SourceState};

/// Far more than a change takes; only a failing test waits so long.
const LIMIT: Duration = Duration::from_secs(30);

struct Source(Receiver<SourceEvent>);

impl Source {
    fn start(dir: &Manifests) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(run(dir.path.clone(), sender));
        Source(receiver)
    }

    async fn next(&mut self) -> SourceEvent {
        timeout(LIMIT, self.0.recv()).await.expect("an event in time").expect("the source goes on")
    }

    async fn objects(&mut self) -> Objects {
        match self.next().await {
            SourceEvent::Objects(objects) => Arc::unwrap_or_clone(objects),
            other => panic!("objects were expected, not {other:?}"),
        }
    }

    async fn state(&mut self) -> SourceState {
        match self.next().await {
            SourceEvent::State { source, state } => {
                assert_eq!(source, SOURCE);
                state
            }
            other => panic!("a state was expected, not {other:?}"),
        }
    }

    /// The reason of being away.
    async fn away(&mut self) -> String {
        match self.state().await {
            SourceState::Away { reason } => reason,
            other => panic!("away was expected, not {other:?}"),
        }
    }

    /// Started on a directory whose files are good.
    async fn current(dir: &Manifests) -> (Self, Objects) {
        let mut source = Source::start(dir);
        assert_eq!(source.state().await, SourceState::Syncing);
        let objects = source.objects().await;
        assert_eq!(source.state().await, SourceState::Current);
        (source, objects)
    }
}

#[tokio::test]
async fn a_change_is_sent_as_a_whole_and_an_equal_one_is_not_sent_again() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let (mut source, objects) = Source::current(&dir).await;
    assert_eq!(services(&objects), ["a"]);
    dir.write("b.yaml", &service("b"));
    assert_eq!(services(&source.objects().await), ["a", "b"]);
    // The same objects, written anew, then a change: only the change is sent.
    dir.write("a.yaml", &format!("# a comment\n{}", service("a")));
    dir.remove("b.yaml");
    assert_eq!(services(&source.objects().await), ["a"]);
}

#[tokio::test]
async fn an_empty_directory_is_a_complete_set_of_no_objects() {
    let dir = Manifests::new();
    let (mut source, objects) = Source::current(&dir).await;
    assert_eq!(objects, Objects::default());
    dir.write("a.yaml", &service("a"));
    assert_eq!(services(&source.objects().await), ["a"]);
}

#[tokio::test]
async fn nothing_is_sent_before_every_file_has_been_good_once() {
    let dir = Manifests::new();
    dir.write("a.yaml", BROKEN);
    dir.write("b.yaml", &service("b"));
    let mut source = Source::start(&dir);
    assert_eq!(source.state().await, SourceState::Syncing);
    let reason = source.away().await;
    assert!(reason.contains("a.yaml:6:11: ") && reason.contains("until every file"), "{reason}");
    dir.write("a.yaml", &service("a"));
    assert_eq!(services(&source.objects().await), ["a", "b"]);
    assert_eq!(source.state().await, SourceState::Current);
}

#[tokio::test]
async fn a_file_broken_later_is_named_and_keeps_what_it_said() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let (mut source, _) = Source::current(&dir).await;
    dir.write("a.yaml", BROKEN);
    let reason = source.away().await;
    assert!(reason.contains("a.yaml:6:11: ") && reason.contains("stays in force"), "{reason}");
    dir.write("b.yaml", &service("b"));
    assert_eq!(services(&source.objects().await), ["a", "b"]);
    dir.write("a.yaml", &service("a"));
    assert_eq!(source.state().await, SourceState::Current);
}

#[tokio::test]
async fn a_directory_that_goes_away_removes_nothing_and_is_found_again() {
    let dir = Manifests::new();
    dir.write("a.yaml", &service("a"));
    let (mut source, _) = Source::current(&dir).await;
    fs::rename(&dir.path, dir.aside()).unwrap();
    assert!(source.away().await.contains("cannot read"));
    fs::create_dir(&dir.path).unwrap();
    assert!(source.away().await.contains("without manifests"));
    dir.write("b.yaml", &service("b"));
    assert_eq!(services(&source.objects().await), ["b"]);
    assert_eq!(source.state().await, SourceState::Current);
    // The new directory is watched now.
    dir.write("c.yaml", &service("c"));
    assert_eq!(services(&source.objects().await), ["b", "c"]);
}

#[tokio::test]
async fn a_directory_that_is_not_there_at_first_is_waited_for() {
    let dir = Manifests::new();
    fs::remove_dir(&dir.path).unwrap();
    let mut source = Source::start(&dir);
    assert_eq!(source.state().await, SourceState::Syncing);
    assert!(source.away().await.contains("cannot read"));
    fs::create_dir(dir.aside()).unwrap();
    fs::write(dir.aside().join("a.yaml"), service("a")).unwrap();
    fs::rename(dir.aside(), &dir.path).unwrap();
    assert_eq!(services(&source.objects().await), ["a"]);
    assert_eq!(source.state().await, SourceState::Current);
}

/// Written in three pieces, each of which would be good by itself, with pauses longer than the quiet that a change must come to.
#[tokio::test]
async fn a_file_still_being_written_is_not_taken_in_pieces() {
    let dir = Manifests::new();
    dir.write("a.yaml", &format!("{}---\n{}---\n{}", service("a"), service("b"), service("c")));
    let (mut source, objects) = Source::current(&dir).await;
    assert_eq!(services(&objects), ["a", "b", "c"]);
    let mut file = fs::File::create(dir.file("a.yaml")).unwrap();
    for name in ["a", "b", "d"] {
        write!(file, "---\n{}", service(name)).unwrap();
        // The point of the test is time passing while the file is open.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    drop(file);
    assert_eq!(services(&source.objects().await), ["a", "b", "d"]);
}

#[tokio::test]
async fn the_source_ends_when_nobody_listens() {
    let dir = Manifests::new();
    let (sender, mut receiver) = mpsc::channel(16);
    let source = tokio::spawn(run(dir.path.clone(), sender));
    receiver.recv().await.unwrap();
    drop(receiver);
    timeout(LIMIT, source).await.expect("it ends in time").unwrap();
}
