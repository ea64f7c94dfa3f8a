//! A bed whose border is a virtual machine, a cluster behind it, and what the tests ask of both.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bed::cluster::{ControlPlane, binary};
use bed::peer::{Answer, Failure, Proto, Request, Stream};
pub use bed::vm::PATIENCE;
use bed::vm::{PAYLOAD, Vm};
use bed::{Bed, Endpoints, Layout, Mapping, Namespace, Options, Service, eventually_within, holds};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_smartnat-manager");
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const PORTS: [(Proto, u16); 2] = [(Proto::Tcp, 80), (Proto::Udp, 53)];

/// All that stands around the machine: networks, pods, a cluster with everything of `deploy/` in it and the Service `web` with both pods.
pub struct Stage {
    pub bed: Bed,
    pub control: ControlPlane,
    /// What an operator brings to the box: the programs, `deploy/`, two kubeconfigs.
    payload: TempDir,
}

impl Stage {
    pub fn set(layout: Layout) -> Stage {
        let bed = Bed::with(Options { layout, ..Options::default() });
        let control = ControlPlane::for_bed(&bed);
        control.install();
        control.apply(Service::new("web", CLUSTER_IP).object());
        control.apply(Endpoints::of("web").ready(Bed::POD1).ready(Bed::POD2).object());
        let payload = payload(&control);
        Stage { bed, control, payload }
    }

    /// The bare machine, with the interfaces that its administrator configured and nothing of SmartNat.
    pub fn bare(&self) -> Vm<'_> {
        let vm = Vm::booted(&self.bed, self.payload.path());
        for (name, content) in networks(self.bed.options.layout) {
            vm.put(&format!("/etc/systemd/network/{name}"), &content);
        }
        vm.must("networkctl reload");
        vm.eventually("the machine reaches the API server", &format!("curl -skm 5 {}/readyz", self.control.server()));
        vm
    }

    /// A program's kubeconfig (`smartnat` or `kube-proxy`), as an operator brings it to the box.
    pub fn kubeconfig(&self, of: &str) -> PathBuf {
        self.payload.path().join(format!("border/{of}.kubeconfig"))
    }

    /// The machine after `deploy/install.sh`.
    pub fn installed(&self) -> Vm<'_> {
        let vm = self.bare();
        install(&vm, INSTALLATION);
        vm
    }

    /// A NodePort for the Service's pods: 30080, for whoever reaches one.
    pub fn node_port(&self) {
        self.control.apply(serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "node-port", "namespace": "default"},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]},
        }));
        let mut endpoints = Endpoints::of("node-port").ready(Bed::POD1).object();
        endpoints["ports"] = serde_json::json!([{"name": "", "port": 8080, "protocol": "TCP"}]);
        self.control.apply(endpoints);
    }

    /// A Node object of the box's name (`appliance` unless it is given another): kube-proxy does not wait half a minute for one at each start
    /// then (docs/install.md).
    pub fn node(&self, name: &str) {
        let address = match self.bed.options.layout {
            Layout::Routed => Bed::BORDER,
            Layout::SameSubnet => Bed::SAME_BORDER,
        };
        self.control.apply(serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        let status =
            serde_json::json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}}).to_string();
        self.control.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status]);
    }

    pub fn put(&self, mapping: &Mapping) {
        self.control.apply(mapping.object());
    }

    /// Waits until the Mapping says that it is programmed.
    #[track_caller]
    pub fn await_programmed(&self, name: &str) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_within(PATIENCE, &format!("Mapping {name} is programmed"), || {
                last = self.control.try_get("mapping", "default", name)?;
                let conditions = last["status"]["conditions"].as_array()?;
                holds(conditions.iter().any(|c| c["type"] == "Programmed" && c["status"] == "True"))
            })
        }));
        found.unwrap_or_else(|panic| {
            eprintln!("the Mapping was last {last:#}");
            std::panic::resume_unwind(panic)
        });
        last
    }
}

/// The options of a whole installation.
pub const INSTALLATION: &str = "--binary /payload/smartnat-manager --kube-proxy /payload/kube-proxy \
    --kubeconfig /payload/border/smartnat.kubeconfig --kube-proxy-kubeconfig /payload/border/kube-proxy.kubeconfig \
    --gateway-interface eth0 --interfaces-pattern 'eth[1-9][0-9]*' --set SNCTRLR_INSTANCE_NAME=border --set SNCTRLR_DEBUG_ENABLED=true";

/// Runs `deploy/install.sh` in the machine; what it said, and what `check` said where it was asked again. That is its last step, and it may
/// find the clock not synchronised: there is no time server.
#[track_caller]
pub fn install(vm: &Vm, options: &str) -> String {
    let output = vm.run_while_it_tells(&format!("{PAYLOAD}/deploy/install.sh {options} 2>&1"));
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 4)), "install.sh: {}\n{said}", output.status);
    let mut failed = said.lines().filter(|l| l.starts_with("FAIL"));
    if !failed.all(|l| l.contains("clock")) {
        println!("{said}");
        // An API server that was slow to answer a machine at work is asked again; everything else stays as it is.
        said += &vm.eventually(
            "check finds nothing but the clock",
            "smartnat-manager check >/run/said; cat /run/said; ! grep '^FAIL' /run/said | grep -v ' clock '",
        );
    }
    said
}

fn payload(control: &ControlPlane) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path = |name: &str| dir.path().join(name);
    put_program(dir.path());
    must(Command::new("cp").arg(binary("kube-proxy")).arg(path("kube-proxy")));
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    must(Command::new("cp").arg("-r").arg(&deploy).arg(path("deploy")));
    let authority = control.authority();
    let mut script = Command::new("bash");
    script.arg(deploy.join("kubeconfig.sh")).args(["--server", &control.server(), "--ca"]);
    script.args([&authority.certificate, &authority.key]).arg(path("border"));
    let output = control.run(&mut script, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
}

/// The daemon's program into a directory, as `smartnat-manager`. Without debugging information it has a tenth of the size.
#[track_caller]
pub fn put_program(into: &Path) {
    must(Command::new("strip").arg("-o").arg(into.join("smartnat-manager")).arg(PROGRAM));
}

#[track_caller]
fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Files for systemd-networkd, as `deploy/networkd/examples` has them.
fn networks(layout: Layout) -> Vec<(String, String)> {
    let example = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/networkd/examples").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let external = |interface: &str, addresses: &[String]| {
        let text = example("30-external.network");
        let (head, _) = text.split_once("[Address]").expect("the example has addresses");
        let addresses: String =
            addresses.iter().map(|a| format!("[Address]\nAddress={a}\nRouteMetric=4096\n\n")).collect();
        (format!("30-{interface}.network"), head.replace("Name=eth1", &format!("Name={interface}")) + &addresses)
    };
    let (gateway, one, two) = match layout {
        Layout::Routed => (
            format!(
                "Address={}/24\nGateway={}\n\n[Route]\nDestination=10.244.0.0/16\nGateway={}\n",
                Bed::BORDER,
                Bed::CORE,
                Bed::CORE
            ),
            [Bed::EXT1, Bed::EXT1B].map(|a| format!("{a}/24")).to_vec(),
            vec![format!("{}/24", Bed::EXT2)],
        ),
        Layout::SameSubnet => (
            format!(
                "Address={}/23\nGateway={}\n\n[Route]\nDestination=10.244.0.0/16\nGateway={core}\n\n\
                 [Route]\nDestination={}/32\nGateway={core}\n",
                Bed::SAME_BORDER,
                Bed::SAME_ROUTER,
                ControlPlane::ADDRESS,
                core = Bed::SAME_CORE
            ),
            Bed::SAME_EXT1.map(|a| format!("{a}/23")).to_vec(),
            Bed::SAME_EXT2.map(|a| format!("{a}/23")).to_vec(),
        ),
    };
    let gateway = example("10-gateway.network").replace("DHCP=ipv4", &gateway);
    vec![("10-gateway.network".to_owned(), gateway), external("eth1", &one), external("eth2", &two)]
}

/// A Mapping of these addresses in mode service, tcp 80 and udp 53, for everyone.
pub fn web(name: &str, addresses: &[Ipv4Addr]) -> Mapping {
    addresses.iter().fold(Mapping::new(name), |m, a| m.address(*a)).by_cluster_ip().usual_ports()
}

/// Both ports of an address answer; the last answer.
#[track_caller]
pub fn assert_served(from: &Namespace, address: Ipv4Addr) -> Answer {
    let answers = PORTS.map(|(proto, port)| {
        from.get(proto, address, port)
            .unwrap_or_else(|e| panic!("{proto:?} {address}:{port} from {}: {e:?}", from.name()))
    });
    let [first, _] = answers;
    first
}

/// Waits until both ports of an address answer.
#[track_caller]
pub fn await_served(from: &Namespace, address: Ipv4Addr) {
    for (proto, port) in PORTS {
        eventually_within(PATIENCE, &format!("{proto:?} {address}:{port} answers"), || {
            ask(from, proto, address, port).ok()
        });
    }
}

/// One request that gives up soon.
pub fn ask(from: &Namespace, proto: Proto, address: Ipv4Addr, port: u16) -> Result<Answer, Failure> {
    let timeout = Duration::from_secs(1);
    let request = Request { timeout, ..Request::new(proto, SocketAddrV4::new(address, port)) };
    from.within(|| request.send())
}

/// Waits until both pods have answered.
#[track_caller]
pub fn await_both_pods(from: &Namespace, address: Ipv4Addr) {
    for (proto, port) in PORTS {
        for pod in ["pod1", "pod2"] {
            eventually_within(PATIENCE, &format!("{proto:?} {address}:{port} by {pod}"), || {
                holds(from.get(proto, address, port).is_ok_and(|a| a.name == pod))
            });
        }
    }
}

/// A stream whose rounds leave the emulated machine time for other work.
#[track_caller]
pub fn open_stream(from: &Namespace, address: Ipv4Addr) -> Stream {
    let to = SocketAddrV4::new(address, 80);
    let pause = Duration::from_millis(20);
    from.within(|| Stream::open_with(to, PATIENCE, pause)).unwrap_or_else(|e| panic!("no stream to {to}: {e:?}"))
}

/// Where the kernel can (from 6.15), TCP of these sends again every second, so that a stream shows when its path is back: it would be silent
/// once more for as long as the path was away. It gives up after minutes, as without this.
pub fn send_again_soon(namespaces: &[&Namespace]) {
    for namespace in namespaces {
        let there = namespace.within(|| Path::new("/proc/sys/net/ipv4/tcp_rto_max_ms").exists());
        if there {
            namespace.set_sysctl("net/ipv4/tcp_rto_max_ms", "1000");
            namespace.set_sysctl("net/ipv4/tcp_retries2", "255");
        }
    }
}

/// More bytes come back on it than did until now.
#[track_caller]
pub fn assert_goes_on(stream: &Stream) {
    let before = stream.bytes();
    eventually_within(PATIENCE, "the stream goes on", || {
        assert_eq!(stream.broken(), None, "the stream was cut after {} bytes", stream.bytes());
        holds(stream.bytes() > before)
    });
}
