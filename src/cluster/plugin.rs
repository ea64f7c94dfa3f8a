//! A credential plugin: a program that a kubeconfig names, which is asked for a credential
//! (<https://kubernetes.io/docs/reference/config-api/client-authentication.v1/>).
//!
//! The client can run plugins itself, but neither end one that hangs nor the thread that waits for it.

use std::process::{ExitStatus, Output};
use std::time::Duration;

use jiff::Timestamp;
use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use crate::process::{self, Limits, RunError};

/// As long as a plugin may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes. A credential is a few thousand.
const LONGEST_ANSWER: u64 = 1 << 20;
/// So much of what a plugin says of its failure is told.
const TOLD: usize = 400;

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("the kubeconfig names no command")]
    NoCommand,
    #[error("it wants a terminal (interactiveMode: Always), and a border router has none; use another plugin or mode")]
    Interactive,
    #[error("`{command}` could not be started{}", hint(install_hint))]
    Start { command: String, install_hint: Option<String>, source: std::io::Error },
    #[error("`{command}` did not answer within {} s and was ended", LIMIT.as_secs())]
    Timeout { command: String },
    #[error("`{command}` wrote more than {} KiB and was ended", LONGEST_ANSWER >> 10)]
    TooMuch { command: String },
    #[error("`{command}` failed ({status}): {told}")]
    Failed { command: String, status: ExitStatus, told: String },
    #[error("`{command}` answered something that is no ExecCredential")]
    Answer { command: String, source: Box<serde_saphyr::Error> },
    #[error("`{command}` answered without a token or a certificate with its key")]
    Empty { command: String },
    #[error("it gave a token that no header can carry")]
    Token,
    #[error("`{command}` answered with an expirationTimestamp that is none: {text:?}")]
    Expiry { command: String, text: String },
}

fn hint(install_hint: &Option<String>) -> String {
    install_hint.as_ref().map_or_else(String::new, |hint| format!(" ({})", printable(hint)))
}

/// What a plugin gave.
#[derive(Debug)]
pub(super) struct Given {
    pub token: Option<String>,
    /// Certificate and key, PEM.
    pub identity: Option<(String, String)>,
    pub expires: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Answer {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Runs the plugin, at most for [`LIMIT`].
pub(super) async fn ask(plugin: &ExecConfig) -> Result<Given, PluginError> {
    ask_within(plugin, LIMIT).await
}

async fn ask_within(plugin: &ExecConfig, limit: Duration) -> Result<Given, PluginError> {
    let program = plugin.command.as_ref().ok_or(PluginError::NoCommand)?;
    if plugin.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(PluginError::Interactive);
    }
    let command = printable(program);
    let limits = Limits { time: limit, output: LONGEST_ANSWER };
    let output = match process::run(invocation(program, plugin), None, limits, |_| ()).await {
        Ok(output) => output,
        Err(RunError::TooMuch) => return Err(PluginError::TooMuch { command }),
        Err(RunError::Timeout) => return Err(PluginError::Timeout { command }),
        Err(RunError::Start(source) | RunError::Wait(source)) => {
            return Err(PluginError::Start { command, install_hint: plugin.install_hint.clone(), source });
        }
    };
    given(command, &output)
}

fn invocation(program: &str, plugin: &ExecConfig) -> Command {
    let mut spec = serde_json::Map::from_iter([("interactive".to_owned(), json!(false))]);
    if plugin.provide_cluster_info
        && let Ok(cluster) = serde_json::to_value(&plugin.cluster)
    {
        spec.insert("cluster".to_owned(), cluster);
    }
    let request = json!({"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec});
    let mut command = Command::new(program);
    command.args(plugin.args.iter().flatten());
    for variable in plugin.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    command.env("KUBERNETES_EXEC_INFO", request.to_string());
    command
}

fn given(command: String, output: &Output) -> Result<Given, PluginError> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let told = if said.trim().is_empty() { "it gave no reason".to_owned() } else { printable(said.trim()) };
        return Err(PluginError::Failed { command, status: output.status, told });
    }
    // JSON, or YAML as some plugins print it.
    let answer: Answer = serde_saphyr::from_slice(&output.stdout)
        .map_err(|source| PluginError::Answer { command: command.clone(), source: Box::new(source) })?;
    let some = |text: Option<String>| text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let Some(status) = answer.status else { return Err(PluginError::Empty { command }) };
    let token = some(status.token);
    let identity = some(status.client_certificate_data).zip(some(status.client_key_data));
    if token.is_none() && identity.is_none() {
        return Err(PluginError::Empty { command });
    }
    let expires = match some(status.expiration_timestamp) {
        None => None,
        Some(text) => match text.parse() {
            Ok(at) => Some(at),
            Err(_) => return Err(PluginError::Expiry { command, text }),
        },
    };
    Ok(Given { token, identity, expires })
}

/// In one line, bounded, and without what steers a terminal.
fn printable(text: &str) -> String {
    let mut line: String = text.chars().take(TOLD).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(TOLD).is_some() {
        line.push_str(" ...");
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn plugin(script: &str) -> ExecConfig {
        serde_json::from_value(json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "env": [{"name": "EXTRA", "value": "extra"}],
        }))
        .unwrap()
    }

    async fn answer(script: &str) -> Result<Given, PluginError> {
        ask_within(&plugin(script), Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn it_is_told_what_is_asked_and_may_answer_json_or_yaml() {
        let given = answer(
            r#"echo "{\"status\": {\"token\": \"$EXTRA\", \"expirationTimestamp\": \"2030-01-02T03:04:05Z\"}}""#,
        )
        .await
        .unwrap();
        assert_eq!((given.token.as_deref(), given.expires), (Some("extra"), "2030-01-02T03:04:05Z".parse().ok()));
        let asked = answer(r#"printf "status: {token: '%s'}" "$KUBERNETES_EXEC_INFO""#).await.unwrap().token.unwrap();
        let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
        assert_eq!((&asked["kind"], &asked["spec"]["interactive"]), (&json!("ExecCredential"), &json!(false)));
        let given = answer("echo 'status: {clientCertificateData: c, clientKeyData: k}'").await.unwrap();
        assert_eq!(given.identity, Some(("c".to_owned(), "k".to_owned())));
    }

    #[tokio::test]
    async fn what_is_no_credential_is_told_with_what_the_plugin_says() {
        for (script, told) in [
            ("printf 'no \\033[31mlogin\\nhere' >&2; exit 3", "exit status: 3): no  [31mlogin here"),
            ("echo '}'", "no ExecCredential"),
            ("echo 'status: {token: \"\"}'", "without a token"),
            ("echo 'kind: ExecCredential'", "without a token"),
            ("echo 'status: {token: t, expirationTimestamp: soon}'", "\"soon\""),
        ] {
            let error = answer(script).await.unwrap_err().to_string();
            assert!(error.contains(told), "{script}: {error}");
        }
        let always = ExecConfig { interactive_mode: Some(ExecInteractiveMode::Always), ..plugin("true") };
        assert!(matches!(ask(&always).await, Err(PluginError::Interactive)));
        let missing = ExecConfig { command: Some("/no/such/plugin".to_owned()), ..plugin("true") };
        assert!(matches!(ask(&missing).await, Err(PluginError::Start { .. })));
    }

    #[tokio::test]
    async fn one_that_writes_without_end_is_told() {
        for script in ["exec yes", "exec yes >&2"] {
            let error = answer(script).await.unwrap_err();
            assert!(matches!(error, PluginError::TooMuch { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_ends_at_the_limit() {
        let begun = Instant::now();
        let error = ask_within(&plugin("sleep 600 & wait"), Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, PluginError::Timeout { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
