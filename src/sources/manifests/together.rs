//! What several files say together.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use crate::model::{Dense, EndpointSlice, Mapping, ObjectKey, Objects, Service};

/// What one file says. There may be ten thousand of them with an object each: a map for each kind would take kilobytes for every file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    mappings: Box<[(ObjectKey, Arc<Mapping>)]>,
    services: Box<[(ObjectKey, Arc<Service>)]>,
    slices: Box<[(ObjectKey, Arc<EndpointSlice>)]>,
}

impl From<Objects> for Said {
    fn from(objects: Objects) -> Self {
        Said {
            mappings: objects.mappings.into_iter().collect(),
            services: objects.services.into_iter().collect(),
            slices: objects.slices.into_iter().collect(),
        }
    }
}

impl Said {
    /// All objects by kind and key.
    fn keys(&self) -> impl Iterator<Item = (&'static str, &ObjectKey)> {
        let mappings = self.mappings.iter().map(|(k, _)| ("Mapping", k));
        let services = self.services.iter().map(|(k, _)| ("Service", k));
        let slices = self.slices.iter().map(|(k, _)| ("EndpointSlice", k));
        mappings.chain(services).chain(slices)
    }

    fn meets(&self, objects: &Objects) -> bool {
        self.mappings.iter().any(|(k, _)| objects.mappings.contains_key(k))
            || self.services.iter().any(|(k, _)| objects.services.contains_key(k))
            || self.slices.iter().any(|(k, _)| objects.slices.contains_key(k))
    }

    fn remove_from(&self, objects: &mut Objects) {
        self.mappings.iter().for_each(|(k, _)| _ = objects.mappings.remove(k));
        self.services.iter().for_each(|(k, _)| _ = objects.services.remove(k));
        self.slices.iter().for_each(|(k, _)| _ = objects.slices.remove(k));
    }

    /// Adds what is not there already.
    fn add_to(&self, objects: &mut Objects) {
        for (key, object) in &self.mappings {
            objects.mappings.entry(key.clone()).or_insert_with(|| Arc::clone(object));
        }
        for (key, object) in &self.services {
            objects.services.entry(key.clone()).or_insert_with(|| Arc::clone(object));
        }
        for (key, object) in &self.slices {
            objects.slices.entry(key.clone()).or_insert_with(|| Arc::clone(object));
        }
    }
}

/// What a file said and says; `None` for one that is not there.
pub(super) struct Change {
    pub before: Option<Arc<Said>>,
    pub now: Option<Arc<Said>>,
}

impl Change {
    fn is_none(&self) -> bool {
        match (&self.before, &self.now) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        }
    }
}

/// Exchanges what these files said in `objects`, in which every file is in force with all that it says. `false`, and nothing is changed, if two
/// files would hold the same object.
pub(super) fn exchange(objects: &mut Arc<Objects>, changes: &[Change]) -> bool {
    let changes: Vec<&Change> = changes.iter().filter(|change| !change.is_none()).collect();
    if changes.is_empty() {
        return true;
    }
    // Objects are shared with the state before, and few of them differ.
    let mut next = Objects::clone(objects);
    for before in changes.iter().filter_map(|change| change.before.as_ref()) {
        before.remove_from(&mut next);
    }
    for now in changes.iter().filter_map(|change| change.now.as_ref()) {
        if now.meets(&next) {
            return false;
        }
        now.add_to(&mut next);
    }
    next.densify(changes.len());
    *objects = Arc::new(next);
    true
}

/// Objects of several files, with the file that each came from.
#[derive(Default)]
pub(super) struct Together<'a> {
    pub objects: Objects,
    owners: HashMap<(&'static str, ObjectKey), &'a OsStr>,
}

impl<'a> Together<'a> {
    /// The first object that is there already, and the file that has it.
    pub fn contradiction(&self, said: &Said) -> Option<(String, &'a OsStr)> {
        said.keys().find_map(|(kind, key)| {
            let owner = self.owners.get(&(kind, key.clone()))?;
            Some((format!("{kind} {key}"), *owner))
        })
    }

    /// Adds what is not there already.
    pub fn add(&mut self, name: &'a OsStr, said: &Said) {
        for (kind, key) in said.keys() {
            self.owners.entry((kind, key.clone())).or_insert(name);
        }
        said.add_to(&mut self.objects);
    }
}
