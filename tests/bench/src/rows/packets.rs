use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use bed::Namespace;
use serde_json::Value;

use crate::Options;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures, median};
use crate::fixture::{self, Item, Size, external};
use crate::net::{Border, CLIENT, Net};
use crate::worst;

const OWN: Size = Size::new(10_000, 1);
/// Of every pod's first port.
const POD_PORT: u16 = 8080;
/// Seconds of a TCP measurement, the first of them not counted.
const TCP_SECONDS: u32 = 3;

/// A border between a client and pods of its own, and what is asked for there.
struct Way<'a> {
    told: String,
    net: &'a Net,
    border: &'a Border,
    tcp: Item,
    udp: Item,
}

/// Killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

pub fn measure(options: &Options, figures: &mut Figures) {
    let size = options.sizes(&[OWN])[0];
    let row = format!("packets {size}");
    if let Err(why) = at(options, figures, &row, size) {
        figures.fail(&row, "new flows and established TCP", &why);
    }
}

fn at(options: &Options, figures: &mut Figures, row: &str, size: Size) -> Result<(), String> {
    let one = Size::new(2, 1);
    let nets = [Net::new(), Net::new(), Net::new()];
    let borders = [nets[0].border(1), nets[1].border(one.addresses()), nets[2].border(size.addresses())];
    let homes = [Home::new(), Home::new()];
    let manifests = [fixture::manifests(one), fixture::manifests(size)];
    let mut daemons = Vec::new();
    for n in 0..2 {
        let setup = Setup::manifests(&options.program, manifests[n].path()).set_all(&options.set);
        let mut daemon = Daemon::launch(&borders[n + 1].ns, &homes[n], &setup);
        daemon.ready(options.patience())?;
        daemons.push(daemon);
    }
    let [(tcp, tcp_asked), (udp, udp_asked)] = worst::placed(size, manifests[1].path())?;
    figures.say(format_args!(
        "  worst placed: tcp {}:{} ({tcp_asked} rules), udp {}:{} ({udp_asked} rules)",
        tcp.address, tcp.first_port, udp.address, udp.first_port
    ));
    let few = [Item::new(one, 0), Item::new(one, 1)];
    plain_rules(&borders[0].ns, &few);
    let way =
        |n: usize, told: String, [tcp, udp]: [Item; 2]| Way { told, net: &nets[n], border: &borders[n], tcp, udp };
    let ways = [
        way(0, "one plain rule".to_owned(), few.clone().map(|item| Item { address: external(0), ..item })),
        way(1, "2 endpoints".to_owned(), few),
        way(2, format!("the worst placed of {} endpoints", size.endpoints()), [tcp, udp]),
    ];
    let servers: Vec<Server> = ways.iter().map(serve).collect();
    await_servers(&ways)?;

    let must = |n: f64| if size == OWN { Bound::AtLeast(n) } else { Bound::None };
    compare(options, figures, (row, "new UDP flows", "thousand/s"), &ways, must(0.75), &flows)?;
    compare(options, figures, (row, "established TCP, large segments", "Gbit/s"), &ways, Bound::None, &tcp_rate)?;
    ways.iter().for_each(offloads_off);
    compare(options, figures, (row, "established TCP, 1,500-byte packets", "Gbit/s"), &ways, must(0.88), &tcp_rate)?;
    drop(servers);
    Ok(())
}

/// The least that could do the same.
fn plain_rules(border: &Namespace, [tcp, udp]: &[Item; 2]) {
    border.set_sysctl("net/ipv4/ip_forward", "1");
    border.ip(&format!("route add {CLIENT} via 198.18.0.1"));
    for (item, protocol) in [(tcp, "tcp"), (udp, "udp")] {
        let (port, pod) = (item.first_port, item.pods[0]);
        border.run(&format!(
            "iptables -t nat -A PREROUTING -d {} -p {protocol} --dport {port} -j DNAT --to-destination {pod}:{POD_PORT}",
            external(0)
        ));
    }
    border.run("iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE");
}

fn serve(way: &Way<'_>) -> Server {
    // What arrives is counted at the link; an answer would only cost time.
    way.net.core.run(&format!("iptables -t raw -A PREROUTING -p udp --dport {POD_PORT} -j DROP"));
    let mut command = Command::new("iperf3");
    command.args(["-s", "-p", &POD_PORT.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Server(way.net.core.within(|| command.spawn()).expect("iperf3 is installed: run tests/bench/run.sh"))
}

fn await_servers(ways: &[Way<'_>]) -> Result<(), String> {
    for way in ways {
        let listening = || way.net.core.run("ss -Hltn").contains(&format!(":{POD_PORT}"));
        for _ in 0..200 {
            if listening() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        if !listening() {
            return Err(format!("iperf3 does not listen behind {}", way.told));
        }
    }
    Ok(())
}

fn offloads_off(way: &Way<'_>) {
    for (ns, interfaces) in
        [(&way.net.core, &["border"][..]), (&way.net.client, &["border"]), (&way.border.ns, &["eth0", "eth1"])]
    {
        for interface in interfaces {
            ns.run(&format!("ethtool -K {interface} tso off gso off gro off"));
        }
    }
}

/// The variants in turn within each round; the ratio of each to the first one of its round.
fn compare(
    options: &Options,
    figures: &mut Figures,
    (row, what, unit): (&str, &str, &'static str),
    ways: &[Way<'_>],
    must: Bound,
    measured: &dyn Fn(&Way<'_>) -> Result<f64, String>,
) -> Result<(), String> {
    let mut values = vec![Vec::new(); ways.len()];
    for _ in 0..options.rounds {
        for (way, values) in ways.iter().zip(&mut values) {
            values.push(measured(way).map_err(|e| format!("{what}, {}: {e}", way.told))?);
        }
    }
    let told = values.iter().map(|v| format!("{:.2}", median(v))).collect::<Vec<_>>().join(", ");
    figures.say(format_args!("  {what}: {told} {unit}"));
    let plain = values[0].clone();
    figures.add(row, &format!("{what}, {}", ways[0].told), unit, Bound::None, plain.clone());
    for (n, (way, values)) in ways.iter().zip(values).enumerate().skip(1) {
        let ratio = values.iter().zip(&plain).map(|(v, p)| v / p).collect();
        let must = if n + 1 == ways.len() { must } else { Bound::None };
        figures.add(row, &format!("{what}, {}, against that", way.told), "", must, ratio);
    }
    Ok(())
}

fn tcp_rate(way: &Way<'_>) -> Result<f64, String> {
    let (address, port) = (way.tcp.address, way.tcp.first_port);
    let command = format!("timeout 20 iperf3 -c {address} -p {port} -B {CLIENT} -t {TCP_SECONDS} -O 1 -J");
    let text = way.net.client.attempt(&command, "")?;
    let result: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.map(|r| r / 1e9).ok_or_else(|| format!("iperf3 told no rate: {}", result["error"]))
}

/// First packets of new flows that arrive in a second, under more than the border can take.
fn flows(way: &Way<'_>) -> Result<f64, String> {
    // Without any connection there is nothing to delete, which is no failure.
    _ = way.border.ns.attempt("conntrack -F", "");
    let link = way.border.ns.run("ip -o link show dev eth1");
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap_or_default();
    let config = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    let text = format!(
        "{{ eth(da={}), ipv4(saddr={CLIENT}, daddr={}, ttl=64), udp(sp=drnd(), dp={}), drnd(18) }}\n",
        mac, way.udp.address, way.udp.first_port
    );
    fs::write(config.path(), text).map_err(|e| e.to_string())?;
    let before = arrived(&way.net.core)?;
    let command = format!("timeout 1 trafgen --dev border --conf {} --cpus 1 --no-sock-mem", config.path().display());
    // It is ended by the time limit.
    _ = way.net.client.attempt(&command, "");
    let count = arrived(&way.net.core)? - before;
    if count < 100.0 {
        return Err(format!("{count} packets arrived: is trafgen there?"));
    }
    Ok(count / 1000.0)
}

/// Packets received by the link from the border.
fn arrived(core: &Namespace) -> Result<f64, String> {
    let text = core.run("cat /proc/net/dev");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("border:"));
    let count = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    count.ok_or_else(|| format!("no counter of packets: {text}"))
}
