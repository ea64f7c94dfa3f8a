//! Properties of whole plans: worlds in, dataplanes out, no kernel.

mod above;
mod again;
mod gateways;
mod names;
mod packets;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use smartnat::daemon::Snapshot;
use smartnat::model::{Family, Host, MainRoute, Objects, Protocol, World};
use smartnat::plan::{ProgrammedReason, RefusalReason, plan};
use smartnat::ruleset::{Builtin, SetMember, Sysctl, Table, depth, ownership};
use world::{Spec, config, key, mapping_mut, reference, world};

#[test]
fn the_reference_mapping_is_served_on_both_interfaces() {
    let plan = plan(&config(), &reference());
    let web = &plan.mappings[&key("web")];
    assert_eq!(web.refused, None);
    assert_eq!(web.programmed.reason, ProgrammedReason::Programmed);
    assert_eq!(web.endpoints, 6, "two ports on three addresses");
    let addresses: Vec<String> = web.configured.keys().map(IpAddr::to_string).collect();
    assert_eq!(addresses, ["198.51.100.10", "203.0.113.10", "203.0.113.11"]);
    assert_eq!(plan.dataplane.sets[ownership::SET_ENDPOINTS].members.len(), 6);
    assert_eq!((plan.slots["eth1"], plan.slots["eth2"]), (1, 2));
}

#[test]
fn a_changed_mapping_changes_its_own_chains_and_the_way_to_them() {
    let many: Vec<Spec> = (0..1000).map(|i| Spec::direct(&format!("m{i}"), [i], &[(Protocol::Tcp, 80)])).collect();
    let before = plan(&config(), &world(&many));
    let mut changed = many.clone();
    changed[500].ports = vec![(Protocol::Tcp, 81)];
    let after = plan(&config(), &world(&changed));
    let chains = |p: &smartnat::plan::Plan| p.dataplane.tables[&(Family::Ipv4, Table::Nat)].chains.clone();
    let (before, after) = (chains(&before), chains(&after));
    let different = after.iter().filter(|(name, rules)| before.get(*name) != Some(rules)).count();
    assert!((1..=10).contains(&different), "{different} chains of {} differ", after.len());
}

#[test]
fn a_removed_pod_changes_no_dispatch() {
    let one = [Spec::direct("a", [1, 2], &[(Protocol::Tcp, 80), (Protocol::Udp, 53)]).pods(9)];
    let less = [Spec::direct("a", [1, 2], &[(Protocol::Tcp, 80), (Protocol::Udp, 53)]).pods(8)];
    let nat = |specs| plan(&config(), &world(specs)).dataplane.tables[&(Family::Ipv4, Table::Nat)].clone();
    let (before, after) = (nat(&one), nat(&less));
    let own = |name: &&Arc<str>| name.contains("-M-") || name.contains("-T-") || &***name == ownership::DNAT;
    for name in before.chains.keys().filter(own) {
        assert_eq!(before.chains[name], after.chains[name], "{name}");
    }
    assert_ne!(before, after);
}

#[test]
fn forwarding_is_ours_on_external_interfaces_and_on_those_that_lead_to_pods() {
    let forwards = |world: &World| -> Vec<String> {
        let plan = plan(&config(), world);
        let switches = plan.dataplane.sysctls.keys().filter(|s| matches!(s, Sysctl::Forwarding(_)));
        switches.map(Sysctl::path).collect()
    };
    let paths =
        |names: &[&str]| -> Vec<String> { names.iter().map(|name| format!("ipv4/conf/{name}/forwarding")).collect() };
    let mut world = reference();
    assert_eq!(forwards(&world), paths(&["eth0", "eth1", "eth2"]));
    // One pod is reached by two interfaces of its own; others lead elsewhere, or are farther.
    for name in ["net1", "net2", "side"] {
        world.host.links.insert(name.to_owned(), world.host.links["eth0"].clone());
    }
    let route = |to: &str, dev: &str, metric| MainRoute {
        destination: to.parse().unwrap(),
        interface: Some(dev.to_owned()),
        gateway: None,
        metric,
    };
    world.host.main_routes.extend([
        route("10.244.1.2/32", "net1", 5),
        route("10.244.1.2/32", "net2", 5),
        route("10.244.1.2/32", "side", 6),
        route("10.0.0.0/8", "side", 0),
        route("10.245.0.0/16", "side", 0),
    ]);
    assert_eq!(forwards(&world), paths(&["eth0", "eth1", "eth2", "net1", "net2"]));
    let before_objects = World { objects: None, ..world };
    assert_eq!(forwards(&before_objects), paths(&["eth1", "eth2"]));
}

#[test]
fn the_longest_name_fits_into_a_comment() {
    let name = "n".repeat(253);
    let plan = plan(&config(), &world(&[Spec::direct(&name, [1], &[(Protocol::Udp, 65_535)])]));
    let nat = &plan.dataplane.tables[&(Family::Ipv4, Table::Nat)];
    let comments: Vec<&str> = nat
        .chains
        .values()
        .flat_map(|chain| chain.iter())
        .flat_map(|rule| &rule.matches)
        .filter_map(|m| match m {
            smartnat::ruleset::Match::Comment(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert!(!comments.is_empty());
    for comment in comments {
        assert!(comment.len() <= 255 && comment.ends_with(":udp/65535"), "{comment}");
    }
}

#[test]
fn a_gateway_on_the_boxs_own_address_takes_that_interface_alone_out() {
    let mut config = config();
    config.gateway_offsets = 10.into();
    let plan = plan(&config, &reference());
    let problems: Vec<(&str, bool)> = plan.interfaces.iter().map(|i| (i.name.as_str(), i.problem.is_some())).collect();
    // .10 is the box itself on both external subnets.
    assert_eq!(problems, [("eth0", false), ("eth1", true), ("eth2", true), ("lo", false)]);
    assert_eq!(plan.mappings[&key("web")].programmed.reason, ProgrammedReason::NoAddressHere);
    assert!(plan.mappings[&key("web")].programmed.message.contains("eth1"));
}

#[test]
fn a_cluster_ip_behind_the_default_route_is_not_served() {
    let mut world = reference();
    mapping_mut(&mut world, "web").spec.mode = Some("service".to_owned());
    let routed = plan(&config(), &world);
    assert_eq!(routed.mappings[&key("web")].programmed.reason, ProgrammedReason::Programmed);
    world.host.main_routes.retain(|r| r.destination.to_string() != "10.96.0.0/16");
    let lost = plan(&config(), &world);
    assert_eq!(lost.mappings[&key("web")].programmed.reason, ProgrammedReason::ServiceAddressNotLocal);
}

#[test]
fn of_two_claimants_the_older_one_is_served() {
    let mut specs =
        [Spec::direct("young", [1], &[(Protocol::Tcp, 80)]), Spec::direct("old", [1], &[(Protocol::Tcp, 80)])];
    specs[0].created = Some(2);
    specs[1].created = Some(1);
    let plan = plan(&config(), &world(&specs));
    assert_eq!(plan.mappings[&key("old")].refused, None);
    assert_eq!(plan.mappings[&key("young")].refused.as_ref().unwrap().reason, RefusalReason::Conflict);
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let ports = prop::collection::btree_set((any::<bool>(), 1u16..400), 1..30);
    let spec = (
        prop::collection::btree_set(0u32..3000, 1..40),
        ports,
        prop_oneof![4 => 0usize..6, 1 => 6usize..300],
        any::<bool>(),
        any::<bool>(),
    );
    prop::collection::vec(spec, 1..10).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(i, (addresses, ports, pods, affinity, filtered))| {
                let ports: Vec<(Protocol, u16)> =
                    ports.into_iter().map(|(udp, p)| (if udp { Protocol::Udp } else { Protocol::Tcp }, p)).collect();
                let mut spec = Spec::direct(&format!("m{i}"), addresses, &ports).pods(pods);
                spec.affinity = affinity.then_some(10_800);
                spec.filtered = filtered;
                spec
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_way_is_longer_than_the_kernel_allows_and_every_chain_and_set_exists(specs in specs(), snat: bool, masquerade: bool) {
        let mut config = config();
        config.snat = snat;
        config.masquerade = masquerade;
        let plan = plan(&config, &world(&specs));
        let mut used_sets = BTreeSet::new();
        for table in plan.dataplane.tables.values() {
            for hook in [Builtin::Prerouting, Builtin::Input, Builtin::Forward, Builtin::Output, Builtin::Postrouting] {
                let depth = depth(table, hook);
                prop_assert!(depth <= ownership::MAX_CHAIN_DEPTH, "{depth} chains");
            }
            let mut led_to = BTreeSet::new();
            let chained = table.chains.values().flat_map(|chain| chain.iter());
            for rule in chained.chain(table.hooks.values()).chain(table.passes.values()) {
                if let Some(chain) = rule.target.chain() {
                    prop_assert!(table.chains.contains_key(chain), "{chain} is missing");
                    led_to.insert(chain);
                }
                for m in &rule.matches {
                    if let smartnat::ruleset::Match::Set { name, .. } = m {
                        used_sets.insert(name.clone());
                    }
                }
            }
            for name in table.chains.keys() {
                prop_assert!(led_to.contains(&**name), "nothing leads to {name}");
                prop_assert!(ownership::is_our_chain(name) && name.len() <= ownership::MAX_CHAIN_NAME);
            }
        }
        for name in used_sets {
            prop_assert!(plan.dataplane.sets.contains_key(name.as_str()), "set {name} is missing");
        }
        for (name, set) in &plan.dataplane.sets {
            prop_assert!(ownership::is_our_set(name) && name.len() <= ownership::MAX_SET_NAME);
            for member in set.members.iter() {
                if let SetMember::Set(listed) = member {
                    prop_assert!(plan.dataplane.sets.contains_key(listed.as_str()));
                }
            }
        }
    }
}

/// What a source may deliver on the way: a host without some interfaces, objects without some Mappings.
#[derive(Debug, Clone)]
enum Step {
    HostWithout(Vec<bool>),
    ObjectsWithout(Vec<bool>),
}

fn without<K: Ord + Clone, V: Clone>(all: &BTreeMap<K, V>, gone: &[bool]) -> BTreeMap<K, V> {
    all.iter()
        .enumerate()
        .filter(|(i, _)| !gone.get(*i).unwrap_or(&false))
        .map(|(_, (k, v))| (k.clone(), v.clone()))
        .collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gone = || prop::collection::vec(any::<bool>(), 0..5);
    prop::collection::vec(prop_oneof![gone().prop_map(Step::HostWithout), gone().prop_map(Step::ObjectsWithout)], 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_depends_on_where_the_world_is_and_not_on_how_it_came_there(steps in steps(), repeat: bool, host_last: bool) {
        let mut end = world(&[
            Spec::direct("a", [1, 2], &[(Protocol::Tcp, 80)]),
            Spec::direct("b", [2], &[(Protocol::Tcp, 80), (Protocol::Udp, 53)]),
            Spec::direct("c", [3], &[(Protocol::Tcp, 443)]).pods(7),
        ]);
        let other = end.host.links["eth2"].clone();
        end.host.links.insert("eth10".to_owned(), smartnat::model::Link { index: 9, addresses: vec![], ..other });
        let objects = end.objects.clone().unwrap();
        let direct = plan(&config(), &end);

        let mut snapshot = Snapshot::new(World { host: Host::default(), objects: None, slots: BTreeMap::new() });
        let pass = |snapshot: &mut Snapshot| {
            let plan = plan(&config(), snapshot.world());
            snapshot.keep_slots(&plan);
            plan
        };
        for step in &steps {
            for _ in 0..=usize::from(repeat) {
                match step {
                    Step::HostWithout(gone) => {
                        let host = Host { links: without(&end.host.links, gone), ..end.host.clone() };
                        snapshot.take_host(host, Instant::now());
                    }
                    Step::ObjectsWithout(gone) => {
                        let part = Objects { mappings: without(&objects.mappings, gone), services: without(&objects.services, gone), ..Objects::clone(&objects) };
                        snapshot.take_objects(part.into());
                    }
                }
                pass(&mut snapshot);
            }
        }
        if host_last {
            snapshot.take_objects(objects.clone());
            pass(&mut snapshot);
            snapshot.take_host(end.host.clone(), Instant::now());
        } else {
            snapshot.take_host(end.host.clone(), Instant::now());
            pass(&mut snapshot);
            snapshot.take_objects(objects.clone());
        }
        prop_assert_eq!(pass(&mut snapshot), direct);
    }
}
