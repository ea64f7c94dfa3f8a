use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::health::{rfc3339, timestamp};
use super::{Failure, LastPass, Report, SourceReport, Transitions};
use crate::api::{MappingInstance, MappingPodIps, MappingStatus};
use crate::model::ObjectKey;
use crate::plan::{InterfaceOutcome, MappingOutcome};
use crate::sources::SourceState;

/// The field `invalid` of a Mapping's status as the first SmartNat wrote it: `no`, or the reason.
pub fn invalid(outcome: &MappingOutcome) -> String {
    outcome.refused.as_ref().map_or_else(|| "no".to_owned(), |r| r.message.clone())
}

/// The status that a Mapping gets from the view of this instance alone.
pub fn mapping_status(outcome: &MappingOutcome, instance: &str, transitions: &Transitions) -> MappingStatus {
    let (reason, message) = match &outcome.refused {
        None => ("Accepted".to_owned(), ""),
        Some(r) => (format!("{:?}", r.reason), r.message.as_str()),
    };
    let condition = |kind: &str, ok: bool, reason: &str, message: &str, since: SystemTime| Condition {
        type_: kind.to_owned(),
        status: if ok { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: outcome.generation,
        last_transition_time: Time(timestamp(since).unwrap_or_default()),
    };
    let p = &outcome.programmed;
    let programmed = format!("{:?}", p.reason);
    let configured: BTreeMap<String, MappingPodIps> = outcome
        .configured
        .iter()
        .map(|(address, pods)| {
            (address.to_string(), MappingPodIps { pod_ips: pods.iter().map(ToString::to_string).collect() })
        })
        .collect();
    MappingStatus {
        invalid: Some(invalid(outcome)),
        service_vip: outcome.service_vip.map(|vip| vip.to_string()),
        configured_addresses: configured,
        conditions: vec![
            condition("Accepted", outcome.refused.is_none(), &reason, message, transitions.accepted),
            condition("Programmed", p.ok, &programmed, &p.message, transitions.programmed),
        ],
        observed_generation: outcome.generation,
        instances: vec![MappingInstance {
            name: instance.to_owned(),
            programmed: p.ok,
            reason: programmed,
            message: p.message.clone(),
            addresses: outcome.configured.keys().map(ToString::to_string).collect(),
            observed_generation: outcome.generation,
            silent_since: None,
        }],
    }
}

/// The JSON of `/status`: every Mapping as its status would read, interfaces, sources, the last pass.
///
/// Mappings are put together while they are written, one at a time: ten thousand of them as a tree take hundreds of megabytes.
pub struct StatusDocument<'a> {
    pub report: &'a Report,
    pub instance: &'a str,
}

impl Serialize for StatusDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let StatusDocument { report, instance } = self;
        let mut document = serializer.serialize_map(None)?;
        document.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        document.serialize_entry("instance", instance)?;
        document.serialize_entry("started", &rfc3339(report.started))?;
        document.serialize_entry("borderClosed", &report.border_closed)?;
        document.serialize_entry("ready", &report.ready)?;
        let pass = |p: LastPass| json!({ "time": rfc3339(p.at), "seconds": p.took.as_secs_f64() });
        document.serialize_entry("lastPass", &report.last_pass.map(pass))?;
        let failure = |f: &Failure| json!({ "since": rfc3339(f.since), "attempts": f.attempts, "command": f.command, "message": f.message });
        document.serialize_entry("failure", &report.failure.as_ref().map(failure))?;
        document.serialize_entry("mappings", &Mappings(self))?;
        let interfaces: Vec<Value> = report.outcomes.interfaces.iter().map(interface_document).collect();
        document.serialize_entry("interfaces", &interfaces)?;
        let sources: Vec<Value> = report.sources.iter().map(|(name, source)| source_document(name, source)).collect();
        document.serialize_entry("sources", &sources)?;
        let credential = report.credential.as_ref().map(|c| {
            let expires = c.expires.map(|e| e.to_string());
            json!({ "kind": c.kind.as_str(), "expires": expires, "expired": report.credential_expired })
        });
        document.serialize_entry("credential", &credential)?;
        document.end()
    }
}

struct Mappings<'a>(&'a StatusDocument<'a>);

impl Serialize for Mappings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let StatusDocument { report, instance } = self.0;
        let started = Transitions { accepted: report.started, programmed: report.started };
        serializer.collect_seq(report.outcomes.mappings.iter().map(|(key, outcome)| {
            let transitions = report.transitions.get(key).unwrap_or(&started);
            mapping_document(key, outcome, instance, transitions)
        }))
    }
}

pub(super) fn mapping_document(
    key: &ObjectKey,
    outcome: &MappingOutcome,
    instance: &str,
    transitions: &Transitions,
) -> Value {
    let refused = outcome.refused.as_ref();
    json!({
        "namespace": key.namespace,
        "name": key.name,
        "accepted": refused.is_none(),
        "reason": refused.map_or_else(|| "Accepted".to_owned(), |r| format!("{:?}", r.reason)),
        "message": refused.map_or("", |r| &r.message),
        "programmed": outcome.programmed,
        "endpoints": outcome.endpoints,
        "status": mapping_status(outcome, instance, transitions),
    })
}

fn source_document(name: &str, source: &SourceReport) -> Value {
    let (state, reason) = match &source.state {
        SourceState::Syncing => ("syncing", None),
        SourceState::Current => ("current", None),
        SourceState::Away { reason } => ("away", Some(reason)),
    };
    json!({ "name": name, "state": state, "since": rfc3339(source.since), "reason": reason })
}

/// One interface with its gateway's neighbour state beside the fields of the outcome.
pub(crate) fn interface_document(outcome: &InterfaceOutcome) -> Value {
    let mut value = json!(outcome);
    value["gatewayNeighbour"] = json!(outcome.gateway_neighbour.map(|n| format!("{n:?}").to_lowercase()));
    value
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Outcomes, PassReport};
    use super::*;
    use crate::model::{NeighbourState, ObjectKey};
    use crate::plan::{InterfaceKind, Programmed, ProgrammedReason, Refusal, RefusalReason};

    fn status(outcome: &MappingOutcome) -> Value {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
        json!(mapping_status(outcome, "border-1", &Transitions { accepted: at(0), programmed: at(60) }))
    }

    fn served() -> MappingOutcome {
        MappingOutcome {
            uid: None,
            generation: Some(3),
            refused: None,
            programmed: Programmed { ok: true, reason: ProgrammedReason::Programmed, message: "on eth1".into() },
            service_vip: Some("10.96.221.171".parse().unwrap()),
            configured: [("203.0.113.10".parse().unwrap(), vec!["10.244.1.2".parse().unwrap()])].into(),
            endpoints: 2,
        }
    }

    fn refused() -> MappingOutcome {
        MappingOutcome {
            uid: None,
            generation: None,
            refused: Some(Refusal {
                reason: RefusalReason::Conflict,
                message: "203.0.113.10:80/tcp is held by a/b".into(),
            }),
            programmed: Programmed { ok: false, reason: ProgrammedReason::NotAccepted, message: "see Accepted".into() },
            service_vip: None,
            configured: [].into(),
            endpoints: 0,
        }
    }

    #[test]
    fn a_served_mapping_reads_as_in_the_api() {
        let configured = json!({ "203.0.113.10": { "podIPs": ["10.244.1.2"] } });
        assert_eq!(
            status(&served()),
            json!({
                "invalid": "no",
                "serviceVIP": "10.96.221.171",
                "configuredAddresses": configured,
                "conditions": [
                    {
                        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                        "observedGeneration": 3, "lastTransitionTime": "2023-11-14T22:13:20Z",
                    },
                    {
                        "type": "Programmed", "status": "True", "reason": "Programmed", "message": "on eth1",
                        "observedGeneration": 3, "lastTransitionTime": "2023-11-14T22:14:20Z",
                    },
                ],
                "observedGeneration": 3,
                "instances": [{
                    "name": "border-1", "programmed": true, "reason": "Programmed", "message": "on eth1",
                    "addresses": ["203.0.113.10"], "observedGeneration": 3,
                }],
            })
        );
    }

    #[test]
    fn a_refused_mapping_says_why_in_every_place() {
        let s = status(&refused());
        assert_eq!(s["invalid"], "203.0.113.10:80/tcp is held by a/b");
        assert_eq!(s["conditions"][0]["status"], "False");
        assert_eq!(s["conditions"][0]["reason"], "Conflict");
        assert_eq!(s["conditions"][1]["reason"], "NotAccepted");
        assert_eq!(s.get("serviceVIP"), None);
        assert_eq!(s.get("observedGeneration"), None);
    }

    #[test]
    fn the_document_holds_mappings_interfaces_sources_and_the_last_pass() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut report = Report::new(now);
        report.source_state("host", SourceState::Current, now);
        let eth1 = InterfaceOutcome {
            name: "eth1".into(),
            kind: InterfaceKind::External,
            up: true,
            carrier: true,
            addresses: vec!["203.0.113.10/24".parse().unwrap()],
            slot: Some(1),
            table: Some(1001),
            gateway: Some("203.0.113.1".parse().unwrap()),
            gateway_neighbour: Some(NeighbourState::Stale),
            above: vec![],
            problem: None,
            notes: vec![],
        };
        let mappings = [(ObjectKey::new("shop", "web"), served()), (ObjectKey::new("shop", "web2"), refused())];
        let pass = PassReport {
            took: Duration::from_millis(16),
            full: true,
            outcomes: Outcomes::of(mappings, vec![eth1]),
            ..PassReport::default()
        };
        report.pass_ok(pass, now);
        let d = json!(StatusDocument { report: &report, instance: "border-1" });
        assert_eq!(d["mappings"][0]["namespace"], "shop");
        assert_eq!(d["mappings"][0]["accepted"], true);
        assert_eq!(d["mappings"][0]["programmed"], json!({"ok": true, "reason": "Programmed", "message": "on eth1"}));
        assert_eq!(d["mappings"][1]["accepted"], false);
        assert_eq!(d["mappings"][1]["reason"], "Conflict");
        assert_eq!(d["mappings"][1]["status"]["invalid"], d["mappings"][1]["message"]);
        assert_eq!(d["interfaces"][0]["gatewayNeighbour"], "stale");
        assert_eq!(d["interfaces"][0]["kind"], "external");
        assert_eq!(
            d["sources"],
            json!([{"name": "host", "state": "current", "since": "2023-11-14T22:13:20Z", "reason": null}])
        );
        assert_eq!(d["lastPass"], json!({"time": "2023-11-14T22:13:20Z", "seconds": 0.016}));
        assert_eq!(d["ready"], true);
        assert_eq!(d["failure"], Value::Null);
    }
}
