//! Whether Mappings are served as this program knows them. All of it from what every authenticated user may read, and from the right to list
//! Mappings: nobody needs a right to read CustomResourceDefinitions for it.

use k8s_openapi::ByteString;
use kube::{Client, Resource};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ask::{self, Asked};
use super::schema;
use crate::api::Mapping;
use crate::cli::check::Finding;

const GROUP: &str = "crd";
const REMEDY: &str = "kubectl apply -k deploy/, or smartnat-manager crd | kubectl apply -f -";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const SHOWN: usize = 3;

pub(super) struct Facts {
    /// The resources of the group's version.
    discovery: Asked,
    /// The OpenAPI v3 document of the group's version.
    openapi: Asked,
    /// Mappings as a table, at most one row.
    table: Asked,
    /// The CustomResourceDefinition itself, asked for only when nothing is served.
    definition: Option<Asked>,
}

pub(super) async fn gather(client: &Client) -> Facts {
    let (group, version) = (Mapping::group(&()), Mapping::version(&()));
    let base = format!("/apis/{group}/{version}");
    let openapi = format!("/openapi/v3{base}");
    let list = format!("{base}/{}?limit=1&includeObject=None", Mapping::plural(&()));
    let (discovery, openapi, table) =
        tokio::join!(ask::get(client, &base), ask::get(client, &openapi), ask::get_as(client, &list, TABLE));
    let definition = match &discovery {
        Ok(reply) if reply.code == 404 => {
            let path =
                format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}.{group}", Mapping::plural(&()));
            Some(ask::get(client, &path).await)
        }
        _ => None,
    };
    Facts { discovery, openapi, table, definition }
}

pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let version = Mapping::version(&());
    let discovery = match &facts.discovery {
        Ok(reply) if reply.code == 200 => &reply.body,
        Ok(reply) if reply.code == 404 => return vec![not_served(facts.definition.as_ref())],
        other => {
            return vec![Finding::fail(
                GROUP,
                format!("it cannot be told whether Mappings are served: {}", super::said(other)),
                "see that the ClusterRole system:discovery and its binding are there",
            )];
        }
    };
    let resources = || discovery["resources"].as_array().into_iter().flatten();
    let named = |name: &str| resources().find(|r| r["name"] == name);
    let Some(mappings) = named(&Mapping::plural(&())) else {
        return vec![not_served(facts.definition.as_ref())];
    };
    let mut findings = Vec::new();
    if named(&format!("{}/status", Mapping::plural(&()))).is_none() {
        findings.push(Finding::fail(
            GROUP,
            "the CustomResourceDefinition has no status subresource: nothing can be answered",
            REMEDY,
        ));
    }
    if let Some(hash) = mappings["storageVersionHash"].as_str().filter(|hash| **hash != storage_version_hash()) {
        findings.push(Finding::warn(
            GROUP,
            format!("Mappings are stored in another version than {version} (its hash is {hash})"),
            REMEDY,
        ));
    }
    findings.extend(differences(facts));
    if findings.is_empty() {
        findings.push(Finding::ok(GROUP, format!("Mappings are served as {version}, as this program knows them")));
    }
    findings
}

fn not_served(definition: Option<&Asked>) -> Finding {
    let version = Mapping::version(&());
    let Some(Ok(reply)) = definition.filter(|d| d.as_ref().is_ok_and(|reply| reply.code == 200)) else {
        return Finding::fail(
            GROUP,
            format!("Mappings are not served as {version}: the CustomResourceDefinition is not installed"),
            REMEDY,
        );
    };
    // It is there, and its own conditions say why it is not served.
    let conditions = reply.body["status"]["conditions"].as_array().into_iter().flatten();
    let bad: Vec<String> = conditions
        .filter(|c| ["Established", "NamesAccepted"].iter().any(|t| c["type"] == *t) && c["status"] != "True")
        .map(|c| format!("{} ({})", c["type"].as_str().unwrap_or_default(), c["message"].as_str().unwrap_or_default()))
        .collect();
    if bad.is_empty() {
        return Finding::fail(GROUP, format!("the CustomResourceDefinition does not serve {version}"), REMEDY);
    }
    Finding::fail(
        GROUP,
        format!("the CustomResourceDefinition is not in force: {}", bad.join(", ")),
        "remove what it collides with (kubectl get crd), then kubectl apply -k deploy/",
    )
}

/// What the API server says it stores objects in; `discovery.StorageVersionHash` of k8s.io/apiserver.
fn storage_version_hash() -> String {
    let id = format!("{}/{}/{}", Mapping::group(&()), Mapping::version(&()), Mapping::kind(&()));
    let hash = ByteString(Sha256::digest(id.as_bytes())[..8].to_vec());
    json!(hash).as_str().unwrap_or_default().to_owned()
}

fn differences(facts: &Facts) -> Option<Finding> {
    let ours = crate::api::crd();
    let ours = &ours["spec"]["versions"][0];
    let served = match &facts.openapi {
        Ok(reply) if reply.code == 200 => served_schema(&reply.body),
        other => {
            return Some(Finding::warn(
                GROUP,
                format!("the schema of Mappings cannot be compared: {}", super::said(other)),
                "see that the ClusterRole system:discovery and its binding are there",
            ));
        }
    };
    let mut found = schema::differences(served, &ours["schema"]["openAPIV3Schema"]);
    // Who may not list Mappings is told so among the permissions.
    if let Ok(reply) = &facts.table
        && reply.code == 200
    {
        let served = columns(&reply.body["columnDefinitions"]);
        let ours = columns(&ours["additionalPrinterColumns"]);
        // The first is the name, which every resource has.
        if served.get(1..) != Some(&ours[..]) {
            found.push(format!("kubectl shows {}, not {}", names(served.get(1..).unwrap_or_default()), names(&ours)));
        }
    }
    if found.is_empty() {
        return None;
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Some(Finding::warn(
        GROUP,
        format!("the CustomResourceDefinition is another than this program's: {}{more}", found.join(", ")),
        REMEDY,
    ))
}

/// Of the kind, among the schemas of an OpenAPI v3 document.
fn served_schema(document: &Value) -> &Value {
    let is_mapping = |schema: &Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|k| k["kind"] == *Mapping::kind(&()) && k["group"] == *Mapping::group(&()))
    };
    let schemas = document["components"]["schemas"].as_object();
    schemas.and_then(|all| all.values().find(|s| is_mapping(s))).unwrap_or(&Value::Null)
}

/// Name, type and priority of each.
fn columns(list: &Value) -> Vec<(String, String, i64)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let list = list.as_array().into_iter().flatten();
    list.map(|c| (text(&c["name"]), text(&c["type"]), c["priority"].as_i64().unwrap_or(0))).collect()
}

fn names(columns: &[(String, String, i64)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, ..)| name.as_str()).collect();
    if names.is_empty() { "no columns".to_owned() } else { format!("the columns {}", names.join(" ")) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ask::Reply;
    use super::*;
    use crate::cli::check::Level;

    fn reply(code: u16, body: Value) -> Asked {
        Ok(Reply { code, body, took: Duration::ZERO })
    }

    fn discovery(resources: &[&str], hash: &str) -> Asked {
        let resources = resources.iter().map(|name| json!({"name": name, "storageVersionHash": hash}));
        reply(200, json!({"resources": resources.collect::<Vec<_>>()}))
    }

    fn good() -> Facts {
        let ours = crate::api::crd();
        let version = &ours["spec"]["versions"][0];
        let mut schema = version["schema"]["openAPIV3Schema"].clone();
        schema["x-kubernetes-group-version-kind"] =
            json!([{"group": Mapping::group(&()), "kind": Mapping::kind(&()), "version": Mapping::version(&())}]);
        let mut columns = vec![json!({"name": "Name", "type": "string", "priority": 0})];
        columns.extend(version["additionalPrinterColumns"].as_array().unwrap().iter().cloned());
        Facts {
            discovery: discovery(&["mappings", "mappings/status"], "WDCpZnPycVw="),
            openapi: reply(200, json!({"components": {"schemas": {"x": schema}}})),
            table: reply(200, json!({ "columnDefinitions": columns })),
            definition: None,
        }
    }

    fn one(facts: &Facts) -> Finding {
        let mut findings = evaluate(facts);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn what_is_served_as_it_should_be_is_good() {
        assert_eq!(one(&good()).level, Level::Ok);
        let unlisted = Facts { table: reply(403, json!({"message": "forbidden"})), ..good() };
        assert_eq!(one(&unlisted).level, Level::Ok);
    }

    #[test]
    fn a_missing_definition_or_one_that_is_not_in_force_is_told() {
        let none =
            |definition| one(&Facts { discovery: reply(404, Value::Null), definition: Some(definition), ..good() });
        for unknown in [reply(404, Value::Null), reply(403, Value::Null)] {
            let f = none(unknown);
            assert!(f.level == Level::Fail && f.what.contains("not installed"), "{f:?}");
        }
        let conditions = json!([{"type": "NamesAccepted", "status": "False", "message": "snmap is in use"}]);
        let f = none(reply(200, json!({"status": {"conditions": conditions}})));
        assert!(f.level == Level::Fail && f.what.contains("snmap is in use"), "{f:?}");
        let f = none(reply(200, json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}})));
        assert!(f.what.contains("does not serve v1alpha1"), "{f:?}");
    }

    #[test]
    fn a_definition_without_status_or_stored_otherwise_is_told() {
        let f = one(&Facts { discovery: discovery(&["mappings"], "WDCpZnPycVw="), ..good() });
        assert!(f.level == Level::Fail && f.what.contains("status subresource"), "{f:?}");
        let f = one(&Facts { discovery: discovery(&["mappings", "mappings/status"], "AAAA"), ..good() });
        assert!(f.level == Level::Warn && f.what.contains("stored in another version"), "{f:?}");
    }

    #[test]
    fn another_schema_and_other_columns_are_told() {
        let schema = json!({"x-kubernetes-group-version-kind":
            [{"group": Mapping::group(&()), "kind": Mapping::kind(&())}], "type": "object"});
        let f = one(&Facts {
            openapi: reply(200, json!({"components": {"schemas": {"x": schema}}})),
            table: reply(200, json!({"columnDefinitions": [{"name": "Name", "type": "string"}]})),
            ..good()
        });
        assert!(f.level == Level::Warn && f.what.contains("required is missing"), "{f:?}");
        let f = one(&Facts { table: reply(200, json!({"columnDefinitions": []})), ..good() });
        assert!(f.what.contains("no columns"), "{f:?}");
        assert_eq!(one(&Facts { openapi: reply(403, Value::Null), ..good() }).level, Level::Warn);
    }
}
