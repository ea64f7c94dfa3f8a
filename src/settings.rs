//! The settings: raw strings from environment and flags in, validated [`Settings`] out, every bad one named at once.

mod args;
mod fields;
mod file;
mod validate;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use args::SettingsArgs;
pub use file::{SettingsFile, SettingsFileError, VARIABLE as FILE_VARIABLE};

use crate::model::BorderConfig;

/// Everything the daemon runs by. Made by [`SettingsArgs::validate`], so every field holds a value that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What decides how the border looks; input of the plan.
    pub border: BorderConfig,
    /// `SNCTRLR_DEBUG_ENABLED`.
    pub debug: bool,
    /// `SNCTRLR_MONITOR_IP` and `SNCTRLR_MONITOR_PORT`.
    pub monitor: MonitorAddress,
    /// `SNCTRLR_IPTABLES_TIMEOUT_SEC`: bounds every call of a kernel tool.
    pub tool_timeout: Duration,
    /// `SNCTRLR_AUTOREFRESH_PERIOD_SEC`: how often the host is looked at in full.
    pub autorefresh: Duration,
    /// `SNCTRLR_MAX_FINALIZE_WAIT_MINUTES`: how long a deleted Mapping waits for an instance that does not answer.
    pub max_finalize_wait: Duration,
    /// Where Mappings, Services and EndpointSlices come from.
    pub objects: ObjectSource,
    /// `SNCTRLR_NAMESPACE`: where the Leases of the instances are.
    pub namespace: String,
    /// `SNCTRLR_LEASE_SECONDS`: an instance whose Lease was not renewed for so long counts as silent.
    pub lease: Duration,
    /// `SNCTRLR_STATE_DIR`: what must outlive the process but not the boot.
    pub state_dir: PathBuf,
}

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectSource {
    /// `SNCTRLR_MANIFESTS`: the files of this directory.
    Manifests(PathBuf),
    /// `KUBECONFIG`: the API server of the current context of these files (several are merged, as kubectl does).
    Kubeconfig(Vec<PathBuf>),
    /// The API server of the pod's own cluster, as its ServiceAccount.
    InCluster,
    /// None was named, and this is no pod.
    None,
}

/// The settings of subcommands that need no interface: `status` and `cleanup`.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalSettings {
    pub debug: bool,
    pub monitor: MonitorAddress,
    pub tool_timeout: Duration,
    pub state_dir: PathBuf,
}

/// Whether an instance can be named so: a DNS name in lower case.
pub fn is_instance_name(text: &str) -> bool {
    validate::is_instance_name(text)
}

/// The settings of subcommands that speak to the API server alone, from wherever they are run: `forget`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    pub debug: bool,
    pub objects: ObjectSource,
    pub namespace: String,
    pub lease: Duration,
}

/// Where the HTTP endpoints listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorAddress {
    /// `None`: every address of the box, both families.
    pub ip: Option<IpAddr>,
    pub port: u16,
}

impl MonitorAddress {
    /// Where a client on this box finds the daemon.
    pub fn local(self) -> SocketAddr {
        let ip = match self.ip {
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(ip) if ip.is_unspecified() => match ip {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            },
            Some(ip) => ip,
        };
        SocketAddr::new(ip, self.port)
    }
}

impl fmt::Display for MonitorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, "every address, port {}", self.port),
        }
    }
}

/// One setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    /// Name of the environment variable.
    pub name: &'static str,
    /// The flag that sets it too, with its dashes.
    pub flag: String,
    /// As given; `None` when it is missing.
    pub value: Option<String>,
    /// What is wrong with it.
    pub wrong: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} ({}) is {value:?}: {}; {}", self.name, self.flag, self.wrong, self.remedy),
            None => write!(f, "{} ({}): {}; {}", self.name, self.flag, self.wrong, self.remedy),
        }
    }
}

/// All bad settings of one start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// Never empty.
    pub bad: Vec<BadSetting>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bad.len() {
            1 => write!(f, "a setting cannot be used:")?,
            n => write!(f, "{n} settings cannot be used:")?,
        }
        for bad in &self.bad {
            write!(f, "\n  {bad}")?;
        }
        Ok(())
    }
}
