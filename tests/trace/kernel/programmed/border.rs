//! A bed's border on which the daemon has programmed the scene's Mappings, and the plan that this process makes of the same world.

use std::net::SocketAddrV4;
use std::time::Duration;

use bed::packet::{self, Mac, Seen, Wire, number};
use bed::{Bed, Daemon, Manifests, Options};
use smartnat::model::{BorderConfig, Host, MarkLayout, Opening, World};
use smartnat::plan::{Plan, plan, slots};
use smartnat::sources::host::read_host;
use smartnat::sources::manifests::load_dir;
use smartnat::trace::Packet;

use super::scene::{Scene, Way};
use crate::kernel::observe::{Ears, Observed, SOON, ip_packet, stay_on_one_processor};

const PROGRAM: &str = env!("CARGO_BIN_EXE_smartnat-manager");

/// What varies in the settings.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub masquerade: bool,
    pub snat: bool,
}

/// A bed with what its border is to serve.
pub struct Setting {
    scene: &'static Scene,
    bed: Bed,
    manifests: Manifests,
}

impl Setting {
    pub fn new(scene: &'static Scene) -> Setting {
        stay_on_one_processor();
        let bed = Bed::with(Options { layout: scene.layout, ..Options::default() });
        // Every refusal is to be seen, and nobody is to be asked for a hardware address on the way.
        bed.border.set_sysctl("net/ipv4/icmp_ratemask", "0");
        for (role, interface, address, owner) in scene.neighbours {
            let mac = Mac::of(*owner);
            bed.role(role).ip(&format!("neigh replace {address} lladdr {mac} nud permanent dev {interface}"));
        }
        bed.border.ip(&format!("address add {}/32 dev lo", Scene::CLUSTER_IP_HERE));
        Setting { scene, bed, manifests: scene.manifests() }
    }
}

/// The border at work.
pub struct Border<'a> {
    setting: &'a Setting,
    _daemon: Daemon<'a>,
    pub plan: Plan,
    pub host: Host,
    /// What passes the border's interfaces, in both directions.
    taps: [(&'static str, Wire); 3],
    ears: Ears,
    wires: Vec<(&'static str, Wire)>,
    sent: u64,
}

impl<'a> Border<'a> {
    /// Starts the daemon, and plans here what it has programmed.
    pub fn start(setting: &'a Setting, variant: Variant) -> Border<'a> {
        let Setting { scene, bed, manifests } = setting;
        let daemon = Daemon::new(bed, PROGRAM, manifests)
            .set("SNCTRLR_SETUP_MASQUERADE", &variant.masquerade.to_string())
            .set("SNCTRLR_SETUP_SNAT", &variant.snat.to_string())
            .start();
        daemon.settle(manifests);
        let config = config(variant);
        let host = bed.border.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(read_host()).unwrap()
        });
        let objects = Some(load_dir(manifests.dir()).unwrap());
        let world =
            World { slots: slots::remembered(&config, &host.own_rules), host, objects: objects.map(Into::into) };
        let plan = plan(&config, &world);
        let open = |role: &str, interface: &str| bed.role(role).within(|| Wire::open(interface).unwrap());
        let mut wires: Vec<(&'static str, Wire)> = Vec::new();
        for way in scene.ways() {
            if wires.iter().all(|(role, _)| *role != way.role) {
                wires.push((way.role, open(way.role, way.interface())));
            }
        }
        let taps = ["eth0", "eth1", "eth2"].map(|name| (name, open("border", name)));
        let ears = Ears::open(&bed.border);
        Border { setting, _daemon: daemon, plan, host: world.host, taps, ears, wires, sent: 0 }
    }

    /// Forgets all connections, so that the next packet is the first of its own.
    pub fn forget_connections(&self) {
        self.setting.bed.border.run("conntrack -F");
    }

    /// Sends a packet on its way; how it arrived at the border, and what became of it there. Its interface of arrival is where the way
    /// leads to, not what `packet` says.
    pub fn send(&mut self, way: &Way, packet: &Packet, tcp_flags: u8) -> (Packet, Observed) {
        let tag = self.tag();
        self.transmit(way, &ip_packet(packet, tcp_flags, &tag));
        let frames = self.frames_until_quiet();
        let came = |(interface, seen): &&(&'static str, Seen)| {
            let to = self.taps.iter().find(|(name, _)| name == interface).map(|(_, wire)| wire.mac());
            !seen.outgoing && Some(seen.to_mac) == to && seen.payload.ends_with(&tag)
        };
        let Some((interface, first)) = frames.iter().find(came) else {
            panic!("{packet} from {} did not come to the border: the lab is broken", way.role)
        };
        let arrived = Packet { interface: (*interface).to_owned(), hop_limit: first.hop_limit, ..packet.clone() };
        let left: Vec<_> = frames.into_iter().filter(|(_, seen)| seen.outgoing).collect();
        let observed = Observed::judge(&arrived, &tag, &left, self.ears.heard(&arrived, &tag));
        (arrived, observed)
    }

    fn tag(&mut self) -> Vec<u8> {
        self.sent += 1;
        format!("packet {} ends", self.sent).into_bytes()
    }

    fn transmit(&self, way: &Way, ip: &[u8]) {
        let (_, wire) = self.wires.iter().find(|(role, _)| *role == way.role).expect("a wire for every way");
        let frame = packet::ethernet(wire.mac(), Mac::of(way.next_hop), number::IPV4, ip);
        wire.send(&frame).unwrap_or_else(|e| panic!("from {}: {e}", way.role));
    }

    /// Everything that passed the border's interfaces, up to the departure of a packet that no rule touches and that was sent last. It
    /// comes from a pod's side: on all other ways there are at most as many hops, so what was sent before it is through.
    fn frames_until_quiet(&mut self) -> Vec<(&'static str, Seen)> {
        let tag = self.tag();
        let from = SocketAddrV4::new(Scene::BYSTANDER, 9);
        let last = packet::udp_packet(from, SocketAddrV4::new(Bed::CLIENT1, 9), &tag);
        self.transmit(self.setting.scene.farthest(), &last);
        let mut frames = Vec::new();
        let (gateway, others) = self.taps.split_first().expect("three taps");
        loop {
            let seen = gateway.1.receive(SOON).unwrap();
            let seen = seen.unwrap_or_else(|| panic!("the end marker did not come through: the lab is broken"));
            if seen.outgoing && seen.payload == tag {
                break;
            }
            frames.push((gateway.0, seen));
        }
        for (name, wire) in others {
            while let Some(seen) = wire.receive(Duration::ZERO).unwrap() {
                frames.push((*name, seen));
            }
        }
        frames
    }
}

/// What the daemon makes of the bed's settings.
fn config(variant: Variant) -> BorderConfig {
    BorderConfig {
        gateway_interface: "eth0".to_owned(),
        external_pattern: regex::Regex::new("^(?:eth[1-9][0-9]*)$").unwrap(),
        gateway_offsets: 1.into(),
        gateway_addresses: None.into(),
        masquerade: variant.masquerade,
        snat: variant.snat,
        accept: true,
        max_ports_per_mapping: 50,
        inside_prefixes: Vec::new(),
        inside_interfaces: Default::default(),
        openings: vec![Opening::IcmpEcho, Opening::Dhcp],
        marks: MarkLayout::default(),
        route_table_base: 1000,
        instance_name: "border".to_owned(),
    }
}
