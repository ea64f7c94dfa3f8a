use kube::api::DynamicObject;
use serde_json::{Map, Value};

use crate::api::MappingSpec;
use crate::cluster::{KeptRecord, Record};
use crate::model::{Mapping, ObjectKey};
use crate::sources::convert;

/// A Mapping as the API gave it: for the plan, and for who answers.
#[derive(Debug)]
pub(super) struct SeenMapping {
    /// Whether it is held is not known here.
    pub mapping: Mapping,
    pub record: KeptRecord,
    /// Names of the instances that its deletion waits for; none as long as nothing holds it back.
    pub marked_by: Box<[Box<str>]>,
}

impl SeenMapping {
    /// Objects are read one by one and field by field: one that was stored under another definition stops no other.
    pub fn of(object: &DynamicObject) -> Option<(ObjectKey, SeenMapping)> {
        let (key, record) = Record::of(object)?;
        let mapping = mapping(object);
        let entries = record.status.instances.iter().filter(|_| record.is_held_back());
        let marked_by = entries.map(|entry| entry.name.as_str().into()).collect();
        Some((key, SeenMapping { mapping, record: KeptRecord::of(&record), marked_by }))
    }
}

/// For the plan, as if it were held.
pub(super) fn mapping(object: &DynamicObject) -> Mapping {
    let (spec, unreadable) = match read_spec(&object.data["spec"]) {
        Ok(spec) => (spec, None),
        Err(wrong) => (MappingSpec::default(), Some(wrong)),
    };
    Mapping { unreadable, ..convert::mapping(&object.metadata, spec) }
}

/// The error names the field.
fn read_spec(spec: &Value) -> Result<MappingSpec, String> {
    let whole = match serde_json::from_value::<MappingSpec>(spec.clone()) {
        Ok(spec) => return Ok(spec),
        Err(error) => error,
    };
    let Some(fields) = spec.as_object() else { return Err("it has no spec".to_owned()) };
    let wrong = fields.iter().find_map(|(name, value)| {
        let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
        let error = serde_json::from_value::<MappingSpec>(alone).err()?;
        Some(format!("spec.{name}: {error}"))
    });
    Err(wrong.unwrap_or_else(|| format!("spec: {whole}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_with_its_field_and_value() {
        let good = json!({"addresses": ["203.0.113.1"], "serviceName": "web", "ports": [{"port": 80}], "later": {}});
        assert_eq!(read_spec(&good).unwrap().addresses, ["203.0.113.1"]);
        for (spec, wrong) in [
            (json!({"addresses": "203.0.113.1"}), "spec.addresses: invalid type: string \"203.0.113.1\""),
            (json!({"addresses": [], "ports": [{"port": "http"}]}), "spec.ports: invalid type: string \"http\""),
            (json!(null), "it has no spec"),
        ] {
            let error = read_spec(&spec).unwrap_err();
            assert!(error.starts_with(wrong), "{error}");
        }
    }
}
