use super::Finding;
use super::gather::{Gather, Ran};

const GROUP: &str = "iptables";

/// What stands in the tables of both variants of iptables.
pub(super) struct Variants {
    /// `iptables --version`.
    version: Ran,
    /// `iptables-nft-save`.
    nft: Ran,
    /// `iptables-legacy-save`.
    legacy: Ran,
}

pub(super) async fn gather(gather: &Gather) -> Variants {
    Variants {
        version: gather.run("iptables", &["--version"]).await,
        nft: gather.run("iptables-nft-save", &[]).await,
        legacy: gather.run("iptables-legacy-save", &[]).await,
    }
}

impl Variants {
    /// What stands in either of them, as far as it may be read.
    pub(super) fn saved(&self) -> impl Iterator<Item = &str> {
        [&self.nft, &self.legacy].into_iter().filter_map(Ran::stdout)
    }
}

pub(super) fn evaluate(v: &Variants) -> Vec<Finding> {
    let Some(version) = v.version.stdout() else {
        // A missing iptables is told among the tools.
        return Vec::new();
    };
    let legacy_in_use = version.contains("(legacy)");
    let (mine, other, other_name, other_path) = if legacy_in_use {
        (&v.legacy, &v.nft, "nf_tables", "iptables-nft")
    } else {
        (&v.nft, &v.legacy, "legacy", "iptables-legacy")
    };
    let mut findings = Vec::new();
    match (has_kube_chains(mine), has_kube_chains(other)) {
        (_, true) => findings.push(Finding::fail(
            GROUP,
            format!("kube-proxy's chains are in the {other_name} tables, and SmartNat would write to the other ones"),
            format!(
                "update-alternatives --set iptables /usr/sbin/{other_path} (and ip6tables), or reconfigure kube-proxy"
            ),
        )),
        (true, false) => findings.push(Finding::ok(GROUP, "kube-proxy's chains are in the tables that SmartNat uses")),
        (false, false) => findings.push(Finding::ok(GROUP, "no chains of kube-proxy (not needed for mode direct)")),
    }
    if !has_kube_chains(other) && rules(other) > 0 {
        findings.push(Finding::warn(
            GROUP,
            format!("{} rules stand in the {other_name} tables, which the kernel runs through too", rules(other)),
            format!("look at them with {other_path}-save; a DROP there would hit Mappings"),
        ));
    }
    findings
}

/// KUBE-IPTABLES-HINT, KUBE-KUBELET-CANARY and KUBE-FIREWALL are kubelet's, which chooses for itself.
fn has_kube_chains(save: &Ran) -> bool {
    let chains = save.stdout().into_iter().flat_map(str::lines).filter(|l| l.starts_with(":KUBE-"));
    chains.into_iter().any(|l| l.starts_with(":KUBE-SERVICES ") || l.starts_with(":KUBE-POSTROUTING "))
}

fn rules(save: &Ran) -> usize {
    save.stdout().into_iter().flat_map(str::lines).filter(|l| l.starts_with("-A ")).count()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn levels(version: &str, nft: &str, legacy: &str) -> Vec<Level> {
        let well = |text: &str| Ran::Well(text.to_owned());
        evaluate(&Variants { version: well(version), nft: well(nft), legacy: well(legacy) })
            .into_iter()
            .map(|f| f.level)
            .collect()
    }

    const NFT: &str = "iptables v1.8.9 (nf_tables)";
    const LEGACY: &str = "iptables v1.8.9 (legacy)";
    const KUBE: &str = "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";

    #[test]
    fn kube_proxy_in_the_other_variant_is_a_failure() {
        assert_eq!(levels(NFT, "", KUBE), [Level::Fail]);
        assert_eq!(levels(LEGACY, KUBE, ""), [Level::Fail]);
        assert_eq!(levels(NFT, KUBE, ""), [Level::Ok]);
        assert_eq!(levels(LEGACY, "", KUBE), [Level::Ok]);
    }

    #[test]
    fn rules_of_others_in_the_other_variant_are_worth_a_look() {
        assert_eq!(levels(NFT, "", "*filter\n-A INPUT -j DROP\nCOMMIT\n"), [Level::Ok, Level::Warn]);
        assert_eq!(levels(NFT, "", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), [Level::Ok]);
    }
}
