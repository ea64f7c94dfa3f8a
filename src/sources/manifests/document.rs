//! One document, straight from the text into its types, so that errors have their place.

use std::fmt;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::strict::StrictMapping;
use crate::model::{EndpointSlice, Mapping, ObjectKey, Service};
use crate::sources::convert::{self, Converted};

/// What a document holds.
pub(super) enum Shape {
    One(Kind),
    List(Vec<Kind>),
}

#[derive(Clone)]
pub(super) enum Kind {
    Mapping,
    Service,
    EndpointSlice,
    Other(String),
}

impl Kind {
    /// What to read, or what the object lacks.
    pub fn of(kind: Option<&str>, api_version: Option<&str>) -> Result<Self, String> {
        let kind = kind.ok_or("has no kind: write kind and apiVersion")?;
        let api_version = api_version.ok_or_else(|| format!("of kind {kind} has no apiVersion"))?;
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let (known, ours) = match (group, kind) {
            ("smartnat.aureacentral.com", "Mapping" | "MappingList") => (Kind::Mapping, "v1alpha1"),
            ("", "Service" | "ServiceList") => (Kind::Service, "v1"),
            ("discovery.k8s.io", "EndpointSlice" | "EndpointSliceList") => (Kind::EndpointSlice, "v1"),
            ("", "List") => return Err("is a List inside a List: write its items into the outer one".to_owned()),
            _ => return Ok(Kind::Other(format!("{kind} ({api_version})"))),
        };
        if kind.ends_with("List") {
            return Err(format!("is a {kind}: write kind List, apiVersion v1, with the kind of every item"));
        }
        if version != ours {
            let wanted = if group.is_empty() { ours.to_owned() } else { format!("{group}/{ours}") };
            return Err(format!("of kind {kind} has apiVersion {api_version}: only {wanted} is read"));
        }
        Ok(known)
    }
}

/// Reduced as it is read: a List may hold thousands.
pub(super) enum Object {
    Mapping(Option<ObjectKey>, Mapping),
    Service(Option<ObjectKey>, Converted<Service>),
    /// `None` for one that belongs to no Service.
    EndpointSlice(Option<ObjectKey>, Option<Converted<EndpointSlice>>),
    Other(String),
}

impl From<StrictMapping> for Object {
    fn from(mapping: StrictMapping) -> Self {
        Object::Mapping(convert::key(&mapping.metadata), convert::mapping(&mapping.metadata, mapping.spec.into()))
    }
}

impl From<v1::Service> for Object {
    fn from(service: v1::Service) -> Self {
        Object::Service(convert::key(&service.metadata), convert::service(&service))
    }
}

impl From<discovery::EndpointSlice> for Object {
    fn from(slice: discovery::EndpointSlice) -> Self {
        Object::EndpointSlice(convert::key(&slice.metadata), convert::endpoint_slice(&slice))
    }
}

/// Reads a document of a known shape.
pub(super) struct Document<'a>(pub &'a Shape);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            Shape::One(kind) => Ok(vec![Item(kind).deserialize(deserializer)?]),
            Shape::List(kinds) => deserializer.deserialize_map(List(kinds)),
        }
    }
}

struct Item<'a>(&'a Kind);

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(match self.0 {
            Kind::Mapping => StrictMapping::deserialize(deserializer)?.into(),
            Kind::Service => v1::Service::deserialize(deserializer)?.into(),
            Kind::EndpointSlice => discovery::EndpointSlice::deserialize(deserializer)?.into(),
            Kind::Other(kind) => {
                IgnoredAny::deserialize(deserializer)?;
                Object::Other(kind.clone())
            }
        })
    }
}

struct List<'a>(&'a [Kind]);

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a List")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(field) = map.next_key::<String>()? {
            // A List without items was found to have none: null is no sequence.
            if field == "items" && !self.0.is_empty() {
                objects = map.next_value_seed(Items(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

struct Items<'a>(&'a [Kind]);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the items of a List")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::with_capacity(self.0.len());
        for kind in self.0 {
            match seq.next_element_seed(Item(kind))? {
                Some(object) => objects.push(object),
                None => return Err(A::Error::custom("the List changed between two looks at it")),
            }
        }
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("the List changed between two looks at it"));
        }
        Ok(objects)
    }
}

/// An object whose kind stands ahead of all else, as most tools write it: read in one go. Any error means no more than that it has to be read
/// in two.
pub(super) struct AtOnce(pub Object);

impl<'de> Deserialize<'de> for AtOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KindFirst).map(AtOnce)
    }
}

struct KindFirst;

impl<'de> Visitor<'de> for KindFirst {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with its kind ahead of all else")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen: [(&'static str, Option<String>); 2] = [("kind", None), ("apiVersion", None)];
        for _ in 0..seen.len() {
            let key: Option<String> = map.next_key()?;
            let place = seen.iter_mut().find(|(name, value)| key.as_deref() == Some(name) && value.is_none());
            let (_, value) = place.ok_or_else(|| A::Error::custom("something else stands ahead of the kind"))?;
            *value = Some(map.next_value()?);
        }
        let kind = Kind::of(seen[0].1.as_deref(), seen[1].1.as_deref()).map_err(A::Error::custom)?;
        Item(&kind).deserialize(MapAccessDeserializer::new(Whole { seen: seen.into_iter(), value: None, rest: map }))
    }
}

/// A map from its beginning, although some of it was taken already.
struct Whole<A> {
    seen: std::array::IntoIter<(&'static str, Option<String>), 2>,
    value: Option<String>,
    rest: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Whole<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some((key, value)) = self.seen.next() else { return self.rest.next_key_seed(seed) };
        self.value = value;
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(value.into_deserializer()),
            None => self.rest.next_value_seed(seed),
        }
    }
}
