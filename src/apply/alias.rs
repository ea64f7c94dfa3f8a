//! A name for the writers of tables that nobody else has.
//!
//! The kernel tells who changed nf_tables by process id and command name. The process id is that of the first pid namespace, which a
//! process in another one cannot know of its children. The command name is the name under which a program was started: in such a
//! namespace the writing tools are started by links with a random name.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The pid namespace that a machine boots with: PROC_PID_INIT_INO of linux/proc_ns.h.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";
/// The tools whose writes the kernel announces.
const WRITERS: [&str; 2] = ["iptables-restore", "ip6tables-restore"];

/// Links to the writing tools.
#[derive(Debug)]
pub(super) struct Alias {
    name: String,
    directories: BTreeMap<&'static str, PathBuf>,
}

impl Alias {
    /// Makes the links below a directory, where they are needed.
    pub fn needed_in(directory: &Path) -> io::Result<Option<Self>> {
        let namespace = std::fs::read_link("/proc/self/ns/pid")?;
        if namespace == Path::new(FIRST_NAMESPACE) {
            return Ok(None);
        }
        // A command name has at most 15 bytes (TASK_COMM_LEN).
        let name = format!("sn-{:012x}", RandomState::new().hash_one(std::process::id()) >> 16);
        let mut directories = BTreeMap::new();
        for tool in WRITERS {
            let links = directory.join("writers").join(tool);
            // Of an earlier start.
            let _ = std::fs::remove_dir_all(&links);
            std::fs::create_dir_all(&links)?;
            symlink(on_path(tool)?, links.join(&name))?;
            directories.insert(tool, links);
        }
        Ok(Some(Alias { name, directories }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn of(&self, tool: &str) -> Option<PathBuf> {
        Some(self.directories.get(tool)?.join(&self.name))
    }
}

fn on_path(tool: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(tool)).find(|file| file.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{tool} is not on PATH")))
}
