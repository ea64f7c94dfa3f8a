use std::net::IpAddr;

use clap::{Args, ValueEnum};

use super::foreign::packet::Scene;
use super::foreign::{self, policy, way};
use super::world::{self, HostArgs};
use super::{Answer, CliError, complain, say};
use crate::apply::Tools;
use crate::plan;
use crate::settings::Settings;
use crate::sources::host::read_foreign_rules;
use crate::trace::{Outcome, Packet, PacketKind, trace};

/// What the output and the exit code say, as `--help` and docs/configuration.md tell it.
const READING: &str = "\
The packet is the first of its connection. The output lists the rules that match, in the kernel's order, and ends with
  Mapping   whose rules it met last: NAMESPACE/NAME:PROTOCOL/PORT
  Because   what decided, and by which rule
  Verdict   forwarded, delivered to the box itself, refused, or dropped, by SmartNat's rules
  Beyond    what the verdict does not know of: rules of others in the packet's way (iptables, its legacy
            variant, tables of nft, and policy rules), or that they were not looked at

Exit codes:
  0  followed to its end, whatever the verdict
  1  the host, the objects or a chain cannot be read or followed; the message says what
  2  the command line or a setting is wrong";

/// RFC 9568, 5.1.1.4.
const VRRP: u8 = 112;

#[derive(Debug, Args)]
#[command(after_help = READING)]
pub(super) struct TraceArgs {
    /// Address of the client
    #[arg(long, value_name = "IP")]
    source: IpAddr,
    /// Address that it connects to
    #[arg(long, value_name = "IP")]
    destination: IpAddr,
    /// Protocol of the packet
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: TraceProtocol,
    /// Port that it connects to
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Port that it connects from
    #[arg(long, value_name = "N", default_value_t = 40000)]
    source_port: u16,
    /// Interface that the packet arrives by
    #[arg(long, value_name = "NAME")]
    interface: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TraceProtocol {
    Tcp,
    Udp,
    /// Echo request
    Icmp,
    Vrrp,
}

impl TraceArgs {
    fn packet(&self) -> Result<Packet, CliError> {
        if self.source.is_ipv4() != self.destination.is_ipv4() {
            return Err(CliError::Usage(format!(
                "--source {} and --destination {} are of different families; give both as IPv4 or both as IPv6",
                self.source, self.destination
            )));
        }
        let source_port = self.source_port;
        let destination_port = match (self.protocol, self.port) {
            (TraceProtocol::Icmp | TraceProtocol::Vrrp, _) => 0,
            (_, Some(port)) => port,
            (_, None) => {
                return Err(CliError::Usage("--port is missing; name the port that the client connects to".to_owned()));
            }
        };
        let kind = match self.protocol {
            TraceProtocol::Tcp => PacketKind::Tcp { source_port, destination_port },
            TraceProtocol::Udp => PacketKind::Udp { source_port, destination_port },
            // Echo request, RFC 792 and RFC 4443.
            TraceProtocol::Icmp => PacketKind::Icmp { kind: if self.source.is_ipv4() { 8 } else { 128 }, code: 0 },
            TraceProtocol::Vrrp => PacketKind::Other(VRRP),
        };
        Ok(Packet::first(&self.interface, self.source, self.destination, kind))
    }
}

pub(super) async fn run(settings: Settings, args: TraceArgs) -> Result<Answer, CliError> {
    let mut packet = args.packet()?;
    let world = world::world(&settings, &args.host).await?;
    if let Some(name) = world.host.interface_named(&args.interface) {
        packet.interface = name.clone();
    }
    let plan = plan::plan(&settings.border, &world);
    let known = plan.interfaces.iter().any(|i| i.name == packet.interface);
    if !known {
        complain(&format!(
            "smartnat-manager: the host has no interface {}; it is traced as one not seen yet",
            args.interface
        ));
    }
    let trace = trace(&plan.dataplane, &world.host, &packet);
    let beyond = match args.host.host {
        Some(_) => way::ELSEWHERE.to_owned(),
        None => {
            let others = foreign::gather(&Tools::new(settings.tool_timeout)).await;
            let by_service = !super::check::of_mode_service(&world, &plan).is_empty();
            let scene = Scene::of(&settings.border, &world.host, &plan, by_service);
            let rules = read_foreign_rules().await;
            way::beyond(&scene, &others, &trace) + &policy::beyond(&plan.dataplane, &world.host, &trace, &rules)
        }
    };
    say(&format!("{}\n{beyond}", trace.to_string().trim_end()))?;
    let lost = trace.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Unknown { .. }));
    if lost { Err(CliError::Plain("the packet could not be followed to its end".to_owned())) } else { Ok(Answer::Done) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: TraceArgs,
    }

    fn parse(words: &str) -> Result<TraceArgs, clap::Error> {
        Wrapper::try_parse_from(["trace"].into_iter().chain(words.split(' '))).map(|w| w.args)
    }

    #[test]
    fn the_packet_is_the_first_of_a_connection() {
        let args =
            parse("--source 192.0.2.9 --destination 203.0.113.10 --protocol udp --port 53 --interface eth1").unwrap();
        let kind = PacketKind::Udp { source_port: 40000, destination_port: 53 };
        let expected = Packet::first("eth1", args.source, args.destination, kind);
        assert_eq!(args.packet().unwrap(), expected);
    }

    #[test]
    fn a_port_is_asked_for_where_there_is_one() {
        let args = parse("--source 192.0.2.9 --destination 203.0.113.10 --interface eth1").unwrap();
        let error = args.packet().unwrap_err();
        assert!(error.to_string().contains("--port") && error.code() == 2, "{error}");
        let icmp = parse("--source 192.0.2.9 --destination 203.0.113.10 --protocol icmp --interface eth1").unwrap();
        assert_eq!(icmp.packet().unwrap().kind, PacketKind::Icmp { kind: 8, code: 0 });
        let vrrp = parse("--source 192.0.2.9 --destination 203.0.113.10 --protocol vrrp --interface eth1").unwrap();
        assert_eq!(vrrp.packet().unwrap().kind, PacketKind::Other(112));
    }

    #[test]
    fn families_are_not_mixed() {
        let args = parse("--source 2001:db8::1 --destination 203.0.113.10 --port 80 --interface eth1").unwrap();
        assert_eq!(args.packet().unwrap_err().code(), 2);
    }
}
