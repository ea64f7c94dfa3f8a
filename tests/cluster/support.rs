//! A bed with a cluster behind it, and what tests ask of both.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use bed::cluster::{AuditEntry, ControlPlane, Mark};
use bed::peer::{Answer, Failure, Proto, Request};
use bed::{Bed, Daemon, Endpoints, Mapping, Namespace, Options, Service, eventually_within, holds};
use serde_json::Value;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_smartnat-manager");
pub const FINALIZER: &str = "mapping.finalizers.aureacentral.com";
/// Several control planes share two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(400);

/// A bed, a cluster with everything of `deploy/` in it, and the Service `web` with both pods ready.
pub struct Lab {
    pub bed: Bed,
    pub control: ControlPlane,
}

impl Lab {
    pub fn new() -> Lab {
        Lab::with(Options::default())
    }

    /// With a second border box.
    pub fn of_two() -> Lab {
        Lab::with(Options { second_border: true, ..Options::default() })
    }

    pub fn with(options: Options) -> Lab {
        let bed = Bed::with(options);
        let control = ControlPlane::for_bed(&bed);
        control.install();
        control.apply(Service::new("web", Ipv4Addr::new(10, 96, 0, 10)).object());
        control.apply(Endpoints::of("web").ready(Bed::POD1).ready(Bed::POD2).object());
        Lab { bed, control }
    }

    /// Instance `border`, under its own ServiceAccount, not yet started.
    pub fn daemon(&self) -> Daemon<'_> {
        Daemon::with_kubeconfig(&self.bed, PROGRAM, &self.control.kubeconfig_for("smartnat-manager"))
    }

    /// Instance `border` with another kubeconfig, not yet started.
    pub fn daemon_with(&self, kubeconfig: &Path) -> Daemon<'_> {
        Daemon::with_kubeconfig(&self.bed, PROGRAM, kubeconfig)
    }

    /// Instance `border2` on the second box, another machine, not yet started.
    pub fn second(&self) -> Daemon<'_> {
        self.daemon().on_second().machine_id("22222222222222222222222222222222")
    }

    pub fn put(&self, mapping: &Mapping) {
        self.control.apply(mapping.object());
    }

    pub fn try_mapping(&self, name: &str) -> Option<Value> {
        self.control.try_get("mapping", "default", name)
    }

    #[track_caller]
    pub fn mapping(&self, name: &str) -> Value {
        self.control.get("mapping", "default", name)
    }

    /// Waits for a Mapping of which this holds, and gives it.
    #[track_caller]
    pub fn await_mapping(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_within(PATIENCE, &format!("Mapping {name}: {what}"), || {
                last = self.try_mapping(name);
                last.clone().filter(|m| holds(m))
            })
        }));
        found.unwrap_or_else(|panic| {
            eprintln!("the Mapping was last {}", last.map_or_else(|| "not there".to_owned(), |m| format!("{m:#}")));
            std::panic::resume_unwind(panic)
        })
    }

    /// Waits until the Mapping says that it is programmed.
    #[track_caller]
    pub fn await_programmed(&self, name: &str) -> Value {
        self.await_mapping(name, "it is programmed", |m| condition(m, "Programmed")["status"] == "True")
    }

    #[track_caller]
    pub fn await_gone(&self, name: &str) {
        let gone = || holds(self.try_mapping(name).is_none());
        eventually_within(PATIENCE, &format!("Mapping {name} is gone"), gone);
    }

    /// Deletes it without waiting for its finalizer.
    pub fn delete(&self, name: &str) {
        self.control.kubectl(&["delete", "mapping", name, "--wait=false"]);
    }

    /// Reasons of the Events about a Mapping, oldest first.
    pub fn events(&self, name: &str) -> Vec<String> {
        let mut events = self.control.list("event", "default");
        events.retain(|e| e["regarding"]["name"] == name);
        events.sort_by_key(|e| e["eventTime"].as_str().map(str::to_owned));
        events.iter().filter_map(|e| e["reason"].as_str()).map(str::to_owned).collect()
    }
}

/// A Mapping of these addresses with the usual ports (tcp 80, udp 53), mode direct, for everyone.
pub fn web(name: &str, addresses: &[Ipv4Addr]) -> Mapping {
    addresses.iter().fold(Mapping::new(name), |m, a| m.address(*a)).usual_ports()
}

/// A condition of a Mapping; null while there is none.
pub fn condition(mapping: &Value, kind: &str) -> Value {
    let conditions = mapping["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

/// The entry of an instance in a Mapping's status; null while there is none.
pub fn entry(mapping: &Value, instance: &str) -> Value {
    let entries = mapping["status"]["instances"].as_array();
    entries.into_iter().flatten().find(|e| e["name"] == instance).cloned().unwrap_or_default()
}

/// What tcp 80 of an address answers; gives up soon.
pub fn ask(from: &Namespace, address: Ipv4Addr) -> Result<Answer, Failure> {
    let request = Request { timeout: SHORT, ..Request::new(Proto::Tcp, SocketAddrV4::new(address, 80)) };
    from.within(|| request.send())
}

#[track_caller]
pub fn assert_served(from: &Namespace, address: Ipv4Addr) {
    let answer = from.get(Proto::Tcp, address, 80);
    assert!(answer.is_ok(), "{address}:80 from {}: {answer:?}", from.name());
}

#[track_caller]
pub fn assert_dropped(from: &Namespace, address: Ipv4Addr) {
    assert_eq!(ask(from, address), Err(Failure::Timeout), "{address}:80 from {}", from.name());
}

/// Successful writes of statuses by the daemons since then.
#[track_caller]
pub fn status_writes(lab: &Lab, mark: &Mark) -> Vec<AuditEntry> {
    let mut written = writes(lab, mark);
    written.retain(|w| w.resource == "mappings/status");
    written
}

/// Successful writes by the daemons since then, but those of Leases.
#[track_caller]
pub fn writes(lab: &Lab, mark: &Mark) -> Vec<AuditEntry> {
    let mut written = lab.control.writes_since(mark);
    written.retain(|w| w.user.ends_with(":smartnat-manager") && w.resource != "leases" && w.succeeded());
    written
}
