//! Which link stands on which, and names that are no text.

use smartnat::model::Host;
use smartnat::sources::host::read_host;

use crate::netns::{in_netns, sh};

fn stack(host: &Host, name: &str) -> (String, Option<String>, Vec<String>, Option<String>) {
    let stack = host.links[name].stack.clone();
    (stack.kind, stack.master, stack.lower.into_iter().collect(), stack.peer)
}

#[test]
fn links_tell_what_they_stand_on() {
    in_netns(|| async {
        sh("ip link add name br0 type bridge
            ip link add name va type veth peer name vb
            ip link set va master br0
            ip link add link vb name mv0 type macvlan mode bridge
            ip link add name vx0 type vxlan id 5 dev va dstport 4789
            ip link add name vx1 type vxlan id 6 remote 192.0.2.1 dstport 4790");
        let host = read_host().await.unwrap();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(stack(&host, "br0"), ("bridge".into(), None, vec![], None));
        assert_eq!(stack(&host, "va"), ("veth".into(), some("br0"), vec![], some("vb")));
        assert_eq!(stack(&host, "vb"), ("veth".into(), None, vec![], some("va")));
        assert_eq!(stack(&host, "mv0"), ("macvlan".into(), None, vec!["vb".into()], None));
        assert_eq!(stack(&host, "vx0"), ("vxlan".into(), None, vec!["va".into()], None));
        assert_eq!(stack(&host, "vx1"), ("vxlan".into(), None, vec![], None));
    });
}

#[test]
fn the_other_end_of_a_wire_in_another_namespace_is_not_taken_for_a_link_here() {
    in_netns(|| async {
        // Both ends get the same index, and the index of the far end is that of a link here, too.
        sh("ip link add name br0 index 77 type bridge
            unshare -n sleep 60 &
            until [ \"$(readlink /proc/$!/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do :; done
            ip link add nic0 index 90 type veth peer name far index 77 netns $!
            ip link add link nic0 name mv0 type macvlan
            kill $!");
        let host = read_host().await.unwrap();
        assert_eq!(stack(&host, "nic0"), ("veth".into(), None, vec![], None));
        assert_eq!(stack(&host, "mv0").2, ["nic0"]);
    });
}

#[test]
fn names_that_are_no_text_hide_nothing_and_stay_apart() {
    in_netns(|| async {
        sh("ip link add name eth1 type bridge
            ip link set eth1 alias $(printf 'a\\377b')
            ip link add name $(printf 'eth\\377') type bridge
            ip link add name $(printf 'eth\\376') type bridge
            ip link add name 'eth\\xff' type bridge
            ip address add 203.0.113.10/24 dev eth1
            ip address add 203.0.113.11/32 dev eth1 label $(printf 'eth1:\\377')
            ip address add 198.51.100.10/24 dev $(printf 'eth\\377')
            ip rule add iif $(printf 'eth\\377') lookup 7 pref 77");
        let host = read_host().await.unwrap();
        let names: Vec<_> = host.links.keys().map(String::as_str).collect();
        assert_eq!(names, ["eth1", "eth\\\\xff", "eth\\xfe", "eth\\xff", "lo"]);
        assert_eq!(host.links["eth1"].addresses.len(), 2);
        assert_eq!(host.links["eth\\xff"].addresses.len(), 1);
    });
}
