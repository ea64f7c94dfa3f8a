use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bed::cluster::ControlPlane;
use bed::packet::{Mac, Seen, Sniffer, Wire, ethernet, flags, number, tcp_packet, udp_packet};
use bed::{Bed, eventually_within, holds};

use crate::support::{CLUSTER_IP, PATIENCE};

/// What an open door would lead to: ssh, health, kube-proxy, NodePorts, the API server, pods and their Services.
const TARGETS: [(Ipv4Addr, u16); 12] = [
    (Bed::EXT1, 22),
    (Bed::EXT1, 8080),
    (Bed::EXT1, 10_256),
    (Bed::EXT1, 30_080),
    (Bed::EXT2, 22),
    (Bed::EXT2, 30_080),
    (Bed::BORDER, 22),
    (Bed::BORDER, 30_080),
    (CLUSTER_IP, 80),
    (Bed::POD1, 8080),
    (ControlPlane::ADDRESS, ControlPlane::PORT),
    (Ipv4Addr::new(10, 96, 0, 1), 443),
];
const PROBE: &[u8] = b"probe";

/// A scan of the box from both external wires, that goes on until it is dropped, whatever happens to the box.
pub struct Probe {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
    cluster: Sniffer,
    wires: [Sniffer; 2],
}

impl Probe {
    pub fn start(bed: &Bed) -> Probe {
        let cluster = Sniffer::start(&bed.core, "cluster");
        let wires = [Sniffer::start(&bed.attacker1, "eth0"), Sniffer::start(&bed.attacker2, "eth0")];
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sides = [(&bed.attacker1, Bed::ATTACKER1, Bed::EXT1), (&bed.attacker2, Bed::ATTACKER2, Bed::EXT2)];
        let workers = sides.map(|(attacker, from, nic)| {
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            let wire = attacker.within(|| Wire::open("eth0")).expect("an attacker has its interface");
            std::thread::spawn(move || {
                let mut port = 20_000;
                while !stop.load(Ordering::Relaxed) {
                    port = if port == 60_000 { 20_000 } else { port + 1 };
                    for (to, target) in TARGETS {
                        let (from, to) = (SocketAddrV4::new(from, port), SocketAddrV4::new(to, target));
                        let packets = [tcp_packet(from, to, flags::SYN, PROBE), udp_packet(from, to, PROBE)];
                        for packet in packets {
                            wire.send(&ethernet(wire.mac(), Mac::of(nic), number::IPV4, &packet))
                                .expect("a wire takes frames");
                        }
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
        });
        Probe { stop, rounds, workers: workers.into(), cluster, wires }
    }

    /// Nothing of it got into the cluster since it began, and it did go on.
    #[track_caller]
    pub fn assert_nothing_forwarded(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually_within(PATIENCE, "the scan goes on", || holds(self.rounds.load(Ordering::Relaxed) > before + 4));
        let passed = self.cluster.seen(|s| s.payload == PROBE);
        assert!(passed.is_empty(), "{} got into the cluster, the first {:?}", passed.len(), passed.first());
    }

    /// As [`Probe::assert_nothing_forwarded`], and the box itself answered nothing.
    #[track_caller]
    pub fn assert_nothing_passed(&self) {
        self.assert_nothing_forwarded();
        for (wire, attacker) in self.wires.iter().zip([Bed::ATTACKER1, Bed::ATTACKER2]) {
            let box_ = [Mac::of(Bed::EXT1), Mac::of(Bed::EXT2)];
            let answers =
                wire.seen(|s: &Seen| s.ethertype == number::IPV4 && box_.contains(&s.from_mac) && s.is_to(attacker));
            assert!(answers.is_empty(), "{} answers, the first {:?}", answers.len(), answers.first());
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            _ = worker.join();
        }
    }
}
