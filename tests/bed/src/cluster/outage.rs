use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cluster::{ControlPlane, ETCD_PORT};
use crate::http::Call;

/// What can happen to an API server.
impl ControlPlane {
    /// SIGKILL; etcd stays.
    pub fn stop_api(&self) {
        self.api.kill();
    }

    /// Starts it with the same data at the same address, and waits until it serves.
    #[track_caller]
    pub fn start_api(&self) {
        self.api.start(&self.namespace);
        self.proxy.ensure(&self.namespace);
        self.await_ready();
    }

    /// SIGSTOP: connections stay open and nothing is answered.
    #[track_caller]
    pub fn pause_api(&self) {
        self.api.signal(Signal::SIGSTOP);
    }

    /// SIGCONT, and waits until it serves again.
    #[track_caller]
    pub fn resume_api(&self) {
        self.api.signal(Signal::SIGCONT);
        self.await_ready();
    }

    /// Resets every connection with a bed and refuses new ones, while the harness itself still gets through.
    #[track_caller]
    pub fn cut_off(&self) {
        self.link("-I");
    }

    /// Ends [`ControlPlane::cut_off`].
    #[track_caller]
    pub fn reconnect(&self) {
        self.link("-D");
    }

    fn link(&self, verb: &str) {
        // A reset that answers what comes in must itself get out.
        for hook in ["INPUT -i bed -p tcp", "OUTPUT -o bed -p tcp ! --tcp-flags RST RST"] {
            self.namespace.run(&format!("iptables -w {verb} {hook} -j REJECT --reject-with tcp-reset"));
        }
    }

    /// Compacts etcd up to its present revision. The API server's watch cache still knows what happened since it started:
    /// [`ControlPlane::changed_while_away`] is what makes a watch hear 410 Gone.
    #[track_caller]
    pub fn compact_etcd(&self) {
        let revision =
            self.etcd_call("/v3/kv/range", &json!({"key": "AA==", "limit": 1}))["header"]["revision"].clone();
        self.etcd_call("/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
    }

    /// Changes an object where etcd holds it, as JSON under this key, past every rule of the API server: what an older one stored.
    #[track_caller]
    pub fn change_stored(&self, key: &str, change: impl FnOnce(&mut Value)) {
        let key = BASE64.encode(key);
        let found = self.etcd_call("/v3/kv/range", &json!({"key": key}));
        let stored = found["kvs"][0]["value"].as_str().and_then(|v| BASE64.decode(v).ok());
        let mut object: Value = stored
            .and_then(|v| serde_json::from_slice(&v).ok())
            .unwrap_or_else(|| panic!("no object in JSON: {found}"));
        change(&mut object);
        self.etcd_call("/v3/kv/put", &json!({"key": key, "value": BASE64.encode(object.to_string())}));
    }

    /// An outage after which every watch from before must begin anew (410 Gone): the API goes away, `change` is made where nobody
    /// connected through the bed sees it, etcd is compacted, and the API comes back with an empty watch cache.
    #[track_caller]
    pub fn changed_while_away(&self, change: impl FnOnce()) {
        self.stop_api();
        self.cut_off();
        self.start_api();
        change();
        self.compact_etcd();
        self.stop_api();
        self.start_api();
        self.reconnect();
    }

    #[track_caller]
    fn etcd_call(&self, path: &str, body: &Value) -> Value {
        let timeout = Duration::from_secs(30);
        let call = Call { method: "POST", path, content_type: "application/json", body: &body.to_string(), timeout };
        let reply = call.send(&self.namespace, ETCD_PORT).unwrap_or_else(|e| panic!("etcd does not answer: {e}"));
        assert_eq!(reply.code, 200, "etcd refused {path} {body}: {}", reply.body);
        serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("etcd's answer is no JSON: {e}: {}", reply.body))
    }
}
