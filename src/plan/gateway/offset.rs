//! The router of a subnet by its place: `SNCTRLR_GW_ADDRESS_OFFSET`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Why a subnet has no usable gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    #[error(
        "offset 0 is the subnet's own address; set SNCTRLR_GW_ADDRESS_OFFSET to 1 for the first or -1 for the last address of the subnet"
    )]
    Zero,
    #[error(
        "{net} has no room for a gateway; name the router by SNCTRLR_GW_ADDRESS, or assign the address with the prefix of its subnet (for example /24)"
    )]
    HostPrefix { net: Ipv4Net },
    #[error(
        "offset {offset} from {net} leads to {address}, which is the subnet's network or broadcast address or lies outside of it; set SNCTRLR_GW_ADDRESS_OFFSET to 1 for the first or -1 for the last address"
    )]
    Outside { offset: i32, net: Ipv4Net, address: String },
    #[error(
        "offset {offset} from {net} leads to {address}, which is this box's own address; set SNCTRLR_GW_ADDRESS_OFFSET to where the router is, name it by SNCTRLR_GW_ADDRESS, or move the address"
    )]
    OwnAddress { offset: i32, net: Ipv4Net, address: Ipv4Addr },
}

/// The gateway of a subnet: a positive offset counts from the network address, a negative one back from the broadcast address. On a /31
/// (RFC 3021: no network or broadcast address) 1 is the upper and -1 the lower address, and where that is the box itself, the router is the
/// other one.
pub fn gateway(net: Ipv4Net, offset: i32, is_own: impl Fn(Ipv4Addr) -> bool) -> Result<Ipv4Addr, OffsetError> {
    let net = net.trunc();
    if offset == 0 {
        return Err(OffsetError::Zero);
    }
    if net.prefix_len() == 32 {
        return Err(OffsetError::HostPrefix { net });
    }
    let (first, last) = (i64::from(u32::from(net.network())), i64::from(u32::from(net.broadcast())));
    let address = if offset > 0 { first + i64::from(offset) } else { last + i64::from(offset) };
    let usable = if net.prefix_len() == 31 { first..=last } else { first + 1..=last - 1 };
    let shown = || u32::try_from(address).map_or_else(|_| "no address".to_owned(), |a| Ipv4Addr::from(a).to_string());
    let gateway = u32::try_from(address)
        .ok()
        .filter(|_| usable.contains(&address))
        .map(Ipv4Addr::from)
        .ok_or_else(|| OffsetError::Outside { offset, net, address: shown() })?;
    if is_own(gateway) {
        let other = Ipv4Addr::from(u32::from(gateway) ^ 1);
        if net.prefix_len() == 31 && !is_own(other) {
            return Ok(other);
        }
        return Err(OffsetError::OwnAddress { offset, net, address: gateway });
    }
    Ok(gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(net: &str, offset: i32) -> Result<String, OffsetError> {
        gateway(net.parse().unwrap(), offset, |a| a == Ipv4Addr::new(10, 10, 10, 10)).map(|a| a.to_string())
    }

    #[test]
    fn the_guides_examples() {
        assert_eq!(of("10.10.10.10/24", 1).unwrap(), "10.10.10.1");
        assert_eq!(of("10.10.10.10/24", -1).unwrap(), "10.10.10.254");
        assert_eq!(of("10.22.66.41/23", -1).unwrap(), "10.22.67.254");
    }

    #[test]
    fn a_31_has_an_upper_and_a_lower_address() {
        assert_eq!(of("192.0.2.0/31", 1).unwrap(), "192.0.2.1");
        assert_eq!(of("192.0.2.1/31", -1).unwrap(), "192.0.2.0");
        assert!(matches!(of("192.0.2.0/31", 2), Err(OffsetError::Outside { .. })));
        assert_eq!(of("10.10.10.10/31", -1).unwrap(), "10.10.10.11", "the lower address is the box itself");
        assert_eq!(of("10.10.10.10/31", 1).unwrap(), "10.10.10.11");
    }

    #[test]
    fn what_can_be_no_gateway_is_refused_with_a_remedy() {
        assert!(matches!(of("10.10.10.10/24", 0), Err(OffsetError::Zero)));
        assert!(matches!(of("10.10.10.10/32", 1), Err(OffsetError::HostPrefix { .. })));
        assert!(matches!(of("10.10.10.10/24", 10), Err(OffsetError::OwnAddress { .. })));
        assert!(matches!(of("10.10.10.10/24", 255), Err(OffsetError::Outside { .. })));
        assert!(matches!(of("10.10.10.10/24", -255), Err(OffsetError::Outside { .. })));
        assert!(matches!(of("10.10.10.10/24", 256), Err(OffsetError::Outside { .. })));
        assert!(matches!(of("0.0.0.5/8", i32::MIN), Err(OffsetError::Outside { .. })));
        for offset in [0, 10, 255] {
            assert!(of("10.10.10.10/24", offset).unwrap_err().to_string().contains("SNCTRLR_GW_ADDRESS"));
        }
    }
}
