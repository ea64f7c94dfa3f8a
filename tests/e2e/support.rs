//! What the tests share.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bed::peer::{Answer, Failure, Flood, FloodReport, Proto, Request, Stream};
use bed::{Bed, Daemon, Manifests, Mapping, Namespace, eventually, eventually_within};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_smartnat-manager");

/// The ports of [`Mapping::usual_ports`].
pub const PORTS: [(Proto, u16); 2] = [(Proto::Tcp, 80), (Proto::Udp, 53)];

/// Long enough for an answer in a namespace to arrive, short enough to wait for one that must not.
pub const SHORT: Duration = Duration::from_millis(400);

pub fn daemon<'a>(bed: &'a Bed, manifests: &Manifests) -> Daemon<'a> {
    Daemon::new(bed, PROGRAM, manifests)
}

/// Objects with these Mappings, written.
pub fn manifests(mappings: impl IntoIterator<Item = Mapping>) -> Manifests {
    let mut manifests = Manifests::new();
    for mapping in mappings {
        manifests.put(mapping);
    }
    manifests.write();
    manifests
}

/// A Mapping of these addresses with the usual ports, for everyone.
pub fn mapping(name: &str, addresses: &[Ipv4Addr]) -> Mapping {
    addresses.iter().fold(Mapping::new(name), |m, a| m.address(*a)).usual_ports()
}

/// Every usual port of the address answers from a pod, at the pod's own port; the last answer.
#[track_caller]
pub fn assert_served(from: &Namespace, address: Ipv4Addr) -> Answer {
    let mut last = None;
    for (proto, port) in PORTS {
        let answer = from.get(proto, address, port);
        let answer = answer.unwrap_or_else(|e| panic!("{proto} {address}:{port} from {}: {e}", from.name()));
        let translated = if proto == Proto::Tcp { 8080 } else { 9090 };
        assert_eq!(answer.at.port(), translated, "{answer}");
        assert!(answer.at.ip() == Bed::POD1 || answer.at.ip() == Bed::POD2, "{answer}");
        last = Some(answer);
    }
    last.expect("there are usual ports")
}

/// What the usual ports of the address answer, by protocol; gives up soon.
pub fn try_ports(from: &Namespace, address: Ipv4Addr) -> Vec<Result<Answer, Failure>> {
    PORTS.map(|(proto, port)| try_port(from, proto, address, port)).into()
}

/// One request that gives up soon: for what is not answered. What must be answered is asked with [`Namespace::get`], which is patient.
pub fn try_port(from: &Namespace, proto: Proto, address: Ipv4Addr, port: u16) -> Result<Answer, Failure> {
    let request = Request { timeout: SHORT, ..Request::new(proto, SocketAddrV4::new(address, port)) };
    from.within(|| request.send())
}

/// Nothing at all comes back from the usual ports.
#[track_caller]
pub fn assert_dropped(from: &Namespace, address: Ipv4Addr) {
    assert_eq!(try_ports(from, address), [Err(Failure::Timeout), Err(Failure::Timeout)], "from {}", from.name());
}

/// Allowed, but there is nothing to connect to: told at once.
#[track_caller]
pub fn assert_refused(from: &Namespace, address: Ipv4Addr) {
    let answers = PORTS.map(|(proto, port)| from.get(proto, address, port));
    assert_eq!(answers, [Err(Failure::Refused), Err(Failure::Refused)], "from {}", from.name());
}

/// Names of the pods that answer `count` new connections.
#[track_caller]
pub fn pods_answering(from: &Namespace, address: Ipv4Addr, count: usize) -> BTreeSet<String> {
    let names =
        (0..count).map(|_| from.get(Proto::Tcp, address, 80).unwrap_or_else(|e| panic!("{address}:80: {e}")).name);
    names.collect()
}

/// A long-lived connection to tcp 80.
#[track_caller]
pub fn open_stream(from: &Namespace, address: Ipv4Addr) -> Stream {
    let to = SocketAddrV4::new(address, 80);
    from.within(|| Stream::open(to)).unwrap_or_else(|e| panic!("no stream to {to}: {e}"))
}

/// Some more of a stream's rounds come back.
#[track_caller]
pub fn assert_alive(stream: &Stream) {
    let before = stream.bytes();
    eventually("the stream goes on", || {
        assert_eq!(stream.broken(), None, "the stream was cut after {} bytes", stream.bytes());
        (stream.bytes() > before + 2048).then_some(())
    });
}

/// The stream is cut: its server or client gets no more.
#[track_caller]
pub fn assert_cut(stream: Stream) {
    stream.expect_end();
    eventually("the stream is cut", || stream.broken().map(drop));
    let report = stream.stop();
    assert!(report.broken.is_some(), "{report:?}");
}

/// For so long a connection lives on without its pod.
pub const GRACE: Duration = Duration::from_secs(30);

/// The stream goes on until its pod has been away for [`GRACE`], and is cut then. A broken stream is noticed after 5 s.
#[track_caller]
pub fn assert_ends_in_time(stream: Stream, gone: Instant) {
    assert_alive(&stream);
    stream.expect_end();
    eventually_within(GRACE + bed::BOUND, "the stream is cut", || stream.broken().map(drop));
    let lived = gone.elapsed();
    assert!(lived >= GRACE, "cut after {lived:?}");
}

/// New flows to both usual ports.
pub fn flood(from: &Namespace, address: Ipv4Addr) -> [Flood; 2] {
    PORTS.map(|(proto, port)| from.within(|| Flood::start(proto, SocketAddrV4::new(address, port))))
}

/// Every flood has begun so many more flows.
#[track_caller]
pub fn await_flows(floods: &[Flood], more: u64) {
    let before: Vec<u64> = floods.iter().map(Flood::flows).collect();
    eventually("new flows go on", || {
        floods.iter().zip(&before).all(|(flood, before)| flood.flows() >= before + more).then_some(())
    });
}

/// None of the flood's flows was lost, and there was at least this many of each kind.
#[track_caller]
pub fn assert_nothing_lost(floods: impl IntoIterator<Item = Flood>, at_least: u64) {
    for report in floods.into_iter().map(Flood::stop) {
        let FloodReport { flows, lost, .. } = report;
        assert!(lost == 0 && flows >= at_least, "{report:?}");
    }
}

/// Ears behind the border: counting rules for what comes from an external interface and has passed the mangle table.
pub fn put_ears(bed: &Bed) {
    for tool in ["iptables", "ip6tables"] {
        for (chain, nic) in [("INPUT", "eth1"), ("INPUT", "eth2"), ("FORWARD", "eth1"), ("FORWARD", "eth2")] {
            bed.border.run(&format!("{tool} -w -A {chain} -i {nic} -m comment --comment bed-ear"));
        }
    }
}

/// Packets that the ears of `iptables` or `ip6tables` have counted in a chain.
#[track_caller]
pub fn heard(bed: &Bed, tool: &str, chain: &str) -> u64 {
    let rules = bed.border.run(&format!("{tool}-save -c -t filter"));
    let ears: Vec<&str> =
        rules.lines().filter(|l| l.contains("bed-ear") && l.contains(&format!("-A {chain} "))).collect();
    assert_eq!(ears.len(), 2, "{rules}");
    // [PACKETS:BYTES] -A ...
    let count = |l: &str| l.trim_start_matches('[').split(':').next().and_then(|n| n.parse::<u64>().ok());
    ears.iter().map(|l| count(l).unwrap_or_else(|| panic!("no counter: {l}"))).sum()
}
