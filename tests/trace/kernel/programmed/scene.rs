//! Who is where in the two layouts of the bed, and what is mapped there.

use std::net::Ipv4Addr;

use bed::peer::Proto;
use bed::{Bed, Endpoints, Layout, Manifests, Mapping, PodState, Service};

/// Where packets are sent from, and to which hardware address: that of the interface whose first address is `next_hop`.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub role: &'static str,
    pub next_hop: Ipv4Addr,
}

const fn way(role: &'static str, next_hop: Ipv4Addr) -> Way {
    Way { role, next_hop }
}

impl Way {
    pub fn interface(&self) -> &'static str {
        if self.role == "core" { "cluster" } else { "eth0" }
    }
}

pub struct Scene {
    pub layout: Layout,
    /// To the external interfaces.
    pub outside: &'static [Way],
    pub inside: &'static [Way],
    /// Each pod with its address; their router decides where at the border a packet arrives.
    pub pods: &'static [(Way, Ipv4Addr)],
    /// The addresses that Mappings ask for.
    pub mapped: &'static [Ipv4Addr],
    pub clients: &'static [Ipv4Addr],
    /// Sources that honest packets have, though not everywhere.
    pub sources: &'static [Ipv4Addr],
    /// Addresses of the border itself.
    pub own: &'static [Ipv4Addr],
    pub destinations: &'static [Ipv4Addr],
    /// Destinations beyond the border that a pod's router sends there.
    pub from_pods: &'static [Ipv4Addr],
    /// Role, interface, address, and the address whose hardware address it has.
    pub neighbours: &'static [(&'static str, &'static str, Ipv4Addr, Ipv4Addr)],
}

const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

const OUTSIDER: Ipv4Addr = ip(198, 18, 0, 9);
const UNMAPPED_POD: Ipv4Addr = ip(10, 244, 9, 9);
const POD1_GATEWAY: Ipv4Addr = ip(10, 244, 1, 1);
const POD2_GATEWAY: Ipv4Addr = ip(10, 244, 2, 1);

/// The ports at which something is mapped.
pub const PORTS: &[u16] = &[80, 53, 8443, 81, 54, 443, 444, 1005];

/// Mapped endpoints: the place of the address in [`Scene::mapped`], protocol and port.
pub const ENDPOINTS: &[(usize, Proto, u16)] = &[
    (0, Proto::Tcp, 80),
    (0, Proto::Udp, 53),
    (0, Proto::Tcp, 8443),
    (1, Proto::Tcp, 80),
    (1, Proto::Udp, 53),
    (1, Proto::Tcp, 1005),
    (1, Proto::Tcp, 81),
    (1, Proto::Udp, 54),
    (2, Proto::Tcp, 80),
    (2, Proto::Udp, 53),
    (2, Proto::Tcp, 443),
    (2, Proto::Tcp, 444),
];

impl Scene {
    /// On the border's lo, as kube-proxy in IPVS mode would put it on a dummy interface.
    pub const CLUSTER_IP_HERE: Ipv4Addr = ip(10, 96, 0, 20);
    const CLUSTER_IP_ELSEWHERE: Ipv4Addr = ip(10, 96, 0, 10);
    /// Beside pod1, in no EndpointSlice.
    pub const BYSTANDER: Ipv4Addr = ip(10, 244, 1, 99);

    pub fn ways(&self) -> impl Iterator<Item = Way> {
        self.outside.iter().chain(self.inside).copied().chain(self.pods.iter().map(|(way, _)| *way))
    }

    /// No way has more hops.
    pub fn farthest(&self) -> &Way {
        &self.pods[0].0
    }

    /// | Mapping | endpoint | behind it | sources |
    /// | --- | --- | --- | --- |
    /// | web | first and third address, tcp 80 and udp 53 | both pods | clients of r1, pods |
    /// | open | second address, tcp 80, udp 53, tcp 1000-1011 | both pods | everyone |
    /// | sticky | first address, tcp 8443 | both pods, session affinity | everyone |
    /// | empty | second address, tcp 81 and udp 54 | nobody | 192.0.2.0/24 |
    /// | local | third address, tcp 443 | a ClusterIP on the box | everyone |
    /// | lost | third address, tcp 444 | a ClusterIP that is nowhere | everyone |
    pub fn manifests(&self) -> Manifests {
        let [first, second, third] = self.mapped else { panic!("three addresses are mapped") };
        let on = |name: &str, address: &Ipv4Addr| Mapping::new(name).address(*address);
        let mut manifests = Manifests::new();
        let web = on("web", first).address(*third).source("192.0.2.0/25").source("10.244.0.0/16").usual_ports();
        manifests.put(web);
        manifests.put((1000..1012).fold(on("open", second).usual_ports(), |m, port| m.port(Proto::Tcp, port, 80)));
        manifests.put(on("sticky", first).service("sticky").port(Proto::Tcp, 8443, 80));
        let empty = on("empty", second).service("empty").source("192.0.2.0/24");
        manifests.put(empty.port(Proto::Tcp, 81, 80).port(Proto::Udp, 54, 53));
        manifests.put(on("local", third).service("local").by_cluster_ip().port(Proto::Tcp, 443, 80));
        manifests.put(on("lost", third).by_cluster_ip().port(Proto::Tcp, 444, 80));
        manifests.put_service(Service { affinity: Some(60), ..Service::new("sticky", ip(10, 96, 0, 11)) });
        manifests.put_service(Service::new("empty", ip(10, 96, 0, 12)));
        manifests.put_service(Service::new("local", Self::CLUSTER_IP_HERE));
        for service in ["sticky", "local"] {
            manifests.put_endpoints(Endpoints::of(service).ready(Bed::POD1).ready(Bed::POD2));
        }
        manifests.put_endpoints(Endpoints::of("empty").pod(Bed::POD1, PodState::Unready));
        manifests.write();
        manifests
    }
}

const PODS: &[(Way, Ipv4Addr)] = &[(way("pod1", POD1_GATEWAY), Bed::POD1), (way("pod2", POD2_GATEWAY), Bed::POD2)];

const CLIENTS: &[Ipv4Addr] = &[Bed::CLIENT1, Bed::CLIENT2, OUTSIDER];

pub const ROUTED: Scene = Scene {
    layout: Layout::Routed,
    outside: &[way("r1", Bed::EXT1), way("r2", Bed::EXT2)],
    inside: &[way("core", Bed::BORDER)],
    pods: PODS,
    mapped: &[Bed::EXT1, Bed::EXT1B, Bed::EXT2],
    clients: CLIENTS,
    sources: &[
        Bed::CLIENT1,
        Bed::CLIENT2,
        OUTSIDER,
        Bed::R1,
        Bed::ATTACKER1,
        Bed::ATTACKER2,
        Bed::POD1,
        Bed::POD2,
        UNMAPPED_POD,
        Scene::CLUSTER_IP_ELSEWHERE,
        Bed::CORE,
        ip(10, 0, 0, 9),
    ],
    own: &[Bed::BORDER, Bed::EXT1, Bed::EXT2, Scene::CLUSTER_IP_HERE, ip(203, 0, 113, 255)],
    destinations: &[
        Bed::POD1,
        UNMAPPED_POD,
        Scene::CLUSTER_IP_ELSEWHERE,
        Scene::CLUSTER_IP_HERE,
        Bed::CORE,
        Bed::BORDER,
        ip(10, 0, 0, 255),
        ip(192, 0, 2, 99),
        Bed::R1,
        Bed::ATTACKER1,
        ip(203, 0, 113, 255),
    ],
    from_pods: &[
        ip(192, 0, 2, 99),
        OUTSIDER,
        Bed::R1,
        Bed::ATTACKER2,
        Scene::CLUSTER_IP_HERE,
        Scene::CLUSTER_IP_ELSEWHERE,
        UNMAPPED_POD,
    ],
    neighbours: &[
        ("border", "eth0", Bed::CORE, Bed::CORE),
        ("border", "eth0", ip(10, 0, 0, 9), Bed::CORE),
        ("border", "eth1", Bed::R1, Bed::R1),
        ("border", "eth1", Bed::ATTACKER1, Bed::ATTACKER1),
        ("border", "eth2", Bed::R2, Bed::R2),
        ("border", "eth2", Bed::ATTACKER2, Bed::ATTACKER2),
        ("core", "cluster", Bed::BORDER, Bed::BORDER),
    ],
};

const SAME_INTERFACES: [Ipv4Addr; 3] = [Bed::SAME_BORDER, Bed::SAME_EXT1[0], Bed::SAME_EXT2[0]];

pub const SAME_SUBNET: Scene = Scene {
    layout: Layout::SameSubnet,
    outside: &[
        way("r1", SAME_INTERFACES[1]),
        way("r1", SAME_INTERFACES[2]),
        way("attacker1", SAME_INTERFACES[1]),
        way("core", SAME_INTERFACES[2]),
    ],
    inside: &[way("r1", SAME_INTERFACES[0]), way("core", SAME_INTERFACES[0])],
    pods: PODS,
    mapped: &[Bed::SAME_EXT1[0], Bed::SAME_EXT1[1], Bed::SAME_EXT2[0]],
    clients: CLIENTS,
    sources: &[
        Bed::CLIENT1,
        Bed::CLIENT2,
        OUTSIDER,
        Bed::SAME_ROUTER,
        Bed::SAME_NEIGHBOUR,
        Bed::SAME_CORE,
        Bed::POD1,
        Bed::POD2,
        UNMAPPED_POD,
        Scene::CLUSTER_IP_ELSEWHERE,
    ],
    own: &[Bed::SAME_BORDER, Bed::SAME_EXT1[0], Bed::SAME_EXT2[1], Scene::CLUSTER_IP_HERE, ip(10, 22, 67, 255)],
    destinations: &[
        Bed::POD1,
        UNMAPPED_POD,
        Scene::CLUSTER_IP_ELSEWHERE,
        Scene::CLUSTER_IP_HERE,
        Bed::SAME_CORE,
        Bed::SAME_BORDER,
        Bed::SAME_EXT2[1],
        ip(10, 22, 67, 255),
        ip(192, 0, 2, 99),
        Bed::SAME_ROUTER,
        Bed::SAME_NEIGHBOUR,
    ],
    from_pods: &[
        ip(192, 0, 2, 99),
        OUTSIDER,
        Bed::SAME_BORDER,
        Scene::CLUSTER_IP_HERE,
        Scene::CLUSTER_IP_ELSEWHERE,
        UNMAPPED_POD,
    ],
    neighbours: &[
        ("border", "eth0", Bed::SAME_ROUTER, Bed::SAME_ROUTER),
        ("border", "eth0", Bed::SAME_CORE, Bed::SAME_CORE),
        ("border", "eth0", Bed::SAME_NEIGHBOUR, Bed::SAME_NEIGHBOUR),
        ("border", "eth1", Bed::SAME_ROUTER, Bed::SAME_ROUTER),
        ("border", "eth1", Bed::SAME_CORE, Bed::SAME_CORE),
        ("border", "eth1", Bed::SAME_NEIGHBOUR, Bed::SAME_NEIGHBOUR),
        ("border", "eth2", Bed::SAME_ROUTER, Bed::SAME_ROUTER),
        ("border", "eth2", Bed::SAME_CORE, Bed::SAME_CORE),
        ("border", "eth2", Bed::SAME_NEIGHBOUR, Bed::SAME_NEIGHBOUR),
        ("core", "cluster", Bed::SAME_BORDER, Bed::SAME_BORDER),
        ("core", "cluster", Bed::SAME_EXT1[0], Bed::SAME_EXT1[0]),
        ("core", "cluster", Bed::SAME_EXT1[1], Bed::SAME_EXT1[0]),
        ("core", "cluster", Bed::SAME_EXT2[0], Bed::SAME_EXT2[0]),
    ],
};
