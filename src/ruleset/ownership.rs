//! Names and numbers by which we recognise what we put into the kernel. Nothing else in the program spells them.

use ipnet::IpNet;
use sha2::{Digest, Sha256};

/// Every chain of ours begins so. Chain names are at most 28 characters.
pub const CHAIN_PREFIX: &str = "SMARTNAT-";
/// Every ipset of ours begins so. Set names are at most 31 characters.
pub const SET_PREFIX: &str = "SN-";
/// rtm_protocol of our routes and FRA_PROTOCOL of our rules. Not in iproute2's list (which uses 99 for openr).
pub const ROUTE_PROTOCOL: u8 = 83;

/// Priorities of our policy rules: after `local` (0), before `main` (32766). [`TWIN`] ahead of each stands its twin.
pub const PRIORITY_OUTSIDE: u32 = 88;
pub const PRIORITY_INSIDE: u32 = 90;
pub const PRIORITY_MARK: u32 = 100;
pub const PRIORITY_INTERFACE: u32 = 110;
/// Of a single address. A network's rule stands behind it, the wider the further: among the kernel's routes the longest prefix counts
/// too. See [`priority_from`].
pub const PRIORITY_FROM: u32 = 120;
/// Where packets from outside go on: directly behind the last rule that goes by a mark, so that few rules of others are passed over.
pub const PRIORITY_BEHIND: u32 = PRIORITY_MARK + 1;
/// How far ahead of a rule its twin stands, which looks into the local table for the same packets.
pub const TWIN: u32 = 1;
/// Metric of the unreachable default behind the gateway's (the reference's figure: behind any other).
pub const UNREACHABLE_METRIC: u32 = 4_278_198_272;

pub const MAX_CHAIN_NAME: usize = 28;
pub const MAX_SET_NAME: usize = 31;

/// Longest way from a hook to the last chain, gotos counted: the kernel refuses the 16th (NFT_JUMP_STACK_SIZE).
pub const MAX_CHAIN_DEPTH: usize = 15;

// mangle
pub const PRE: &str = "SMARTNAT-PRE";
pub const PRE_NEW: &str = "SMARTNAT-PRE-NEW";
pub const PRE_INNER: &str = "SMARTNAT-PRE-INNER";
pub const INSIDE: &str = "SMARTNAT-INSIDE";
pub const INSIDE_NEW: &str = "SMARTNAT-INSIDE-NEW";
pub const EGRESS: &str = "SMARTNAT-EGRESS";
pub const OUT: &str = "SMARTNAT-OUT";
pub const OUT_NEW: &str = "SMARTNAT-OUT-NEW";
pub const OUT_ICMP: &str = "SMARTNAT-OUT-ICMP";
pub const OUT_STRAY: &str = "SMARTNAT-OUT-STRAY";
pub const BORDER_IN: &str = "SMARTNAT-BORDER-IN";
pub const BORDER: &str = "SMARTNAT-BORDER";
pub const OPEN: &str = "SMARTNAT-OPEN";
// nat
pub const DNAT: &str = "SMARTNAT-DNAT";
pub const SNAT: &str = "SMARTNAT-SNAT";
// filter
pub const REFUSE: &str = "SMARTNAT-REFUSE";
/// Mapped packets pass what others do with the rest of FORWARD, INPUT and OUTPUT.
pub const PASS: &str = "SMARTNAT-PASS";
pub const PASS_IN: &str = "SMARTNAT-PASS-IN";
pub const PASS_OUT: &str = "SMARTNAT-PASS-OUT";
// security
pub const GUARD: &str = "SMARTNAT-GUARD";

/// hash:ip,port: every endpoint served here.
pub const SET_ENDPOINTS: &str = "SN-EP";
/// hash:net: pods, ClusterIPs, subnets and routes of the inside. Per family.
pub const SET_INNER: &str = "SN-INNER";
pub const SET_INNER6: &str = "SN-INNER6";
/// hash:ip: addresses of external interfaces.
pub const SET_EXTERNAL: &str = "SN-EXT";
pub const SET_EXTERNAL6: &str = "SN-EXT6";
/// hash:net: networks that are local by an external interface.
pub const SET_EXTERNAL_NETS: &str = "SN-EXT-NET";
pub const SET_EXTERNAL_NETS6: &str = "SN-EXT-NET6";
/// hash:ip: ClusterIPs that Mappings in mode service lead to.
pub const SET_SERVICES: &str = "SN-VIP";
/// hash:ip skbinfo: pod -> mark of the slot by which its egress leaves.
pub const SET_EGRESS: &str = "SN-EG";

/// Table of nft, family ip, that a running daemon owns. It holds no rule of ours and ends with the daemon.
pub const NAT_HOLD: &str = "smartnat-hold";

/// The priority of the rule `from NET`.
pub fn priority_from(net: &IpNet) -> u32 {
    PRIORITY_FROM + u32::from(net.max_prefix_len() - net.prefix_len())
}

/// Whether a chain is ours by name.
pub fn is_our_chain(name: &str) -> bool {
    name.starts_with(CHAIN_PREFIX)
}

/// Whether a chain of ours belongs ahead of others' last word, and not at the beginning of a built-in chain.
pub fn is_pass_chain(name: &str) -> bool {
    [PASS, PASS_IN, PASS_OUT].contains(&name)
}

/// Whether a table of nft is ours by family and name.
pub fn is_our_table(family: &str, name: &str) -> bool {
    family == "ip" && name == NAT_HOLD
}

/// Whether an ipset is ours by name.
pub fn is_our_set(name: &str) -> bool {
    name.starts_with(SET_PREFIX)
}

/// `SMARTNAT-<kind>-<hash>`: a chain named by the identity of what it serves.
pub fn chain_of(kind: &str, identity: &str) -> String {
    let name = format!("{CHAIN_PREFIX}{kind}-{}", short_hash(identity));
    debug_assert!(name.len() <= MAX_CHAIN_NAME);
    name
}

/// `SN-<kind>-<hash>`: a set named by the identity or content of what it holds.
pub fn set_of(kind: &str, identity: &str) -> String {
    let name = format!("{SET_PREFIX}{kind}-{}", short_hash(identity));
    debug_assert!(name.len() <= MAX_SET_NAME);
    name
}

/// 80 bits of SHA-256 in 16 characters of base32: collisions among 10^6 names have a chance of 10^-12.
fn short_hash(identity: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(identity.as_bytes());
    let mut out = String::with_capacity(16);
    for chunk in digest[..10].chunks(5) {
        let bits = chunk.iter().fold(0u64, |acc, b| (acc << 8) | u64::from(*b));
        out.extend((0..8).rev().map(|i| ALPHABET[((bits >> (i * 5)) & 31) as usize] as char));
    }
    out
}
