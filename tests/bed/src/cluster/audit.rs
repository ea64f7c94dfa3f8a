use std::path::Path;

use serde_json::Value;

/// What the API server writes down: who asked for which change. Reading is left out, and what the API server does for itself.
pub const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:apiserver"]
  - level: Request
    verbs: [create, update, patch, delete, deletecollection]
  - level: None
"#;

/// A moment in the life of the API server, by its own clock. A request is noted some time after its effect could be seen: what was asked for
/// before the mark may stand behind it in the log, and does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Where in the log the mark's own request stands; everything that was received later is behind it.
    pub(super) offset: usize,
    /// When that request was received, RFC 3339 in UTC with microseconds: its order is that of time.
    pub(super) received: String,
}

/// A request that asked for a change, answered by now.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// `system:serviceaccount:NAMESPACE:NAME` for a ServiceAccount, `admin` for the harness.
    pub user: String,
    /// create, update, patch, delete or deletecollection.
    pub verb: String,
    /// Plural, with its subresource: `mappings`, `mappings/status`, `events`.
    pub resource: String,
    pub namespace: String,
    /// Empty where a creation was refused before its body was read.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// With the query: `fieldManager=...`.
    pub uri: String,
    /// The body of the request.
    pub request: Value,
    /// When it came in; as in [`Mark`].
    pub(super) received: String,
}

impl AuditEntry {
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }

    fn parse(line: &str) -> Option<AuditEntry> {
        let event: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let mut resource = text(&object["resource"]);
        if let Some(sub) = object["subresource"].as_str() {
            resource = format!("{resource}/{sub}");
        }
        Some(AuditEntry {
            user: text(&event["user"]["username"]),
            verb: text(&event["verb"]),
            resource,
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            code: u16::try_from(event["responseStatus"]["code"].as_u64()?).ok()?,
            uri: text(&event["requestURI"]),
            request: event["requestObject"].clone(),
            received: text(&event["requestReceivedTimestamp"]),
        })
    }
}

/// The entries that stand at `offset` and behind, and where they end. A line that is still being written is left for the next time.
#[track_caller]
pub fn read(log: &Path, offset: usize) -> (Vec<AuditEntry>, usize) {
    let bytes = std::fs::read(log).unwrap_or_else(|e| panic!("the audit log {}: {e}", log.display()));
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(bytes.get(offset..end).unwrap_or_default());
    let entry = |line| AuditEntry::parse(line).unwrap_or_else(|| panic!("an odd line in the audit log: {line}"));
    (text.lines().map(entry).collect(), end.max(offset))
}
