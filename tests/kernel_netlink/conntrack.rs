use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use smartnat::apply::conntrack::{Cleaned, clean, counts, mapped_flows};
use smartnat::model::{Endpoint, MarkLayout, Protocol};
use smartnat::plan::{Flow, FlowEndpoint, FlowPolicy, Servers, Sources};

use crate::netns::{in_netns, sh};

const MAPPED: u32 = 0x2000_0000;
const MAPPED_SLOT_1: u32 = 0x2001_0000;

fn marks() -> MarkLayout {
    let marks = MarkLayout::default();
    assert_eq!(marks.mapped(), MAPPED);
    marks
}

/// Puts one flow into the table as the nat rules would have.
fn flow(protocol: &str, client: &str, destination: &str, server: &str, mark: u32) {
    let (address, port) = destination.rsplit_once(':').unwrap();
    let state = if protocol == "tcp" { "--state ESTABLISHED" } else { "" };
    let (client, sport) = client.rsplit_once(':').unwrap();
    let plain = |text: &str| text.trim_matches(['[', ']']).to_owned();
    sh(&format!(
        "conntrack -I -p {protocol} -s {} -d {} --sport {sport} --dport {port} --dst-nat {server} {state} \
         -u SEEN_REPLY,ASSURED -t 300 -m {mark}",
        plain(client),
        plain(address)
    ));
}

/// The client ports of what is left in the table.
fn left() -> BTreeSet<u16> {
    sh("conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null")
        .lines()
        .map(|line| line.split("sport=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap())
        .collect()
}

fn endpoint(protocol: Protocol, address: &str, sources: Sources, keep: &[&str]) -> (Endpoint, FlowEndpoint) {
    let address: SocketAddr = address.parse().unwrap();
    let sockets = keep.iter().map(|s| s.parse().unwrap()).collect();
    let servers = Servers { sockets, ..Servers::default() }.into();
    let sources = sources.into();
    (Endpoint { address: address.ip(), protocol, port: address.port() }, FlowEndpoint { sources, servers })
}

#[test]
fn exactly_the_flows_that_may_not_go_on_are_deleted() {
    in_netns(|| async {
        let web = "203.0.113.10:80";
        let kept = [1001, 1002, 1003, 1004, 1005, 1006];
        // Kept: a known pod, the ClusterIP, a client allowed by its network, a ready pod, whatever is not marked as mapped.
        flow("tcp", "192.0.2.1:1001", web, "10.244.1.2:8080", MAPPED_SLOT_1);
        flow("tcp", "192.0.2.1:1002", web, "10.96.0.10:8080", MAPPED_SLOT_1);
        flow("tcp", "192.0.2.1:1003", "203.0.113.10:443", "10.244.1.2:8443", MAPPED);
        flow("udp", "192.0.2.1:1004", "203.0.113.10:53", "10.244.1.2:9090", MAPPED_SLOT_1);
        flow("tcp", "192.0.2.1:1005", "203.0.113.10:81", "10.244.1.9:8080", 0x0001_0000);
        flow("udp", "192.0.2.1:1006", "203.0.113.10:81", "10.244.1.9:8080", 0x4001_0000);
        // Not mapped: another port, protocol, address; all are served on no endpoint of the policy.
        flow("tcp", "192.0.2.1:2001", "203.0.113.10:81", "10.244.1.2:8080", MAPPED_SLOT_1);
        flow("udp", "192.0.2.1:2002", web, "10.244.1.2:8080", MAPPED_SLOT_1);
        flow("tcp", "192.0.2.1:2003", "203.0.113.11:80", "10.244.1.2:8080", MAPPED_SLOT_1);
        // Source not allowed.
        flow("tcp", "192.0.3.1:2004", "203.0.113.10:443", "10.244.1.2:8443", MAPPED_SLOT_1);
        // Server gone: another pod, another port of the pod, a pod that is not ready for UDP.
        flow("tcp", "192.0.2.1:2005", web, "10.244.1.9:8080", MAPPED_SLOT_1);
        flow("tcp", "192.0.2.1:2006", web, "10.244.1.2:8081", MAPPED_SLOT_1);
        flow("udp", "192.0.2.1:2007", "203.0.113.10:53", "10.244.1.3:9090", MAPPED_SLOT_1);

        let some = Sources::Nets(vec!["192.0.2.0/24".parse().unwrap()]);
        let policy = FlowPolicy {
            named: Default::default(),
            endpoints: [
                endpoint(Protocol::Tcp, web, Sources::Everyone, &["10.244.1.2:8080", "10.96.0.10:8080"]),
                endpoint(Protocol::Tcp, "203.0.113.10:443", some, &["10.244.1.2:8443"]),
                endpoint(Protocol::Udp, "203.0.113.10:53", Sources::Everyone, &["10.244.1.2:9090"]),
            ]
            .into(),
        };
        let cleaned = clean(&policy, marks()).await.unwrap();
        assert_eq!(cleaned, Cleaned { kept: 4, not_mapped: 3, source_not_allowed: 1, server_gone: 3 });
        assert_eq!(cleaned.deleted(), 7);
        assert_eq!(left(), kept.into());

        let again = clean(&policy, marks()).await.unwrap();
        assert_eq!(again, Cleaned { kept: 4, ..Cleaned::default() });
        assert_eq!(left(), kept.into());
    });
}

#[test]
fn flows_show_client_endpoint_and_server_in_both_families() {
    in_netns(|| async {
        flow("tcp", "192.0.2.1:1001", "203.0.113.10:80", "10.244.1.2:8080", MAPPED_SLOT_1);
        flow("udp", "[2001:db8:1::1]:1002", "[2001:db8::10]:53", "[fd00::2]:9090", MAPPED);
        flow("tcp", "192.0.2.1:1003", "203.0.113.10:80", "10.244.1.2:8080", 0x0001_0000);
        sh(
            "conntrack -I -p icmp -s 192.0.2.1 -d 203.0.113.10 --icmp-type 8 --icmp-code 0 --icmp-id 9 -t 300 -m 0x20010000",
        );
        let mut flows: Vec<Flow> = mapped_flows(marks()).await.unwrap().into_iter().map(|(flow, _)| flow).collect();
        flows.sort_by_key(|flow| flow.client);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(
            flows,
            [
                Flow {
                    protocol: Protocol::Tcp,
                    client: ip("192.0.2.1"),
                    destination: socket("203.0.113.10:80"),
                    server: socket("10.244.1.2:8080"),
                },
                Flow {
                    protocol: Protocol::Udp,
                    client: ip("2001:db8:1::1"),
                    destination: socket("[2001:db8::10]:53"),
                    server: socket("[fd00::2]:9090"),
                },
            ]
        );
        let cleaned = clean(&FlowPolicy::default(), marks()).await.unwrap();
        assert_eq!(cleaned, Cleaned { not_mapped: 2, ..Cleaned::default() });
        assert!(sh("conntrack -L -f ipv6 2>/dev/null").is_empty());
    });
}

#[test]
fn flows_of_other_zones_are_left_alone() {
    in_netns(|| async {
        sh("conntrack -I -p tcp -s 192.0.2.1 -d 203.0.113.10 --sport 1001 --dport 80 --state ESTABLISHED -u ASSURED \
            -t 300 -m 0x20010000 --zone 5");
        assert_eq!(clean(&FlowPolicy::default(), marks()).await.unwrap(), Cleaned::default());
        assert_eq!(left(), [1001].into());
    });
}

#[test]
fn a_large_table_is_cleaned_without_holding_up_the_runtime() {
    in_netns(|| async {
        // 100 mapped and kept, 2,000 mapped and condemned, as many unmarked.
        let mut script = String::new();
        for (count, port, mark) in [(100, 80, MAPPED), (2000, 81, MAPPED), (2000, 82, 0)] {
            for n in 0..count {
                script.push_str(&format!(
                    "-I -p udp -s 192.0.{}.{} -d 203.0.113.10 --sport 1000 --dport {port} --dst-nat 10.244.1.2:8080 -t 300 -m {mark}\n",
                    n / 250,
                    n % 250
                ));
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, script).unwrap();
        sh(&format!("conntrack -R {} >/dev/null", file.path().display()));

        let policy = FlowPolicy {
            named: Default::default(),
            endpoints: [endpoint(Protocol::Udp, "203.0.113.10:80", Sources::Everyone, &["10.244.1.2:8080"])].into(),
        };
        let ticks = std::rc::Rc::new(std::cell::Cell::new(0));
        let ticking = std::rc::Rc::clone(&ticks);
        let cleaned = tokio::select! {
            cleaned = clean(&policy, marks()) => cleaned.unwrap(),
            () = async { loop { ticking.set(ticking.get() + 1); tokio::task::yield_now().await } } => unreachable!(),
        };
        assert_eq!(cleaned, Cleaned { kept: 100, not_mapped: 2000, ..Cleaned::default() });
        assert!(ticks.get() > 10, "others ran only {} times", ticks.get());
        let counts = counts().await.unwrap();
        assert_eq!(counts.entries, 2100);
    });
}

#[test]
fn counts_are_those_of_this_namespace() {
    in_netns(|| async {
        let before = counts().await.unwrap();
        assert_eq!((before.entries, before.drop, before.early_drop, before.insert_failed), (0, 0, 0, 0));
        let limit: u64 = sh("cat /proc/sys/net/netfilter/nf_conntrack_max").trim().parse().unwrap();
        assert_eq!(before.limit, limit);
        for port in 0..7 {
            flow("udp", &format!("192.0.2.1:{}", 1000 + port), "203.0.113.10:53", "10.244.1.2:9090", 0);
        }
        assert_eq!(counts().await.unwrap().entries, 7);
    });
}
