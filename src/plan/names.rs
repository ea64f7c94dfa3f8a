//! Settings name interfaces by the kernel's name or an altname; a plan knows the kernel's names alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BorderConfig, Host, InterfaceName};

/// The configuration under the kernel's names, and what is to be said about the names.
#[derive(Debug, Clone)]
pub struct Named {
    pub config: BorderConfig,
    /// By interface: it is named in several ways.
    pub notes: BTreeMap<InterfaceName, String>,
    /// Setting and name: no interface here is named so.
    pub unknown: BTreeSet<(&'static str, InterfaceName)>,
}

/// Puts the names of this moment's host in the place of altnames. A name that no interface has stays as it is: the interface may
/// come. The pattern for external interfaces and prefixes are about kernel names alone.
pub fn named(config: &BorderConfig, host: &Host) -> Named {
    let mut written: BTreeMap<&InterfaceName, BTreeSet<(&InterfaceName, &'static str)>> = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for (setting, name) in names(config) {
        match host.interface_named(name) {
            Some(interface) => _ = written.entry(interface).or_default().insert((name, setting)),
            None => _ = unknown.insert((setting, name.clone())),
        }
    }
    let notes = written.iter().filter_map(|(interface, names)| Some(((*interface).clone(), several(names)?)));
    let notes = notes.collect();
    let config = BorderConfig {
        gateway_interface: kernel_name(host, &config.gateway_interface).clone(),
        inside_interfaces: config.inside_interfaces.iter().map(|name| kernel_name(host, name).clone()).collect(),
        gateway_offsets: config.gateway_offsets.renamed(|name| kernel_name(host, name)),
        gateway_addresses: config.gateway_addresses.renamed(|name| kernel_name(host, name)),
        ..config.clone()
    };
    Named { config, notes, unknown }
}

/// The name as it is, where no interface has it.
fn kernel_name<'a>(host: &'a Host, name: &'a InterfaceName) -> &'a InterfaceName {
    host.interface_named(name).unwrap_or(name)
}

/// Every interface that a setting names.
fn names(config: &BorderConfig) -> impl Iterator<Item = (&'static str, &InterfaceName)> {
    let offsets = config.gateway_offsets.names().map(|name| ("SNCTRLR_GW_ADDRESS_OFFSET", name));
    let addresses = config.gateway_addresses.names().map(|name| ("SNCTRLR_GW_ADDRESS", name));
    let inside = config.inside_interfaces.iter().map(|name| ("SNCTRLR_INSIDE_INTERFACES", name));
    let gateway = ("SNCTRLR_DEFAULT_GW_INTERFACE", &config.gateway_interface);
    std::iter::once(gateway).chain(offsets).chain(addresses).chain(inside)
}

/// That one interface stands in the settings under more than one name.
fn several(names: &BTreeSet<(&InterfaceName, &'static str)>) -> Option<String> {
    let different: BTreeSet<&InterfaceName> = names.iter().map(|(name, _)| *name).collect();
    if different.len() < 2 {
        return None;
    }
    let list: Vec<String> = names.iter().map(|(name, setting)| format!("{name} in {setting}")).collect();
    Some(format!(
        "the settings name this one interface in several ways: {}; write one name everywhere, so that none is overlooked",
        list.join(", ")
    ))
}
