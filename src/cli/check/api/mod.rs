//! The Kubernetes API as this box sees it: everything that is asked is asked once, side by side, and within
//! [`ask::PATIENCE`] each.

mod ask;
mod clock;
mod crd;
mod credential;
mod lease;
mod permissions;
mod reach;
mod schema;

use jiff::Timestamp;

use super::Finding;
use super::gather::Gather;
use crate::cluster::clock::Clocks;
use crate::cluster::{self, Session, machine};
use crate::settings::{ObjectSource, Settings};
use ask::Asked;

/// And whether objects can be had.
pub(super) async fn findings(settings: &Settings, gather: &Gather) -> (Vec<Finding>, bool) {
    if let Some(finding) = reach::not_asked(&settings.objects) {
        return (vec![finding], true);
    }
    let session = match cluster::connect(&settings.objects).await {
        Ok(session) => session,
        Err(error) => return (vec![reach::unusable(&error)], false),
    };
    let version = ask::get(&session.client, "/version").await;
    let mut findings = vec![reach::way(&session.way), reach::evaluate(&session.server, &version)];
    // What cannot be read of it was told by `connect`.
    if let Ok(credential) = cluster::credential::of(&settings.objects).await {
        findings.push(credential::evaluate(credential.as_ref(), Timestamp::now()));
    }
    let answers = version.as_ref().is_ok_and(|reply| reply.code == 200);
    match version {
        Ok(_) if answers => findings.extend(all(settings, gather, &session).await),
        // Everything else would be refused with the same words; a wrong clock may be the cause.
        Ok(_) => {
            let (clocks, keeper) = tokio::join!(clocks(&session), clock::gather(gather, in_pod(settings)));
            findings.extend(clock::evaluate(clocks.as_ref(), &keeper));
        }
        Err(_) => {}
    }
    (findings, answers)
}

/// What only a server that answers can tell.
async fn all(settings: &Settings, gather: &Gather, session: &Session) -> Vec<Finding> {
    let (client, namespace, instance) = (&session.client, &settings.namespace, &settings.border.instance_name);
    let (crd, permissions, lease, clocks, keeper) = tokio::join!(
        crd::gather(client),
        permissions::gather(client, namespace),
        lease::gather(client, namespace, instance),
        clocks(session),
        clock::gather(gather, in_pod(settings)),
    );
    let mut findings = crd::evaluate(&crd);
    findings.extend(permissions::evaluate(&permissions));
    let now = clocks.map_or_else(Timestamp::now, |c| c.server);
    findings.extend(lease::evaluate(instance, &lease, &machine::id(), now));
    findings.extend(clock::evaluate(clocks.as_ref(), &keeper));
    findings
}

async fn clocks(session: &Session) -> Option<Clocks> {
    tokio::time::timeout(ask::PATIENCE, cluster::clock::compare(&session.client)).await.ok()?.ok()
}

fn in_pod(settings: &Settings) -> bool {
    settings.objects == ObjectSource::InCluster
}

/// An answer that is of no use, in words.
fn said(asked: &Asked) -> String {
    match asked {
        Ok(reply) => format!("the API server answers {}: {}", reply.code, reply.message()),
        Err(trouble) => trouble.text.clone(),
    }
}
