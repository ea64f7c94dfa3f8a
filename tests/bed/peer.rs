//! A pod or a client on the command line, for demonstrations and for looking around by hand.
//!
//! ```text
//! peer serve --name NAME [--tcp [ADDRESS:]PORT]... [--udp [ADDRESS:]PORT]...
//! peer get tcp|udp ADDRESS:PORT [--from ADDRESS[:PORT]] [--timeout SECONDS]
//! peer upload ADDRESS:PORT BYTES
//! peer stream ADDRESS:PORT            until standard input ends
//! peer flood tcp|udp ADDRESS:PORT     until standard input ends
//! peer sniff INTERFACE                until standard input ends: a line of JSON for every frame
//! peer raw INTERFACE DESTINATION-MAC syn|rst|fin|null|xmas|syn-ack|udp SOURCE:PORT DESTINATION:PORT
//! ```
//! Exit codes of `get`: 0 answered, 3 refused, 4 timeout, 5 unreachable, 1 anything else, 2 wrong usage.

#![forbid(unsafe_code)]

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bed::packet::{self, Mac, Wire, flags, number};
use bed::peer::{Flood, Request, Server, Stream, Upload};

type Outcome = Result<ExitCode, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", ref rest @ ..] => serve(rest),
        ["get", proto, to, ref rest @ ..] => get(proto, to, rest),
        ["upload", to, bytes] => upload(to, bytes),
        ["stream", to] => stream(to),
        ["flood", proto, to] => flood(proto, to),
        ["sniff", interface] => sniff(interface),
        ["raw", interface, mac, kind, from, to] => raw(interface, mac, kind, from, to),
        _ => Err("usage: peer serve|get|upload|stream|flood|sniff|raw ... (see tests/bed/peer.rs)".to_owned()),
    };
    outcome.unwrap_or_else(|wrong| {
        eprintln!("peer: {wrong}");
        ExitCode::from(2)
    })
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{what} {text:?}: {e}"))
}

/// `--option value` pairs.
fn options<'a>(words: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>, String> {
    words
        .chunks(2)
        .map(|pair| match *pair {
            [option, value] if option.starts_with("--") => Ok((option, value)),
            _ => Err(format!("{} lacks its value", pair[0])),
        })
        .collect()
}

fn wait_for_end_of_input() {
    _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn serve(words: &[&str]) -> Outcome {
    let (mut name, mut tcp, mut udp) = ("peer", Vec::new(), Vec::new());
    for (option, value) in options(words)? {
        let place = || match value.parse::<u16>() {
            Ok(port) => Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
            Err(_) => parse("place to listen", value),
        };
        match option {
            "--name" => name = value,
            "--tcp" => tcp.push(place()?),
            "--udp" => udp.push(place()?),
            _ => return Err(format!("no option {option}")),
        }
    }
    let server = Server::bind(name, &tcp, &udp).map_err(|e| e.to_string())?;
    server.run(&Arc::new(AtomicBool::new(false))).map_err(|e| e.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn get(proto: &str, to: &str, words: &[&str]) -> Outcome {
    let mut request = Request::new(proto.parse()?, parse("destination", to)?);
    for (option, value) in options(words)? {
        match option {
            "--from" => {
                let alone = value.parse().map(|address| SocketAddrV4::new(address, 0));
                request.from = alone.or_else(|_| parse("source", value))?;
            }
            "--timeout" => request.timeout = Duration::from_secs(parse("timeout", value)?),
            _ => return Err(format!("no option {option}")),
        }
    }
    Ok(match request.send() {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::from(failure.code())
        }
    })
}

fn upload(to: &str, bytes: &str) -> Outcome {
    let upload =
        Upload { to: parse("destination", to)?, bytes: parse("bytes", bytes)?, timeout: Duration::from_secs(10) };
    Ok(match upload.send() {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::from(failure.code())
        }
    })
}

fn stream(to: &str) -> Outcome {
    let stream = match Stream::open(parse("destination", to)?) {
        Ok(stream) => stream,
        Err(failure) => {
            println!("{failure}");
            return Ok(ExitCode::from(failure.code()));
        }
    };
    println!("{}", stream.answer);
    wait_for_end_of_input();
    let report = stream.stop();
    let end = report.broken.as_deref().unwrap_or("whole");
    println!("{} bytes, longest gap {} ms, {end}", report.bytes, report.longest_gap.as_millis());
    Ok(if report.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn flood(proto: &str, to: &str) -> Outcome {
    let flood = Flood::start(proto.parse()?, parse("destination", to)?);
    wait_for_end_of_input();
    let report = flood.stop();
    println!("{} flows, {} lost", report.flows, report.lost);
    report.failures.iter().for_each(|failure| println!("{failure}"));
    Ok(if report.lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sniff(interface: &str) -> Outcome {
    let wire = Wire::open(interface).map_err(|e| e.to_string())?;
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    thread::spawn(move || {
        wait_for_end_of_input();
        ended.store(true, Ordering::Relaxed);
    });
    while !stop.load(Ordering::Relaxed) {
        if let Some(seen) = wire.receive(Duration::from_millis(100)).map_err(|e| e.to_string())? {
            println!("{}", serde_json::to_string(&seen).map_err(|e| e.to_string())?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn raw(interface: &str, mac: &str, kind: &str, from: &str, to: &str) -> Outcome {
    let wire = Wire::open(interface).map_err(|e| e.to_string())?;
    let (from, to) = (parse("source", from)?, parse("destination", to)?);
    let tcp = |f| packet::tcp_packet(from, to, f, b"");
    let packet = match kind {
        "syn" => tcp(flags::SYN),
        "rst" => tcp(flags::RST),
        "fin" => tcp(flags::FIN),
        "null" => tcp(flags::NULL),
        "xmas" => tcp(flags::XMAS),
        "syn-ack" => tcp(flags::SYN_ACK),
        "udp" => packet::udp_packet(from, to, b"who are you?\n"),
        _ => return Err(format!("no kind of packet {kind:?}")),
    };
    let frame = packet::ethernet(wire.mac(), mac.parse::<Mac>()?, number::IPV4, &packet);
    wire.send(&frame).map_err(|e| e.to_string())?;
    Ok(ExitCode::SUCCESS)
}
