use std::sync::Arc;

use smartnat::model::Family;
use smartnat::ruleset::{IpSet, SetKind, SetMember};

use crate::bed::{Bed, endpoint, full, ip, marked, members, net, set};
use crate::netns::{in_netns, sh};

#[test]
fn members_of_every_kind_are_written_and_read_back_equal() {
    in_netns(|| async {
        let mut plane = full();
        let udp =
            |address| SetMember::IpPort { address: ip(address), protocol: smartnat::model::Protocol::Udp, port: 53 };
        let bare = |address, mark, mask| SetMember::IpMark { address: ip(address), mark, mask };
        plane.sets.extend(
            [
                ("SN-1", IpSet::of(SetKind::HashIp(Family::Ipv4), [SetMember::Ip(ip("10.0.0.1"))])),
                ("SN-2", IpSet::of(SetKind::HashIp(Family::Ipv6), [SetMember::Ip(ip("2001:db8::1"))])),
                ("SN-3", IpSet::of(SetKind::HashNet(Family::Ipv6), [net("2001:db8::/64"), net("::1/128")])),
                ("SN-4", IpSet::of(SetKind::HashNet(Family::Ipv4), [net("0.0.0.0/1"), net("128.0.0.0/1")])),
                ("SN-5", IpSet::of(SetKind::HashIpPort(Family::Ipv6), [endpoint("2001:db8::1", 1), udp("::2")])),
                (
                    "SN-6",
                    IpSet::of(
                        SetKind::HashIpMark(Family::Ipv4),
                        [
                            bare("10.0.0.1", 5, u32::MAX),
                            bare("10.0.0.2", 0, 0),
                            bare("10.0.0.3", 0, 0xff),
                            marked("10.0.0.4", 9),
                        ],
                    ),
                ),
                ("SN-7", IpSet::of(SetKind::HashIpMark(Family::Ipv6), [marked("2001:db8::1", 2)])),
                ("SN-8", IpSet::new(SetKind::Affinity(Family::Ipv6))),
            ]
            .map(|(name, set)| (name.into(), set)),
        );
        Bed::new().apply(&plane).await;
        let again = Bed::new().apply(&plane).await;
        assert!(again.writes.is_empty(), "{again:?}");
    });
}

#[test]
fn a_live_set_changes_member_by_member() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        bed.apply(&plane).await;
        set(&mut plane, "SN-SRC-a").members = Arc::new([net("198.51.100.0/25"), net("192.0.2.0/24")].into());
        let applied = bed.apply(&plane).await;
        // Two added before, one deleted after.
        assert_eq!((applied.writes.members, applied.writes.sets, applied.tool_calls), (3, 0, 2), "{applied:?}");
        assert_eq!(members("SN-SRC-a"), ["192.0.2.0/24", "198.51.100.0/25"]);
        assert!(bed.refresh(&plane).await.writes.is_empty());
    });
}

#[test]
fn a_member_that_gets_another_mark_is_never_missing() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        bed.apply(&plane).await;
        set(&mut plane, "SN-EG").members = Arc::new([marked("10.244.1.2", 2)].into());
        let applied = bed.apply(&plane).await;
        assert_eq!((applied.writes.members, applied.tool_calls), (1, 1), "{applied:?}");
        assert_eq!(members("SN-EG"), ["10.244.1.2 skbmark 0x20000/0xfff0000"]);
        assert!(bed.refresh(&plane).await.writes.is_empty());
    });
}

#[test]
fn removed_and_foreign_members_are_put_right_and_told() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = full();
        bed.apply(&plane).await;
        sh("ipset del SN-INNER 10.0.0.0/24; ipset add SN-INNER 1.2.3.4; ipset add SN-INNER 1.2.3.0/24 nomatch
            ipset add SN-EP 203.0.113.10,sctp:80; ipset flush SN-EG
            iptables -t nat -F; ipset destroy SN-L-1; ipset create SN-STRAY bitmap:port range 1-2");
        assert_eq!(
            bed.repairs(&plane).await,
            [
                "set SN-L-1 was removed",
                "set SN-EG was changed: 1 members missing, 0 members that are not ours",
                "set SN-EP was changed: 0 members missing, 1 members that are not ours",
                "set SN-INNER was changed: 1 members missing, 2 members that are not ours",
                "set SN-STRAY was added by somebody else",
                "chain ipv4 nat SMARTNAT-DNAT was changed",
                "chain ipv4 nat SMARTNAT-M-a was changed",
                "chain ipv4 nat SMARTNAT-M-b was changed",
                "hook ipv4 nat PREROUTING was removed",
            ]
        );
        assert_eq!(members("SN-INNER"), ["10.0.0.0/24", "10.0.1.1"]);
        assert_eq!(members("SN-EP"), ["203.0.113.10,tcp:80", "203.0.113.10,tcp:81"]);
        assert_eq!(members("SN-L-1"), ["SN-A-1"]);
        assert!(!sh("ipset list -n").contains("SN-STRAY"));
    });
}

#[test]
fn clients_in_affinity_sets_are_left_alone() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let plane = full();
        bed.apply(&plane).await;
        sh("ipset add SN-A-1 198.51.100.7 timeout 600");
        assert_eq!(bed.repairs(&plane).await, [""; 0]);
        let adopted = Bed::new().apply(&plane).await;
        assert!(adopted.writes.is_empty(), "{adopted:?}");
        assert_eq!(members("SN-A-1"), ["198.51.100.7"]);
    });
}

#[test]
fn a_set_with_other_options_is_exchanged_under_the_rules_that_use_it() {
    in_netns(|| async {
        let plane = full();
        sh("ipset create SN-INNER hash:net maxelem 10; ipset create SN-L-1 list:set size 8; ipset create SN-EG hash:ip
            ipset create SN-A-1 bitmap:port range 1-2; iptables -A FORWARD -m set --match-set SN-INNER src -j DROP");
        let mut bed = Bed::new();
        bed.apply(&plane).await;
        assert!(bed.refresh(&plane).await.writes.is_empty());
        assert_eq!(members("SN-INNER"), ["10.0.0.0/24", "10.0.1.1"]);
        assert_eq!(members("SN-EG"), ["10.244.1.2 skbmark 0x10000/0xfff0000"]);
        assert!(sh("ipset save SN-INNER").contains("maxelem 1048576"));
        assert!(sh("iptables -S FORWARD").contains("--match-set SN-INNER src"));
        assert!(!sh("ipset list -n").contains("SN-TMP"));
    });
}

#[test]
fn sets_go_lists_first_when_nothing_needs_them() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        bed.apply(&plane).await;
        plane.sets.remove("SN-A-1");
        plane.sets.remove("SN-L-1");
        let applied = bed.apply(&plane).await;
        assert_eq!((applied.writes.sets, applied.stuck_sets.len()), (2, 0), "{applied:?}");
        assert_eq!(sh("ipset list -n | sort | tr '\n' ' '"), "SN-EG SN-EP SN-INNER SN-INNER6 SN-SRC-a ");
    });
}

#[test]
fn a_set_that_a_foreign_rule_uses_stays_and_the_others_go() {
    in_netns(|| async {
        let mut bed = Bed::new();
        let mut plane = full();
        for name in ["SN-X-1", "SN-X-2", "SN-X-3"] {
            plane.sets.insert(name.into(), IpSet::new(SetKind::HashIp(Family::Ipv4)));
        }
        bed.apply(&plane).await;
        sh("iptables -A FORWARD -m set --match-set SN-X-2 src -j DROP");
        plane.sets.retain(|name, _| !name.starts_with("SN-X"));
        let applied = bed.apply(&plane).await;
        assert_eq!((applied.stuck_sets, applied.writes.sets), (vec!["SN-X-2".to_owned()], 2));
        assert!(!sh("ipset list -n").contains("SN-X-3"));
        let idle = bed.apply(&plane).await;
        assert_eq!((idle.tool_calls, idle.stuck_sets), (0, vec!["SN-X-2".to_owned()]));
        sh("iptables -F FORWARD");
        let freed = bed.refresh(&plane).await;
        assert_eq!((freed.writes.sets, freed.stuck_sets.len()), (1, 0));
        assert!(!sh("ipset list -n").contains("SN-X"));
    });
}
