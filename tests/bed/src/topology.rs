use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::packet::Mac;
use crate::peer::{Answer, Failure, Proto, Request, Server};
use crate::{Namespace, reaper};

/// Where the border's external interfaces are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Two external networks, each with its router:
    ///
    /// ```text
    ///  client1 192.0.2.10 ── r1 203.0.113.1 ──┬── eth1 203.0.113.10, .11 ┐
    ///                    attacker1 203.0.113.66 ┘                         border ── eth0 10.0.0.2 ── 10.0.0.1 core ─┬─ pod1 10.244.1.2
    ///  client2 192.0.2.130 ─ r2 198.51.100.1 ─┬── eth2 198.51.100.10 ────┘                                        └─ pod2 10.244.2.2
    ///                   attacker2 198.51.100.66 ┘
    /// ```
    Routed,
    /// All three interfaces in one subnet (the operator guide's example):
    ///
    /// ```text
    ///  client1 192.0.2.10, client2 192.0.2.130 ── r1 10.22.66.1 ──┬── border eth0 10.22.66.97, eth1 .41 and .40, eth2 .51 and .50
    ///  pod1, pod2 ──────────────────────────── core 10.22.66.11 ──┤
    ///                                     attacker1 10.22.66.200 ──┘
    /// ```
    SameSubnet,
}

/// How a bed differs from the plain one.
#[derive(Debug, Clone)]
pub struct Options {
    pub layout: Layout,
    /// Of the border's eth0 alone: the ends of a connection do not know of it.
    pub cluster_mtu: u32,
    /// Of the cluster router's interfaces towards the pods; the pods themselves do not know of it.
    pub pod_mtu: u32,
    /// Interface indexes of eth1 and eth2.
    pub indexes: Option<(u32, u32)>,
    /// A second border box beside the first, in the same three networks; routed layout only.
    pub second_border: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { layout: Layout::Routed, cluster_mtu: 1500, pod_mtu: 1500, indexes: None, second_border: false }
    }
}

/// A border box and its surroundings; every pod answers on tcp 8080 and udp 9090.
///
/// Interfaces of the border have the MAC addresses that [`Mac::of`] gives for their first address, and so have all others. In both
/// layouts the pods' default route leads through `core` to the border.
pub struct Bed {
    pub options: Options,
    pub border: Namespace,
    /// With [`Options::second_border`]: eth0 10.0.0.3, eth1 203.0.113.20 and .21, eth2 198.51.100.20.
    pub border2: Option<Namespace>,
    /// The cluster's router (and node).
    pub core: Namespace,
    pub pod1: Namespace,
    pub pod2: Namespace,
    pub r1: Namespace,
    /// Not connected in the same-subnet layout.
    pub r2: Namespace,
    pub client1: Namespace,
    pub client2: Namespace,
    pub attacker1: Namespace,
    /// Not connected in the same-subnet layout.
    pub attacker2: Namespace,
    /// Holds the bridges.
    switch: Namespace,
    stop: Arc<AtomicBool>,
    servers: Mutex<Vec<JoinHandle<()>>>,
}

impl Bed {
    pub const POD1: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
    pub const POD2: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
    pub const CLIENT1: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    pub const CLIENT2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);
    // Routed layout.
    pub const BORDER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    pub const CORE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    pub const EXT1: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    pub const EXT1B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
    pub const EXT2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
    pub const BORDER2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
    pub const SECOND_EXT1: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
    pub const SECOND_EXT1B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 21);
    pub const SECOND_EXT2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
    pub const R1: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    pub const R2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    pub const ATTACKER1: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
    pub const ATTACKER2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
    // Same-subnet layout.
    pub const SAME_BORDER: Ipv4Addr = Ipv4Addr::new(10, 22, 66, 97);
    pub const SAME_EXT1: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 22, 66, 41), Ipv4Addr::new(10, 22, 66, 40)];
    pub const SAME_EXT2: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 22, 66, 51), Ipv4Addr::new(10, 22, 66, 50)];
    pub const SAME_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 22, 66, 1);
    pub const SAME_CORE: Ipv4Addr = Ipv4Addr::new(10, 22, 66, 11);
    pub const SAME_NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 22, 66, 200);

    /// The plain, routed bed.
    #[track_caller]
    pub fn new() -> Bed {
        Bed::with(Options::default())
    }

    /// # Panics
    /// Without root, without a tool, or when the kernel refuses a part.
    #[track_caller]
    pub fn with(options: Options) -> Bed {
        let prefix = reaper::new_prefix();
        let make = |role: &str| {
            let namespace = Namespace::create(format!("{prefix}-{role}"));
            // Tests that want IPv6 switch it on; duplicate address detection would only make them wait.
            for parameter in ["all/accept_dad", "default/accept_dad"] {
                namespace.set_sysctl(&format!("net/ipv6/conf/{parameter}"), "0");
            }
            namespace.set_sysctl("net/ipv6/conf/default/router_solicitations", "0");
            namespace
        };
        let bed = Bed {
            border: make("border"),
            border2: options.second_border.then(|| make("border2")),
            core: make("core"),
            pod1: make("pod1"),
            pod2: make("pod2"),
            r1: make("r1"),
            r2: make("r2"),
            client1: make("client1"),
            client2: make("client2"),
            attacker1: make("attacker1"),
            attacker2: make("attacker2"),
            switch: make("switch"),
            stop: Arc::new(AtomicBool::new(false)),
            servers: Mutex::new(Vec::new()),
            options,
        };
        for router in [&bed.core, &bed.r1, &bed.r2] {
            router.set_sysctl("net/ipv4/ip_forward", "1");
            router.set_sysctl("net/ipv4/conf/all/send_redirects", "0");
            router.set_sysctl("net/ipv4/conf/default/send_redirects", "0");
        }
        match bed.options.layout {
            Layout::Routed => bed.connect_routed(),
            Layout::SameSubnet => {
                assert!(bed.border2.is_none(), "a second border box is for the routed layout");
                bed.connect_same_subnet();
            }
        }
        bed.connect_pods();
        for (name, address) in [("pod1", Bed::POD1), ("pod2", Bed::POD2)] {
            bed.serve(name, name, &[SocketAddrV4::new(address, 8080)], &[SocketAddrV4::new(address, 9090)]);
        }
        bed
    }

    fn connect_routed(&self) {
        self.bridges(&["ext1", "ext2"]);
        if self.border2.is_some() {
            let mac = Mac::of(Bed::CORE);
            self.core
                .ip(&format!("link add name cluster address {mac} up type bridge forward_delay 0 mcast_snooping 0"));
            self.wire(&self.border, "eth0", Bed::BORDER, None, (&self.core, "border", None));
            self.wire(self.second(), "eth0", Bed::BORDER2, None, (&self.core, "border2", None));
            self.core.ip("link set border master cluster\nlink set border2 master cluster");
        } else {
            self.wire(&self.border, "eth0", Bed::BORDER, None, (&self.core, "cluster", Some(Bed::CORE)));
        }
        self.core.ip("address add 10.0.0.1/24 dev cluster\naddress add 2001:db8:a::1/64 dev cluster");
        let mtu = self.options.cluster_mtu;
        for (n, border) in (2..).zip(self.borders()) {
            border.ip(&format!(
                "link set eth0 mtu {mtu}\naddress add 10.0.0.{n}/24 dev eth0\naddress add 2001:db8:a::{n}/64 dev eth0\n\
                 route add default via 10.0.0.1\nroute add 10.244.0.0/16 via 10.0.0.1\nroute add ::/0 via 2001:db8:a::1"
            ));
        }
        self.core.ip("route add ::/0 via 2001:db8:a::2");
        let (index1, index2) = self.options.indexes.unzip();
        self.plug("eth1", index1);
        self.plug("eth2", index2);
        if self.border2.is_some() {
            self.plug_second("eth1");
            self.plug_second("eth2");
        }
        for (n, router, client, attacker, net, client_net) in [
            (1, &self.r1, &self.client1, &self.attacker1, "203.0.113", "192.0.2.0/25"),
            (2, &self.r2, &self.client2, &self.attacker2, "198.51.100", "192.0.2.128/25"),
        ] {
            let (router_at, attacker_at, client_at) =
                if n == 1 { (Bed::R1, Bed::ATTACKER1, Bed::CLIENT1) } else { (Bed::R2, Bed::ATTACKER2, Bed::CLIENT2) };
            self.wire(router, "eth0", router_at, None, (&self.switch, &format!("r{n}"), None));
            self.wire(attacker, "eth0", attacker_at, None, (&self.switch, &format!("a{n}"), None));
            self.switch.ip(&format!("link set r{n} master ext{n}\nlink set a{n} master ext{n}"));
            let inner = Ipv4Addr::from(u32::from(client_at) & !0x7f | 1);
            self.wire(client, "eth0", client_at, None, (router, "eth1", Some(inner)));
            // Routers and attackers send whatever they do not know to the border: what it lets through must not depend on their manners.
            router.ip(&format!(
                "address add {router_at}/24 dev eth0\naddress add {inner}/25 dev eth1\nroute add default via {net}.10\n\
                 address add 2001:db8:{n}::1/64 dev eth0"
            ));
            client.ip(&format!("address add {client_at}/25 dev eth0\nroute add default via {inner}"));
            attacker.ip(&format!(
                "address add {attacker_at}/24 dev eth0\nroute add {client_net} via {router_at}\nroute add default via {net}.10\n\
                 address add 2001:db8:{n}::66/64 dev eth0"
            ));
        }
    }

    fn connect_same_subnet(&self) {
        self.bridges(&["lan"]);
        for (namespace, port, address) in [
            (&self.border, "b0", Bed::SAME_BORDER),
            (&self.core, "core", Bed::SAME_CORE),
            (&self.r1, "r1", Bed::SAME_ROUTER),
            (&self.attacker1, "a1", Bed::SAME_NEIGHBOUR),
        ] {
            let interface = if port == "core" { "cluster" } else { "eth0" };
            self.wire(namespace, interface, address, None, (&self.switch, port, None));
            self.switch.ip(&format!("link set {port} master lan"));
            namespace.ip(&format!("address add {address}/23 dev {interface}"));
        }
        let (index1, index2) = self.options.indexes.unzip();
        self.plug("eth1", index1);
        self.plug("eth2", index2);
        self.border
            .ip("route add default via 10.22.66.1 dev eth0\nroute add default via 10.22.66.1 dev eth1 metric 10001\n\
             route add default via 10.22.66.1 dev eth2 metric 10002\nroute add 10.244.0.0/16 via 10.22.66.11 dev eth0");
        for (client, interface, address) in
            [(&self.client1, "eth1", Bed::CLIENT1), (&self.client2, "eth2", Bed::CLIENT2)]
        {
            let inner = Ipv4Addr::from(u32::from(address) & !0x7f | 1);
            self.wire(client, "eth0", address, None, (&self.r1, interface, Some(inner)));
            client.ip(&format!("address add {address}/25 dev eth0\nroute add default via {inner}"));
            self.r1.ip(&format!("address add {inner}/25 dev {interface}"));
        }
        self.border.ip(&format!("link set eth0 mtu {}", self.options.cluster_mtu));
        self.attacker1.ip("route add default via 10.22.66.1");
    }

    fn connect_pods(&self) {
        let border = match self.options.layout {
            Layout::Routed => Bed::BORDER,
            Layout::SameSubnet => Bed::SAME_BORDER,
        };
        let mtu = self.options.pod_mtu;
        for (pod, interface, address) in [(&self.pod1, "pod1", Bed::POD1), (&self.pod2, "pod2", Bed::POD2)] {
            let gateway = Ipv4Addr::from(u32::from(address) & !0xff | 1);
            self.wire(pod, "eth0", address, None, (&self.core, interface, Some(gateway)));
            self.core.ip(&format!("link set {interface} mtu {mtu}\naddress add {gateway}/24 dev {interface}"));
            pod.ip(&format!("address add {address}/24 dev eth0\nroute add default via {gateway}"));
            // What pods send to the world goes to the border; what the border sends to the world by mistake must not come back to it.
            self.core.ip(&format!("rule add iif {interface} priority 40000 lookup 100"));
        }
        self.core.ip(&format!("route add default via {border} table 100"));
    }

    fn bridges(&self, names: &[&str]) {
        let batch = names.iter().fold(String::new(), |mut out, name| {
            // No multicast snooping: it would hide router advertisements from the border.
            _ = writeln!(out, "link add name {name} up type bridge forward_delay 0 mcast_snooping 0");
            out
        });
        for name in ["all", "default"] {
            self.switch.set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
        self.switch.ip(&batch);
    }

    /// A cable between an interface here and one there, both up. MAC addresses come from the addresses.
    fn wire(
        &self,
        here: &Namespace,
        interface: &str,
        address: Ipv4Addr,
        index: Option<u32>,
        (there, peer, peer_address): (&Namespace, &str, Option<Ipv4Addr>),
    ) {
        let mac = Mac::of(address);
        let index = index.map(|i| format!("index {i}")).unwrap_or_default();
        let peer_mac = peer_address.map(|a| format!("address {}", Mac::of(a))).unwrap_or_default();
        here.ip(&format!(
            "link add name {interface} {index} address {mac} type veth peer name {peer} {peer_mac} netns {}\nlink set {interface} up",
            there.name()
        ));
        there.ip(&format!("link set {peer} up"));
    }

    /// Puts the border's external interface `eth1` or `eth2` back in, with its addresses and a new index.
    #[track_caller]
    pub fn plug_again(&self, interface: &str) {
        self.plug(interface, None);
    }

    fn plug(&self, interface: &str, index: Option<u32>) {
        let first = interface == "eth1";
        let (addresses, prefix, bridge): (&[Ipv4Addr], u8, &str) = match (self.options.layout, first) {
            (Layout::Routed, true) => (&[Bed::EXT1, Bed::EXT1B], 24, "ext1"),
            (Layout::Routed, false) => (&[Bed::EXT2], 24, "ext2"),
            (Layout::SameSubnet, true) => (&Bed::SAME_EXT1, 23, "lan"),
            (Layout::SameSubnet, false) => (&Bed::SAME_EXT2, 23, "lan"),
        };
        let mut given: Vec<String> = addresses.iter().map(|a| format!("{a}/{prefix}")).collect();
        if self.options.layout == Layout::Routed {
            given.push(format!("2001:db8:{}::10/64", if first { 1 } else { 2 }));
        }
        self.attach((&self.border, interface, addresses[0], index), ("b", bridge), &given);
    }

    /// As [`Bed::plug_again`], of the second box.
    #[track_caller]
    pub fn plug_second(&self, interface: &str) {
        let (addresses, bridge, n): (&[Ipv4Addr], &str, u8) = match interface {
            "eth1" => (&[Bed::SECOND_EXT1, Bed::SECOND_EXT1B], "ext1", 1),
            _ => (&[Bed::SECOND_EXT2], "ext2", 2),
        };
        let mut given: Vec<String> = addresses.iter().map(|a| format!("{a}/24")).collect();
        given.push(format!("2001:db8:{n}::20/64"));
        self.attach((self.second(), interface, addresses[0], None), ("c", bridge), &given);
    }

    /// An interface, with the index asked for, on a bridge of the switch.
    fn attach(
        &self,
        (namespace, interface, first, index): (&Namespace, &str, Ipv4Addr, Option<u32>),
        (port, bridge): (&str, &str),
        addresses: &[String],
    ) {
        let port = format!("{port}-{interface}");
        self.wire(namespace, interface, first, index, (&self.switch, &port, None));
        self.switch.ip(&format!("link set {port} master {bridge}"));
        let batch = addresses.iter().map(|a| format!("address add {a} dev {interface}")).collect::<Vec<_>>();
        namespace.ip(&batch.join("\n"));
    }

    /// The second border box.
    ///
    /// # Panics
    /// When the bed was built without one.
    #[track_caller]
    pub fn second(&self) -> &Namespace {
        self.border2.as_ref().expect("this bed has one border box: set Options::second_border")
    }

    fn borders(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.border).chain(&self.border2)
    }

    /// Takes an interface out of the border, as a NIC that is unplugged.
    #[track_caller]
    pub fn unplug(&self, interface: &str) {
        self.border.ip(&format!("link del {interface}"));
    }

    /// Makes the switch of the external network `ext1` or `ext2` snoop multicast, and ask for listeners itself. Who does not answer is
    /// forgotten after three seconds.
    #[track_caller]
    pub fn snoop(&self, network: &str) {
        // A querier needs an address of its own to be heard.
        self.switch.set_sysctl(&format!("net/ipv6/conf/{network}/disable_ipv6"), "0");
        self.switch.set_sysctl(&format!("net/ipv6/conf/{network}/accept_dad"), "0");
        self.switch.ip(&format!("address replace fe80::5/64 dev {network} nodad"));
        // In hundredths of a second.
        self.switch.ip(&format!(
            "link set {network} type bridge mcast_mld_version 2 mcast_query_interval 100 mcast_startup_query_interval 50 \
             mcast_startup_query_count 2 mcast_query_response_interval 50 mcast_membership_interval 300 \
             mcast_querier_interval 500 mcast_snooping 1 mcast_querier 1"
        ));
    }

    /// What the switch of an external network knows of multicast listeners, one group and port a line.
    #[track_caller]
    pub fn listeners(&self, network: &str) -> Vec<String> {
        let known = self.switch.run(&format!("bridge mdb show dev {network}"));
        known.lines().map(str::to_owned).collect()
    }

    /// Starts a server in the namespace of that role; it runs as long as the bed.
    #[track_caller]
    pub fn serve(&self, role: &str, name: &str, tcp: &[SocketAddrV4], udp: &[SocketAddrV4]) {
        let tcp: Vec<SocketAddr> = tcp.iter().copied().map(SocketAddr::from).collect();
        let udp: Vec<SocketAddr> = udp.iter().copied().map(SocketAddr::from).collect();
        let server = self.role(role).within(|| Server::bind(name, &tcp, &udp));
        let server = server.unwrap_or_else(|e| panic!("{name} cannot serve: {e}"));
        let stop = Arc::clone(&self.stop);
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.push(std::thread::spawn(move || server.run(&stop).expect("a bound server can wait for clients")));
    }

    /// A namespace by its name in the pictures.
    #[track_caller]
    pub fn role(&self, role: &str) -> &Namespace {
        match role {
            "border" => &self.border,
            "border2" => self.second(),
            "core" => &self.core,
            "pod1" => &self.pod1,
            "pod2" => &self.pod2,
            "r1" => &self.r1,
            "r2" => &self.r2,
            "client1" => &self.client1,
            "client2" => &self.client2,
            "attacker1" => &self.attacker1,
            "attacker2" => &self.attacker2,
            other => panic!("the bed has no {other}"),
        }
    }

    /// What `conntrack -L` shows in the border, one entry a line.
    #[track_caller]
    pub fn conntrack(&self) -> Vec<String> {
        self.border.run("conntrack -L").lines().map(str::to_owned).collect()
    }
}

impl Default for Bed {
    fn default() -> Self {
        Bed::new()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            _ = server.join();
        }
    }
}

impl Namespace {
    /// One request from here.
    #[track_caller]
    pub fn get(&self, proto: Proto, to: Ipv4Addr, port: u16) -> Result<Answer, Failure> {
        let request = Request::new(proto, SocketAddrV4::new(to, port));
        self.within(|| request.send())
    }
}
