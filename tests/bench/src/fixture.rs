use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use serde_json::{Value, json};

/// Namespace of all objects.
pub const NAMESPACE: &str = "bench";
/// Allowed by every Mapping.
pub const CLIENT_NET: &str = "192.0.2.0/24";
/// The first external port of every address.
const FIRST_PORT: usize = 1000;

/// How much there is of it: Mappings, ports of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub mappings: usize,
    pub ports: usize,
}

impl Size {
    pub const fn new(mappings: usize, ports: usize) -> Size {
        Size { mappings, ports }
    }

    pub fn endpoints(self) -> usize {
        self.mappings * self.ports
    }

    /// External addresses, all on one interface.
    pub fn addresses(self) -> usize {
        if self.endpoints() > 20_000 { 256 } else { 64 }
    }
}

/// 10,000.
pub fn thousands(n: usize) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", thousands(self.mappings), self.ports)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || format!("{text:?} is no size: write MAPPINGSxPORTS, for example 1000x10");
        let (mappings, ports) = text.split_once('x').ok_or_else(wrong)?;
        let number = |t: &str| t.trim().parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(wrong);
        Ok(Size { mappings: number(mappings)?, ports: number(ports)? })
    }
}

/// The n-th external address.
pub fn external(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 1, 0)) + n as u32)
}

/// One Mapping (mode direct, two source networks) with a Service of its own and two pods. Those with an odd number are
/// UDP, the others TCP.
#[derive(Debug, Clone)]
pub struct Item {
    pub number: usize,
    pub address: Ipv4Addr,
    pub first_port: u16,
    pub ports: usize,
    pub pods: [Ipv4Addr; 2],
}

impl Item {
    pub fn new(size: Size, number: usize) -> Item {
        let addresses = size.addresses();
        let pod = |k| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 16)) + 2 * number as u32 + k);
        Item {
            number,
            address: external(number % addresses),
            first_port: (FIRST_PORT + number / addresses * size.ports) as u16,
            ports: size.ports,
            pods: [pod(0), pod(1)],
        }
    }

    pub fn name(&self) -> String {
        format!("m{:05}", self.number)
    }

    pub fn is_udp(&self) -> bool {
        self.number % 2 == 1
    }

    fn protocol(&self) -> &'static str {
        if self.is_udp() { "UDP" } else { "TCP" }
    }

    pub fn mapping(&self) -> Value {
        let n = self.number;
        let ports: Vec<Value> = (0..self.ports)
            .map(|k| {
                json!({"port": usize::from(self.first_port) + k, "servicePort": 80 + k,
                    "protocol": self.protocol().to_lowercase()})
            })
            .collect();
        json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {
                "name": self.name(), "namespace": NAMESPACE, "generation": 1,
                "creationTimestamp": format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60),
            },
            "spec": {
                "addresses": [self.address], "serviceName": self.name(), "mode": "direct", "ports": ports,
                "allowedSources": [format!("20.{}.{}.0/24", n / 256, n % 256), CLIENT_NET],
            },
        })
    }

    pub fn service(&self) -> Value {
        let ports: Vec<Value> = (0..self.ports)
            .map(|k| {
                json!({"name": format!("p{k}"), "port": 80 + k, "protocol": self.protocol(), "targetPort": 8080 + k})
            })
            .collect();
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + self.number as u32);
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name(), "namespace": NAMESPACE},
            "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "ports": ports},
        })
    }

    pub fn slice(&self) -> Value {
        let ports: Vec<Value> = (0..self.ports)
            .map(|k| json!({"name": format!("p{k}"), "port": 8080 + k, "protocol": self.protocol()}))
            .collect();
        let endpoints: Vec<Value> = self
            .pods
            .iter()
            .map(|pod| {
                let name = format!("pod-{pod}");
                json!({"addresses": [pod], "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": name, "uid": name}})
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{}-1", self.name()), "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": self.name()},
            },
            "ports": ports, "endpoints": endpoints,
        })
    }

    /// Its file among the manifests, replaced by rename: one file holds one Mapping with what belongs to it.
    pub fn write(&self, dir: &Path) {
        let text = format!("---\n{}\n---\n{}\n---\n{}\n", self.service(), self.slice(), self.mapping());
        let (temporary, file) = (dir.join(".new"), dir.join(format!("{}.yaml", self.name())));
        fs::write(&temporary, text).expect("a directory of manifests can be written");
        fs::rename(&temporary, file).expect("a file can be renamed in its directory");
    }
}

/// All of them.
pub fn items(size: Size) -> impl Iterator<Item = Item> {
    (0..size.mappings).map(move |n| Item::new(size, n))
}

/// A new directory of manifests.
pub fn manifests(size: Size) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    items(size).for_each(|item| item.write(dir.path()));
    dir
}
