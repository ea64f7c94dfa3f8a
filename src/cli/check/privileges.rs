use super::Finding;

const GROUP: &str = "privileges";
/// Numbers of include/uapi/linux/capability.h.
const NEEDED: [(&str, u32, &str); 2] = [
    ("CAP_NET_ADMIN", 12, "to change rules, sets, routes and sysctls"),
    ("CAP_NET_RAW", 13, "for iptables to open its raw socket"),
];

/// `status`: /proc/self/status.
pub(super) fn evaluate(status: &str) -> Vec<Finding> {
    let effective =
        status.lines().find_map(|l| l.strip_prefix("CapEff:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let Some(effective) = effective else {
        return vec![Finding::fail(GROUP, "/proc/self/status does not tell this process' capabilities", "mount /proc")];
    };
    NEEDED
        .iter()
        .map(|(name, bit, what_for)| {
            if effective & (1 << bit) != 0 {
                Finding::ok(GROUP, *name)
            } else {
                Finding::fail(
                    GROUP,
                    format!("{name} is missing ({what_for})"),
                    format!("run as root, or give the service AmbientCapabilities={name}"),
                )
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn levels(status: &str) -> Vec<Level> {
        evaluate(status).into_iter().map(|f| f.level).collect()
    }

    #[test]
    fn both_capabilities_are_needed() {
        assert_eq!(levels("Name:\tx\nCapEff:\t000001ffffffffff\n"), [Level::Ok, Level::Ok]);
        assert_eq!(levels("CapEff:\t0000000000001000\n"), [Level::Ok, Level::Fail]);
        assert_eq!(levels("CapEff:\t0000000000000000\n"), [Level::Fail, Level::Fail]);
        assert_eq!(levels("nothing"), [Level::Fail]);
    }
}
