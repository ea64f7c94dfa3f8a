use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::identity::{self, Newcomer};
use super::service::{Look, ServiceMemory, Sight};
use super::targets::{Asked, FlowTarget, FlowTargets, Leads};
use super::{Flow, FlowEndpoint, FlowPolicy, Servers, Strangers};
use crate::api::MappingMode;
use crate::model::{Endpoint, ObjectKey, Objects, Protocol, ServiceType};

/// How long a pod's address, or its Service, may be missing before its TCP connections are cut.
pub const GRACE: Duration = Duration::from_secs(30);

/// What was there a moment ago. It holds the pods of Services behind Mappings, and those that went less than the grace time ago.
///
/// It has no clock: every look brings its time, and [`FlowMemory::due`] says when the next one is due without any change.
#[derive(Debug)]
pub struct FlowMemory {
    grace: Duration,
    /// The first complete snapshot. Before it nothing is known, so what it does not name has the grace time from then on.
    began: Option<Instant>,
    seen: Arc<Objects>,
    services: BTreeMap<ObjectKey, ServiceMemory>,
    asked: BTreeMap<Arc<Asked>, AskedMemory>,
    endpoints: BTreeMap<Endpoint, EndpointMemory>,
    /// Addresses that Services have begun to name since the first snapshot; kept for the grace time.
    since_start: Arc<BTreeMap<IpAddr, BTreeSet<ObjectKey>>>,
    /// Where the last look found another pod.
    replaced: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    policy: FlowPolicy,
    due: Option<Instant>,
}

#[derive(Debug, Default, Clone)]
struct AskedMemory {
    service_port: Option<u16>,
    /// Every server it has led to, as long as the Service's memory knows the address.
    sockets: BTreeSet<SocketAddr>,
}

#[derive(Debug)]
struct EndpointMemory {
    asked: Arc<Asked>,
    /// Only servers that it is known to have led to: it came, or was edited, after the first snapshot.
    strict: bool,
}

impl FlowMemory {
    pub fn new(grace: Duration) -> Self {
        FlowMemory {
            grace,
            began: None,
            seen: Arc::default(),
            services: BTreeMap::new(),
            asked: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            since_start: Arc::default(),
            replaced: BTreeMap::new(),
            policy: FlowPolicy::default(),
            due: None,
        }
    }

    /// Looks at a complete snapshot, and at what its Mappings ask for.
    pub fn look(&mut self, targets: &FlowTargets, objects: &Arc<Objects>, now: Instant) {
        self.replaced.clear();
        let unchanged = self.began.is_some() && Arc::ptr_eq(&self.seen, objects);
        if unchanged && self.due.is_none_or(|due| now < due) {
            return;
        }
        let first = self.began.is_none();
        let began = *self.began.get_or_insert(now);
        let settling = now < began + self.grace;
        let newcomers = if first { BTreeMap::new() } else { identity::newcomers(&self.seen, objects) };
        self.look_at_services(targets, objects, &newcomers, now);
        let asked_before = self.look_at_asked(targets);
        self.look_at_endpoints(targets, &asked_before, first);
        self.add_newcomers(newcomers, settling);
        self.policy = self.policy_of(targets, settling);
        let due = self.services.values().filter_map(|s| s.due(self.grace));
        self.due = due.chain(settling.then(|| began + self.grace)).min();
        self.seen = Arc::clone(objects);
    }

    pub fn policy(&self) -> &FlowPolicy {
        &self.policy
    }

    /// When a look is due although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the last look found another pod at any address.
    pub fn has_replaced(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// Whether the last look found another pod at the flow's server. Flows that begin afterwards are that pod's own.
    pub fn is_replaced(&self, flow: &Flow) -> bool {
        let replaced = self.endpoints.get(&flow.endpoint()).and_then(|e| self.replaced.get(&e.asked.service));
        replaced.is_some_and(|addresses| addresses.contains(&flow.server.ip()))
    }

    /// How many pods it holds.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.services.values().map(|s| s.pods.len()).sum()
    }

    fn look_at_services(
        &mut self,
        targets: &FlowTargets,
        objects: &Objects,
        newcomers: &BTreeMap<IpAddr, BTreeSet<Newcomer>>,
        now: Instant,
    ) {
        let sights = sights(targets, objects);
        self.services.retain(|key, _| sights.contains_key(key));
        let look = Look { now, grace: self.grace, newcomers };
        let held: LazyCell<BTreeSet<IpAddr>, _> =
            LazyCell::new(|| objects.services.values().flat_map(|s| &s.cluster_ips).copied().collect());
        for (key, sight) in &sights {
            let service = self.services.entry(key.clone()).or_default();
            let replaced = service.look(key, sight, &look);
            if !replaced.is_empty() {
                self.replaced.insert(key.clone(), replaced.into_iter().collect());
            }
            if service.has_missing_vips() {
                service.give_up_vips(|vip| held.contains(&vip));
            }
        }
    }

    /// What was asked for before is kept for [`Self::look_at_endpoints`], which may find it asked for in other words.
    fn look_at_asked(&mut self, targets: &FlowTargets) -> BTreeMap<Arc<Asked>, AskedMemory> {
        let before = std::mem::take(&mut self.asked);
        for (asked, leads) in &targets.leads {
            let mut memory = before.get(asked).cloned().unwrap_or_default();
            memory.service_port = leads.service_port.or(memory.service_port);
            memory.sockets.extend(leads.backends.known.iter().copied().chain(leads.vip(asked.mode)));
            memory.keep_known(self.services.get(&asked.service));
            self.asked.insert(Arc::clone(asked), memory);
        }
        before
    }

    fn look_at_endpoints(
        &mut self,
        targets: &FlowTargets,
        asked_before: &BTreeMap<Arc<Asked>, AskedMemory>,
        first: bool,
    ) {
        let before = std::mem::take(&mut self.endpoints);
        for (endpoint, FlowTarget { asked, .. }) in &targets.endpoints {
            let strict = match before.get(endpoint) {
                None => !first,
                Some(old) if old.asked == *asked => old.strict,
                Some(old) => match (asked_before.get(&old.asked), self.asked.get_mut(asked)) {
                    // By name instead of by number, say: nothing was taken away.
                    (Some(was), Some(is)) if is_same_port((&old.asked, was), (asked, is)) => {
                        is.sockets.extend(&was.sockets);
                        is.keep_known(self.services.get(&asked.service));
                        old.strict
                    }
                    _ => true,
                },
            };
            self.endpoints.insert(*endpoint, EndpointMemory { asked: Arc::clone(asked), strict });
        }
    }

    fn add_newcomers(&mut self, newcomers: BTreeMap<IpAddr, BTreeSet<Newcomer>>, settling: bool) {
        if !settling {
            self.since_start = Arc::default();
        } else if !newcomers.is_empty() {
            let all = Arc::make_mut(&mut self.since_start);
            for (address, new) in newcomers {
                all.entry(address).or_default().extend(new.into_iter().map(|n| n.service));
            }
        }
    }

    fn policy_of(&self, targets: &FlowTargets, settling: bool) -> FlowPolicy {
        let nobody = Leads::default();
        let mut shared: BTreeMap<(&Arc<Asked>, bool), Arc<Servers>> = BTreeMap::new();
        let mut endpoints = BTreeMap::new();
        for (endpoint, FlowTarget { sources, asked }) in &targets.endpoints {
            let strict = self.endpoints.get(endpoint).is_none_or(|e| e.strict);
            let servers = shared.entry((asked, strict)).or_insert_with(|| {
                let leads = targets.leads.get(asked).map_or(&nobody, |leads| leads);
                Arc::new(self.servers(asked, leads, strict, settling))
            });
            let sources = Arc::clone(sources);
            endpoints.insert(*endpoint, FlowEndpoint { sources, servers: Arc::clone(servers) });
        }
        FlowPolicy { endpoints }
    }

    fn servers(&self, asked: &Asked, leads: &Leads, strict: bool, settling: bool) -> Servers {
        let (Some(service), Some(memory)) = (self.services.get(&asked.service), self.asked.get(asked)) else {
            return Servers::default();
        };
        match asked.protocol {
            Protocol::Tcp if strict => Servers { sockets: memory.sockets.clone(), ..Servers::default() },
            // A TCP connection to a pod that is unready or terminating is for the two ends to finish.
            Protocol::Tcp => {
                let mut addresses: BTreeSet<IpAddr> = service.pods.keys().copied().collect();
                if asked.mode == MappingMode::Service {
                    addresses.extend(service.vips());
                }
                let named = || Arc::clone(&self.since_start);
                let all_but = settling.then(|| Strangers { to: asked.service.clone(), named: named() });
                Servers { sockets: BTreeSet::new(), addresses, all_but }
            }
            // UDP has no end of its own: it follows where its pod no longer serves.
            Protocol::Udp => {
                let mut sockets: BTreeSet<SocketAddr> =
                    leads.backends.serving.union(&leads.backends.chosen).copied().collect();
                let unfit = Self::unfit(service, asked, leads);
                sockets.extend(leads.vip(asked.mode));
                let addresses = if strict {
                    sockets.extend(memory.sockets.iter().filter(|socket| unfit.contains(&socket.ip())));
                    BTreeSet::new()
                } else {
                    unfit
                };
                Servers { sockets, addresses, all_but: None }
            }
        }
    }

    /// Servers that the Service still has, and that nothing names for the port now: the Service and its slices, or some
    /// of these, do not fit each other. Pods that serve go on serving.
    fn unfit(service: &ServiceMemory, asked: &Asked, leads: &Leads) -> BTreeSet<IpAddr> {
        let named: BTreeSet<IpAddr> = leads.backends.known.iter().map(SocketAddr::ip).collect();
        let serving = service.pods.iter().filter(|(_, pod)| pod.serving).map(|(address, _)| *address);
        let mut unfit: BTreeSet<IpAddr> = serving.filter(|address| !named.contains(address)).collect();
        if asked.mode == MappingMode::Service && leads.vip(asked.mode).is_none() {
            unfit.extend(service.vips());
        }
        unfit
    }
}

impl AskedMemory {
    fn keep_known(&mut self, service: Option<&ServiceMemory>) {
        self.sockets.retain(|socket| service.is_some_and(|s| s.knows(socket.ip())));
    }
}

/// Whether both mean one port of one Service.
fn is_same_port((old, was): (&Asked, &AskedMemory), (new, is): (&Asked, &AskedMemory)) -> bool {
    let place = |a: &Asked| (a.service.clone(), a.mode, a.protocol);
    place(old) == place(new) && was.service_port.is_some() && was.service_port == is.service_port
}

/// What the objects say now of the Services that Mappings ask for.
fn sights(targets: &FlowTargets, objects: &Objects) -> BTreeMap<ObjectKey, Sight> {
    let mut sights: BTreeMap<ObjectKey, Sight> = BTreeMap::new();
    for asked in targets.leads.keys() {
        sights.entry(asked.service.clone()).or_insert_with(|| {
            let service = objects.services.get(&asked.service);
            Sight {
                exists: service.is_some_and(|s| s.kind != ServiceType::ExternalName),
                vip: service.and_then(|s| s.vip()),
                pods: BTreeMap::new(),
            }
        });
    }
    for (key, slice) in &objects.slices {
        let Some(sight) = sights.get_mut(&key.beside(Arc::clone(&slice.service))) else { continue };
        for (address, port, uid, serves) in identity::listed(slice) {
            let (listing, serving) = sight.pods.entry(address).or_default();
            listing.insert((port, uid.clone()));
            *serving |= serves;
        }
    }
    sights
}
