//! Default routes that are written as many routes: VPN software and routing daemons cut "everything" into pieces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::netset::{NetSet, size};
use crate::model::{Family, MainRoute, is_default_route};

/// Never the Internet: RFC 1918, RFC 6598, RFC 3927, RFC 4193.
const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7"];
/// What of IPv6 is given out as global unicast.
const GLOBAL6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3));

/// Family, interface and next hop.
type Way<'a> = (Family, Option<&'a str>, Option<IpAddr>);

/// Of some routes those that are no default route, neither alone nor together.
///
/// What one interface and next hop cover together is one default route when it is more than half of IPv4, or of 2000::/3. Overlapping
/// routes count once. Where one half of IPv4 is a route of its own (0.0.0.0/1), each half is judged by itself, so that what is
/// more specific than the half that is there stays a route of its own. Routes to private networks never are a part of a default route.
pub fn without_defaults<'a>(routes: impl Iterator<Item = &'a MainRoute>) -> Vec<&'a MainRoute> {
    let mut ways: BTreeMap<Way, Vec<&MainRoute>> = BTreeMap::new();
    for route in routes {
        let way: Way = (Family::of(route.destination.addr()), route.interface.as_deref(), route.gateway);
        ways.entry(way).or_default().push(route);
    }
    let private: NetSet = PRIVATE.iter().filter_map(|net| net.parse().ok()).collect();
    let mut kept = Vec::new();
    for routes in ways.into_values() {
        let (wide, narrow): (Vec<_>, Vec<_>) = routes.into_iter().partition(|r| is_default_route(&r.destination));
        let halves: BTreeSet<IpNet> = wide.iter().map(|r| r.destination).filter(|net| net.prefix_len() == 1).collect();
        // One half of IPv4 that is a route of its own parts the others: each side is judged by itself.
        let lone = halves.first().filter(|half| halves.len() == 1 && matches!(half, IpNet::V4(_)));
        let (one, other): (Vec<_>, Vec<_>) = match lone {
            Some(half) => narrow.into_iter().partition(|r| half.contains(&r.destination)),
            None => (narrow, Vec::new()),
        };
        let parts = if lone.is_some() { 2 } else { 1 };
        for side in [one, other] {
            let is_default = covered(&side).is_over_half(parts);
            kept.extend(side.into_iter().filter(|r| !is_default || private.contains(&r.destination)));
        }
    }
    kept
}

/// So many addresses, of so many.
struct Covered {
    addresses: u128,
    all: u128,
}

impl Covered {
    /// More than half of one of as many equal parts of all.
    fn is_over_half(&self, parts: u128) -> bool {
        self.addresses > self.all / parts / 2
    }
}

fn covered(routes: &[&MainRoute]) -> Covered {
    let set: NetSet = routes.iter().map(|route| route.destination).collect();
    if set.iter().any(|net| matches!(net, IpNet::V4(_))) {
        return Covered { addresses: set.iter().map(size).sum(), all: 1 << 32 };
    }
    let within: u128 = set.within(&GLOBAL6).iter().map(size).sum();
    Covered { addresses: if set.contains(&GLOBAL6) { size(&GLOBAL6) } else { within }, all: size(&GLOBAL6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, interface: &str, gateway: Option<&str>) -> MainRoute {
        MainRoute {
            destination: to.parse().unwrap(),
            interface: Some(interface.to_owned()),
            gateway: gateway.map(|g| g.parse().unwrap()),
            metric: 0,
        }
    }

    /// What remains of routes by one next hop.
    fn left(destinations: &[&str]) -> Vec<String> {
        let routes: Vec<_> = destinations.iter().map(|to| route(to, "eth0", Some("10.0.0.1"))).collect();
        without_defaults(routes.iter()).into_iter().map(|r| r.destination.to_string()).collect()
    }

    #[test]
    fn pieces_that_cover_over_half_are_one_default() {
        assert!(left(&["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"]).is_empty());
        assert!(left(&["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/9"]).is_empty());
        assert_eq!(left(&["0.0.0.0/2", "64.0.0.0/2"]).len(), 2, "half is not over half");
        // Some of it twice.
        assert_eq!(left(&["0.0.0.0/2", "64.0.0.0/2", "64.0.0.0/3", "96.0.0.0/3"]).len(), 4);
        assert_eq!(left(&["198.18.0.0/15"]), ["198.18.0.0/15"]);
    }

    #[test]
    fn private_networks_stay_what_they_are() {
        let all =
            ["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2", "10.0.0.0/8", "192.168.7.0/24", "100.64.1.0/24"];
        assert_eq!(left(&all), ["10.0.0.0/8", "192.168.7.0/24", "100.64.1.0/24"]);
    }

    #[test]
    fn a_half_and_the_pieces_of_the_other_are_one_default() {
        assert!(left(&["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2"]).is_empty());
        assert_eq!(left(&["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2", "8.8.8.0/24"]), ["8.8.8.0/24"]);
        assert!(left(&["0.0.0.0/1", "0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"]).is_empty());
        assert_eq!(left(&["0.0.0.0/1", "203.0.113.0/24"]), ["203.0.113.0/24"]);
        assert_eq!(left(&["0.0.0.0/1", "128.0.0.0/1", "203.0.113.0/24"]), ["203.0.113.0/24"]);
        assert_eq!(left(&["0.0.0.0/0", "203.0.113.0/24"]), ["203.0.113.0/24"]);
    }

    #[test]
    fn only_one_interface_and_next_hop_count_together() {
        let quarters = ["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"];
        let by = |way: fn(usize) -> (&'static str, Option<&'static str>)| {
            let routes: Vec<_> = quarters.iter().enumerate().map(|(i, to)| route(to, way(i).0, way(i).1)).collect();
            without_defaults(routes.iter()).len()
        };
        assert_eq!(by(|_| ("tun0", None)), 0);
        assert_eq!(by(|i| (if i < 2 { "tun0" } else { "tun1" }, None)), 4);
        assert_eq!(by(|i| ("eth0", Some(if i < 2 { "10.0.0.1" } else { "10.0.0.2" }))), 4);
    }

    #[test]
    fn of_ipv6_the_global_unicast_counts() {
        assert!(left(&["2000::/3"]).is_empty());
        assert!(left(&["::/2", "fe00::/7"]).is_empty());
        assert!(left(&["2000::/4", "3000::/5"]).is_empty());
        assert_eq!(left(&["2000::/4", "fd00::/8"]), ["2000::/4", "fd00::/8"]);
        assert_eq!(left(&["2000::/3", "fd00:1::/32"]), ["fd00:1::/32"]);
    }
}
