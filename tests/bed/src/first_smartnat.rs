//! What the first SmartNat (Go, 2019) leaves in the kernel, laid by hand as its `iptables`, `ipset` and `ip` commands leave it.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::peer::Proto;

/// A Mapping as it programmed it.
#[derive(Debug, Clone)]
pub struct FirstMapping<'a> {
    /// `namespace/name`.
    pub key: &'a str,
    /// The first 24 characters of SHA-256 of the key, in base32.
    pub short: &'a str,
    pub address: Ipv4Addr,
    /// Mark of the interface that has the address.
    pub mark: u32,
    pub source: &'a str,
    /// Protocol, port, and where it leads: the ClusterIP, or what stands in its place.
    pub ports: Vec<(Proto, u16, SocketAddrV4)>,
    pub pods: Vec<Ipv4Addr>,
}

/// An interface with its table.
#[derive(Debug, Clone)]
pub struct FirstInterface<'a> {
    pub name: &'a str,
    pub index: u32,
    /// The number in rt_tables.
    pub table: u32,
    pub addresses: Vec<Ipv4Addr>,
    pub subnet: &'a str,
    pub gateway: Ipv4Addr,
}

impl FirstInterface<'_> {
    pub fn mark(&self) -> u32 {
        0x800 + self.index
    }
}

/// For `ipset restore`.
pub fn sets(mappings: &[FirstMapping<'_>]) -> String {
    let mut out = String::new();
    for m in mappings {
        _ = writeln!(out, "create {} hash:ip comment counters", m.short);
        m.pods.iter().for_each(|pod| _ = writeln!(out, "add {} {pod}", m.short));
        _ = writeln!(out, "create DNAT-{} hash:net,port comment counters", m.short);
        for (proto, port, _) in &m.ports {
            _ = writeln!(out, "add DNAT-{} {},{proto}:{port}", m.short, m.source);
        }
    }
    out
}

/// For `iptables-restore --noflush`, of either variant.
pub fn tables(mappings: &[FirstMapping<'_>]) -> String {
    let jump = |builtin: &str, chain: &str| {
        format!(":{chain} - [0:0]\n-A {builtin} -m comment --comment \"\\\"for SNM\\\"\" -j {chain}\n")
    };
    let mut out = "*mangle\n".to_owned() + &jump("PREROUTING", "SNM-PREROUTING");
    for FirstMapping { key, short, mark, .. } in mappings {
        _ = writeln!(
            out,
            "-A SNM-PREROUTING -m set --match-set {short} src -m comment --comment \"\\\"for Maping {key} [{short}] mark 0x{mark:x}\\\"\" \
             -j MARK --set-xmark 0x{mark:x}/0x{mark:x}"
        );
    }
    out += "COMMIT\n*nat\n";
    mappings.iter().for_each(|m| _ = writeln!(out, ":MAP-{} - [0:0]", m.short));
    out += &(jump("PREROUTING", "SNM-PREROUTING") + &jump("POSTROUTING", "SNM-POSTROUTING-SNAT"));
    out += &jump("POSTROUTING", "SNM-POSTROUTING-MASQ");
    out += "-A SNM-POSTROUTING-MASQ -m mark --mark 0x100000/0x100000 -j MASQUERADE\n";
    for FirstMapping { key, short, address, ports, .. } in mappings {
        _ = writeln!(
            out,
            "-A MAP-{short} -m comment --comment \"\\\"mark for masquerade in SNM-POSTROUTING-MASQ\\\"\" -j MARK --set-xmark 0x100000/0x100000"
        );
        for (proto, port, to) in ports {
            _ = writeln!(
                out,
                "-A MAP-{short} -p {proto} -m {proto} --dport {port} -m comment --comment \"\\\"for mapping {key} [{proto}:{port}:{}]\\\"\" \
                 -j DNAT --to-destination {to}",
                to.port()
            );
        }
        _ = writeln!(
            out,
            "-A SNM-PREROUTING -d {address}/32 -m set --match-set DNAT-{short} src,dst -m comment --comment \"\\\"for mapping {key}\\\"\" \
             -j MAP-{short}\n\
             -A SNM-POSTROUTING-SNAT -m set --match-set {short} src -m comment --comment \"\\\"for Maping {key} [{short}]\\\"\" -j SNAT \
             --to-source {address}"
        );
    }
    out + "COMMIT\n"
}

/// For `ip -batch`: every rule so many times, and the routes of the tables.
pub fn routing(interfaces: &[FirstInterface<'_>], times: usize) -> String {
    let mut out = String::new();
    for i in interfaces {
        for _ in 0..times {
            i.addresses.iter().for_each(|address| _ = writeln!(out, "rule add from {address} lookup {}", i.table));
            _ = writeln!(out, "rule add fwmark 0x{:x} lookup {}", i.mark(), i.table);
        }
        _ = writeln!(out, "route add {} dev {} scope link table {}", i.subnet, i.name, i.table);
        _ = writeln!(out, "route add default via {} dev {} table {}", i.gateway, i.name, i.table);
    }
    out
}

/// Its lines of rt_tables.
pub fn rt_tables(interfaces: &[FirstInterface<'_>]) -> String {
    interfaces.iter().map(|i| format!("{} {}\n", i.table, i.name)).collect()
}
