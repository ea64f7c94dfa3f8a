use super::Finding;
use super::gather::{Gather, Ran};

const GROUP: &str = "tools";
/// Every tool that the daemon calls, and the Debian package that holds it.
const NEEDED: [(&str, &str); 5] = [
    ("iptables", "iptables"),
    ("iptables-restore", "iptables"),
    ("ip6tables", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("ipset", "ipset"),
];

pub(super) struct Tool {
    name: &'static str,
    package: &'static str,
    version: Ran,
}

/// By this tool what others do in nftables is read, and nothing else depends on it.
const NFT: (&str, &str) = ("nft", "nftables");

pub(super) async fn gather(gather: &Gather) -> Vec<Tool> {
    let mut tools = Vec::new();
    for (name, package) in NEEDED.into_iter().chain([NFT]) {
        tools.push(Tool { name, package, version: gather.run(name, &["--version"]).await });
    }
    tools
}

pub(super) fn evaluate(tools: &[Tool]) -> Vec<Finding> {
    tools.iter().map(one).collect()
}

fn one(tool: &Tool) -> Finding {
    let Tool { name, package, version } = tool;
    let install = format!("apt-get install {package} (or your distribution's package of it)");
    match version {
        Ran::Missing | Ran::Badly(_) if *name == NFT.0 => Finding::warn(
            GROUP,
            "nft does not run here: Mappings work without it, but what tables of nft drop, translate or mark is not seen by \
             check and trace, nor a native rule that makes iptables call a table incompatible",
            install,
        ),
        Ran::Missing => Finding::fail(GROUP, format!("{name} is not on PATH"), install),
        Ran::Badly(why) => Finding::fail(
            GROUP,
            format!("{name} --version failed: {why}"),
            format!("run check with the daemon's privileges (as root); if it fails then too, {install}"),
        ),
        Ran::Well(text) => {
            let line = text.lines().next().unwrap_or_default().trim().trim_end_matches(',');
            if line.contains("(legacy)") {
                return Finding::warn(
                    GROUP,
                    format!("{line}: the legacy variant"),
                    "changes by others are noticed at the refresh only; update-alternatives --set iptables /usr/sbin/iptables-nft \
                     (and ip6tables), unless kube-proxy uses the legacy one too",
                );
            }
            let text = if line.starts_with(name) { line.to_owned() } else { format!("{name}: {line}") };
            Finding::ok(GROUP, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn finding(version: Ran) -> Finding {
        one(&Tool { name: "iptables", package: "iptables", version })
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let f = finding(Ran::Missing);
        assert_eq!(f.level, Level::Fail);
        assert!(f.remedy.contains("apt-get install iptables"), "{f:?}");
        let f = finding(Ran::Badly("Operation not permitted".into()));
        assert!(f.level == Level::Fail && f.remedy.contains("as root"), "{f:?}");
    }

    #[test]
    fn without_nft_it_works_and_is_told_what_is_not_seen() {
        let f = one(&Tool { name: "nft", package: "nftables", version: Ran::Missing });
        assert_eq!(f.level, Level::Warn);
        assert!(f.what.contains("not seen by check and trace") && f.remedy.contains("nftables"), "{f:?}");
        let f = one(&Tool { name: "nft", package: "nftables", version: Ran::Well("nftables v1.0.6 (X)".into()) });
        assert_eq!(f, Finding::ok(GROUP, "nftables v1.0.6 (X)"));
    }

    #[test]
    fn the_version_is_shown_and_the_legacy_variant_warned_about() {
        assert_eq!(
            finding(Ran::Well("iptables v1.8.9 (nf_tables)\n".into())),
            Finding::ok(GROUP, "iptables v1.8.9 (nf_tables)")
        );
        assert_eq!(finding(Ran::Well("iptables v1.8.9 (legacy)\n".into())).level, Level::Warn);
    }
}
