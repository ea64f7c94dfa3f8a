//! Planning again and again: what is the same as in the world before is not planned anew.
//!
//! One Mapping changes among ten thousand, and its endpoints more often still. A [`Planner`] keeps what each Mapping adds to the plan, plans
//! those anew that a change concerns, and puts the sums together. Memory changes nothing about the outcome: equal worlds give equal plans,
//! whatever came before (tests/plan).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Plan;
use super::ground::Ground;
use super::mappings::Mappings;
use crate::model::{BorderConfig, Host, InterfaceName, World};

/// Plans one world after the other under one configuration.
pub struct Planner {
    config: BorderConfig,
    ground: Option<Ground>,
    mappings: Mappings,
}

impl Planner {
    pub fn new(config: BorderConfig) -> Self {
        Planner { config, ground: None, mappings: Mappings::default() }
    }

    /// The whole plan. Without objects it is that of the host alone: the border, marks, routes, sysctls.
    pub fn plan(&mut self, world: &World) -> Plan {
        let ground = self.stand_on(&world.host, &world.slots);
        let topology = &ground.topology;
        let mut plan = Plan {
            dataplane: ground.base.clone(),
            flows: Arc::default(),
            mappings: Arc::default(),
            interfaces: topology.outcomes.clone(),
            slots: topology.slots.clone(),
        };
        if let Some(objects) = &world.objects {
            self.mappings.take(objects, &ground);
            self.mappings.add_to(&ground, &mut plan);
        }
        self.ground = Some(ground);
        plan
    }

    /// The host as it is now. Where Mappings are served otherwise on it than on the one before, what is known of them is forgotten.
    fn stand_on(&mut self, host: &Host, slots: &BTreeMap<InterfaceName, u16>) -> Ground {
        match self.ground.take() {
            Some(known) if known.is_of(host, slots) => known,
            known => {
                let ground = Ground::of(&self.config, host, slots);
                if !known.is_some_and(|known| known.serves_like(&ground)) {
                    self.mappings = Mappings::default();
                }
                ground
            }
        }
    }
}
