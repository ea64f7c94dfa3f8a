use std::fmt::Write;
use std::net::Ipv4Addr;

use bed::{Namespace, new_prefix};

use crate::fixture::external;

/// Where the client of every bench sends from.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// What stands around a border: the cluster's router, where every pod's address is local, and a client that is the
/// external router too.
pub struct Net {
    prefix: String,
    pub core: Namespace,
    pub client: Namespace,
}

/// A border box between both, its kernel as new.
pub struct Border {
    pub ns: Namespace,
}

impl Net {
    pub fn new() -> Net {
        let prefix = new_prefix();
        let core = Namespace::create(format!("{prefix}-core"));
        let client = Namespace::create(format!("{prefix}-client"));
        core.set_sysctl("net/ipv4/ip_forward", "1");
        core.ip("route add local 10.244.0.0/15 dev lo");
        client.ip(&format!("address add {CLIENT}/32 dev lo"));
        Net { prefix, core, client }
    }

    /// A new border with so many external addresses on eth1. There is one at a time.
    pub fn border(&self, addresses: usize) -> Border {
        // What is left of the last one goes now: its namespace takes as long as its rules are many.
        for end in [&self.core, &self.client] {
            _ = end.attempt("ip link del border", "");
        }
        let ns = Namespace::create(format!("{}-border", self.prefix));
        let mut batch = format!(
            "link add name eth0 up type veth peer name border netns {}\n\
             link add name eth1 up type veth peer name border netns {}\n\
             address add 10.0.0.2/24 dev eth0\nroute add default via 10.0.0.1\nroute add 10.244.0.0/15 via 10.0.0.1\n",
            self.core.name(),
            self.client.name()
        );
        (0..addresses).for_each(|n| _ = writeln!(batch, "address add {}/16 dev eth1", external(n)));
        ns.ip(&batch);
        self.core.ip("link set border up\naddress replace 10.0.0.1/24 dev border");
        self.client.ip("link set border up\naddress replace 198.18.0.1/16 dev border");
        Border { ns }
    }
}

impl Border {
    /// Everything that a table of iptables or an ipset can hold, as it is dumped.
    pub fn dump(&self) -> Dump {
        let tables = |save: &str| {
            ["mangle", "filter", "security", "nat"]
                .iter()
                .map(|table| self.ns.attempt(&format!("{save} -t {table}"), "").unwrap_or_default())
                .collect()
        };
        Dump { sets: self.ns.run("ipset save"), v4: tables("iptables-save"), v6: tables("ip6tables-save") }
    }
}

/// The state of a border, as the tools print it.
pub struct Dump {
    pub sets: String,
    pub v4: String,
    pub v6: String,
}
