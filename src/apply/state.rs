//! What sysctls held before we wrote them, kept on disk so that `cleanup` can put them back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "sysctls.json";
/// Sysctls do not survive a boot: what an earlier one found says nothing about this one.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{} could not be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not what SmartNat wrote there; look at it and remove it", path.display())]
    Syntax { path: PathBuf, source: serde_json::Error },
    #[error("{} could not be written; make the state directory writable, or name another by SNCTRLR_STATE_DIR", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// One sysctl: what it held before us, and what we wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    pub before: String,
    pub ours: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    boot_id: String,
    /// By path below /proc/sys/net.
    sysctls: BTreeMap<String, Original>,
}

/// The file `sysctls.json` of the state directory.
#[derive(Debug)]
pub struct Originals {
    path: PathBuf,
    contents: Contents,
    /// The file does not hold all of `contents`.
    unsaved: bool,
}

impl Originals {
    /// Reads the file; one that is missing or from an earlier boot is empty.
    pub fn load(state_dir: &Path) -> Result<Self, StateError> {
        let boot_id = read(Path::new(BOOT_ID))?.unwrap_or_default().trim().to_owned();
        Self::load_for_boot(state_dir, boot_id)
    }

    fn load_for_boot(state_dir: &Path, boot_id: String) -> Result<Self, StateError> {
        let path = state_dir.join(FILE);
        let found: Option<Contents> = match read(&path)? {
            Some(text) => {
                Some(serde_json::from_str(&text).map_err(|source| StateError::Syntax { path: path.clone(), source })?)
            }
            None => None,
        };
        let contents = match found {
            Some(contents) if contents.boot_id == boot_id => contents,
            _ => Contents { boot_id, sysctls: BTreeMap::new() },
        };
        Ok(Originals { path, contents, unsaved: false })
    }

    pub fn sysctls(&self) -> &BTreeMap<String, Original> {
        &self.contents.sysctls
    }

    /// Notes values about to be overwritten and saves them. What was there before our first write stays what it was.
    pub fn record(&mut self, writes: impl IntoIterator<Item = (String, Original)>) -> Result<(), StateError> {
        for (path, new) in writes {
            match self.contents.sysctls.get_mut(&path) {
                Some(known) if known.ours == new.ours => {}
                Some(known) => {
                    known.ours = new.ours;
                    self.unsaved = true;
                }
                None => {
                    self.contents.sysctls.insert(path, new);
                    self.unsaved = true;
                }
            }
        }
        // Also what an earlier call could not save: nothing may be overwritten whose value is not on disk.
        if self.unsaved {
            self.save()?;
            self.unsaved = false;
        }
        Ok(())
    }

    /// Removes the file: everything was put back.
    pub fn discard(mut self) -> Result<(), StateError> {
        self.contents.sysctls.clear();
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Write { path: self.path, source })
            }
            _ => Ok(()),
        }
    }

    /// By rename, so that a crash leaves the old file or the new one.
    fn save(&self) -> Result<(), StateError> {
        let temporary = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            if let Some(directory) = self.path.parent() {
                fs::create_dir_all(directory)?;
            }
            let mut file = File::create(&temporary)?;
            file.write_all(serde_json::to_string_pretty(&self.contents)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|source| StateError::Write { path: self.path.clone(), source })
    }
}

fn read(path: &Path) -> Result<Option<String>, StateError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(before: &str, ours: &str) -> [(String, Original); 1] {
        [("ipv4/ip_forward".to_owned(), Original { before: before.to_owned(), ours: ours.to_owned() })]
    }

    #[test]
    fn the_value_before_our_first_write_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let mut originals = Originals::load(dir.path()).unwrap();
        originals.record(write("0", "1")).unwrap();
        originals.record(write("1", "2")).unwrap();
        let again = Originals::load(dir.path()).unwrap();
        let expected = Original { before: "0".into(), ours: "2".into() };
        assert_eq!(again.sysctls()["ipv4/ip_forward"], expected);
    }

    #[test]
    fn what_an_earlier_boot_found_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        Originals::load_for_boot(dir.path(), "first".into()).unwrap().record(write("0", "1")).unwrap();
        assert_eq!(Originals::load_for_boot(dir.path(), "first".into()).unwrap().sysctls().len(), 1);
        assert!(Originals::load_for_boot(dir.path(), "second".into()).unwrap().sysctls().is_empty());
    }

    #[test]
    fn a_file_that_is_not_ours_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let error = Originals::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("sysctls.json"), "{error}");
    }

    #[test]
    fn what_could_not_be_saved_is_an_error_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let obstacle = dir.path().join("sysctls.json.new");
        fs::create_dir(&obstacle).unwrap();
        let mut originals = Originals::load(dir.path()).unwrap();
        for _ in 0..2 {
            let error = originals.record(write("0", "1")).unwrap_err();
            assert!(error.to_string().contains("SNCTRLR_STATE_DIR"), "{error}");
        }
        fs::remove_dir(&obstacle).unwrap();
        originals.record(write("0", "1")).unwrap();
        assert_eq!(Originals::load(dir.path()).unwrap().sysctls().len(), 1);
    }

    #[test]
    fn discarding_twice_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut originals = Originals::load(dir.path()).unwrap();
        originals.record(write("0", "1")).unwrap();
        originals.discard().unwrap();
        assert!(!dir.path().join(FILE).exists());
        Originals::load(dir.path()).unwrap().discard().unwrap();
    }
}
