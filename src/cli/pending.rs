//! Adapters to parts that are not merged yet; goes away with the merge.

use std::path::Path;

use super::CliError;
use super::view::View;
use crate::model::{Host, Objects};
use crate::report::ConntrackSample;
use crate::settings::{LocalSettings, Settings};

fn absent<T>(what: &str) -> Result<T, CliError> {
    Err(CliError::Plain(format!("{what} is not part of this build")))
}

/// crate::daemon::run(settings)
pub(super) async fn run(_settings: Settings) -> Result<(), CliError> {
    absent("the daemon")
}

/// crate::daemon::border(settings)
pub(super) async fn border(_settings: Settings) -> Result<(), CliError> {
    absent("the border")
}

/// crate::sources::host::read_host()
pub(super) async fn read_host() -> Result<Host, CliError> {
    absent("reading the host by netlink (give --host FILE)")
}

/// crate::sources::describe::parse_host(&text), with the path in the message
pub(super) fn parse_host(_path: &Path, _text: &str) -> Result<Host, CliError> {
    absent("the host description")
}

/// crate::sources::manifests::load_dir(&dir)
pub(super) fn load_dir(_dir: &Path) -> Result<Objects, CliError> {
    absent("reading manifests")
}

/// What the kernel holds of ours: the chains and sets read back by crate::apply, as text like View::of prints a Dataplane.
pub(super) async fn held(_settings: &Settings, _host: &Host) -> Result<View, CliError> {
    absent("reading back what is programmed")
}

/// crate::apply::cleanup::cleanup(tools, state_dir, &host, force): `Ok(Some(reason))` when it refuses without --force
pub(super) async fn cleanup(_settings: &LocalSettings, _host: &Host, _force: bool) -> Result<Option<String>, CliError> {
    absent("cleanup")
}

/// crate::apply::conntrack::counts()
pub(super) fn conntrack() -> Option<ConntrackSample> {
    None
}

/// crate::trace::Packet
#[derive(Debug, PartialEq)]
pub(super) struct Packet {
    pub(super) kind: PacketKind,
    rest: (String, std::net::IpAddr, std::net::IpAddr),
}

/// crate::trace::PacketKind
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PacketKind {
    Tcp { source_port: u16, destination_port: u16 },
    Udp { source_port: u16, destination_port: u16 },
    Icmp { kind: u8, code: u8 },
}

impl Packet {
    pub(super) fn first(i: &str, s: std::net::IpAddr, d: std::net::IpAddr, kind: PacketKind) -> Self {
        Packet { kind, rest: (i.to_owned(), s, d) }
    }
}

/// crate::trace::trace
pub(super) fn trace(_: &crate::ruleset::Dataplane, _: &Host, packet: &Packet) -> String {
    format!("tracing is not part of this build: {packet:?}")
}
