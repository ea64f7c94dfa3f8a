//! nftables as they are, read by the nft that is installed.

use smartnat::apply::Tools;
use smartnat::apply::nft::{Nft, NftError, Statement, TableName, Verdict};

use crate::bed::LIMIT;
use crate::netns::{in_netns, sh};

const FOREIGN: &str = r#"
table inet fw {
    set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.4 }; }
    chain sub {
        tcp dport 22 accept
        ip saddr @s counter drop comment "not; from # handle 7 here"
    }
    chain forward {
        type filter hook forward priority 10; policy drop;
        ct state established,related accept
        jump sub
        tcp dport vmap { 22 : accept, 80 : drop }
        meta mark set meta mark & 0xff00ffff | 0x1
        reject
    }
    chain raw {
        type filter hook prerouting priority -300;
        notrack
    }
}
table ip asleep {
    flags dormant
    chain f { type filter hook forward priority 0; policy drop; }
}
table ip6 six {
    chain f { type filter hook forward priority 0; policy drop; }
}
table arp last {
    flags dormant
}
"#;

#[test]
fn tables_of_others_are_read_whole_and_dormant_ones_known() {
    in_netns(|| async {
        sh(&format!("nft -f - <<'EOF'\n{FOREIGN}\nEOF"));
        sh("iptables -A FORWARD -j ACCEPT");
        let nft = Nft::new(Tools::new(LIMIT));
        let names = nft.tables().await.unwrap();
        let expected = [("inet", "fw"), ("ip", "asleep"), ("ip6", "six"), ("arp", "last"), ("ip", "filter")];
        assert_eq!(names, expected.map(|(family, name)| TableName::new(family, name)));
        let fw = nft.table(&names[0]).await.unwrap();
        let forward = fw.chain("forward").unwrap();
        let base = forward.base.as_ref().unwrap();
        assert_eq!(
            (base.kind.as_str(), base.hook.as_str(), base.priority, base.drops),
            ("filter", "forward", 10, true)
        );
        let texts: Vec<&str> = forward.rules.iter().map(|r| r.text.as_str()).collect();
        assert_eq!(texts[0], "ct state established,related accept");
        assert_eq!(forward.rules[1].target(), Some("sub"));
        assert!(matches!(&forward.rules[2].statements[0], Statement::VerdictMap(_)), "{:?}", forward.rules[2]);
        assert!(forward.rules[3].statements.iter().any(|s| matches!(s, Statement::Set { .. })), "{texts:?}");
        assert!(forward.rules[4].statements.contains(&Statement::Verdict(Verdict::Reject)), "{texts:?}");
        let sub = fw.chain("sub").unwrap();
        assert!(sub.base.is_none() && sub.rules[1].text.starts_with("ip saddr @s counter"), "{sub:?}");
        assert!(sub.rules[1].text.ends_with("comment \"not; from # handle 7 here\""), "{sub:?}");
        assert!(sub.rules[1].statements.contains(&Statement::Verdict(Verdict::Drop)));
        assert!(!fw.dormant && nft.table(&names[1]).await.unwrap().dormant);
    });
}

#[test]
fn chains_of_iptables_are_read_one_by_one_also_where_iptables_cannot() {
    in_netns(|| async {
        sh("iptables -A FORWARD -p udp -m comment --comment x -j REJECT");
        sh("iptables -N OTHER");
        sh("iptables -I FORWARD -j OTHER");
        sh("nft add rule ip filter FORWARD ct state established accept");
        let nft = Nft::new(Tools::new(LIMIT));
        let filter = TableName::new("ip", "filter");
        let forward = nft.chain(&filter, "FORWARD").await.unwrap().unwrap();
        assert_eq!(forward.rules[0].target(), Some("OTHER"));
        assert!(forward.rules[1].statements.iter().any(|s| matches!(s, Statement::Xt { .. })), "{forward:?}");
        assert_eq!(forward.rules[2].text, "ct state established accept");
        sh(&format!("nft delete rule ip filter FORWARD handle {}", forward.rules[2].handle));
        sh("iptables -S FORWARD");
        assert_eq!(nft.chain(&filter, "INPUT").await.unwrap(), None);
        let chains = nft.chains().await.unwrap();
        assert!(chains.iter().any(|(table, chain)| *table == filter && chain.name == "OTHER"), "{chains:?}");
    });
}

#[test]
fn a_name_that_nft_would_read_as_something_else_is_refused() {
    in_netns(|| async {
        sh(&format!("nft -f - <<'EOF'\n{FOREIGN}\nEOF"));
        let nft = Nft::new(Tools::new(LIMIT));
        let error = nft.table(&TableName::new("inet", "fw; flush ruleset")).await.unwrap_err();
        assert!(matches!(error, NftError::Name(_)), "{error}");
        assert_eq!(nft.tables().await.unwrap().len(), 4);
    });
}
