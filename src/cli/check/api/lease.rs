//! Whether this instance's name is free, or this machine's.

use jiff::Timestamp;
use kube::Client;
use serde_json::Value;

use super::ask::{self, Asked};
use crate::cli::check::Finding;
use crate::cluster::machine;

const GROUP: &str = "lease";
const RENAME: &str = "give one of the two another SNCTRLR_INSTANCE_NAME";

pub(super) async fn gather(client: &Client, namespace: &str, instance: &str) -> Asked {
    ask::get(client, &format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{instance}")).await
}

/// `now`: by the API server's clock, which is not the holder's either: seconds do not count. `None`: the Lease may not be read, which is told
/// among the permissions.
pub(super) fn evaluate(instance: &str, lease: &Asked, machine: &str, now: Timestamp) -> Option<Finding> {
    let lease = match lease {
        Ok(reply) if reply.code == 200 => &reply.body["spec"],
        Ok(reply) if reply.code == 404 => return Some(Finding::ok(GROUP, format!("the name {instance} is free"))),
        Ok(reply) if reply.code == 403 => return None,
        other => {
            return Some(Finding::fail(
                GROUP,
                format!("it cannot be told whether the name {instance} is free: {}", super::said(other)),
                "see what the API server's log says",
            ));
        }
    };
    let holder = lease["holderIdentity"].as_str().unwrap_or_default();
    if holder.is_empty() {
        return Some(Finding::ok(GROUP, format!("the name {instance} is free")));
    }
    if holder == machine {
        return Some(Finding::ok(GROUP, format!("the name {instance} is this machine's")));
    }
    let (holder, own) = (machine::short(holder), machine::short(machine));
    let age = renewed(lease).map(|time| now.duration_since(time).as_secs());
    let duration = lease["leaseDurationSeconds"].as_i64().unwrap_or(0);
    Some(match age {
        Some(age) if age <= duration => Finding::fail(
            GROUP,
            format!(
                "the name {instance} is held by another machine ({holder}, this one is {own}), which renewed its Lease {} s ago",
                age.max(0)
            ),
            RENAME,
        ),
        _ => {
            let since = age.map(|age| format!(" for {age} s")).unwrap_or_default();
            Finding::warn(
                GROUP,
                format!(
                    "the name {instance} was another machine's ({holder}, this one is {own}), which has not renewed its Lease{since}; the \
                     daemon takes it over"
                ),
                format!("nothing to do if that machine is gone for good; else {RENAME}"),
            )
        }
    })
}

fn renewed(lease: &Value) -> Option<Timestamp> {
    lease["renewTime"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::ask::Reply;
    use super::*;
    use crate::cli::check::Level;

    fn finding(code: u16, spec: Value) -> Option<Finding> {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        let reply = Reply { code, body: json!({ "spec": spec }), took: Duration::ZERO };
        evaluate("border", &Ok(reply), "aaaaaaaabbbb", now)
    }

    fn held_by(holder: &str, renewed: &str) -> Finding {
        let lease = json!({"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 40});
        finding(200, lease).unwrap()
    }

    #[test]
    fn a_name_that_another_machine_renews_is_a_failure() {
        assert_eq!(finding(404, Value::Null).unwrap().level, Level::Ok);
        assert_eq!(finding(403, Value::Null), None);
        assert_eq!(finding(500, Value::Null).unwrap().level, Level::Fail);
        assert_eq!(finding(200, json!({})).unwrap().level, Level::Ok);
        assert_eq!(held_by("aaaaaaaabbbb", "2026-11-23T11:59:50.000000Z").level, Level::Ok);
        let other = held_by("ccccccccdddd", "2026-11-23T11:59:50.000000Z");
        assert!(other.level == Level::Fail && other.what.contains("cccccccc, this one is aaaaaaaa"), "{other:?}");
        let silent = held_by("ccccccccdddd", "2026-11-23T11:50:00.000000Z");
        assert!(silent.level == Level::Warn && silent.what.contains("for 600 s"), "{silent:?}");
    }
}
