use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use bed::Namespace;
use serde_json::Value;

use crate::Options;
use crate::daemon::{Daemon, Home, Setup};
use crate::figures::{Bound, Figures, median};
use crate::fixture::{self, Item, Size, external, thousands};
use crate::net::{Border, CLIENT, Net};
use crate::worst;

const OWN: Size = Size::new(10_000, 1);
/// Of every pod's first port.
const POD_PORT: u16 = 8080;
/// Seconds of a TCP measurement, the first of them not counted.
const TCP_SECONDS: u32 = 3;
/// Source ports of new flows, each once in a burst.
const FIRST_SOURCE: u32 = 2000;
const LAST_SOURCE: u32 = 62_000;
/// Bursts of new flows of which the middle one counts.
const BURSTS: usize = 3;

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
        way(2, format!("the worst placed of {} endpoints", thousands(size.endpoints())), [tcp, udp]),
    ];
    let servers: Vec<Server> = ways.iter().map(serve).collect();
    await_servers(&ways)?;

    let must = |n: f64| if size == OWN { Bound::AtLeast(n) } else { Bound::None };
    compare(options, figures, (row, "new UDP flows", "thousand/s"), &ways, must(0.75), &flows)?;
    let told = "UDP packets from random ports";
    compare(options, figures, (row, told, "thousand/s"), &ways, must(0.75), &random_ports)?;
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
            "iptables -t nat -A PREROUTING -d {} -p {protocol} --dport {port} -j DNAT \
             --to-destination {pod}:{POD_PORT}",
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

/// New flows a second: each packet comes from another port, and begins one.
fn flows(way: &Way<'_>) -> Result<f64, String> {
    let ports = format!("dinc({FIRST_SOURCE}, {LAST_SOURCE})");
    let number = format!("--num {}", LAST_SOURCE - FIRST_SOURCE);
    let bursts = (0..BURSTS).map(|_| flood(way, &ports, &number).and_then(|samples| rate(&samples)));
    Ok(median(&bursts.collect::<Result<Vec<f64>, String>>()?) / 1000.0)
}

/// Packets of a second with ports at random: many are the second or third of their flow.
fn random_ports(way: &Way<'_>) -> Result<f64, String> {
    let samples = flood(way, "drnd()", "")?;
    Ok((samples[samples.len() - 1].1 - samples[0].1) / 1000.0)
}

/// The client sends more UDP than the border can take, for a second at most; how many had reached the pods when.
fn flood(way: &Way<'_>, ports: &str, number: &str) -> Result<Vec<(Instant, f64)>, String> {
    // Without any connection there is nothing to delete, which is no failure.
    _ = way.border.ns.attempt("conntrack -F", "");
    let link = way.border.ns.run("ip -o link show dev eth1");
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap_or_default();
    let config = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    let (address, port) = (way.udp.address, way.udp.first_port);
    let text = format!(
        "{{ eth(da={mac}), ipv4(saddr={CLIENT}, daddr={address}, ttl=64), udp(sp={ports}, dp={port}), drnd(18) }}\n"
    );
    fs::write(config.path(), text).map_err(|e| e.to_string())?;
    let seconds = if number.is_empty() { 1 } else { 20 };
    let config = config.path().display();
    let command = format!("timeout {seconds} trafgen --dev border --conf {config} --cpus 1 --no-sock-mem {number}");
    let done = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            way.net.core.within(|| {
                let mut samples = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    samples.extend(arrived().map(|n| (Instant::now(), n)));
                    sleep(Duration::from_millis(2));
                }
                samples
            })
        });
        let sent = way.net.client.attempt(&command, "");
        done.store(true, Ordering::Relaxed);
        let samples = sampler.join().map_err(|_| "nobody counted".to_owned())?;
        // Ended by the time limit, it has said all the same that it sent.
        sent.or_else(|why| if number.is_empty() { Ok(why) } else { Err(why) }).map(|_| samples)
    })?;
    match (samples.first(), samples.last()) {
        (Some(first), Some(last)) if last.1 - first.1 > 1000.0 => Ok(samples),
        _ => Err("hardly any packet arrived: is trafgen (netsniff-ng) there?".to_owned()),
    }
}

/// Packets a second between the first and the last tenth of those that came.
fn rate(samples: &[(Instant, f64)]) -> Result<f64, String> {
    let ends = samples.first().zip(samples.last()).map(|(first, last)| (first.1, last.1));
    let (first, last) = ends.ok_or("nothing was counted")?;
    let reached = |share: f64| samples.iter().find(|(_, n)| *n >= first + (last - first) * share);
    let (begin, end) = reached(0.1).zip(reached(0.9)).ok_or("nothing was counted")?;
    let seconds = (end.0 - begin.0).as_secs_f64();
    if seconds > 0.0 { Ok((end.1 - begin.1) / seconds) } else { Err("all came at once".to_owned()) }
}

/// Packets received by the link from the border, in this thread's namespace.
fn arrived() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("border:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_middle() {
        let begin = Instant::now();
        let at = |ms: u64, n: f64| (begin + Duration::from_millis(ms), n);
        // Slow at first, then ten packets a millisecond, then nothing.
        let mut samples = vec![at(0, 5.0), at(500, 6.0)];
        samples.extend((1..=1000_u32).map(|ms| at(500 + u64::from(ms), 6.0 + 10.0 * f64::from(ms))));
        samples.push(at(3000, 10_006.0));
        assert!((rate(&samples).unwrap() - 10_000.0).abs() < 1.0);
        assert!(rate(&[]).is_err());
        assert!(rate(&[at(0, 5.0), at(9, 5.0)]).is_err(), "nothing came");
    }
}
