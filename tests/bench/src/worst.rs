//! Which endpoint's first packet is asked the most rules, by the simulator of the rules.

use std::fmt::Write;
use std::path::Path;

use smartnat::model::World;
use smartnat::plan::plan;
use smartnat::settings::SettingsArgs;
use smartnat::sources::describe::parse_host;
use smartnat::sources::manifests::load_dir;
use smartnat::trace::{Packet, PacketKind, trace};

use crate::fixture::{Item, Size, external, items};
use crate::net::CLIENT;

/// The worst placed endpoint of TCP and of UDP, each as the item with its first port, and how many rules it is asked.
pub fn placed(size: Size, manifests: &Path) -> Result<[(Item, usize); 2], String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let args = SettingsArgs {
        default_gw_interface: Some("eth0".to_owned()),
        interfaces_pattern: Some("eth1".to_owned()),
        manifests: Some(manifests.display().to_string()),
        instance_name: Some("bench".to_owned()),
        ..SettingsArgs::default()
    };
    let settings = args.validate().map_err(|e| text(&e))?;
    let objects = load_dir(manifests).map_err(|e| text(&e))?;
    let host = parse_host(&host(size)).map_err(|e| text(&e))?;
    let world = World { host, objects: Some(objects.into()), slots: Default::default() };
    let plan = plan(&settings.border, &world);
    let asked = |item: &Item| {
        let (source_port, destination_port) = (40_000, item.first_port);
        let kind = if item.is_udp() {
            PacketKind::Udp { source_port, destination_port }
        } else {
            PacketKind::Tcp { source_port, destination_port }
        };
        let packet = Packet::first("eth1", CLIENT.into(), item.address.into(), kind);
        trace(&plan.dataplane, &world.host, &packet).evaluations()
    };
    let worst = |udp: bool| {
        let all = items(size).filter(|item| item.is_udp() == udp).map(|item| (asked(&item), item));
        all.max_by_key(|(asked, _)| *asked).map(|(asked, item)| (item, asked)).ok_or("there is no such endpoint")
    };
    Ok([worst(false)?, worst(true)?])
}

/// The border as [`crate::net::Net`] makes it.
fn host(size: Size) -> String {
    let mut addresses = String::new();
    (0..size.addresses()).for_each(|n| _ = write!(addresses, "{}/16, ", external(n)));
    format!(
        "interfaces:\n  eth0:\n    addresses: [10.0.0.2/24]\n  eth1:\n    addresses: [{addresses}]\n\
         routes:\n- {{to: default, via: 10.0.0.1, dev: eth0}}\n- {{to: 10.244.0.0/15, via: 10.0.0.1, dev: eth0}}\n"
    )
}
