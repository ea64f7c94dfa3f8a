//! Kernel parameters: compared with what /proc really holds at every apply, written where they differ.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::applied::{Repair, RepairKind};
use super::state::{Original, Originals, StateError};
use crate::ruleset::Sysctl;

const PROC_NET: &str = "/proc/sys/net";

#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("{sysctl} could not be read; is the kernel module that provides it loaded?")]
    Read { sysctl: String, source: io::Error },
    #[error("{sysctl} is {found:?} and could not be set to {wanted:?}")]
    Write { sysctl: String, found: String, wanted: String, source: io::Error },
    /// Each with what it is and what it should be.
    #[error(
        "/proc/sys is read-only here, and not as it should be: {}; set them from outside (on the node, or by the init container of \
         deploy/daemonset), or make it writable",
        .0.join(", ")
    )]
    ReadOnly(Vec<String>),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Writes sysctls and remembers, here and on disk, what they were.
pub struct Sysctls {
    state_dir: PathBuf,
    /// Loaded with the first write.
    originals: Option<Originals>,
    /// What we last wrote or found right: another value later is somebody else's doing.
    held: BTreeMap<Sysctl, String>,
}

impl Sysctls {
    pub fn new(state_dir: PathBuf) -> Self {
        Sysctls { state_dir, originals: None, held: BTreeMap::new() }
    }

    /// Brings some sysctls to their values, in the order given, and counts those written. Where /proc/sys is read-only they are only
    /// compared, all of them.
    pub fn apply<'a>(
        &mut self,
        wanted: impl Iterator<Item = (&'a Sysctl, &'a String)>,
        written: &mut usize,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), SysctlError> {
        let mut writes = Vec::new();
        let mut refused = Vec::new();
        for (sysctl, value) in wanted {
            let found = match read(&sysctl.path()) {
                Ok(found) => found,
                Err(source) if may_be_away(sysctl, &source) => {
                    tracing::debug!(%sysctl, "not there: the interface is away or its family is disabled");
                    continue;
                }
                Err(source) => return Err(SysctlError::Read { sysctl: sysctl.to_string(), source }),
            };
            if found == *value {
                self.held.insert(sysctl.clone(), found);
                continue;
            }
            if self.held.get(sysctl) == Some(value) {
                let what = format!("was {found} instead of {value}");
                repairs.push(Repair { kind: RepairKind::Sysctl, name: sysctl.to_string(), what });
            }
            // Opened before anything is noted: what cannot be written is not ours to put back.
            match File::options().write(true).open(Path::new(PROC_NET).join(sysctl.path())) {
                Ok(file) => writes.push((sysctl, value, found, file)),
                Err(source) if may_be_away(sysctl, &source) => {}
                Err(source) if is_read_only(&source) => refused.push(format!("{sysctl} is {found}, wanted {value}")),
                Err(source) => {
                    let (sysctl, wanted) = (sysctl.to_string(), value.clone());
                    return Err(SysctlError::Write { sysctl, found, wanted, source });
                }
            }
        }
        if !writes.is_empty() {
            self.write(writes, written)?;
        }
        if refused.is_empty() { Ok(()) } else { Err(SysctlError::ReadOnly(refused)) }
    }

    fn write(&mut self, writes: Vec<(&Sysctl, &String, String, File)>, written: &mut usize) -> Result<(), SysctlError> {
        let originals = match &mut self.originals {
            Some(originals) => originals,
            none => none.insert(Originals::load(&self.state_dir)?),
        };
        let beside = writes.iter().filter(|(sysctl, ..)| **sysctl == Sysctl::IpForward);
        let beside: Vec<_> = beside.flat_map(|(_, value, found, _)| beside_forwarding(found, value)).collect();
        let written_ones = writes.iter().map(|(sysctl, value, found, _)| {
            (sysctl.path(), Original { before: found.clone(), ours: (*value).clone() })
        });
        originals.record(written_ones.chain(beside))?;
        for (sysctl, value, found, mut file) in writes {
            match file.write_all(value.as_bytes()) {
                Ok(()) => {
                    self.held.insert(sysctl.clone(), value.clone());
                    *written += 1;
                }
                Err(source) if may_be_away(sysctl, &source) => {
                    tracing::debug!(%sysctl, "the interface left before its sysctl was written");
                }
                Err(source) => {
                    let (sysctl, wanted) = (sysctl.to_string(), value.clone());
                    return Err(SysctlError::Write { sysctl, found, wanted, source });
                }
            }
        }
        Ok(())
    }

    /// Whether all that were right have stayed so.
    pub fn hold(&self) -> bool {
        self.held.iter().all(|(sysctl, value)| match read(&sysctl.path()) {
            Ok(found) => found == *value,
            // Who brings the interface back is heard.
            Err(error) => may_be_away(sysctl, &error),
        })
    }

    /// Forgets those that are wanted no more, so that an interface that comes back is not taken for tampered with.
    pub fn retain(&mut self, wanted: &BTreeMap<Sysctl, String>) {
        self.held.retain(|sysctl, _| wanted.contains_key(sysctl));
    }
}

/// The current value, without the end of line.
pub fn read(path: &str) -> io::Result<String> {
    Ok(fs::read_to_string(Path::new(PROC_NET).join(path))?.trim().to_owned())
}

/// What a change of ip_forward (inet_forward_change) sets beside it, and what a change back would not bring back: switches of single
/// interfaces that stood otherwise, and `accept_redirects` of `all`, which it makes the opposite.
fn beside_forwarding(found: &str, value: &str) -> Vec<(String, Original)> {
    let opposite = |forwarding: &str| if forwarding == "0" { "1" } else { "0" };
    let note = |path: String, ours: &str, after_change_back: &str| {
        let before = read(&path).ok().filter(|before| before != after_change_back)?;
        Some((path, Original { before, ours: ours.to_owned() }))
    };
    let interfaces = fs::read_dir(Path::new(PROC_NET).join("ipv4/conf")).into_iter().flatten().flatten();
    // Names of interfaces are bytes that the kernel does not judge; those that are no text are nobody's to set by name.
    let names = interfaces.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != "all");
    let switches = names.filter_map(|name| note(format!("ipv4/conf/{name}/forwarding"), value, found));
    let redirects = note("ipv4/conf/all/accept_redirects".to_owned(), opposite(value), opposite(found));
    switches.chain(redirects).collect()
}

/// Puts sysctls back that still hold our values; the number of those written. One that is gone (its interface left) needs nothing.
///
/// Forwarding first: that also changes others, which are judged by what they held before it.
pub fn restore(originals: &BTreeMap<String, Original>) -> Result<usize, SysctlError> {
    let mut ours = Vec::new();
    for (path, original) in originals {
        if current(path)?.as_ref() == Some(&original.ours) {
            ours.push((path, &original.before));
        }
    }
    let forward = Sysctl::IpForward.path();
    ours.sort_by_key(|(path, _)| **path != forward);
    let mut restored = 0;
    for (path, before) in ours {
        let Some(found) = current(path)?.filter(|found| found != before) else { continue };
        let write = fs::write(Path::new(PROC_NET).join(path), before);
        write.map_err(|source| SysctlError::Write {
            sysctl: format!("net/{path}"),
            found,
            wanted: before.clone(),
            source,
        })?;
        restored += 1;
    }
    Ok(restored)
}

/// `None` for what is not there.
fn current(path: &str) -> Result<Option<String>, SysctlError> {
    match read(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SysctlError::Read { sysctl: format!("net/{path}"), source }),
    }
}

/// An interface may vanish at any time; /proc then says ENOENT, or ENODEV to a file already open.
fn may_be_away(sysctl: &Sysctl, error: &io::Error) -> bool {
    const ENODEV: i32 = 19;
    matches!(sysctl, Sysctl::Interface { .. } | Sysctl::Forwarding(_))
        && (error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV))
}

/// The outcome of two applies; what is read-only is named once and whole.
pub fn both(first: Result<(), SysctlError>, second: Result<(), SysctlError>) -> Result<(), SysctlError> {
    match (first, second) {
        (Err(SysctlError::ReadOnly(mut some)), Err(SysctlError::ReadOnly(more))) => {
            some.extend(more);
            Err(SysctlError::ReadOnly(some))
        }
        (first, second) => first.and(second),
    }
}

/// A read-only mount (EROFS), or a process that may not (EACCES, EPERM).
fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
