//! The Kubernetes API as this box sees it: everything that is asked is asked once, side by side, and within
//! [`ask::PATIENCE`] each.

mod ask;
mod clock;
mod crd;
mod permissions;
mod reach;
mod schema;

use super::Finding;
use super::gather::Gather;
use crate::cluster;
use crate::settings::{ObjectSource, Settings};
use ask::Asked;

pub(super) async fn findings(settings: &Settings, gather: &Gather) -> Vec<Finding> {
    if let Some(finding) = reach::not_asked(&settings.objects) {
        return vec![finding];
    }
    let session = match cluster::connect(&settings.objects).await {
        Ok(session) => session,
        Err(error) => return vec![reach::unusable(&error)],
    };
    let client = &session.client;
    let version = ask::get(client, "/version").await;
    let mut findings = vec![reach::evaluate(&session.server, &version)];
    let Some(reply) = version.as_ref().ok() else { return findings };
    let in_pod = settings.objects == ObjectSource::InCluster;
    let keeper = clock::gather(gather, in_pod);
    if reply.code != 200 {
        // The rest would only say the same, but for the clock, which may be why.
        findings.extend(clock::evaluate(&[reply], &keeper.await));
        return findings;
    }
    let (crd, permissions, keeper) =
        tokio::join!(crd::gather(client), permissions::gather(client, &settings.namespace), keeper);
    findings.extend(crd::evaluate(&crd));
    findings.extend(permissions::evaluate(&permissions));
    findings.extend(clock::evaluate(&[reply], &keeper));
    findings
}

/// An answer that is of no use, in words.
fn said(asked: &Asked) -> String {
    match asked {
        Ok(reply) => format!("the API server answers {}: {}", reply.code, reply.message()),
        Err(trouble) => trouble.text.clone(),
    }
}
