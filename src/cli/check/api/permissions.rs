//! Whether the daemon may do what it has to, by SelfSubjectAccessReviews.

use futures::future::join_all;
use kube::Client;
use serde_json::{Value, json};

use super::ask::{self, Asked};
use crate::cli::check::{Finding, Level};

const GROUP: &str = "permissions";
const PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const REMEDY: &str =
    "kubectl apply -k deploy/ (deploy/rbac.yaml), and use the kubeconfig of the daemon's ServiceAccount";

struct Need {
    group: &'static str,
    /// With its subresource, if any.
    resource: &'static str,
    verbs: &'static [&'static str],
    /// In the namespace of the Leases only; else in all.
    own_namespace: bool,
    /// What is lost without it, and how bad that is.
    loss: (Level, &'static str),
}

const fn need(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    loss: (Level, &'static str),
) -> Need {
    Need { group, resource, verbs, own_namespace: false, loss }
}

const NEEDED: [Need; 6] = [
    need(
        "smartnat.aureacentral.com",
        "mappings",
        &["get", "list", "watch", "patch"],
        (Level::Fail, "no Mapping is served without it"),
    ),
    need(
        "smartnat.aureacentral.com",
        "mappings/status",
        &["patch"],
        (Level::Fail, "no Mapping gets an answer, so none is programmed"),
    ),
    need("", "services", &["get", "list", "watch"], (Level::Fail, "no Mapping is served without it")),
    need(
        "discovery.k8s.io",
        "endpointslices",
        &["get", "list", "watch"],
        (Level::Fail, "no Mapping is served without it"),
    ),
    need("events.k8s.io", "events", &["create", "patch"], (Level::Warn, "no Events tell what happens to Mappings")),
    Need {
        own_namespace: true,
        ..need(
            "coordination.k8s.io",
            "leases",
            &["get", "list", "create", "update"],
            (Level::Fail, "nothing keeps two boxes from using one name, and dead ones are not told"),
        )
    },
];

/// Rights that a border router must not have: who takes over the box would have them too.
const TOO_MUCH: [(&str, &str, &str); 3] = [("get", "", "secrets"), ("update", "", "services"), ("create", "", "pods")];

pub(super) struct Facts {
    /// One answer for each verb of each of [`NEEDED`].
    needed: Vec<Vec<Asked>>,
    too_much: Vec<Asked>,
    namespace: String,
}

pub(super) async fn gather(client: &Client, namespace: &str) -> Facts {
    let may = |verb, group, resource: &str, namespace: Option<&str>| {
        let body = review(verb, group, resource, namespace);
        async move { ask::post(client, PATH, &body).await }
    };
    let needed = join_all(NEEDED.iter().map(|n| {
        let within = n.own_namespace.then_some(namespace);
        join_all(n.verbs.iter().map(move |verb| may(*verb, n.group, n.resource, within)))
    }));
    let too_much = join_all(TOO_MUCH.iter().map(|(verb, group, resource)| may(verb, group, resource, None)));
    let (needed, too_much) = tokio::join!(needed, too_much);
    Facts { needed, too_much, namespace: namespace.to_owned() }
}

fn review(verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> Value {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = json!({
        "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace.unwrap_or(""),
    });
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    })
}

pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let all = || facts.needed.iter().flatten().chain(&facts.too_much);
    if let Some(unanswered) = all().find(|asked| allowed(asked).is_none()) {
        return vec![Finding::fail(
            GROUP,
            format!("it cannot be told what we may do: {}", super::said(unanswered)),
            "see that the ClusterRole system:basic-user and its binding are there, and that the kubeconfig names a user",
        )];
    }
    let mut findings = Vec::new();
    for (need, answers) in NEEDED.iter().zip(&facts.needed) {
        let missing: Vec<&str> =
            need.verbs.iter().zip(answers).filter(|(_, a)| allowed(a) != Some(true)).map(|(verb, _)| *verb).collect();
        if missing.is_empty() {
            continue;
        }
        let group = if need.group.is_empty() { String::new() } else { format!(".{}", need.group) };
        let place = if need.own_namespace {
            format!("in namespace {}", facts.namespace)
        } else {
            "in all namespaces".to_owned()
        };
        let (level, loss) = need.loss;
        findings.push(Finding {
            level,
            group: GROUP,
            what: format!("no right to {} {}{group} {place}: {loss}", missing.join(", "), need.resource),
            remedy: REMEDY.to_owned(),
        });
    }
    if findings.is_empty() {
        findings.push(Finding::ok(GROUP, "everything that the daemon does is allowed"));
    }
    let too_much: Vec<String> = TOO_MUCH
        .iter()
        .zip(&facts.too_much)
        .filter(|(_, a)| allowed(a) == Some(true))
        .map(|((verb, _, resource), _)| format!("{verb} {resource}"))
        .collect();
    if !too_much.is_empty() {
        findings.push(Finding::warn(
            GROUP,
            format!("far more is allowed than needed ({}): is it an administrator's kubeconfig?", too_much.join(", ")),
            "let the daemon use that of its own ServiceAccount: deploy/kubeconfig.sh makes it",
        ));
    }
    findings
}

/// `None`: not answered.
fn allowed(asked: &Asked) -> Option<bool> {
    let reply = asked.as_ref().ok().filter(|reply| reply.code == 201)?;
    reply.body["status"]["allowed"].as_bool()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ask::Reply;
    use super::*;

    fn reply(code: u16, body: Value) -> Asked {
        Ok(Reply { code, body, took: Duration::ZERO })
    }

    fn answer(allowed: bool) -> Asked {
        reply(201, json!({"status": {"allowed": allowed}}))
    }

    /// All that is needed, but for these verbs of these resources, and nothing that is too much.
    fn without(missing: &[(&str, &str)]) -> Facts {
        let may = |need: &Need, verb: &&'static str| answer(!missing.contains(&(verb, need.resource)));
        let needed = NEEDED.iter().map(|n| n.verbs.iter().map(|v| may(n, v)).collect());
        Facts {
            needed: needed.collect(),
            too_much: TOO_MUCH.iter().map(|_| answer(false)).collect(),
            namespace: "border".to_owned(),
        }
    }

    fn lines(facts: &Facts) -> Vec<(Level, String)> {
        evaluate(facts).into_iter().map(|f| (f.level, f.what)).collect()
    }

    #[test]
    fn missing_verbs_are_named_once_for_each_resource() {
        assert_eq!(lines(&without(&[])), [(Level::Ok, "everything that the daemon does is allowed".to_owned())]);
        let found =
            lines(&without(&[("list", "services"), ("watch", "services"), ("patch", "events"), ("update", "leases")]));
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [Level::Fail, Level::Warn, Level::Fail]);
        assert!(found[0].1.contains("list, watch services in all namespaces"), "{found:?}");
        assert!(found[1].1.contains("patch events.events.k8s.io"), "{found:?}");
        assert!(found[2].1.contains("update leases.coordination.k8s.io in namespace border"), "{found:?}");
    }

    #[test]
    fn an_administrators_rights_are_warned_about_and_silence_is_no_right() {
        let mut admin = without(&[]);
        admin.too_much[0] = answer(true);
        let found = lines(&admin);
        assert!(found[1].0 == Level::Warn && found[1].1.contains("get secrets"), "{found:?}");
        let mut silent = without(&[]);
        silent.needed[0][0] = reply(403, json!({"message": "no reviews for you"}));
        let found = lines(&silent);
        assert!(found.len() == 1 && found[0].0 == Level::Fail && found[0].1.contains("no reviews"), "{found:?}");
    }
}
