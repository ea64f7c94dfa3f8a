use super::*;

/// Addresses as `ip address add` takes them, in the kernel's order; `2nd` marks a secondary one.
fn link(addresses: &[&str]) -> Link {
    let address = |text: &&str| {
        let words: Vec<&str> = text.split(' ').collect();
        let peer = words.contains(&"peer").then(|| words[2].parse::<IpNet>().unwrap());
        let given = peer.map_or_else(|| InterfaceAddress::of(words[0].parse().unwrap()), InterfaceAddress::of);
        InterfaceAddress {
            address: words[0].split('/').next().unwrap().parse().unwrap(),
            peer: peer.map(|net| net.addr()),
            secondary: words.contains(&"2nd"),
            ..given
        }
    };
    Link { addresses: addresses.iter().map(address).collect(), ..Link::default() }
}

fn choice(addresses: &[&str], address: Option<&str>, offset: i32) -> Choice {
    let link = link(addresses);
    let own: Vec<IpAddr> = link.addresses.iter().map(|a| a.address).collect();
    let wish = Wish { address: address.map(|a| a.parse().unwrap()), offset };
    choose("eth1", &link, wish, &[], |a| own.contains(&IpAddr::V4(a)))
}

/// The gateway, and the number of notes.
fn found(addresses: &[&str]) -> (String, usize) {
    let choice = choice(addresses, None, 1);
    (choice.gateway.map_or_else(|| "none".to_owned(), |g| g.to_string()), choice.notes.len())
}

#[test]
fn the_first_primary_address_whose_subnet_has_room_decides() {
    for (addresses, gateway, notes) in [
        (&["203.0.113.10/24"][..], "203.0.113.1", 0),
        (&["203.0.113.99/32", "203.0.113.10/24"], "203.0.113.1", 0),
        (&["203.0.113.10/24", "203.0.113.11/24 2nd"], "203.0.113.1", 0),
        (&["2001:db8::1/64", "203.0.113.10/24"], "203.0.113.1", 0),
        (&["203.0.113.10/24", "203.0.113.11/25"], "203.0.113.1", 0),
        (&["203.0.113.10/24", "198.51.100.10/24"], "203.0.113.1", 1),
        (&["198.51.100.10/24", "203.0.113.10/24"], "198.51.100.1", 1),
        (&["169.254.7.7/16", "203.0.113.10/24"], "203.0.113.1", 0),
        (&["169.254.7.7/16", "203.0.113.10/32"], "169.254.0.1", 1),
        (&["203.0.113.1/24", "198.51.100.10/24"], "198.51.100.1", 1),
        (&["203.0.113.0/31"], "203.0.113.1", 0),
        (&["203.0.113.1/31"], "203.0.113.0", 0),
        (&["10.0.0.1 peer 10.0.0.2/32"], "10.0.0.2", 1),
        (&["10.0.0.1 peer 10.0.0.2/32", "203.0.113.10/24"], "10.0.0.2", 2),
        (&["10.0.0.5 peer 10.0.0.6/24"], "10.0.0.1", 0),
        (&[], "none", 0),
        (&["2001:db8::1/64"], "none", 0),
    ] {
        assert_eq!(found(addresses), (gateway.to_owned(), notes), "{addresses:?}");
    }
}

#[test]
fn different_gateways_are_told_with_the_way_to_choose() {
    let choice = choice(&["203.0.113.10/24", "198.51.100.10/24"], None, -1);
    let [note] = &choice.notes[..] else { panic!("{choice:?}") };
    for part in ["203.0.113.254", "198.51.100.254", "203.0.113.0/24", "; choose by SNCTRLR_GW_ADDRESS=eth1=ADDRESS"] {
        assert!(note.contains(part), "{part}: {note}");
    }
}

#[test]
fn where_no_subnet_has_room_the_most_telling_reason_is_given() {
    assert!(matches!(
        choice(&["203.0.113.10/32"], None, 1).error,
        Some(GatewayError::Offset(OffsetError::HostPrefix { .. }))
    ));
    let own = choice(&["203.0.113.10/32", "203.0.113.1/24"], None, 1);
    assert!(matches!(own.error, Some(GatewayError::Offset(OffsetError::OwnAddress { .. }))), "{own:?}");
    assert_eq!((own.gateway, own.notes.len()), (None, 0));
}

#[test]
fn a_named_gateway_wins_and_is_reached_on_the_link_where_no_subnet_holds_it() {
    let of = |addresses, gateway| {
        let choice = choice(addresses, Some(gateway), 0);
        assert_eq!(choice.error, None);
        (choice.gateway.map(|g| g.to_string()), choice.on_link.map(|s| s.to_string()))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(&["203.0.113.10/24"], "203.0.113.254"), (some("203.0.113.254"), None));
    assert_eq!(of(&["203.0.113.10/32"], "203.0.113.1"), (some("203.0.113.1"), some("203.0.113.10")));
    assert_eq!(of(&["203.0.113.10/32", "198.51.100.1/24"], "198.51.100.9"), (some("198.51.100.9"), None));
    assert_eq!(of(&["10.0.0.1 peer 10.0.0.2/32"], "10.0.0.2"), (some("10.0.0.2"), None));
    assert_eq!(of(&["203.0.113.10/32"], "169.254.1.1"), (some("169.254.1.1"), some("203.0.113.10")));
    assert_eq!(of(&[], "203.0.113.1"), (None, None), "until there is an address");
}

#[test]
fn what_can_be_no_router_is_refused_with_a_remedy() {
    for (gateway, part) in [("203.0.113.10", "own address"), ("203.0.113.255", "broadcast"), ("203.0.113.0", "network")]
    {
        let refused = choice(&["203.0.113.10/24"], Some(gateway), 1);
        let error = refused.error.unwrap().to_string();
        assert!(error.contains(part) && error.contains("; set SNCTRLR_GW_ADDRESS"), "{error}");
        assert_eq!(refused.gateway, None);
    }
}
