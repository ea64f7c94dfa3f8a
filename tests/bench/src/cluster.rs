use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bed::cluster::ControlPlane;
use serde_json::{Value, json};

use crate::fixture::{Item, NAMESPACE, Size};
use crate::net::Net;

/// Of `kubectl proxy` in the control plane's namespace.
const PROXY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 8001);
const MAPPINGS: &str = "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/bench/mappings";
/// Requests at once where many objects are made.
const WRITERS: usize = 4;

/// An API server beside a bench, with a daemon's rights.
pub struct Cluster {
    pub control: ControlPlane,
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// With the definition, the rights and the bench's namespace, and no objects.
    pub fn new(net: &Net) -> Cluster {
        let control = ControlPlane::start();
        control.connect_to(&net.core);
        control.install();
        control.create_namespace(NAMESPACE);
        let kubeconfig = control.kubeconfig_for("smartnat-manager");
        Cluster { control, kubeconfig }
    }

    /// All Services and EndpointSlices of a size.
    pub fn create_services(&self, size: Size) {
        self.create_all(size, &|item| vec![item.service(), item.slice()]);
    }

    /// All Mappings of a size.
    pub fn create_mappings(&self, size: Size) {
        self.create_all(size, &|item| vec![item.mapping()]);
    }

    fn create_all(&self, size: Size, objects: &(dyn Fn(&Item) -> Vec<Value> + Sync)) {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= size.mappings {
                            break;
                        }
                        self.control.create_all(objects(&Item::new(size, number)));
                    }
                });
            }
        });
    }

    /// A merge patch of a Mapping's ports.
    pub fn patch_mapping(&self, item: &Item) {
        let patch = json!({"spec": {"ports": item.mapping()["spec"]["ports"]}});
        self.control.patch("mapping", NAMESPACE, &item.name(), &patch);
    }

    /// A merge patch of a slice's endpoints.
    pub fn patch_slice(&self, item: &Item) {
        let patch = json!({"endpoints": item.slice()["endpoints"]});
        self.control.patch("endpointslice", NAMESPACE, &format!("{}-1", item.name()), &patch);
    }

    pub fn delete_mappings(&self) {
        let (code, answer) = self.control.request("DELETE", MAPPINGS, "application/json", "");
        assert!(code == 200 || code == 202, "deletion of all Mappings: {code} {answer}");
    }

    /// Follows all Mappings from now on.
    pub fn watch(&self) -> Watch {
        let (code, list) = self.control.request("GET", MAPPINGS, "application/json", "");
        assert_eq!(code, 200, "list of Mappings: {list}");
        let version = list["metadata"]["resourceVersion"].as_str().expect("a list has a version").to_owned();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let stream = self.control.namespace().within(|| TcpStream::connect(PROXY)).expect("kubectl proxy listens");
        let request = format!("GET {MAPPINGS}?watch=1&resourceVersion={version} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        (&stream).write_all(request.as_bytes()).expect("kubectl proxy reads");
        let mut seen = Seen::default();
        items.iter().for_each(|item| seen.take("ADDED", item));
        let seen = Arc::new(Mutex::new(seen));
        let kept = Arc::clone(&seen);
        let lines = BufReader::new(stream.try_clone().expect("a descriptor can be doubled"));
        thread::spawn(move || {
            // Before the events stand the lines of the HTTP head.
            for line in lines.split(b'\n').map_while(Result::ok) {
                if let Ok(event) = serde_json::from_slice::<Value>(&line) {
                    lock(&kept).take(event["type"].as_str().unwrap_or_default(), &event["object"]);
                }
            }
            lock(&kept).ended = true;
        });
        Watch { stream, seen }
    }
}

/// A watch of the Mappings, until it is dropped.
pub struct Watch {
    stream: TcpStream,
    seen: Arc<Mutex<Seen>>,
}

/// What a watch has told so far.
#[derive(Debug, Default)]
struct Seen {
    there: BTreeSet<String>,
    /// Names of those whose status says all there is to say.
    complete: BTreeSet<String>,
    ended: bool,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Waits until so many are complete.
    pub fn all_complete(&self, count: usize, patience: Duration) -> Result<(), String> {
        self.until(patience, |seen| seen.complete.len() >= count).map_err(|seen| {
            format!("{} of {count} statuses are complete after {} s", seen.complete.len(), patience.as_secs())
        })
    }

    /// Waits until there is none any more.
    pub fn all_gone(&self, patience: Duration) -> Result<(), String> {
        self.until(patience, |seen| seen.there.is_empty())
            .map_err(|seen| format!("{} Mappings are still there after {} s", seen.there.len(), patience.as_secs()))
    }

    fn until(&self, patience: Duration, done: impl Fn(&Seen) -> bool) -> Result<(), MutexGuard<'_, Seen>> {
        let begin = Instant::now();
        loop {
            let seen = lock(&self.seen);
            if done(&seen) {
                return Ok(());
            }
            if seen.ended || begin.elapsed() > patience {
                return Err(seen);
            }
            drop(seen);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Ends the thread.
        _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Seen {
    fn take(&mut self, event: &str, mapping: &Value) {
        let name = mapping["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            return;
        }
        if event == "DELETED" {
            self.there.remove(&name);
            self.complete.remove(&name);
            return;
        }
        if is_complete(mapping) {
            self.complete.insert(name.clone());
        } else {
            self.complete.remove(&name);
        }
        self.there.insert(name);
    }
}

/// Programmed says that it serves this generation, and the instance's own entry too.
fn is_complete(mapping: &Value) -> bool {
    let generation = &mapping["metadata"]["generation"];
    let list = |field: &str| mapping["status"][field].as_array().cloned().unwrap_or_default();
    let told = |c: &Value| c["type"] == "Programmed" && c["status"] == "True" && c["observedGeneration"] == *generation;
    let own = |i: &Value| i["name"] == "bench" && i["programmed"] == true && i["observedGeneration"] == *generation;
    list("conditions").iter().any(told) && list("instances").iter().any(own)
}
