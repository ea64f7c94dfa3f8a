use clap::Args;

use super::SettingsFile;

/// Heading of the settings in `--help`, shared by all subcommands.
const HEADING: &str = "Settings (each is an environment variable and a flag; the flag wins)";

/// The settings as given: strings, so that all bad ones can be reported together. An empty value counts as not given, except for
/// `SNCTRLR_MONITOR_IP` and `SNCTRLR_BORDER_OPENINGS`, where it has a meaning.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = HEADING)]
pub struct SettingsArgs {
    /// Name of the default gateway interface, which SmartNat leaves alone (required), e.g. eth0
    #[arg(long, env = "SNCTRLR_DEFAULT_GW_INTERFACE", value_name = "NAME", global = true)]
    pub default_gw_interface: Option<String>,

    /// Regular expression for the names of the external (client facing) interfaces (required). It must match the whole name and never
    /// matches the default gateway interface, e.g. eth[1-9][0-9]*
    #[arg(long, env = "SNCTRLR_INTERFACES_PATTERN", value_name = "REGEX", global = true)]
    pub interfaces_pattern: Option<String>,

    /// Where the router of an external interface is in the subnet of its first address that has one: 1 is the first address of the subnet, 2 the
    /// second, -1 the last before broadcast; an interface may have its own: 1,eth2=-1 [default: 1]
    #[arg(long, env = "SNCTRLR_GW_ADDRESS_OFFSET", value_name = "NUMBERS", allow_hyphen_values = true, global = true)]
    pub gw_address_offset: Option<String>,

    /// Address of the router of the external interfaces, where the offset does not lead to it, also outside of every subnet (external
    /// addresses of /32); an interface may have its own: eth1=203.0.113.1,eth2=100.64.0.1 [default: by the offset]
    #[arg(long, env = "SNCTRLR_GW_ADDRESS", value_name = "ADDRESSES", global = true)]
    pub gw_address: Option<String>,

    /// Address of the HTTP endpoints /healthcheck, /readyz, /metrics and /status; set but empty: all addresses [default: 127.0.0.1]
    #[arg(long, env = "SNCTRLR_MONITOR_IP", value_name = "IP", global = true)]
    pub monitor_ip: Option<String>,

    /// TCP port of the HTTP endpoints [default: 8080]
    #[arg(long, env = "SNCTRLR_MONITOR_PORT", value_name = "PORT", global = true)]
    pub monitor_port: Option<String>,

    /// Log debug messages [default: false]
    #[arg(long, env = "SNCTRLR_DEBUG_ENABLED", value_name = "BOOL", global = true)]
    pub debug_enabled: Option<String>,

    /// Masquerade clients' traffic, so that pods see the address of this box and answer to it [default: true]
    #[arg(long, env = "SNCTRLR_SETUP_MASQUERADE", value_name = "BOOL", global = true)]
    pub setup_masquerade: Option<String>,

    /// Let connections begun by a mapped pod leave by the interface and with the address of its Mapping [default: false]
    #[arg(long, env = "SNCTRLR_SETUP_SNAT", value_name = "BOOL", global = true)]
    pub setup_snat: Option<String>,

    /// Let mapped packets pass where others drop or refuse what they do not know (policies and last rules of the filter table) [default: true]
    #[arg(long, env = "SNCTRLR_SETUP_ACCEPT", value_name = "BOOL", global = true)]
    pub setup_accept: Option<String>,

    /// Longest time that a call of iptables, ipset or another kernel tool may take, in seconds [default: 10]
    #[arg(long, env = "SNCTRLR_IPTABLES_TIMEOUT_SEC", value_name = "SECONDS", global = true)]
    pub iptables_timeout_sec: Option<String>,

    /// How often interfaces, addresses and everything programmed are looked at in full, in seconds [default: 60]
    #[arg(long, env = "SNCTRLR_AUTOREFRESH_PERIOD_SEC", value_name = "SECONDS", global = true)]
    pub autorefresh_period_sec: Option<String>,

    /// How long a deleted Mapping waits for an instance that configured it and does not answer, in minutes [default: 60]
    #[arg(long, env = "SNCTRLR_MAX_FINALIZE_WAIT_MINUTES", value_name = "MINUTES", global = true)]
    pub max_finalize_wait_minutes: Option<String>,

    /// Largest number of ports of one Mapping, 1 to 256 [default: 50]
    #[arg(long, env = "SNCTRLR_MAX_PORTS_PER_MAPPING", value_name = "NUMBER", global = true)]
    pub max_ports_per_mapping: Option<String>,

    /// Take Mappings, Services and EndpointSlices from the *.yaml and *.json files of this directory instead of an API server
    #[arg(long, env = "SNCTRLR_MANIFESTS", value_name = "DIR", global = true)]
    pub manifests: Option<String>,

    /// Kubeconfig of the cluster whose Mappings, Services and EndpointSlices are served; several files are separated by colons [default: the
    /// pod's own cluster, in a pod]
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", global = true)]
    pub kubeconfig: Option<String>,

    /// Namespace of the Leases by which instances of one cluster know each other [default: smartnat-system]
    #[arg(long, env = "SNCTRLR_NAMESPACE", value_name = "NAME", global = true)]
    pub namespace: Option<String>,

    /// An instance whose Lease was not renewed for so long counts as silent, in seconds, 4 to 3600 [default: 40]
    #[arg(long, env = "SNCTRLR_LEASE_SECONDS", value_name = "SECONDS", global = true)]
    pub lease_seconds: Option<String>,

    /// Directory for what must outlive the process, but not the boot [default: /run/smartnat]
    #[arg(long, env = "SNCTRLR_STATE_DIR", value_name = "DIR", global = true)]
    pub state_dir: Option<String>,

    /// Name of this instance in the status of Mappings [default: the host name]
    #[arg(long, env = "SNCTRLR_INSTANCE_NAME", value_name = "NAME", global = true)]
    pub instance_name: Option<String>,

    /// Comma separated beginnings of interface names that are inside even before they are seen, e.g. cali+,veth+ [default: none]
    #[arg(long, env = "SNCTRLR_INSIDE_PREFIXES", value_name = "PREFIXES", global = true)]
    pub inside_prefixes: Option<String>,

    /// Comma separated exact names of interfaces that are inside although the pattern matches them or they stand above an external one,
    /// such as the VLAN of the cluster on a trunk, e.g. eth1.100 [default: none]
    #[arg(long, env = "SNCTRLR_INSIDE_INTERFACES", value_name = "NAMES", global = true)]
    pub inside_interfaces: Option<String>,

    /// Comma separated list of what this box itself answers on external interfaces: icmp-echo, dhcp, vrrp, vrrp=ADDRESS of
    /// a peer, PROTOCOL/PORT or PROTOCOL/PORT@NETWORK; set but empty: nothing [default: icmp-echo,dhcp]
    #[arg(long, env = "SNCTRLR_BORDER_OPENINGS", value_name = "LIST", global = true)]
    pub border_openings: Option<String>,

    /// Bits of packet and connection marks that are SmartNat's, LOW-HIGH [default: 16-30]
    #[arg(long, env = "SNCTRLR_MARK_BITS", value_name = "LOW-HIGH", global = true)]
    pub mark_bits: Option<String>,

    /// The routing table of an external interface is this number plus the interface's slot [default: 1000]
    #[arg(long, env = "SNCTRLR_ROUTE_TABLE_BASE", value_name = "NUMBER", global = true)]
    pub route_table_base: Option<String>,
}

impl SettingsArgs {
    /// What neither a flag nor the environment gave is taken from the settings file.
    pub fn or_from(mut self, file: &SettingsFile) -> Self {
        for (name, value) in self.by_variable() {
            if value.is_none() {
                *value = file.get(name).map(str::to_owned);
            }
        }
        self
    }

    /// Every setting under the name of its variable.
    fn by_variable(&mut self) -> [(&'static str, &mut Option<String>); 25] {
        [
            ("SNCTRLR_DEFAULT_GW_INTERFACE", &mut self.default_gw_interface),
            ("SNCTRLR_INTERFACES_PATTERN", &mut self.interfaces_pattern),
            ("SNCTRLR_GW_ADDRESS_OFFSET", &mut self.gw_address_offset),
            ("SNCTRLR_GW_ADDRESS", &mut self.gw_address),
            ("SNCTRLR_MONITOR_IP", &mut self.monitor_ip),
            ("SNCTRLR_MONITOR_PORT", &mut self.monitor_port),
            ("SNCTRLR_DEBUG_ENABLED", &mut self.debug_enabled),
            ("SNCTRLR_SETUP_MASQUERADE", &mut self.setup_masquerade),
            ("SNCTRLR_SETUP_SNAT", &mut self.setup_snat),
            ("SNCTRLR_SETUP_ACCEPT", &mut self.setup_accept),
            ("SNCTRLR_IPTABLES_TIMEOUT_SEC", &mut self.iptables_timeout_sec),
            ("SNCTRLR_AUTOREFRESH_PERIOD_SEC", &mut self.autorefresh_period_sec),
            ("SNCTRLR_MAX_FINALIZE_WAIT_MINUTES", &mut self.max_finalize_wait_minutes),
            ("SNCTRLR_MAX_PORTS_PER_MAPPING", &mut self.max_ports_per_mapping),
            ("SNCTRLR_MANIFESTS", &mut self.manifests),
            ("KUBECONFIG", &mut self.kubeconfig),
            ("SNCTRLR_NAMESPACE", &mut self.namespace),
            ("SNCTRLR_LEASE_SECONDS", &mut self.lease_seconds),
            ("SNCTRLR_STATE_DIR", &mut self.state_dir),
            ("SNCTRLR_INSTANCE_NAME", &mut self.instance_name),
            ("SNCTRLR_INSIDE_PREFIXES", &mut self.inside_prefixes),
            ("SNCTRLR_INSIDE_INTERFACES", &mut self.inside_interfaces),
            ("SNCTRLR_BORDER_OPENINGS", &mut self.border_openings),
            ("SNCTRLR_MARK_BITS", &mut self.mark_bits),
            ("SNCTRLR_ROUTE_TABLE_BASE", &mut self.route_table_base),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use clap::{Args, Command};

    use super::*;

    #[test]
    fn every_setting_can_stand_in_the_file_under_the_name_of_its_variable() {
        let command = SettingsArgs::augment_args(Command::new("x"));
        let names: BTreeMap<String, String> = command
            .get_arguments()
            .filter_map(|a| Some((a.get_env()?.to_str()?.to_owned(), a.get_id().to_string())))
            .collect();
        let text: String = names.iter().map(|(name, field)| format!("{name}={field}\n")).collect();
        let file = SettingsFile::parse(Path::new("x"), &text).unwrap();
        let mut filled = SettingsArgs::default().or_from(&file);
        let found: BTreeMap<String, String> =
            filled.by_variable().into_iter().map(|(name, value)| (name.to_owned(), value.clone().unwrap())).collect();
        assert_eq!(found, names);
        let debug = format!("{filled:?}");
        for field in names.values() {
            assert!(debug.contains(&format!("{field}: Some(\"{field}\")")), "{field} got another one's value: {debug}");
        }
    }

    #[test]
    fn flags_and_the_environment_win_over_the_file_also_where_they_are_empty() {
        let file =
            SettingsFile::parse(Path::new("x"), "SNCTRLR_MONITOR_IP=192.0.2.1\nSNCTRLR_MONITOR_PORT=1\n").unwrap();
        let given = SettingsArgs { monitor_ip: Some(String::new()), ..SettingsArgs::default() }.or_from(&file);
        assert_eq!((given.monitor_ip.as_deref(), given.monitor_port.as_deref()), (Some(""), Some("1")));
    }
}
