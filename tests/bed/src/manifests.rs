use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::peer::Proto;

/// A Mapping in namespace `default`.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub name: String,
    spec: Value,
}

impl Mapping {
    /// Mode direct, towards the Service `web`.
    pub fn new(name: &str) -> Self {
        let spec = json!({"addresses": [], "serviceName": "web", "mode": "direct", "ports": []});
        Mapping { name: name.to_owned(), spec }
    }

    fn push(mut self, field: &str, value: Value) -> Self {
        match self.spec[field].as_array_mut() {
            Some(list) => list.push(value),
            None => self.spec[field] = json!([value]),
        }
        self
    }

    pub fn address(self, address: Ipv4Addr) -> Self {
        self.push("addresses", json!(address))
    }

    /// Without one, everyone is allowed.
    pub fn source(self, net: &str) -> Self {
        self.push("allowedSources", json!(net))
    }

    pub fn service(mut self, name: &str) -> Self {
        self.spec["serviceName"] = json!(name);
        self
    }

    /// Mode service instead of direct.
    pub fn by_cluster_ip(mut self) -> Self {
        self.spec["mode"] = json!("service");
        self
    }

    pub fn port(self, proto: Proto, port: u16, service_port: u16) -> Self {
        self.push("ports", json!({"port": port, "servicePort": service_port, "protocol": proto.to_string()}))
    }

    /// The object as the API takes it.
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {"name": self.name, "namespace": "default"}, "spec": self.spec,
        })
    }

    /// The usual ports: tcp 80 and udp 53, which the Service `web` has too.
    pub fn usual_ports(self) -> Self {
        self.port(Proto::Tcp, 80, 80).port(Proto::Udp, 53, 53)
    }
}

/// A Service in namespace `default`, with the ports `http` (tcp 80) and `dns` (udp 53).
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub cluster_ip: Ipv4Addr,
    /// Seconds of `sessionAffinity: ClientIP`.
    pub affinity: Option<u32>,
    /// Name of its port tcp 80.
    pub http: String,
    /// Name of its port udp 53.
    pub dns: String,
}

impl Service {
    pub fn new(name: &str, cluster_ip: Ipv4Addr) -> Self {
        Service { name: name.to_owned(), cluster_ip, affinity: None, http: "http".to_owned(), dns: "dns".to_owned() }
    }

    /// The object as the API takes it.
    pub fn object(&self) -> Value {
        let mut spec = json!({
            "clusterIP": self.cluster_ip, "clusterIPs": [self.cluster_ip], "type": "ClusterIP",
            "ports": [
                {"name": self.http, "port": 80, "protocol": "TCP", "targetPort": 8080},
                {"name": self.dns, "port": 53, "protocol": "UDP", "targetPort": 9090},
            ],
        });
        if let Some(seconds) = self.affinity {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name, "namespace": "default"}, "spec": spec})
    }
}

/// Conditions of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    Ready,
    /// Neither ready nor serving.
    Unready,
    /// Still serving, not ready any more.
    Terminating,
}

/// An EndpointSlice of a Service: its pods serve tcp 8080 and udp 9090.
#[derive(Debug, Clone)]
pub struct Endpoints {
    service: String,
    slice: String,
    /// Name and number of the port tcp 80 of the Service.
    http: (String, u16),
    /// Name of the port udp 53 of the Service.
    dns: String,
    /// The last one with the uid of its pod, if it is to be told.
    pods: Vec<(Ipv4Addr, PodState, Option<String>)>,
}

impl Endpoints {
    pub fn of(service: &str) -> Self {
        let http = ("http".to_owned(), 8080);
        Endpoints {
            service: service.to_owned(),
            slice: format!("{service}-1"),
            http,
            dns: "dns".to_owned(),
            pods: Vec::new(),
        }
    }

    /// Another slice than the Service's first.
    pub fn slice(mut self, name: &str) -> Self {
        self.slice = name.to_owned();
        self
    }

    /// Another name or number of the port behind tcp 80.
    pub fn http(mut self, name: &str, number: u16) -> Self {
        self.http = (name.to_owned(), number);
        self
    }

    /// Another name of the port behind udp 53.
    pub fn dns(mut self, name: &str) -> Self {
        name.clone_into(&mut self.dns);
        self
    }

    /// The endpoint that was added last is this pod.
    pub fn uid(mut self, uid: &str) -> Self {
        self.pods.last_mut().expect("there is an endpoint").2 = Some(uid.to_owned());
        self
    }

    pub fn pod(mut self, address: Ipv4Addr, state: PodState) -> Self {
        self.pods.push((address, state, None));
        self
    }

    pub fn ready(self, address: Ipv4Addr) -> Self {
        self.pod(address, PodState::Ready)
    }

    /// The object as the API takes it.
    pub fn object(&self) -> Value {
        let endpoints: Vec<Value> = self
            .pods
            .iter()
            .map(|(address, state, uid)| {
                let (ready, serving, terminating) = match state {
                    PodState::Ready => (true, true, false),
                    PodState::Unready => (false, false, false),
                    PodState::Terminating => (false, true, true),
                };
                let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
                let mut endpoint = json!({"addresses": [address], "conditions": conditions});
                if let Some(uid) = uid {
                    endpoint["targetRef"] = json!({"kind": "Pod", "namespace": "default", "name": uid, "uid": uid});
                }
                endpoint
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": self.slice, "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.service},
            },
            "ports": [
                {"name": self.http.0, "port": self.http.1, "protocol": "TCP"},
                {"name": self.dns, "port": 9090, "protocol": "UDP"},
            ],
            "endpoints": endpoints,
        })
    }
}

/// A directory of objects for `--manifests`. Changes are collected and written as one file, by rename: the daemon sees all or nothing.
///
/// Mappings are as old as the order in which they first came. Every writing carries a new `metadata.generation` in all Mappings, and
/// there is always one Mapping, refused by design, that shows which writing the daemon has dealt with ([`crate::Daemon::settle`]).
pub struct Manifests {
    dir: TempDir,
    generation: i64,
    ages: BTreeMap<String, usize>,
    mappings: BTreeMap<String, Mapping>,
    services: BTreeMap<String, Service>,
    endpoints: BTreeMap<String, Endpoints>,
}

impl Manifests {
    /// Name of the Mapping that shows the generation; it asks for a Service that does not exist.
    pub const MARKER: &'static str = "bed-marker";

    /// No Mappings; the Service `web` (10.96.0.10) with both pods ready.
    pub fn new() -> Manifests {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut manifests = Manifests {
            dir,
            generation: 0,
            ages: BTreeMap::new(),
            mappings: BTreeMap::new(),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
        };
        let marker = Mapping::new(Self::MARKER).service("bed-no-such-service").address(Ipv4Addr::new(192, 0, 0, 8));
        manifests.put(marker.usual_ports());
        manifests.put_service(Service::new("web", Ipv4Addr::new(10, 96, 0, 10)));
        manifests.put_endpoints(Endpoints::of("web").ready(crate::Bed::POD1).ready(crate::Bed::POD2));
        manifests.write();
        manifests
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file that holds everything.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("objects.yaml")
    }

    /// `metadata.generation` of the last writing.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    pub fn put(&mut self, mapping: Mapping) -> &mut Self {
        let age = self.ages.len();
        self.ages.entry(mapping.name.clone()).or_insert(age);
        self.mappings.insert(mapping.name.clone(), mapping);
        self
    }

    pub fn remove(&mut self, mapping: &str) -> &mut Self {
        assert!(self.mappings.remove(mapping).is_some(), "there is no Mapping {mapping} to remove");
        self
    }

    pub fn put_service(&mut self, service: Service) -> &mut Self {
        self.services.insert(service.name.clone(), service);
        self
    }

    pub fn put_endpoints(&mut self, endpoints: Endpoints) -> &mut Self {
        self.endpoints.insert(endpoints.slice.clone(), endpoints);
        self
    }

    pub fn remove_service(&mut self, service: &str) -> &mut Self {
        assert!(self.services.remove(service).is_some(), "there is no Service {service} to remove");
        self
    }

    pub fn remove_slice(&mut self, slice: &str) -> &mut Self {
        assert!(self.endpoints.remove(slice).is_some(), "there is no EndpointSlice {slice} to remove");
        self
    }

    /// Writes all objects as one YAML stream, a document in flow style each.
    pub fn write(&mut self) {
        self.generation += 1;
        let mut text = String::new();
        let services = self.services.values().map(Service::object);
        for object in services.chain(self.endpoints.values().map(Endpoints::object)) {
            _ = writeln!(text, "---\n{object}");
        }
        for mapping in self.mappings.values() {
            let age = self.ages[&mapping.name];
            let mut object = mapping.object();
            object["metadata"]["generation"] = json!(self.generation);
            object["metadata"]["creationTimestamp"] =
                json!(format!("2026-01-01T{:02}:{:02}:{:02}Z", age / 3600, age / 60 % 60, age % 60));
            _ = writeln!(text, "---\n{object}");
        }
        self.replace(&text);
    }

    /// Replaces the file's text as it stands, whole or broken.
    pub fn replace(&self, text: &str) {
        let temporary = self.dir.path().join(".objects.new");
        fs::write(&temporary, text).expect("the manifests' directory can be written");
        fs::rename(&temporary, self.file()).expect("a file can be renamed in its directory");
    }
}

impl Default for Manifests {
    fn default() -> Self {
        Manifests::new()
    }
}
