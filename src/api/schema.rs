//! Bounds of every string and list of the resource. They keep objects small and let the API server estimate the cost of CEL rules; what
//! the first SmartNat served stays within them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::mapping::MappingPort;
use super::rules;
use super::status::{MappingInstance, MappingPodIps};

/// Longest text of an IPv6 address (INET6_ADDRSTRLEN without the terminator).
const ADDRESS_LENGTH: usize = 45;
/// An address, a slash and a prefix length.
const NETWORK_LENGTH: usize = ADDRESS_LENGTH + 4;
/// A DNS label (RFC 1123), which names of Services and of their ports are.
const LABEL_LENGTH: usize = 63;
/// Of a mode or a protocol: longer than any, so that a wrong one is refused by the rule that says what to write instead.
const WORD_LENGTH: usize = 16;
/// A DNS subdomain (RFC 1123).
const SUBDOMAIN_LENGTH: usize = 253;
/// As of metav1.Condition.
const MESSAGE_LENGTH: usize = 32_768;
const REASON_LENGTH: usize = 1_024;
const CONDITION_TYPE_LENGTH: usize = 316;

const MAX_ADDRESSES: usize = 1_024;
/// The default size limit of the ipset in which the first SmartNat kept them.
const MAX_SOURCES: usize = 65_536;
/// Upper bound of `SNCTRLR_MAX_PORTS_PER_MAPPING`.
const MAX_PORTS: usize = 256;
const MAX_PODS: usize = 10_000;
const MAX_INSTANCES: usize = 256;
const MAX_CONDITIONS: usize = 8;

/// Takes away the defaults that stand for a Rust type's empty value: the API server would reject them (an empty list where one item is
/// required) or write them into objects. The default of `mode` is meant.
pub(super) fn drop_empty_defaults(schema: &mut Schema) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (_, property) in properties.iter_mut().filter(|(name, _)| *name != "mode") {
        if let Value::Object(property) = property {
            property.remove("default");
        }
    }
}

pub(super) fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_ADDRESSES,
        "items": {"type": "string", "maxLength": ADDRESS_LENGTH, rules::KEY: rules::address()},
    })
}

pub(super) fn allowed_sources(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_SOURCES,
        "items": {"type": "string", "maxLength": NETWORK_LENGTH, rules::KEY: rules::source()},
    })
}

pub(super) fn service_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": LABEL_LENGTH})
}

pub(super) fn mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "default": "service",
        "maxLength": WORD_LENGTH,
        rules::KEY: rules::mode(),
    })
}

pub(super) fn ports(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_PORTS,
        "items": generator.subschema_for::<MappingPort>(),
        rules::KEY: rules::ports(),
    })
}

/// Not required by the schema: stored objects of the first SmartNat may lack it, and finalizers must come off those too.
pub(super) fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65_535})
}

/// Bounds of the number and of the name beside each other: each applies to its own type only.
pub(super) fn service_port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 65_535,
        "minLength": 1,
        "maxLength": LABEL_LENGTH,
    })
}

pub(super) fn protocol(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": WORD_LENGTH, rules::KEY: rules::protocol()})
}

pub(super) fn message(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": MESSAGE_LENGTH})
}

pub(super) fn reason(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": REASON_LENGTH})
}

pub(super) fn address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": ADDRESS_LENGTH})
}

pub(super) fn generation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

pub(super) fn instance_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": SUBDOMAIN_LENGTH})
}

/// What stands at an address is owned as a whole. Of two routers that share the address, one would otherwise own the address and the other the
/// pods; the first to go would leave an address with nothing at all, which the API server refuses.
pub(super) fn configured_addresses(generator: &mut SchemaGenerator) -> Schema {
    let mut pods = generator.subschema_for::<MappingPodIps>();
    pods.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
    json_schema!({
        "type": "object",
        "maxProperties": MAX_ADDRESSES,
        "additionalProperties": pods,
    })
}

pub(super) fn pod_ips(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_PODS,
        "items": {"type": "string", "maxLength": ADDRESS_LENGTH},
    })
}

pub(super) fn instance_addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_ADDRESSES,
        "items": {"type": "string", "maxLength": ADDRESS_LENGTH},
        "x-kubernetes-list-type": "set",
    })
}

/// A time as it stands in Kubernetes' own objects.
pub(super) fn time(generator: &mut SchemaGenerator) -> Schema {
    let time = Time::json_schema(generator);
    json_schema!({"type": time.get("type"), "format": time.get("format")})
}

pub(super) fn instances(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_INSTANCES,
        "items": generator.subschema_for::<MappingInstance>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    })
}

/// metav1.Condition with the bounds that Kubernetes' own types document.
pub(super) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let time = time(generator);
    json_schema!({
        "type": "array",
        "maxItems": MAX_CONDITIONS,
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": CONDITION_TYPE_LENGTH},
                "status": {"type": "string", "maxLength": 7, "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": REASON_LENGTH},
                "message": {"type": "string", "maxLength": MESSAGE_LENGTH},
                "lastTransitionTime": time,
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            },
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
