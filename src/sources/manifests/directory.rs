//! What a directory of manifests says, over time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::parse::{Content, Fault, Format, parse};
use crate::model::{ObjectKey, Objects};
use crate::sources::Position;

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
                Ok(scan.objects)
            } else {
                Err(LoadError::Broken(scan.broken.into_iter().map(|(file, _)| file).collect()))
            }
        }
    }
}

/// Which files are to be read again although they look the same.
pub(super) enum Changed {
    All,
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
    /// What is in force, from every file what it said when it was last good.
    pub objects: Objects,
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
}

struct File {
    stamp: Option<Stamp>,
    content: Result<Arc<Objects>, Fault>,
    /// The last content that could be parsed and did not contradict another file.
    last_good: Option<Arc<Objects>>,
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
        let metadata = fs::metadata(path)?;
        Ok(DirectoryIdentity { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() })
    }
}

/// Tells one state of a file from another without reading it. Through symbolic links: those of a ConfigMap volume lead to new files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Directory { path, identity: None, replaced: false, settled: false, files: BTreeMap::new() }
    }

    /// The directory was deleted or moved: what stands at its path from now on is another one.
    pub(super) fn was_replaced(&mut self) {
        self.replaced = true;
    }

    /// Reads the files that changed, and those of `changed` in any case. `None` if nothing is new since the last look.
    ///
    /// An error leaves everything remembered as it was.
    pub(super) fn scan(&mut self, changed: &Changed) -> Result<Option<Scan>, Gone> {
        let settled = std::mem::replace(&mut self.settled, false);
        let identity = DirectoryIdentity::of(&self.path).map_err(Gone::Unreadable)?;
        let names = self.manifest_names().map_err(Gone::Unreadable)?;
        // A file system unmounted between the two looks would show an empty directory under the old identity.
        if DirectoryIdentity::of(&self.path).map_err(Gone::Unreadable)? != identity {
            return Err(Gone::Unreadable(io::Error::other("the directory was replaced while it was read")));
        }
        let replaced = self.identity.is_some_and(|known| self.replaced || known != identity);
        if names.is_empty() && replaced {
            return Err(Gone::Emptied);
        }
        self.identity = Some(identity);
        self.replaced = false;
        self.settled = true;
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        let mut news = self.files.len() != before;
        for name in names {
            let forced = match changed {
                Changed::All => true,
                Changed::Names(names) => names.contains(&name),
            };
            news |= self.read(name, forced);
        }
        Ok((news || !settled).then(|| self.combine()))
    }

    fn manifest_names(&self) -> io::Result<HashSet<OsString>> {
        let mut names = HashSet::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if format_of(&name).is_none() {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => continue,
                // Deleted after it was listed; a link that leads nowhere stays, and is broken.
                Err(_) if fs::symlink_metadata(entry.path()).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) => {
                    continue;
                }
                _ => names.insert(name),
            };
        }
        Ok(names)
    }

    /// Whether the file was read: it looks different, or was asked for.
    fn read(&mut self, name: OsString, forced: bool) -> bool {
        let path = self.path.join(&name);
        let metadata = fs::metadata(&path);
        let stamp = metadata.as_ref().ok().map(Stamp::of);
        let known = self.files.get(&name);
        if !forced && stamp.is_some() && known.is_some_and(|file| file.stamp == stamp) {
            return false;
        }
        let content = metadata
            .map_err(|e| Fault::new(format!("cannot be read: {e}")))
            .and_then(|metadata| read_content(&path, &metadata))
            .map(|content| {
                tell(&path, &content);
                Arc::new(content.objects)
            });
        let last_good = known.and_then(|file| file.last_good.clone());
        self.files.insert(name, File { stamp, content, last_good });
        true
    }

    /// Puts the files together, in the order of their names. An object that an earlier file has too makes the later one broken.
    fn combine(&mut self) -> Scan {
        let mut together = Together::default();
        let mut broken = Vec::new();
        for (name, file) in &mut self.files {
            let fault = match &file.content {
                Ok(objects) => match together.contradiction(objects) {
                    None => {
                        file.last_good = Some(Arc::clone(objects));
                        None
                    }
                    Some((object, other)) => Some(Fault::new(format!(
                        "{object} stands in {} too: remove it from one of the two files",
                        self.path.join(other).display()
                    ))),
                },
                Err(fault) => Some(fault.clone()),
            };
            if let Some(Fault { position, reason }) = fault {
                let in_force = if file.last_good.is_some() { InForce::LastGood } else { InForce::Nothing };
                broken.push((BrokenFile { path: self.path.join(name), position, reason }, in_force));
            }
            if let Some(objects) = &file.last_good {
                together.add(name, objects);
            }
        }
        Scan { objects: together.objects, broken }
    }
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

/// Objects of several files, with the file that each came from.
#[derive(Default)]
struct Together<'a> {
    objects: Objects,
    owners: HashMap<(&'static str, ObjectKey), &'a OsStr>,
}

/// All objects of a set by kind and key.
fn keys(objects: &Objects) -> impl Iterator<Item = (&'static str, &ObjectKey)> {
    let mappings = objects.mappings.keys().map(|k| ("Mapping", k));
    let services = objects.services.keys().map(|k| ("Service", k));
    let slices = objects.slices.keys().map(|k| ("EndpointSlice", k));
    mappings.chain(services).chain(slices)
}

impl<'a> Together<'a> {
    /// The first object that is there already, and the file that has it.
    fn contradiction(&self, objects: &Objects) -> Option<(String, &'a OsStr)> {
        keys(objects).find_map(|(kind, key)| {
            let owner = self.owners.get(&(kind, key.clone()))?;
            Some((format!("{kind} {key}"), *owner))
        })
    }

    /// Adds what is not there already.
    fn add(&mut self, name: &'a OsStr, objects: &Objects) {
        for (kind, key) in keys(objects) {
            self.owners.entry((kind, key.clone())).or_insert(name);
        }
        for (key, object) in &objects.mappings {
            self.objects.mappings.entry(key.clone()).or_insert_with(|| object.clone());
        }
        for (key, object) in &objects.services {
            self.objects.services.entry(key.clone()).or_insert_with(|| object.clone());
        }
        for (key, object) in &objects.slices {
            self.objects.slices.entry(key.clone()).or_insert_with(|| object.clone());
        }
    }
}
