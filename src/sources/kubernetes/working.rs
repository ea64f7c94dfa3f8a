use std::collections::BTreeMap;
use std::sync::Arc;

use super::mapping::SeenMapping;
use super::outbox::Outbox;
use crate::model::{EndpointSlice, Mapping, ObjectKey, Objects, Service};

/// What a watch says of one kind.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// A complete list: what is not in it is gone.
    All(BTreeMap<ObjectKey, T>),
    Set(ObjectKey, T),
    Gone(ObjectKey),
}

/// The objects as far as they are known. Each `take_` says whether a plan could come out differently.
pub(super) struct Working {
    instance: String,
    /// Copied only when something changes while a delivered state is still in use.
    objects: Arc<Objects>,
    listed: Listed,
}

#[derive(Default)]
struct Listed {
    mappings: bool,
    services: bool,
    slices: bool,
}

impl Working {
    pub fn new(instance: String) -> Self {
        Working { instance, objects: Arc::default(), listed: Listed::default() }
    }

    /// Everything, once each kind has been listed.
    pub fn complete(&self) -> Option<Arc<Objects>> {
        let Listed { mappings, services, slices } = self.listed;
        (mappings && services && slices).then(|| Arc::clone(&self.objects))
    }

    pub fn take_mappings(&mut self, change: Change<SeenMapping>, records: &mut Outbox) -> bool {
        match change {
            Change::All(all) => {
                let mut mappings = BTreeMap::new();
                let mut seen = BTreeMap::new();
                for (key, object) in all {
                    seen.insert(key.clone(), object.record.clone());
                    mappings.insert(key.clone(), self.judged(&key, object));
                }
                records.put_all(seen);
                let first = !std::mem::replace(&mut self.listed.mappings, true);
                let changed = self.objects.mappings != mappings;
                if changed {
                    Arc::make_mut(&mut self.objects).mappings = mappings;
                }
                changed || first
            }
            Change::Set(key, object) => {
                records.put(key.clone(), Some(object.record.clone()));
                let mapping = self.judged(&key, object);
                let changed = self.objects.mappings.get(&key) != Some(&mapping);
                if changed {
                    Arc::make_mut(&mut self.objects).mappings.insert(key, mapping);
                }
                changed
            }
            Change::Gone(key) => {
                let known = self.objects.mappings.contains_key(&key);
                if known {
                    Arc::make_mut(&mut self.objects).mappings.remove(&key);
                }
                records.put(key, None);
                known
            }
        }
    }

    /// A Mapping is held from when its finalizer and this instance's entry are there, until it is deleted: who takes one of them away takes
    /// nothing from its clients.
    fn judged(&self, key: &ObjectKey, object: SeenMapping) -> Mapping {
        let SeenMapping { mapping, marked_by, .. } = object;
        let marked = marked_by.iter().any(|name| **name == *self.instance);
        let before = self.objects.mappings.get(key).filter(|b| b.uid == mapping.uid && !mapping.deleting);
        let held = marked || before.is_some_and(|b| b.held);
        Mapping { held, ..mapping }
    }

    pub fn take_services(&mut self, change: Change<Service>, _: &mut Outbox) -> bool {
        match change {
            Change::All(services) => {
                let first = !std::mem::replace(&mut self.listed.services, true);
                let changed = self.objects.services != services;
                if changed {
                    Arc::make_mut(&mut self.objects).services = services;
                }
                changed || first
            }
            Change::Set(key, service) => {
                let changed = self.objects.services.get(&key) != Some(&service);
                if changed {
                    Arc::make_mut(&mut self.objects).services.insert(key, service);
                }
                changed
            }
            Change::Gone(key) => {
                let known = self.objects.services.contains_key(&key);
                if known {
                    Arc::make_mut(&mut self.objects).services.remove(&key);
                }
                known
            }
        }
    }

    pub fn take_slices(&mut self, change: Change<EndpointSlice>, _: &mut Outbox) -> bool {
        match change {
            Change::All(all) => {
                let first = !std::mem::replace(&mut self.listed.slices, true);
                let kept = |(key, slice): (ObjectKey, EndpointSlice)| {
                    let old = self.objects.slices.get(&key).filter(|old| ***old == slice).cloned();
                    let slice = old.unwrap_or_else(|| Arc::new(slice));
                    (key, slice)
                };
                let slices: BTreeMap<_, _> = all.into_iter().map(kept).collect();
                let changed = self.objects.slices != slices;
                if changed {
                    Arc::make_mut(&mut self.objects).slices = slices;
                }
                changed || first
            }
            Change::Set(key, slice) => {
                let changed = self.objects.slices.get(&key).is_none_or(|old| **old != slice);
                if changed {
                    Arc::make_mut(&mut self.objects).slices.insert(key, Arc::new(slice));
                }
                changed
            }
            Change::Gone(key) => {
                let known = self.objects.slices.contains_key(&key);
                if known {
                    Arc::make_mut(&mut self.objects).slices.remove(&key);
                }
                known
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::api::{ApiResource, DynamicObject};
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::FINALIZER;

    fn seen(uid: &str, metadata: Value, status: Value) -> (ObjectKey, SeenMapping) {
        let resource = ApiResource::erase::<crate::api::Mapping>(&());
        let mut object = DynamicObject::new("web", &resource).within("shop");
        object.metadata = serde_json::from_value(json!({
            "name": "web", "namespace": "shop", "uid": uid, "resourceVersion": "1", "generation": 1,
            "finalizers": metadata["finalizers"], "deletionTimestamp": metadata["deletionTimestamp"],
        }))
        .unwrap();
        object.data = json!({"spec": {"addresses": ["203.0.113.1"], "serviceName": "web"}, "status": status});
        SeenMapping::of(&object).unwrap()
    }

    fn entry(name: &str) -> Value {
        json!({"instances": [{"name": name}]})
    }

    fn working() -> Working {
        Working::new("border".to_owned())
    }

    fn set(working: &mut Working, (key, seen): (ObjectKey, SeenMapping)) -> bool {
        working.take_mappings(Change::Set(key, seen), &mut Outbox::default())
    }

    fn held(working: &Working) -> bool {
        working.objects.mappings.values().next().unwrap().held
    }

    #[test]
    fn nothing_is_complete_before_all_three_kinds_are_listed_even_if_they_are_empty() {
        let (mut w, mut out) = (working(), Outbox::default());
        assert!(w.take_mappings(Change::All([].into()), &mut out));
        assert!(w.take_services(Change::All([].into()), &mut out));
        assert!(w.complete().is_none());
        assert!(w.take_slices(Change::All([].into()), &mut out));
        assert!(w.complete().is_some());
        assert!(!w.take_slices(Change::All([].into()), &mut out), "the same again is no news");
    }

    #[test]
    fn a_change_of_the_status_alone_is_no_news_for_the_plan_but_for_who_answers() {
        let (mut w, finalizer) = (working(), json!({"finalizers": [FINALIZER]}));
        assert!(set(&mut w, seen("u", finalizer.clone(), entry("border"))));
        let mut out = Outbox::default();
        let (key, other) = seen("u", finalizer, json!({"instances": [{"name": "border"}, {"name": "border2"}]}));
        assert!(!w.take_mappings(Change::Set(key, other), &mut out));
        assert!(!out.is_empty());
    }

    #[test]
    fn a_mapping_is_held_by_finalizer_and_own_entry_together_and_stays_so_until_deleted() {
        let mut w = working();
        let finalizer = json!({"finalizers": [FINALIZER]});
        set(&mut w, seen("u", json!({}), entry("border")));
        assert!(!held(&w));
        set(&mut w, seen("u", finalizer.clone(), entry("border2")));
        assert!(!held(&w));
        assert!(set(&mut w, seen("u", finalizer.clone(), entry("border"))));
        assert!(held(&w));
        assert!(!set(&mut w, seen("u", json!({}), Value::Null)), "somebody stripped both");
        let (key, object) = seen("u", json!({}), Value::Null);
        w.take_mappings(Change::All([(key, object)].into()), &mut Outbox::default());
        assert!(held(&w), "a list says the same");
        set(&mut w, seen("u", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), Value::Null));
        assert!(!held(&w));
        set(&mut w, seen("u", finalizer, entry("border")));
        set(&mut w, seen("another", json!({}), Value::Null));
        assert!(!held(&w), "created anew under the same name");
    }

    #[test]
    fn a_delivered_state_does_not_change_and_unchanged_slices_are_shared_with_the_next() {
        let (mut w, mut out) = (working(), Outbox::default());
        let slice = |service: &str| EndpointSlice { service: service.to_owned(), ports: vec![], endpoints: vec![] };
        let key = |name: &str| ObjectKey::new("shop", name);
        w.take_mappings(Change::All([].into()), &mut out);
        w.take_services(Change::All([].into()), &mut out);
        w.take_slices(Change::All([(key("a"), slice("a")), (key("b"), slice("b"))].into()), &mut out);
        let delivered = w.complete().unwrap();
        assert!(w.take_slices(Change::Gone(key("a")), &mut out));
        assert!(!w.take_slices(Change::Set(key("b"), slice("b")), &mut out));
        assert_eq!(delivered.slices.len(), 2);
        let next = w.complete().unwrap();
        assert!(next.slices.len() == 1 && Arc::ptr_eq(&next.slices[&key("b")], &delivered.slices[&key("b")]));
        assert!(w.take_slices(Change::All([(key("a"), slice("a")), (key("b"), slice("b"))].into()), &mut out));
        let listed = w.complete().unwrap();
        assert!(Arc::ptr_eq(&listed.slices[&key("b")], &delivered.slices[&key("b")]));
    }
}
