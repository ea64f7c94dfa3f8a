//! What a directory of manifests says, over time.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::file::{File, Found, Stamp, is_manifest, look_at_all, there};
use super::parse::Fault;
use super::together::{Change, Together, exchange};
use crate::model::{Dense, Objects};
use crate::sources::Position;

/// A look at every file that nobody asked for comes after so many times what the last one took, so that many files cost no more than few.
const LOOK_PACE: u32 = 2_000;
/// But after so long in any case.
const LONGEST_PACE: Duration = Duration::from_secs(60);

/// A file that cannot be used, with the place and the reason. Displays as `path:line:column: reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BrokenFile {
    pub path: PathBuf,
    /// Unknown for a file that cannot be read at all.
    pub position: Option<Position>,
    pub reason: String,
}

impl fmt::Display for BrokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.reason)
    }
}

/// Why a directory cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the manifests in {}: {source}; name a directory that this user may read", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Every broken file, in the order of their names.
    #[error("{}", list(.0))]
    Broken(Vec<BrokenFile>),
}

fn list(files: &[BrokenFile]) -> String {
    files.iter().map(BrokenFile::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads a directory once. One broken file is an error, which names all of them.
pub fn load_dir(dir: &Path) -> Result<Objects, LoadError> {
    let mut directory = Directory::new(dir.to_owned());
    match directory.scan(&Changed::All) {
        Err(Gone::Unreadable(source)) => Err(LoadError::Directory { path: dir.to_owned(), source }),
        // Only a directory that was there before can be gone otherwise.
        Err(Gone::Emptied) => Ok(Objects::default()),
        Ok(scan) => {
            let scan = scan.unwrap_or_default();
            if scan.broken.is_empty() {
                drop(directory);
                Ok(Arc::unwrap_or_clone(scan.objects))
            } else {
                Err(LoadError::Broken(scan.broken.into_iter().map(|(file, _)| file).collect()))
            }
        }
    }
}

/// What is known of changes since the last look.
pub(super) enum Changed {
    /// Nothing. Where every file is told apart from its state before by signs of its own, these are asked for now and then.
    Nothing,
    /// Every file may be another; those are read that look different.
    Look,
    /// Every file is to be read again although it looks the same.
    All,
    /// Something happened to these names, and to no others.
    Names(HashSet<OsString>),
}

/// Why nothing can be said about the files.
#[derive(Debug)]
pub(super) enum Gone {
    Unreadable(io::Error),
    /// Another directory stands in its place, without any manifest: an unmounted file system, a deleted directory made anew.
    Emptied,
}

/// One look at the directory.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What is in force, from every file what it said when it was last good. The same as before where nothing of it changed.
    pub objects: Arc<Objects>,
    /// In the order of their names, each with whether something of it is in force.
    pub broken: Vec<(BrokenFile, InForce)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InForce {
    LastGood,
    Nothing,
}

/// Remembers what every file said last, and what when it was last good.
pub(super) struct Directory {
    path: PathBuf,
    /// Of the directory that was last taken as it is.
    identity: Option<DirectoryIdentity>,
    /// That directory was seen going away, whatever the identity of the next one says.
    replaced: bool,
    /// The last look succeeded, and its result still stands.
    settled: bool,
    files: BTreeMap<OsString, File>,
    /// What is in force.
    objects: Arc<Objects>,
    /// Of the last look: the directory itself when it began, and when every file is to be looked at again.
    stamp: Option<Stamp>,
    again: Option<Instant>,
}

/// Tells one directory from another at the same path. Inode numbers are used again at once on some file systems, birth times are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectoryIdentity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl DirectoryIdentity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::of_metadata(&metadata))
    }

    fn of_metadata(metadata: &Metadata) -> Self {
        DirectoryIdentity { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() }
    }
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Directory {
            path,
            identity: None,
            replaced: false,
            settled: false,
            files: BTreeMap::new(),
            objects: Arc::default(),
            stamp: None,
            again: None,
        }
    }

    /// The directory was deleted or moved: what stands at its path from now on is another one.
    pub(super) fn was_replaced(&mut self) {
        self.replaced = true;
    }

    /// Reads the files that changed. `None` if nothing is new since the last look.
    ///
    /// An error leaves everything remembered as it was.
    pub(super) fn scan(&mut self, changed: &Changed) -> Result<Option<Scan>, Gone> {
        let settled = std::mem::replace(&mut self.settled, false);
        let begun = Instant::now();
        let metadata = fs::metadata(&self.path).map_err(Gone::Unreadable)?;
        let identity = DirectoryIdentity::of_metadata(&metadata);
        let stamp = Some(Stamp::of(&metadata));
        let same = settled && !self.replaced && self.identity == Some(identity);
        let (names, forced) = match changed {
            Changed::Nothing if same && stamp == self.stamp && !self.is_look_due(begun) => {
                self.settled = true;
                return Ok(None);
            }
            // A link may lead through a name that is no manifest's.
            Changed::Names(names) if same && names.iter().all(|name| self.concerns_itself_alone(name)) => {
                (names.iter().filter(|name| is_manifest(name)).cloned().collect(), true)
            }
            _ => (self.all_names(identity)?, matches!(changed, Changed::All)),
        };
        let mut news = !settled;
        let mut changes = BTreeMap::new();
        let forced = |name: &OsString| forced || matches!(changed, Changed::Names(names) if names.contains(name));
        for (name, found) in look_at_all(&self.path, &self.files, names, &forced) {
            let before = match found {
                Found::Same => continue,
                Found::Nothing => self.files.remove(&name),
                Found::File(file) => self.files.insert(name.clone(), file),
            };
            news = true;
            changes.insert(name, before);
        }
        if !matches!(changed, Changed::Names(_)) {
            self.again = Some(Instant::now() + (begun.elapsed() * LOOK_PACE).min(LONGEST_PACE));
        }
        self.files.densify(changes.len());
        self.stamp = stamp;
        self.settled = true;
        Ok(news.then(|| match self.exchange(&changes) {
            true => Scan { objects: Arc::clone(&self.objects), broken: Vec::new() },
            false => self.combine(),
        }))
    }

    /// Every file has been looked at long ago; or a link leads to something else now.
    fn is_look_due(&self, now: Instant) -> bool {
        let moved = |(name, file): (&OsString, &File)| {
            file.is_link && fs::metadata(self.path.join(name)).ok().as_ref().map(Stamp::of) != file.stamp
        };
        self.again.is_none_or(|again| now >= again) || self.files.iter().any(moved)
    }

    /// What happens to this name changes no file of another name.
    fn concerns_itself_alone(&self, name: &OsStr) -> bool {
        is_manifest(name) || !self.files.values().any(|file| file.is_link)
    }

    /// Names of all manifests, and of those that were there before.
    fn all_names(&mut self, identity: DirectoryIdentity) -> Result<HashSet<OsString>, Gone> {
        let mut names = self.manifest_names().map_err(Gone::Unreadable)?;
        // A file system unmounted between the two looks would show an empty directory under the old identity.
        if DirectoryIdentity::of(&self.path).map_err(Gone::Unreadable)? != identity {
            return Err(Gone::Unreadable(io::Error::other("the directory was replaced while it was read")));
        }
        let replaced = self.identity.is_some_and(|known| self.replaced || known != identity);
        if replaced && names.iter().all(|name| there(&self.path.join(name)).is_none()) {
            return Err(Gone::Emptied);
        }
        self.identity = Some(identity);
        self.replaced = false;
        names.extend(self.files.keys().filter(|name| !names.contains(*name)).cloned().collect::<Vec<_>>());
        Ok(names)
    }

    fn manifest_names(&self) -> io::Result<HashSet<OsString>> {
        let mut names = HashSet::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if is_manifest(&name) {
                names.insert(name);
            }
        }
        Ok(names)
    }

    /// Puts the files together, in the order of their names. An object that an earlier file has too makes the later one broken.
    pub(super) fn combine(&mut self) -> Scan {
        let files = self.files.len();
        let mut together = Together::default();
        let mut broken = Vec::new();
        for (name, file) in &mut self.files {
            let fault = match &file.content {
                Ok(said) => match together.contradiction(said) {
                    None => {
                        file.last_good = Some(Arc::clone(said));
                        None
                    }
                    Some((object, other)) => Some(Fault::new(format!(
                        "{object} stands in {} too: remove it from one of the two files",
                        self.path.join(other).display()
                    ))),
                },
                Err(fault) => Some(fault.clone()),
            };
            file.is_good = fault.is_none();
            if let Some(Fault { position, reason }) = fault {
                let in_force = if file.last_good.is_some() { InForce::LastGood } else { InForce::Nothing };
                broken.push((BrokenFile { path: self.path.join(name), position, reason }, in_force));
            }
            if let Some(said) = &file.last_good {
                together.add(name, said);
            }
        }
        if *self.objects != together.objects {
            together.objects.densify(files);
            self.objects = Arc::new(together.objects);
        }
        Scan { objects: Arc::clone(&self.objects), broken }
    }

    /// Puts what the changed files say now in the place of what they said before, if no file is broken by it or was before.
    fn exchange(&mut self, changes: &BTreeMap<OsString, Option<File>>) -> bool {
        let were_good = changes.values().flatten().all(|file| file.is_good);
        let others_good = self.files.iter().all(|(name, file)| changes.contains_key(name) || file.is_good);
        if !were_good || !others_good || changes.is_empty() {
            return false;
        }
        let before = |old: &Option<File>| old.as_ref().and_then(|file| file.last_good.clone());
        let mut exchanged = Vec::new();
        for (name, old) in changes {
            let now = match self.files.get(name).map(|file| &file.content) {
                None => None,
                Some(Ok(said)) => Some(Arc::clone(said)),
                Some(Err(_)) => return false,
            };
            exchanged.push(Change { before: before(old), now });
        }
        if !exchange(&mut self.objects, &exchanged) {
            return false;
        }
        for name in changes.keys() {
            if let Some(file) = self.files.get_mut(name) {
                file.last_good = file.content.as_ref().ok().cloned();
                file.is_good = true;
            }
        }
        true
    }
}
