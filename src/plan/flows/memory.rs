use std::cell::LazyCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::identity::{self, Newcomer};
use super::service::{Look, ServiceMemory, Sight};
use super::targets::{Asked, FlowTarget, FlowTargets, Leads};
use super::{Flow, FlowEndpoint, FlowPolicy, Servers};
use crate::api::MappingMode;
use crate::model::{Changed, Dense, Endpoint, Few, ObjectKey, Objects, Protocol, ServiceType, changes, changes_by};

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
    /// It began less than the grace time ago.
    settling: bool,
    /// What the last look was at.
    seen: Arc<Objects>,
    targets: Arc<FlowTargets>,
    /// What is asked for, by Service.
    asking: HashMap<ObjectKey, Vec<Arc<Asked>>>,
    services: BTreeMap<ObjectKey, ServiceMemory>,
    asked: BTreeMap<Arc<Asked>, AskedMemory>,
    endpoints: BTreeMap<Endpoint, EndpointMemory>,
    /// Where the last look found another pod.
    pub(super) replaced: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    policy: FlowPolicy,
    revision: u64,
    due: Option<Instant>,
}

#[derive(Debug, Default, Clone)]
struct AskedMemory {
    service_port: Option<u16>,
    /// Every server it has led to, as long as the Service's memory knows the address.
    sockets: Few<SocketAddr>,
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
            settling: false,
            seen: Arc::default(),
            targets: Arc::default(),
            asking: HashMap::new(),
            services: BTreeMap::new(),
            asked: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            replaced: BTreeMap::new(),
            policy: FlowPolicy::default(),
            revision: 0,
            due: None,
        }
    }

    /// Looks at a complete snapshot, and at what its Mappings ask for. What is the same as at the last look, and waits for nothing, is not
    /// looked at again.
    pub fn look(&mut self, targets: &Arc<FlowTargets>, objects: &Arc<Objects>, now: Instant) {
        self.replaced.clear();
        let unchanged = self.began.is_some() && Arc::ptr_eq(&self.seen, objects);
        if unchanged && self.due.is_none_or(|due| now < due) {
            return;
        }
        let first = self.began.is_none();
        let began = *self.began.get_or_insert(now);
        let was_settling = std::mem::replace(&mut self.settling, now < began + self.grace);
        let newcomers = if first { BTreeMap::new() } else { identity::newcomers(&self.seen, objects) };
        let (targets_before, seen) = (Arc::clone(&self.targets), Arc::clone(&self.seen));
        let leads = changes_by(&targets_before.leads, &targets.leads, order_of_asked, Arc::ptr_eq);
        let endpoints = changes_by(&targets_before.endpoints, &targets.endpoints, Ord::cmp, FlowTarget::is_same);

        let mut concerned: HashSet<ObjectKey> = self.waiting(&newcomers);
        concerned.extend(changes(&seen.services, &objects.services).into_iter().map(|c| c.key.clone()));
        for Changed { key, before, now } in changes(&seen.slices, &objects.slices) {
            let named = before.into_iter().chain(now);
            concerned.extend(named.map(|slice| key.beside(Arc::clone(&slice.service))));
        }
        self.index(&leads, &mut concerned);
        concerned.retain(|service| self.asking.contains_key(service));
        let concerned = Concerned::from(concerned);

        self.look_at_services(&concerned, objects, &newcomers, now);
        let asked_before = self.look_at_asked(&leads, &concerned, targets);
        self.look_at_endpoints(&endpoints, &asked_before, first);
        self.add_newcomers(newcomers);
        // From then on nobody but the known servers.
        let all = was_settling && !self.settling;
        let led_elsewhere = |target: &FlowTarget| all || concerned.has(&target.asked.service);
        let led = targets.endpoints.iter().filter(|(_, target)| led_elsewhere(target)).map(|(endpoint, _)| endpoint);
        self.judge(targets, led.chain(endpoints.iter().map(|c| c.key)));
        self.services.densify(leads.len());
        self.asked.densify(leads.len());
        self.endpoints.densify(endpoints.len());
        self.policy.endpoints.densify(endpoints.len());
        let due = self.services.values().filter_map(|s| s.due(self.grace));
        self.due = due.chain(self.settling.then(|| began + self.grace)).min();
        self.seen = Arc::clone(objects);
        self.targets = Arc::clone(targets);
    }

    pub fn policy(&self) -> &FlowPolicy {
        &self.policy
    }

    /// Another number when a flow that might go on may not do so any more.
    pub fn revision(&self) -> u64 {
        self.revision
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

    /// Services of which something is missing, or at whose pods' addresses somebody new has come.
    fn waiting(&self, newcomers: &BTreeMap<IpAddr, BTreeSet<Newcomer>>) -> HashSet<ObjectKey> {
        let met = |service: &ServiceMemory| newcomers.keys().any(|address| service.pods.contains_key(address));
        let waiting = self.services.iter().filter(|(_, service)| service.due(self.grace).is_some() || met(service));
        waiting.map(|(key, _)| key.clone()).collect()
    }

    /// Knows what is asked of each Service; adds those of which something else is asked now, or that lead elsewhere.
    fn index(&mut self, leads: &[Changed<'_, Arc<Asked>, Arc<Leads>>], concerned: &mut HashSet<ObjectKey>) {
        for Changed { key: asked, before, now } in leads {
            concerned.insert(asked.service.clone());
            match (before, now) {
                (None, Some(_)) => self.asking.entry(asked.service.clone()).or_default().push(Arc::clone(asked)),
                (Some(_), None) => {
                    if let Some(all) = self.asking.get_mut(&asked.service) {
                        all.retain(|other| other != *asked);
                        if all.is_empty() {
                            self.asking.remove(&asked.service);
                            self.services.remove(&asked.service);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn look_at_services(
        &mut self,
        concerned: &Concerned,
        objects: &Objects,
        newcomers: &BTreeMap<IpAddr, BTreeSet<Newcomer>>,
        now: Instant,
    ) {
        let look = Look { now, grace: self.grace, newcomers };
        let held: LazyCell<BTreeSet<IpAddr>, _> =
            LazyCell::new(|| objects.services.values().flat_map(|s| &s.cluster_ips).copied().collect());
        for (key, sight) in &sights(concerned, objects) {
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

    /// What was asked for before, as far as it is another now, is kept for [`Self::look_at_endpoints`], which may find it asked for in
    /// other words.
    fn look_at_asked(
        &mut self,
        leads: &[Changed<'_, Arc<Asked>, Arc<Leads>>],
        concerned: &Concerned,
        targets: &FlowTargets,
    ) -> BTreeMap<Arc<Asked>, AskedMemory> {
        let gone = leads.iter().filter(|c| c.now.is_none()).map(|c| Arc::clone(c.key));
        let concerned = concerned.services().filter_map(|service| self.asking.get(service)).flatten().map(Arc::clone);
        let mut before = BTreeMap::new();
        for asked in gone.chain(concerned).collect::<BTreeSet<_>>() {
            let old = self.asked.remove(&asked);
            before.extend(old.clone().map(|old| (Arc::clone(&asked), old)));
            let Some(leads) = targets.leads.get(&asked) else { continue };
            let mut memory = old.unwrap_or_default();
            memory.service_port = leads.service_port.or(memory.service_port);
            memory.sockets.extend(leads.backends.known.iter().copied().chain(leads.vip(asked.mode)));
            memory.keep_known(self.services.get(&asked.service));
            self.asked.insert(asked, memory);
        }
        before
    }

    fn look_at_endpoints(
        &mut self,
        changed: &[Changed<'_, Endpoint, FlowTarget>],
        asked_before: &BTreeMap<Arc<Asked>, AskedMemory>,
        first: bool,
    ) {
        for Changed { key: endpoint, now, .. } in changed {
            let before = self.endpoints.remove(endpoint);
            let Some(FlowTarget { asked, .. }) = now else { continue };
            let strict = match before {
                None => !first,
                Some(old) if old.asked == *asked => old.strict,
                Some(old) => {
                    let was = asked_before.get(&old.asked).or_else(|| self.asked.get(&old.asked)).cloned();
                    match (was, self.asked.get_mut(asked)) {
                        // By name instead of by number, say: nothing was taken away.
                        (Some(was), Some(is)) if is_same_port((&old.asked, &was), (asked, is)) => {
                            is.sockets.extend(was.sockets.iter().copied());
                            is.keep_known(self.services.get(&asked.service));
                            old.strict
                        }
                        _ => true,
                    }
                }
            };
            self.endpoints.insert(**endpoint, EndpointMemory { asked: Arc::clone(asked), strict });
        }
    }

    fn add_newcomers(&mut self, newcomers: BTreeMap<IpAddr, BTreeSet<Newcomer>>) {
        if !self.settling {
            self.policy.named.clear();
            return;
        }
        self.revision += u64::from(!newcomers.is_empty());
        for (address, new) in newcomers {
            self.policy.named.entry(address).or_default().extend(new.into_iter().map(|n| n.service));
        }
    }

    /// Judges endpoints anew. What comes out the same stays the same value.
    fn judge<'a>(&mut self, targets: &FlowTargets, endpoints: impl Iterator<Item = &'a Endpoint>) {
        let nobody = Leads::default();
        let mut shared: BTreeMap<(&Arc<Asked>, bool), Arc<Servers>> = BTreeMap::new();
        let mut judged = Vec::new();
        for endpoint in endpoints {
            let known = self.policy.endpoints.get(endpoint);
            let Some(FlowTarget { sources, asked }) = targets.endpoints.get(endpoint) else {
                judged.extend(known.is_some().then_some((*endpoint, None)));
                continue;
            };
            let strict = self.endpoints.get(endpoint).is_none_or(|e| e.strict);
            let servers = shared.entry((asked, strict)).or_insert_with(|| {
                let leads = targets.leads.get(asked).map_or(&nobody, |leads| leads);
                Arc::new(self.servers(asked, leads, strict))
            });
            let new = FlowEndpoint { sources: Arc::clone(sources), servers: Arc::clone(servers) };
            if known != Some(&new) {
                judged.push((*endpoint, Some(new)));
            }
        }
        let narrower = |(endpoint, new): &(Endpoint, Option<FlowEndpoint>)| {
            let known = self.policy.endpoints.get(endpoint);
            known.is_some_and(|known| new.as_ref().is_none_or(|new| !new.allows_all_of(known)))
        };
        self.revision += u64::from(judged.iter().any(narrower));
        for (endpoint, new) in judged {
            match new {
                Some(new) => _ = self.policy.endpoints.insert(endpoint, new),
                None => _ = self.policy.endpoints.remove(&endpoint),
            }
        }
    }

    fn servers(&self, asked: &Asked, leads: &Leads, strict: bool) -> Servers {
        let (Some(service), Some(memory)) = (self.services.get(&asked.service), self.asked.get(asked)) else {
            return Servers::default();
        };
        match asked.protocol {
            Protocol::Tcp if strict => Servers { sockets: memory.sockets.clone(), ..Servers::default() },
            // A TCP connection to a pod that is unready or terminating is for the two ends to finish.
            Protocol::Tcp => {
                let mut addresses: Few<IpAddr> = service.pods.keys().copied().collect();
                if asked.mode == MappingMode::Service {
                    addresses.extend(service.vips());
                }
                let all_but = self.settling.then(|| asked.service.clone());
                Servers { sockets: Few::default(), addresses, all_but }
            }
            // UDP has no end of its own: it follows where its pod no longer serves.
            Protocol::Udp => {
                let mut sockets: Few<SocketAddr> =
                    leads.backends.serving.iter().chain(&leads.backends.chosen).copied().collect();
                let unfit = Self::unfit(service, asked, leads);
                sockets.extend(leads.vip(asked.mode));
                let addresses = if strict {
                    sockets.extend(memory.sockets.iter().filter(|socket| unfit.contains(&socket.ip())).copied());
                    Few::default()
                } else {
                    unfit
                };
                Servers { sockets, addresses, all_but: None }
            }
        }
    }

    /// Servers that the Service still has, and that nothing names for the port now: the Service and its slices, or some
    /// of these, do not fit each other. Pods that serve go on serving.
    fn unfit(service: &ServiceMemory, asked: &Asked, leads: &Leads) -> Few<IpAddr> {
        let named: Few<IpAddr> = leads.backends.known.iter().map(SocketAddr::ip).collect();
        let serving = service.pods.iter().filter(|(_, pod)| pod.serving).map(|(address, _)| *address);
        let mut unfit: Few<IpAddr> = serving.filter(|address| !named.contains(address)).collect();
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

/// What the objects say now of these Services.
fn sights(concerned: &Concerned, objects: &Objects) -> BTreeMap<ObjectKey, Sight> {
    let sight = |key: &ObjectKey| {
        let service = objects.services.get(key);
        let sight = Sight {
            exists: service.is_some_and(|s| s.kind != ServiceType::ExternalName),
            vip: service.and_then(|s| s.vip()),
            pods: BTreeMap::new(),
        };
        (key.clone(), sight)
    };
    let mut sights: BTreeMap<ObjectKey, Sight> = concerned.services().map(sight).collect();
    if sights.is_empty() {
        return sights;
    }
    for (key, slice) in &objects.slices {
        let service = key.beside(Arc::clone(&slice.service));
        if !concerned.has(&service) {
            continue;
        }
        let Some(sight) = sights.get_mut(&service) else { continue };
        for (address, port, uid, serves) in identity::listed(slice) {
            let (listing, serving) = sight.pods.entry(address).or_default();
            listing.insert((port, uid.clone()));
            *serving |= serves;
        }
    }
    sights
}

/// Services to look at: mostly one or two, for which thousands of objects are asked.
enum Concerned {
    Few(Vec<ObjectKey>),
    Many(HashSet<ObjectKey>),
}

impl Concerned {
    /// So many are found faster one by one than by a hash.
    const FEW: usize = 4;

    fn has(&self, service: &ObjectKey) -> bool {
        match self {
            Concerned::Few(few) => few.contains(service),
            Concerned::Many(many) => many.contains(service),
        }
    }

    fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        let (few, many) = match self {
            Concerned::Few(few) => (few.as_slice(), None),
            Concerned::Many(many) => (&[][..], Some(many)),
        };
        few.iter().chain(many.into_iter().flatten())
    }
}

impl From<HashSet<ObjectKey>> for Concerned {
    fn from(services: HashSet<ObjectKey>) -> Self {
        if services.len() > Self::FEW {
            return Concerned::Many(services);
        }
        Concerned::Few(services.into_iter().collect())
    }
}

/// Most are the very same value.
fn order_of_asked(a: &Arc<Asked>, b: &Arc<Asked>) -> Ordering {
    if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.cmp(b) }
}
