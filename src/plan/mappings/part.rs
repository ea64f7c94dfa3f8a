//! What one Mapping adds to the plan.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Endpoint, Mapping, ObjectKey};
use crate::plan::barred::Barred;
use crate::plan::compile::{self, LocalMapping, Serving};
use crate::plan::flows::{Asked, FlowTarget, Leads};
use crate::plan::ground::Ground;
use crate::plan::outcome::{self, MappingOutcome};
use crate::plan::resolve::{ServiceNow, asked, judged, resolve};
use crate::plan::ways::Ways;
use crate::plan::{Refusal, ValidatedMapping, forged};

/// Everything that concerns one Mapping, besides its outcome.
#[derive(Default)]
pub struct Part {
    pub targets: Vec<(Endpoint, FlowTarget)>,
    pub leads: Vec<(Arc<Asked>, Arc<Leads>)>,
    pub serving: Serving,
    /// Single sources of which it matters whether they are addresses of the cluster.
    pub watched: Vec<IpAddr>,
}

/// What a Mapping is judged by besides itself.
pub struct Judge<'a> {
    pub ground: &'a Ground,
    pub ways: &'a Ways<'a>,
    pub barred: &'a Barred<'a>,
    /// Whether an address is a pod's or a Service's.
    pub in_cluster: &'a dyn Fn(IpAddr) -> bool,
}

impl Judge<'_> {
    /// `conflict`: an older Mapping holds what it claims.
    pub fn judge(
        &self,
        key: &ObjectKey,
        mapping: &Mapping,
        conflict: Option<&Refusal>,
        behind: &ServiceNow<'_>,
    ) -> (Part, MappingOutcome) {
        let mut part = Part::default();
        let held = |valid| conflict.map_or(Ok(valid), |refusal| Err(refusal.clone()));
        let outcome = match judged(mapping).and_then(held) {
            Ok(valid) => self.valid(key, mapping, valid, behind, &mut part),
            Err(refusal) => Err(refusal),
        };
        let outcome = outcome.unwrap_or_else(|refusal| {
            let service_vip = behind.service.filter(|_| refusal.reason.is_of_this_box()).and_then(|s| s.vip());
            MappingOutcome { service_vip, ..outcome::refused(refusal) }
        });
        (part, MappingOutcome { generation: mapping.generation, uid: mapping.uid.clone(), ..outcome })
    }

    fn valid(
        &self,
        key: &ObjectKey,
        mapping: &Mapping,
        valid: ValidatedMapping,
        behind: &ServiceNow<'_>,
        part: &mut Part,
    ) -> Result<MappingOutcome, Refusal> {
        let Ground { config, topology, .. } = self.ground;
        if valid.ports.len() <= config.max_ports_per_mapping {
            let sources = Arc::new(valid.sources.clone());
            part.leads = asked(&valid, behind);
            let target = |(endpoint, asked): (Endpoint, &Arc<Asked>)| {
                (endpoint, FlowTarget { sources: Arc::clone(&sources), asked: Arc::clone(asked) })
            };
            // Address by address, the ports of each in their order.
            let asked = part.leads.iter().map(|(asked, _)| asked).cycle();
            part.targets = valid.endpoints().zip(asked).map(target).collect();
        }
        let mut resolved = resolve(config, key, valid, behind)?;
        if !resolved.addresses.iter().any(|address| topology.serving(*address).is_some()) {
            return Ok(outcome::served_elsewhere(&resolved, topology));
        }
        self.barred.take_out(&mut resolved);
        let local = LocalMapping::of(&resolved, topology);
        if !mapping.held {
            return Ok(outcome::pending(&local));
        }
        part.serving = compile::serving(config, topology, &self.ground.host, self.ways, &local);
        let single = |net: &&ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
        part.watched = resolved.named_sources.iter().filter(single).map(|net| net.addr()).collect();
        let note = forged::note(&local, topology, self.in_cluster);
        let mut outcome = outcome::served_here(&local, topology, note);
        if outcome.programmed.ok
            && let Some(found) = self.barred.outside(&resolved)
        {
            outcome.programmed = outcome::endpoints_outside(found);
        }
        Ok(outcome)
    }
}
