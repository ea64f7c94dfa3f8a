//! Names of interfaces that may stand in rules, in the kernel.

use smartnat::model::{Family, check_interface_name};
use smartnat::ruleset::{Dataplane, Match, Rule, Table, TableRules, Target};

use crate::bed::{Bed, border};
use crate::netns::{in_netns, sh};

/// Every character that can stand in a name, at its beginning, in its middle and at its end.
fn names() -> Vec<String> {
    let characters = (1u8..=255).map(char::from).filter(|c| !c.is_whitespace());
    let places = characters.flat_map(|c| [format!("{c}b"), format!("a{c}b"), format!("a{c}")]);
    places.filter(|name| check_interface_name(name).is_ok()).collect()
}

#[test]
fn the_kernel_holds_them_as_they_were_meant() {
    in_netns(|| async {
        let names = names();
        assert!(names.len() > 300, "{}", names.len());
        let chain = |name: &String| {
            [Match::InInterface(name.clone()), Match::OutInterface(name.clone())].map(|m| Rule::new([m], Target::Drop))
        };
        let rules = names.iter().flat_map(chain).collect();
        let table = TableRules { chains: [("SMARTNAT-NAMES".into(), rules)].into(), ..TableRules::default() };
        let mut plane = Dataplane::default();
        for family in Family::ALL {
            plane.tables.insert((family, Table::Mangle), table.clone());
        }
        let mut bed = Bed::new();
        bed.apply(&plane).await;
        for tool in ["iptables", "ip6tables"] {
            let listing = sh(&format!("{tool} -t mangle -S SMARTNAT-NAMES"));
            let lines: Vec<&str> = listing.lines().skip(1).collect();
            let wanted: Vec<String> = names
                .iter()
                .flat_map(|name| ["i", "o"].map(|way| format!("-A SMARTNAT-NAMES -{way} {name} -j DROP")))
                .collect();
            assert_eq!(lines, wanted, "{tool}");
            // As the kernel compares them: a wildcard would be shown with an asterisk that is not escaped.
            let native = sh(&format!("nft list chain {} mangle SMARTNAT-NAMES", tool.replace("tables", "")));
            let compared: Vec<&str> = native.lines().filter_map(|l| l.trim().strip_prefix("iifname ")).collect();
            assert_eq!(compared.len(), names.len());
            let wild = compared.iter().find(|l| l.contains("*\"") && !l.contains("\\*\""));
            assert_eq!(wild, None);
        }
        let again = bed.refresh(&plane).await;
        assert!(again.writes.is_empty(), "{again:?}");
    });
}

#[test]
fn a_copy_of_a_hook_for_an_interface_with_a_quote_in_its_name_is_removed() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = border();
        bed.apply(&plane).await;
        let hooks = || sh("iptables -t mangle -S INPUT");
        let before = hooks();
        // Of somebody who knows how to write it.
        sh(
            r#"printf '*mangle\n-I INPUT 1 -i "a\\"b" -j SMARTNAT-BORDER-IN\n-A INPUT -i "\\"c" -j SMARTNAT-BORDER-IN\nCOMMIT\n' |
              iptables-restore --noflush"#,
        );
        assert!(hooks().contains(r#"-i a"b -j"#) && hooks().contains(r#"-i "c -j"#), "{}", hooks());
        bed.refresh(&plane).await;
        assert_eq!(hooks(), before);
    });
}
