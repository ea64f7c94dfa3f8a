//! One file among manifests: what it says, and whether it has to be read again.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::iter;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::parse::{Content, Fault, Format, parse};
use super::together::Said;

/// Files that are worth threads.
const MANY: usize = 100;

/// What is remembered of a file.
pub(super) struct File {
    pub stamp: Option<Stamp>,
    /// What it says may lie somewhere else, where nothing tells of changes.
    pub is_link: bool,
    pub content: Result<Arc<Said>, Fault>,
    /// The last content that could be parsed and did not contradict another file.
    pub last_good: Option<Arc<Said>>,
    /// All that it says is in force, and nobody else says the same.
    pub is_good: bool,
}

/// What a look at one name found.
pub(super) enum Found {
    /// What was there before, or nothing as before.
    Same,
    /// It is gone.
    Nothing,
    File(File),
}

/// Tells one state of a file from another without reading it. Through symbolic links: those of a ConfigMap volume lead to new files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What each file is now. Many are shared out among the processors.
pub(super) fn look_at_all(
    dir: &Path,
    known: &BTreeMap<OsString, File>,
    names: HashSet<OsString>,
    forced: &(impl Fn(&OsString) -> bool + Sync),
) -> Vec<(OsString, Found)> {
    let look = |name: OsString| {
        let found = look_at(dir.join(&name), known.get(&name), forced(&name));
        (name, found)
    };
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if processors == 1 || names.len() < MANY {
        return names.into_iter().map(look).collect();
    }
    let names = Mutex::new(names.into_iter());
    // The lock is held for no longer than it takes to get a name.
    let next = || names.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || iter::from_fn(next).map(look).collect::<Vec<_>>();
    thread::scope(|scope| {
        let others: Vec<_> = (1..processors).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        }
        all
    })
}

/// What the file is now: read if it looks different, or if that is asked for.
fn look_at(path: PathBuf, known: Option<&File>, forced: bool) -> Found {
    let Some((is_link, metadata)) = there(&path) else {
        return if known.is_some() { Found::Nothing } else { Found::Same };
    };
    let stamp = metadata.as_ref().ok().map(Stamp::of);
    if !forced && stamp.is_some() && known.is_some_and(|file| file.stamp == stamp) {
        return Found::Same;
    }
    let content = metadata
        .map_err(|e| Fault::new(format!("cannot be read: {e}")))
        .and_then(|metadata| read_content(&path, &metadata))
        .map(|content| {
            tell(&path, &content);
            let said = Said::from(content.objects);
            // Written anew with the same objects.
            let same = known.and_then(|file| file.last_good.clone()).filter(|good| **good == said);
            same.unwrap_or_else(|| Arc::new(said))
        });
    let last_good = known.and_then(|file| file.last_good.clone());
    Found::File(File { stamp, is_link, content, last_good, is_good: false })
}

/// Whether it is a link, and what is at its end; `None` for what is not there, and for a directory. A link that leads nowhere is there, and broken.
pub(super) fn there(path: &Path) -> Option<(bool, io::Result<Metadata>)> {
    let own = fs::symlink_metadata(path);
    let is_link = match &own {
        Ok(metadata) => metadata.file_type().is_symlink(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => false,
    };
    let metadata = if is_link { fs::metadata(path) } else { own };
    (!metadata.as_ref().is_ok_and(Metadata::is_dir)).then_some((is_link, metadata))
}

pub(super) fn is_manifest(name: &OsStr) -> bool {
    format_of(name).is_some()
}

/// By its ending; hidden files (an editor's, a ConfigMap volume's) are none.
fn format_of(name: &OsStr) -> Option<Format> {
    if name.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    match Path::new(name).extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn read_content(path: &Path, metadata: &Metadata) -> Result<Content, Fault> {
    // Opening a pipe would wait for a writer for ever.
    if !metadata.is_file() {
        return Err(Fault::new("is no regular file"));
    }
    let bytes = fs::read(path).map_err(|e| Fault::new(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| Fault::new(format!("is not UTF-8: {e}")))?;
    parse(path.file_name().and_then(format_of).unwrap_or(Format::Yaml), &text)
}

fn tell(path: &Path, content: &Content) {
    for what in &content.dropped {
        tracing::warn!(file = %path.display(), "left out: {what}");
    }
    for (kind, count) in &content.ignored {
        tracing::debug!(file = %path.display(), kind, count, "objects of this kind are ignored");
    }
}
