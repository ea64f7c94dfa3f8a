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
        let first = matches!(change, Change::All(_)) && !std::mem::replace(&mut self.listed.mappings, true);
        let change = match change {
            Change::All(all) => {
                records.put_all(all.iter().map(|(key, object)| (key.clone(), object.record.clone())).collect());
                let judged = |(key, object)| (ObjectKey::clone(&key), self.judged(&key, object));
                Change::All(all.into_iter().map(judged).collect())
            }
            Change::Set(key, object) => {
                records.put(key.clone(), Some(object.record.clone()));
                let mapping = self.judged(&key, object);
                Change::Set(key, mapping)
            }
            Change::Gone(key) => {
                records.put(key.clone(), None);
                Change::Gone(key)
            }
        };
        take(&mut self.objects, change, |objects| &objects.mappings, |objects| &mut objects.mappings) || first
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
        let first = matches!(change, Change::All(_)) && !std::mem::replace(&mut self.listed.services, true);
        take(&mut self.objects, change, |objects| &objects.services, |objects| &mut objects.services) || first
    }

    pub fn take_slices(&mut self, change: Change<EndpointSlice>, _: &mut Outbox) -> bool {
        let first = matches!(change, Change::All(_)) && !std::mem::replace(&mut self.listed.slices, true);
        take(&mut self.objects, change, |objects| &objects.slices, |objects| &mut objects.slices) || first
    }
}

type Kind<T> = BTreeMap<ObjectKey, Arc<T>>;

/// Takes a change of one kind of objects in; whether anything is different. What is the same as before stays the same value.
fn take<T: PartialEq>(
    objects: &mut Arc<Objects>,
    change: Change<T>,
    kind: impl Fn(&Objects) -> &Kind<T>,
    kind_mut: impl Fn(&mut Objects) -> &mut Kind<T>,
) -> bool {
    match change {
        Change::All(all) => {
            let known = kind(objects);
            let mut changed = known.len() != all.len();
            let mut kept = |(key, object): (ObjectKey, T)| match known.get_key_value(&key) {
                Some((key, old)) if **old == object => (key.clone(), Arc::clone(old)),
                _ => {
                    changed = true;
                    (key, Arc::new(object))
                }
            };
            let all: Kind<T> = all.into_iter().map(&mut kept).collect();
            if changed {
                *kind_mut(Arc::make_mut(objects)) = all;
            }
            changed
        }
        Change::Set(key, object) => {
            let changed = kind(objects).get(&key).is_none_or(|old| **old != object);
            if changed {
                kind_mut(Arc::make_mut(objects)).insert(key, Arc::new(object));
            }
            changed
        }
        Change::Gone(key) => {
            let known = kind(objects).contains_key(&key);
            if known {
                kind_mut(Arc::make_mut(objects)).remove(&key);
            }
            known
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
        let slice = |service: &str| EndpointSlice { service: service.into(), ports: vec![], endpoints: vec![] };
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
