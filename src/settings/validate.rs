use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use super::fields::{Collector, Complaint, boolean, interface_name, interface_or_altname, list, number};
use super::{ClusterSettings, LocalSettings, MonitorAddress, ObjectSource, Settings, SettingsArgs, SettingsError};
use crate::model::{
    BorderConfig, GatewayAddresses, GatewayOffsets, InterfaceName, MAX_INTERFACE_NAME, MarkLayout, Opening,
};

const GATEWAY: &str = "SNCTRLR_DEFAULT_GW_INTERFACE";
const INSTANCE: &str = "SNCTRLR_INSTANCE_NAME";
const TABLE_BASE: &str = "SNCTRLR_ROUTE_TABLE_BASE";
/// One day: a longer period or timeout is a slip of the unit.
const DAY: u64 = 86_400;

/// Settings that every subcommand that touches the box knows. `None`: noted as bad.
struct Local {
    debug: Option<bool>,
    monitor: Option<MonitorAddress>,
    tool_timeout: Option<Duration>,
    state_dir: Option<PathBuf>,
}

impl SettingsArgs {
    /// Checks every setting and names all bad ones.
    pub fn validate(mut self) -> Result<Settings, SettingsError> {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mut c = Collector::default();
        let local = self.local(&mut c);
        let autorefresh =
            c.optional("SNCTRLR_AUTOREFRESH_PERIOD_SEC", self.autorefresh_period_sec.take(), 60, number(1..=DAY));
        let finalize = c.optional(
            "SNCTRLR_MAX_FINALIZE_WAIT_MINUTES",
            self.max_finalize_wait_minutes.take(),
            60,
            number(1..=365 * DAY / 60),
        );
        let objects = object_source(self.manifests.take(), self.kubeconfig.take());
        let (namespace, lease) = self.leases(&mut c);
        let border = self.border(&mut c, host_name.trim());

        if let (
            true,
            Some(border),
            Local {
                debug: Some(debug),
                monitor: Some(monitor),
                tool_timeout: Some(tool_timeout),
                state_dir: Some(state_dir),
            },
            Some(autorefresh),
            Some(finalize),
            Some(namespace),
            Some(lease),
        ) = (c.bad.is_empty(), border, local, autorefresh, finalize, namespace, lease)
        {
            return Ok(Settings {
                border,
                debug,
                monitor,
                tool_timeout,
                autorefresh: Duration::from_secs(autorefresh),
                max_finalize_wait: Duration::from_secs(finalize * 60),
                objects,
                namespace,
                lease,
                state_dir,
            });
        }
        Err(SettingsError { bad: c.bad })
    }

    /// Checks what `status` and `cleanup` need; the rest may be missing or bad.
    pub fn validate_local(mut self) -> Result<LocalSettings, SettingsError> {
        let mut c = Collector::default();
        match self.local(&mut c) {
            Local {
                debug: Some(debug),
                monitor: Some(monitor),
                tool_timeout: Some(tool_timeout),
                state_dir: Some(state_dir),
            } => Ok(LocalSettings { debug, monitor, tool_timeout, state_dir }),
            _ => Err(SettingsError { bad: c.bad }),
        }
    }

    /// Checks what `forget` needs; the rest may be missing or bad.
    pub fn validate_cluster(mut self) -> Result<ClusterSettings, SettingsError> {
        let mut c = Collector::default();
        let debug = c.optional("SNCTRLR_DEBUG_ENABLED", self.debug_enabled.take(), false, boolean);
        let (namespace, lease) = self.leases(&mut c);
        let objects = object_source(self.manifests.take(), self.kubeconfig.take());
        match (debug, namespace, lease) {
            (Some(debug), Some(namespace), Some(lease)) => Ok(ClusterSettings { debug, objects, namespace, lease }),
            _ => Err(SettingsError { bad: c.bad }),
        }
    }

    fn leases(&mut self, c: &mut Collector) -> (Option<String>, Option<Duration>) {
        let default = "smartnat-system".to_owned();
        let namespace = c.optional("SNCTRLR_NAMESPACE", self.namespace.take(), default, namespace);
        let lease = c.optional("SNCTRLR_LEASE_SECONDS", self.lease_seconds.take(), 40, number(4..=3600));
        (namespace, lease.map(Duration::from_secs))
    }

    fn local(&mut self, c: &mut Collector) -> Local {
        let port = c.optional("SNCTRLR_MONITOR_PORT", self.monitor_port.take(), 8080, number(1..=u16::MAX));
        let ip = match self.monitor_ip.take() {
            None => Some(Some(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            Some(text) => c.given("SNCTRLR_MONITOR_IP", text, monitor_ip),
        };
        Local {
            debug: c.optional("SNCTRLR_DEBUG_ENABLED", self.debug_enabled.take(), false, boolean),
            monitor: ip.zip(port).map(|(ip, port)| MonitorAddress { ip, port }),
            tool_timeout: c
                .optional("SNCTRLR_IPTABLES_TIMEOUT_SEC", self.iptables_timeout_sec.take(), 10, number(1..=DAY))
                .map(Duration::from_secs),
            state_dir: c.optional(
                "SNCTRLR_STATE_DIR",
                self.state_dir.take(),
                PathBuf::from("/run/smartnat"),
                state_dir,
            ),
        }
    }

    fn border(self, c: &mut Collector, host_name: &str) -> Option<BorderConfig> {
        let gateway_interface = c.required(
            GATEWAY,
            self.default_gw_interface,
            "name the interface of the default route, for example eth0",
            interface_or_altname,
        );
        let external_pattern = c.required(
            "SNCTRLR_INTERFACES_PATTERN",
            self.interfaces_pattern,
            "write a regular expression for the names of the external interfaces, for example eth[1-9][0-9]*",
            pattern,
        );
        let gateway_offsets =
            c.optional("SNCTRLR_GW_ADDRESS_OFFSET", self.gw_address_offset, GatewayOffsets::from(1), gateway_offsets);
        let gateway_addresses =
            c.optional("SNCTRLR_GW_ADDRESS", self.gw_address, GatewayAddresses::from(None), gateway_addresses);
        let masquerade = c.optional("SNCTRLR_SETUP_MASQUERADE", self.setup_masquerade, true, boolean);
        let snat = c.optional("SNCTRLR_SETUP_SNAT", self.setup_snat, false, boolean);
        let accept = c.optional("SNCTRLR_SETUP_ACCEPT", self.setup_accept, true, boolean);
        let max_ports = c.optional(
            "SNCTRLR_MAX_PORTS_PER_MAPPING",
            self.max_ports_per_mapping,
            50,
            number(1..=crate::plan::MAX_PORTS),
        );
        let inside_prefixes = c.optional("SNCTRLR_INSIDE_PREFIXES", self.inside_prefixes, Vec::new(), inside_prefixes);
        let inside_interfaces =
            c.optional("SNCTRLR_INSIDE_INTERFACES", self.inside_interfaces, BTreeSet::new(), inside_interfaces);
        let openings = match self.border_openings {
            None => Some(vec![Opening::IcmpEcho, Opening::Dhcp]),
            Some(text) => c.given("SNCTRLR_BORDER_OPENINGS", text, openings),
        };
        let marks = c.optional("SNCTRLR_MARK_BITS", self.mark_bits, MarkLayout::default(), |text| {
            text.parse::<MarkLayout>().map_err(|e| split_message(&e.to_string()))
        });
        let base_text = self.route_table_base.clone();
        let route_table_base = c
            .optional(TABLE_BASE, self.route_table_base, 1000, number(255..=u32::MAX))
            .filter(|base| table_range_fits(c, base_text, *base, marks.unwrap_or_default()));
        let instance_name = instance_name(c, self.instance_name, host_name);
        Some(BorderConfig {
            gateway_interface: gateway_interface?,
            external_pattern: external_pattern?,
            gateway_offsets: gateway_offsets?,
            gateway_addresses: gateway_addresses?,
            masquerade: masquerade?,
            snat: snat?,
            accept: accept?,
            max_ports_per_mapping: max_ports?,
            inside_prefixes: inside_prefixes?,
            inside_interfaces: inside_interfaces?,
            openings: openings?,
            marks: marks?,
            route_table_base: route_table_base?,
            instance_name: instance_name?,
        })
    }
}

/// Manifests win: they are named on purpose, and KUBECONFIG may stand in an environment for other programs.
fn object_source(manifests: Option<String>, kubeconfig: Option<String>) -> ObjectSource {
    let given = |text: Option<String>| text.filter(|t| !t.trim().is_empty());
    if let Some(dir) = given(manifests) {
        return ObjectSource::Manifests(dir.into());
    }
    if let Some(files) = given(kubeconfig) {
        return ObjectSource::Kubeconfig(std::env::split_paths(&files).filter(|p| !p.as_os_str().is_empty()).collect());
    }
    // Set by the kubelet in every pod.
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() { ObjectSource::InCluster } else { ObjectSource::None }
}

fn namespace(text: &str) -> Result<String, Complaint> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new(
        "it is no name of a namespace",
        "use lower case letters, digits and -, for example smartnat-system",
    ))
}

/// RFC 1123.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Empty: every address.
fn monitor_ip(text: &str) -> Result<Option<IpAddr>, Complaint> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Complaint::new(
            "it is no IP address",
            "write an address such as 127.0.0.1, or set it to nothing for all addresses",
        )
    })
}

fn state_dir(text: &str) -> Result<PathBuf, Complaint> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(Complaint::new("it is no absolute path", "write a path that begins with /"));
    }
    Ok(path)
}

/// Anchored at both ends.
fn pattern(text: &str) -> Result<Regex, Complaint> {
    const REMEDY: &str = "correct the regular expression, for example eth[1-9][0-9]*";
    // By itself first: `a)|(b` would become valid between the anchors' brackets.
    Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$"))).map_err(|e| {
        // The last line of the message says what is wrong; those before draw an arrow below the text.
        let message = e.to_string();
        let line = message.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        Complaint::new(format!("it is no regular expression ({line})"), REMEDY)
    })
}

/// `1`, `1,eth2=-1` or `eth1=1,eth2=-1`.
fn gateway_offsets(text: &str) -> Result<GatewayOffsets, Complaint> {
    let (all, own) = per_interface(text, "offsets", gateway_offset)?;
    Ok(GatewayOffsets::new(all.unwrap_or(1), own))
}

/// `203.0.113.1` or `eth1=203.0.113.1,eth2=100.64.0.1`.
fn gateway_addresses(text: &str) -> Result<GatewayAddresses, Complaint> {
    let (all, own) = per_interface(text, "addresses", |item| gateway_address(item).map(Some))?;
    Ok(GatewayAddresses::new(all.flatten(), own))
}

/// A value for all interfaces, and those of single ones: `VALUE,NAME=VALUE`.
fn per_interface<T>(
    text: &str,
    what: &str,
    parse: impl Fn(&str) -> Result<T, Complaint>,
) -> Result<(Option<T>, BTreeMap<InterfaceName, T>), Complaint> {
    let twice = |whom: &str| {
        Complaint::new(
            format!("it holds two {what} {whom}"),
            "write one for all, and one for each interface that differs",
        )
    };
    let mut all = None;
    let mut own = BTreeMap::new();
    for item in list(text) {
        let Some((name, value)) = item.split_once('=') else {
            if all.replace(parse(item)?).is_some() {
                return Err(twice("for all interfaces"));
            }
            continue;
        };
        let name = interface_or_altname(name.trim())?;
        if own.insert(name.clone(), parse(value.trim())?).is_some() {
            return Err(twice(&format!("for {name}")));
        }
    }
    Ok((all, own))
}

/// An address that a router can have.
fn gateway_address(text: &str) -> Result<Ipv4Addr, Complaint> {
    const REMEDY: &str = "write the router's IPv4 address alone, for example 203.0.113.1 or eth1=203.0.113.1";
    let address = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address,
        Ok(IpAddr::V6(_)) => return Err(Complaint::new("external interfaces have IPv4 gateways only", REMEDY)),
        Err(_) if text.contains('/') => return Err(Complaint::new("a gateway has no prefix length", REMEDY)),
        Err(_) => return Err(Complaint::new("it is no IP address", REMEDY)),
    };
    let why = match address.octets() {
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_loopback() => "an address of the box itself",
        // 240/4 is reserved (RFC 1112, 4), and its last address is the limited broadcast.
        [0 | 240..=255, ..] => "no address of a host",
        _ => return Ok(address),
    };
    Err(Complaint::new(format!("{address} is {why}, and no router can have it"), REMEDY))
}

fn gateway_offset(text: &str) -> Result<i32, Complaint> {
    const REMEDY: &str =
        "write 1 for the first address of the subnet, -1 for the last before broadcast, or another whole number but 0";
    match text.parse::<i32>() {
        Ok(0) => Err(Complaint::new("0 would be the address of the subnet itself", REMEDY)),
        Ok(offset) => Ok(offset),
        Err(_) => Err(Complaint::new("it is no whole number that fits", REMEDY)),
    }
}

fn inside_prefixes(text: &str) -> Result<Vec<String>, Complaint> {
    let mut prefixes: Vec<String> = Vec::new();
    for item in list(text) {
        let prefix = item.strip_suffix('+').unwrap_or(item);
        if prefix.is_empty() {
            return Err(Complaint::new(
                "+ alone would make every interface inside and open the border",
                "name the beginnings of the pod interfaces, for example cali+",
            ));
        }
        let prefix = interface_name(prefix)?;
        if prefix.len() == MAX_INTERFACE_NAME {
            return Err(Complaint::new(
                format!("{prefix} is as long as a name can be, so that no other begins so"),
                "name that interface in SNCTRLR_INSIDE_INTERFACES",
            ));
        }
        if !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
    }
    Ok(prefixes)
}

fn inside_interfaces(text: &str) -> Result<BTreeSet<String>, Complaint> {
    list(text).into_iter().map(interface_or_altname).collect()
}

fn openings(text: &str) -> Result<Vec<Opening>, Complaint> {
    let mut openings = Vec::new();
    for item in list(text) {
        let opening = item.parse::<Opening>().map_err(|e| split_message(&e.to_string()))?;
        if !openings.contains(&opening) {
            openings.push(opening);
        }
    }
    Ok(openings)
}

/// Tables of all slots must be usable: 253 to 255 are the kernel's (excluded by the lower bound), and numbers have 32 bits.
fn table_range_fits(c: &mut Collector, value: Option<String>, base: u32, marks: MarkLayout) -> bool {
    let fits = base.checked_add(u32::from(marks.max_slot())).is_some();
    if !fits {
        let highest = u32::MAX - u32::from(marks.max_slot());
        c.note(
            TABLE_BASE,
            value,
            Complaint::new(
                format!("with {} slots the tables would go beyond the highest number", marks.max_slot()),
                format!("write a number from 255 to {highest}"),
            ),
        );
    }
    fits
}

/// RFC 1123.
pub(super) fn is_instance_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The name stands in the API beside those of other instances: a DNS subdomain (RFC 1123), as node names are.
fn instance_name(c: &mut Collector, value: Option<String>, host_name: &str) -> Option<String> {
    let check = |text: &str| {
        if is_instance_name(text) {
            return Ok(text.to_owned());
        }
        Err(Complaint::new(
            "it is no DNS name in lower case",
            "use lower case letters, digits, - and ., at most 253 characters, for example border-1",
        ))
    };
    match value.filter(|v| !v.trim().is_empty()) {
        Some(value) => c.given(INSTANCE, value, check),
        None if host_name.is_empty() => {
            c.note(
                INSTANCE,
                None,
                Complaint::new("it is not set and the host has no name", "set it, for example to border-1"),
            );
            None
        }
        None => c.given(INSTANCE, host_name.to_ascii_lowercase(), check),
    }
}

/// Messages of the model's types read "what is wrong; what to do".
fn split_message(message: &str) -> Complaint {
    match message.split_once("; ") {
        Some((wrong, remedy)) => Complaint::new(wrong, remedy),
        None => Complaint::new(message, "see --help"),
    }
}

#[cfg(test)]
mod tests;
