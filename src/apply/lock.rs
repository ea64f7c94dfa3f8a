//! One writer at a time: two would undo each other's work for ever.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "lock";

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another smartnat-manager{} runs here (it holds {}); stop it first (systemctl stop smartnat)",
        pid.as_ref().map_or_else(String::new, |pid| format!(" (process {pid})")),
        path.display()
    )]
    Held { pid: Option<u32>, path: PathBuf },
    #[error("{} could not be opened; make the state directory writable (as root), or name another by SNCTRLR_STATE_DIR", path.display())]
    Open { path: PathBuf, source: io::Error },
}

/// Held while it lives; the kernel lets go of it also when the process is killed (flock(2)).
#[derive(Debug)]
pub struct WriterLock {
    _file: File,
}

impl WriterLock {
    /// Takes the lock of a state directory, which is made if it is not there.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(FILE);
        let open = || {
            fs::create_dir_all(state_dir)?;
            File::options().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let mut file = open().map_err(|source| LockError::Open { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is a help only.
                let _ = file.read_to_string(&mut text);
                return Err(LockError::Held { pid: text.trim().parse().ok(), path });
            }
            Err(TryLockError::Error(source)) => return Err(LockError::Open { path, source }),
        }
        let note = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        match note(&mut file) {
            Ok(()) => Ok(WriterLock { _file: file }),
            Err(source) => Err(LockError::Open { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_refused_and_told_who_the_first_is_until_that_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = WriterLock::take(&state).unwrap();
        let refused = WriterLock::take(&state).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("stop it first"), "{refused}");
        drop(first);
        WriterLock::take(&state).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = WriterLock::take(Path::new("/proc/nowhere")).unwrap_err();
        assert!(matches!(&error, LockError::Open { .. }), "{error:?}");
        assert!(error.to_string().contains("/proc/nowhere/lock"), "{error}");
    }
}
