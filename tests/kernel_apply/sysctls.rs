use std::fs;

use smartnat::apply::ApplyError;
use smartnat::model::Family;
use smartnat::ruleset::{Dataplane, Sysctl};

use crate::bed::{Bed, full};
use crate::netns::{in_netns, sh};

fn value(path: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap().trim().to_owned()
}

fn interface(name: &str, key: &'static str) -> Sysctl {
    Sysctl::Interface { family: Family::Ipv4, interface: name.into(), key }
}

fn plane() -> Dataplane {
    let mut plane = full();
    plane.sysctls.extend([
        (interface("eth1.5", "arp_ignore"), "1".to_owned()),
        (interface("all", "rp_filter"), "0".to_owned()),
        (Sysctl::Net("netfilter/nf_conntrack_tcp_be_liberal"), "1".to_owned()),
    ]);
    plane
}

#[test]
fn sysctls_are_written_where_they_differ_in_this_namespace_only() {
    let outside = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").unwrap();
    in_netns(|| async {
        sh("ip link add eth1.5 type veth peer name r1");
        fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let mut bed = Bed::new();
        assert_eq!(bed.apply(&plane()).await.writes.sysctls, 3);
        assert_eq!(value("ipv4/conf/eth1.5/arp_ignore"), "1");
        assert_eq!(value("ipv4/ip_forward"), "1");
        assert_eq!(value("netfilter/nf_conntrack_tcp_be_liberal"), "1");
        assert_eq!(bed.apply(&plane()).await.writes.sysctls, 0);
        let record = fs::read_to_string(bed.state.path().join("sysctls.json")).unwrap();
        assert!(record.contains("ipv4/ip_forward") && !record.contains("rp_filter"), "{record}");
    });
    assert_eq!(fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").unwrap(), outside);
}

#[test]
fn a_sysctl_that_somebody_changed_is_put_right_at_once_and_told() {
    in_netns(|| async {
        sh("ip link add eth1.5 type veth peer name r1");
        let mut bed = Bed::new();
        bed.apply(&plane()).await;
        fs::write("/proc/sys/net/ipv4/conf/eth1.5/arp_ignore", "0").unwrap();
        let applied = bed.apply(&plane()).await;
        let told: Vec<String> = applied.repairs.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["sysctl net/ipv4/conf/eth1.5/arp_ignore was 0 instead of 1"]);
        assert_eq!((applied.tool_calls, value("ipv4/conf/eth1.5/arp_ignore").as_str()), (0, "1"));
    });
}

#[test]
fn an_interface_that_is_away_is_no_error_and_is_set_when_it_is_back() {
    in_netns(|| async {
        let mut bed = Bed::new();
        bed.apply(&plane()).await;
        sh("ip link add eth1.5 type veth peer name r1");
        assert_eq!(bed.apply(&plane()).await.writes.sysctls, 1);
        assert_eq!(value("ipv4/conf/eth1.5/arp_ignore"), "1");
    });
}

#[test]
fn a_parameter_that_the_kernel_lacks_is_named() {
    in_netns(|| async {
        let mut plane = plane();
        plane.sysctls.insert(Sysctl::Net("netfilter/no_such_parameter"), "1".into());
        let error = Bed::new().try_apply(&plane).await.unwrap_err();
        let ApplyError::Sysctl(cause) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("net/netfilter/no_such_parameter"), "{cause}");
    });
}

#[test]
fn a_read_only_proc_is_an_error_only_where_the_value_is_wrong() {
    in_netns(|| async {
        let plane = plane();
        let mut bed = Bed::new();
        bed.apply(&plane).await;
        // This thread alone sees /proc/sys read-only.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        sh("mount --make-rprivate /; mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys");
        assert_eq!(bed.apply(&plane).await.writes.sysctls, 0);
        let mut other = plane.clone();
        other.sysctls.insert(interface("all", "rp_filter"), "2".into());
        let error = bed.try_apply(&other).await.unwrap_err();
        let ApplyError::Sysctl(cause) = &error else { panic!("{error:?}") };
        let text = cause.to_string();
        assert!(text.contains("net/ipv4/conf/all/rp_filter") && text.contains("read-only"), "{text}");
    });
}
