//! From the text of one file to its objects.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::stream::documents;
use super::strict::StrictMapping;
use crate::model::{EndpointSlice, Mapping, ObjectKey, Objects, Service};
use crate::sources::convert::{self, Converted};
use crate::sources::yaml::{self, Position};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// What one file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Content {
    pub objects: Objects,
    /// What was left out of objects, each with the object's name.
    pub dropped: Vec<String>,
    /// Kinds that are of no use here, with how many there were.
    pub ignored: BTreeMap<String, usize>,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub position: Option<Position>,
    pub reason: String,
}

impl Fault {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Fault { position: None, reason: reason.into() }
    }

    fn at_line(line: usize, reason: impl Into<String>) -> Self {
        Fault { position: Some(Position { line, column: 1 }), reason: reason.into() }
    }
}

pub(super) fn parse(format: Format, text: &str) -> Result<Content, Fault> {
    // A disk that was full or a machine that crashed leaves such files behind.
    if text.trim().is_empty() {
        return Err(Fault::new("the file is empty; delete it if nothing is to come from it"));
    }
    let mut content = Content::default();
    match format {
        Format::Json => {
            let fault = |e: serde_json::Error| Fault {
                position: (e.line() > 0).then(|| Position { line: e.line(), column: e.column() }),
                reason: json_message(&e),
            };
            let shape = serde_json::from_str::<Head>(text).map_err(fault)?.shape().map_err(|r| Fault::at_line(1, r))?;
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let found = Document(&shape).deserialize(&mut deserializer).map_err(fault)?;
            deserializer.end().map_err(fault)?;
            content.take(found).map_err(|r| Fault::at_line(1, r))?;
        }
        Format::Yaml => {
            for (first_line, document) in documents(text) {
                let fault = |e: serde_saphyr::Error| {
                    let (position, reason) = yaml::explain(&e, document);
                    let line = position.map_or(0, |p| p.line - 1) + first_line;
                    Fault { position: Some(Position { line, column: position.map_or(1, |p| p.column) }), reason }
                };
                let head: Option<Head> =
                    serde_saphyr::from_str_with_options(document, yaml::options()).map_err(fault)?;
                let Some(head) = head else { continue };
                let here = |reason| Fault::at_line(first_line, reason);
                let shape = head.shape().map_err(here)?;
                let found = serde_saphyr::with_deserializer_from_str_with_options(document, yaml::options(), |d| {
                    Document(&shape).deserialize(d)
                })
                .map_err(fault)?;
                content.take(found).map_err(here)?;
            }
        }
    }
    Ok(content)
}

/// serde_json's message without the place that it appends.
fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) if error.line() > 0 => text[..end].to_owned(),
        _ => text,
    }
}

/// What kind of object it is. Read first, because it may stand behind everything else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a Kubernetes object")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    items: Option<Vec<Head>>,
}

enum Shape {
    One(Kind),
    List(Vec<Kind>),
}

#[derive(Clone)]
enum Kind {
    Mapping,
    Service,
    EndpointSlice,
    Other(String),
}

impl Head {
    fn shape(self) -> Result<Shape, String> {
        if self.kind.as_deref() == Some("List") && self.api_version.as_deref() == Some("v1") {
            let items = self.items.unwrap_or_default().into_iter().enumerate();
            let kinds = items.map(|(i, head)| head.kind().map_err(|reason| format!("items[{i}] {reason}")));
            return Ok(Shape::List(kinds.collect::<Result<_, _>>()?));
        }
        self.kind().map(Shape::One).map_err(|reason| format!("the object {reason}"))
    }

    fn kind(&self) -> Result<Kind, String> {
        let kind = self.kind.as_deref().ok_or("has no kind: write kind and apiVersion")?;
        let api_version = self.api_version.as_deref().ok_or_else(|| format!("of kind {kind} has no apiVersion"))?;
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
enum Object {
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

impl Content {
    fn take(&mut self, objects: Vec<Object>) -> Result<(), String> {
        let several = objects.len() > 1;
        for (i, object) in objects.into_iter().enumerate() {
            let (kind, key) = match &object {
                Object::Mapping(key, _) => ("Mapping", key.clone()),
                Object::Service(key, _) => ("Service", key.clone()),
                Object::EndpointSlice(key, _) => ("EndpointSlice", key.clone()),
                Object::Other(kind) => {
                    *self.ignored.entry(kind.clone()).or_default() += 1;
                    continue;
                }
            };
            let key = key.ok_or_else(|| {
                let item = if several { format!("items[{i}]: ") } else { String::new() };
                format!("{item}a {kind} has no metadata.name")
            })?;
            if !convert::is_valid(&key) {
                return Err(format!(
                    "{kind} {:?} in namespace {:?}: names are lower case letters, digits, '-' and (in names) '.', a namespace of 63 \
                     and a name of 253 characters at most",
                    key.name, key.namespace
                ));
            }
            let duplicate = match object {
                Object::Mapping(_, mapping) => self.objects.mappings.insert(key.clone(), mapping.into()).is_some(),
                Object::Service(_, converted) => {
                    let service = self.keep(kind, &key, converted);
                    self.objects.services.insert(key.clone(), service.into()).is_some()
                }
                Object::EndpointSlice(_, Some(converted)) => {
                    let slice = self.keep(kind, &key, converted);
                    self.objects.slices.insert(key.clone(), slice.into()).is_some()
                }
                Object::EndpointSlice(_, None) => {
                    self.dropped.push(format!("{kind} {key}: no label {}", convert::SERVICE_NAME_LABEL));
                    false
                }
                Object::Other(_) => false,
            };
            if duplicate {
                return Err(format!("{kind} {key} stands in this file twice: remove one of them"));
            }
        }
        Ok(())
    }

    fn keep<T>(&mut self, kind: &str, key: &ObjectKey, converted: Converted<T>) -> T {
        self.dropped.extend(converted.dropped.into_iter().map(|what| format!("{kind} {key}: {what}")));
        converted.object
    }
}

/// Reads a document of a known shape into its types, straight from the text, so that errors have their place.
struct Document<'a>(&'a Shape);

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
