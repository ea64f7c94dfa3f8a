//! Compares the schema that the API server serves with the one of this program.

use serde_json::{Map, Value};

/// Where two schemas differ in what they accept or keep; words for people (descriptions, titles) do not count.
pub(super) fn differences(served: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", &root(served), &root(ours), &mut found);
    found
}

/// What every object has is the API server's to say.
fn root(schema: &Value) -> Value {
    let mut schema = normal(schema);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for common in ["apiVersion", "kind", "metadata"] {
            properties.remove(common);
        }
    }
    schema
}

/// As the API server publishes it in its OpenAPI document, without words for people.
fn normal(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let int_or_string = fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let mut out = Map::new();
    for (key, value) in fields {
        let value = match key.as_str() {
            "description" | "title" | "example" | "externalDocs" | "x-kubernetes-group-version-kind" => continue,
            // Published beside it for readers that do not know the extension.
            "anyOf" if int_or_string => continue,
            "nullable" if *value == Value::Bool(false) => continue,
            "properties" => match value {
                Value::Object(properties) => properties.iter().map(|(name, p)| (name.clone(), normal(p))).collect(),
                other => other.clone(),
            },
            "items" | "additionalProperties" => normal(value),
            "required" | "enum" => sorted(value),
            "minimum" | "maximum" => value.as_f64().map_or_else(|| value.clone(), Value::from),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn sorted(list: &Value) -> Value {
    let Value::Array(items) = list else { return list.clone() };
    let mut items = items.clone();
    items.sort_by_key(Value::to_string);
    Value::Array(items)
}

fn compare(at: &str, served: &Value, ours: &Value, found: &mut Vec<String>) {
    let (Value::Object(s), Value::Object(o)) = (served, ours) else {
        if served != ours {
            found.push(format!("{} is {}, not {}", name(at), short(served), short(ours)));
        }
        return;
    };
    for (key, value) in s {
        let at = below(at, key);
        match o.get(key) {
            Some(ours) => compare(&at, value, ours, found),
            // Each of them is named.
            None if key == "properties" => compare(&at, value, &Map::new().into(), found),
            None => found.push(format!("{} is there and should not be", name(&at))),
        }
    }
    for (key, value) in o.iter().filter(|(key, _)| !s.contains_key(*key)) {
        if key == "properties" {
            compare(&below(at, key), &Map::new().into(), value, found);
            continue;
        }
        found.push(format!("{} is missing", name(&below(at, key))));
    }
}

/// `spec.ports[].port` rather than `properties.spec.properties.ports.items.properties.port`.
fn below(at: &str, key: &str) -> String {
    match key {
        "properties" => at.to_owned(),
        "items" => format!("{at}[]"),
        _ if at.is_empty() => key.to_owned(),
        _ => format!("{at}.{key}"),
    }
}

fn name(at: &str) -> &str {
    if at.is_empty() { "the schema" } else { at }
}

fn short(value: &Value) -> String {
    const LONGEST: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_adds_and_words_for_people_are_no_difference() {
        let ours = json!({
            "description": "a", "type": "object", "required": ["b", "a"],
            "properties": {"title": {"x-kubernetes-int-or-string": true, "maximum": 5}},
        });
        let served = json!({
            "type": "object", "required": ["a", "b"], "x-kubernetes-group-version-kind": [{}],
            "properties": {
                "kind": {"type": "string"},
                "title": {"x-kubernetes-int-or-string": true, "maximum": 5.0, "description": "x", "nullable": false,
                          "anyOf": [{"type": "integer"}, {"type": "string"}]},
            },
        });
        assert_eq!(differences(&served, &ours), Vec::<String>::new());
    }

    #[test]
    fn differences_are_named_by_their_field() {
        let of = |port: Value| json!({"properties": {"spec": {"properties": {"ports": {"items": {"properties": {"port": port}}}}}}});
        let ours = of(json!({"type": "integer", "maximum": 65535, "x-kubernetes-validations": [{"rule": "self > 0"}]}));
        let served = of(json!({"type": "integer", "maximum": 1024, "pattern": "x"}));
        assert_eq!(
            differences(&served, &ours),
            [
                "spec.ports[].port.maximum is 1024.0, not 65535.0",
                "spec.ports[].port.pattern is there and should not be",
                "spec.ports[].port.x-kubernetes-validations is missing",
            ]
        );
        assert_eq!(differences(&json!({}), &ours), ["spec is missing"]);
    }
}
