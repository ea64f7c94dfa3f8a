use std::fs::File;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A machine has two processors, but what it does is mostly one thing after the other.
const MOST: usize = 4;

/// Waits for a turn: a lock on one of as many files as machines may run at a time.
#[track_caller]
pub fn take(dir: &Path) -> Flock<File> {
    std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let turns = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST));
    loop {
        for turn in 0..turns {
            match Flock::lock(open(&dir.join(turn.to_string())), FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return lock,
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, e)) => panic!("flock in {}: {e}", dir.display()),
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until nobody else has the lock.
#[track_caller]
pub fn alone(file: &Path) -> Flock<File> {
    Flock::lock(open(file), FlockArg::LockExclusive).unwrap_or_else(|(_, e)| panic!("flock {}: {e}", file.display()))
}

#[track_caller]
fn open(file: &Path) -> File {
    File::create(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}
