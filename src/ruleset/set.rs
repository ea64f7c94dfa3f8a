use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::{Family, Protocol};

/// An ipset that we keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IpSet {
    pub kind: SetKind,
    /// Empty for a set that the kernel fills itself ([`SetKind::is_dynamic`]).
    pub members: Arc<BTreeSet<SetMember>>,
    /// A gate lets packets into chains: it is opened (members added) after the rules are there and closed (members removed) before they
    /// go. Every other set is filled before and emptied after.
    pub gate: bool,
}

/// Type and creation options; a set whose kind changes must be made anew under another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetKind {
    HashNet(Family),
    HashIp(Family),
    HashIpPort(Family),
    /// hash:ip skbinfo: each member carries a mark.
    HashIpMark(Family),
    /// hash:ip timeout 0 forceadd: clients of one pod, filled by the SET target (ClientIP affinity).
    Affinity(Family),
    /// list:set of other sets of ours.
    List,
}

impl SetKind {
    /// Members come from packets, not from the plan.
    pub fn is_dynamic(self) -> bool {
        matches!(self, SetKind::Affinity(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SetMember {
    Net(IpNet),
    Ip(IpAddr),
    IpPort { address: IpAddr, protocol: Protocol, port: u16 },
    IpMark { address: IpAddr, mark: u32, mask: u32 },
    Set(String),
}

/// As `ipset save` prints a member (a /32 network without its prefix), so that reading back compares equal.
impl fmt::Display for SetMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetMember::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            SetMember::Net(net) => write!(f, "{net}"),
            SetMember::Ip(address) => write!(f, "{address}"),
            SetMember::IpPort { address, protocol, port } => write!(f, "{address},{protocol}:{port}"),
            SetMember::IpMark { address, mark, mask } => write!(f, "{address} skbmark 0x{mark:x}/0x{mask:x}"),
            SetMember::Set(name) => f.write_str(name),
        }
    }
}

impl IpSet {
    pub fn new(kind: SetKind) -> Self {
        IpSet { kind, members: Arc::default(), gate: false }
    }

    pub fn of(kind: SetKind, members: impl IntoIterator<Item = SetMember>) -> Self {
        IpSet { kind, members: Arc::new(members.into_iter().collect()), gate: false }
    }

    pub fn as_gate(mut self) -> Self {
        self.gate = true;
        self
    }
}
