//! By what the first SmartNat's objects are known. What only looks like them is somebody else's.

use md5::Md5;
use sha2::Digest;

use crate::ruleset::Table;

/// Every chain of the first SmartNat begins with one of these.
pub(super) const CHAIN_PREFIXES: [&str; 2] = ["SNM-", "MAP-"];
const MAPPING_CHAIN: &str = "MAP-";
const SOURCES_SET: &str = "DNAT-";
/// SHA-256 of `namespace/name` in base32 as Go's `base32.StdEncoding` writes it (upper case), cut.
const SHORT_NAME: usize = 24;
/// Its mark for an interface is this number plus the interface's index.
pub(super) const MARK_BASE: u32 = 0x800;

/// Whether a chain of that name in a table of IPv4 is the first SmartNat's.
pub(super) fn is_chain(table: Table, name: &str) -> bool {
    match table {
        Table::Mangle => name == "SNM-PREROUTING",
        Table::Nat => {
            matches!(name, "SNM-PREROUTING" | "SNM-POSTROUTING-MASQ" | "SNM-POSTROUTING-SNAT")
                || name.strip_prefix(MAPPING_CHAIN).is_some_and(is_short_name)
        }
        Table::Filter | Table::Security => false,
    }
}

/// Whether it gave names like this one to its sets: `DNAT-...` to allowed sources, the bare short name to pods.
pub(super) fn is_set(name: &str) -> bool {
    is_short_name(name.strip_prefix(SOURCES_SET).unwrap_or(name))
}

fn is_short_name(text: &str) -> bool {
    text.len() == SHORT_NAME && text.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'))
}

/// The number that it gave to the routing table of an interface: the first four bytes of the name's MD5, little endian, made positive
/// and odd.
pub(super) fn table_number(interface: &str) -> u32 {
    let hash = Md5::digest(interface.as_bytes());
    u32::from_le_bytes([hash[0] | 1, hash[1], hash[2], hash[3] >> 1])
}

/// An entry of `/etc/iproute2/rt_tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableEntry {
    pub(super) number: u32,
    pub(super) name: String,
    /// The line as it stands in the file.
    pub(super) line: String,
}

/// The entries of `rt_tables`; comments and what is no entry are left out.
pub(super) fn table_entries(text: &str) -> Vec<TableEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (number, name) = (words.next()?, words.next()?);
            let number = match number.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            Some(TableEntry { number: number.ok()?, name: name.to_owned(), line: line.trim().to_owned() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_sets_are_known_by_their_exact_names_in_their_own_tables() {
        // default/web
        const NAME: &str = "QKZ232OQBTIWIKSNIIHGODLM";
        let map = format!("MAP-{NAME}");
        for (table, name) in [
            (Table::Mangle, "SNM-PREROUTING"),
            (Table::Nat, "SNM-PREROUTING"),
            (Table::Nat, "SNM-POSTROUTING-MASQ"),
            (Table::Nat, "SNM-POSTROUTING-SNAT"),
            (Table::Nat, &map),
        ] {
            assert!(is_chain(table, name), "{table} {name}");
        }
        for (table, name) in [
            (Table::Filter, "SNM-PREROUTING"),
            (Table::Mangle, "SNM-POSTROUTING-SNAT"),
            (Table::Mangle, &map),
            (Table::Nat, "SNM-OTHER"),
            (Table::Nat, "MAP-foo"),
            (Table::Nat, "MAP-QKZ232OQBTIWIKSNIIHGODL"),
            (Table::Nat, "MAP-QKZ232OQBTIWIKSNIIHGODLMM"),
            (Table::Nat, "MAP-qkz232oqbtiwiksniihgodlm"),
            (Table::Nat, "MAP-QKZ132OQBTIWIKSNIIHGODLM"),
            (Table::Nat, NAME),
            (Table::Nat, "SMARTNAT-DNAT"),
        ] {
            assert!(!is_chain(table, name), "{table} {name}");
        }
        assert!(is_set(NAME) && is_set("DNAT-QKZ232OQBTIWIKSNIIHGODLM"));
        for name in ["DNAT-short", "DNAT-", "QKZ232OQBTIWIKSNIIHGODL8", "MAP-QKZ232OQBTIWIKSNIIHGODLM", "SN-EP", ""] {
            assert!(!is_set(name), "{name}");
        }
    }

    #[test]
    fn the_number_of_a_table_follows_from_the_interfaces_name() {
        // `echo -n eth1 | md5sum` begins 6f1799c8, that of eth2 e120845f.
        assert_eq!((table_number("eth1"), table_number("eth2")), (1_687_754_607, 797_188_321));
    }

    #[test]
    fn entries_of_rt_tables_are_read_and_the_rest_is_not() {
        let entries = table_entries("#\n255\tlocal\n#1\tinr.ruhep\n 1687754607 eth1\n0x64 dsl # by hand\n7\nx eth3\n");
        let found: Vec<_> = entries.iter().map(|e| (e.number, e.name.as_str(), e.line.as_str())).collect();
        assert_eq!(
            found,
            [
                (255, "local", "255\tlocal"),
                (1_687_754_607, "eth1", "1687754607 eth1"),
                (100, "dsl", "0x64 dsl # by hand")
            ]
        );
    }
}
