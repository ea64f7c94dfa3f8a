//! From the text of one file to its objects.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeSeed;

use super::document::{AtOnce, Document, Kind, Object, Shape};
use super::stream::documents;
use crate::model::{ObjectKey, Objects};
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
            if let Ok(object) = serde_json::from_str::<AtOnce>(text) {
                content.take(vec![object.0]).map_err(|r| Fault::at_line(1, r))?;
                return Ok(content);
            }
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
                let here = |reason| Fault::at_line(first_line, reason);
                if let Ok(object) = serde_saphyr::from_str_with_options::<AtOnce>(document, yaml::options()) {
                    content.take(vec![object.0]).map_err(here)?;
                    continue;
                }
                let head: Option<Head> =
                    serde_saphyr::from_str_with_options(document, yaml::options()).map_err(fault)?;
                let Some(head) = head else { continue };
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

impl Head {
    fn shape(self) -> Result<Shape, String> {
        if self.kind.as_deref() == Some("List") && self.api_version.as_deref() == Some("v1") {
            let items = self.items.unwrap_or_default().into_iter().enumerate();
            let kinds = items.map(|(i, head)| head.one().map_err(|reason| format!("items[{i}] {reason}")));
            return Ok(Shape::List(kinds.collect::<Result<_, _>>()?));
        }
        self.one().map(Shape::One).map_err(|reason| format!("the object {reason}"))
    }

    fn one(&self) -> Result<Kind, String> {
        Kind::of(self.kind.as_deref(), self.api_version.as_deref())
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
