use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::table::table;
use super::{Answer, CliError, http, say, say_json};
use crate::model::printable;
use crate::settings::{LocalSettings, MonitorAddress};

/// The daemon answers from memory: more than this is no answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print the JSON document of /status as it is
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: LocalSettings, args: StatusArgs) -> Result<Answer, CliError> {
    let address = settings.monitor.local();
    let body = fetch(address).await?;
    let document: Value = serde_json::from_str(&body).map_err(|e| {
        CliError::failed(format!("what http://{address}/status answers is no JSON; is it SmartNat?"), e)
    })?;
    if args.json {
        say_json(&document)?
    } else {
        say(&text(&document))?
    }
    Ok(Answer::Done)
}

/// Whether a daemon answers at its monitor address.
pub(super) async fn daemon_answers(monitor: MonitorAddress) -> bool {
    let Ok(body) = fetch(monitor.local()).await else { return false };
    serde_json::from_str::<Value>(&body).is_ok_and(|d| d["borderClosed"].is_boolean())
}

/// Body of `/status`.
async fn fetch(address: SocketAddr) -> Result<String, CliError> {
    let answer = http::get(address, "/status", PATIENCE).await.map_err(|e| {
        CliError::failed(
            format!(
                "no daemon answers at http://{address}/status; start it (systemctl start smartnat), or name the address it \
                 listens on by SNCTRLR_MONITOR_IP and SNCTRLR_MONITOR_PORT"
            ),
            e,
        )
    })?;
    if answer.is_ok() {
        return Ok(answer.body);
    }
    Err(CliError::Plain(format!(
        "http://{address}/status answers {:?}; another program seems to listen there: name SmartNat's address by \
         SNCTRLR_MONITOR_IP and SNCTRLR_MONITOR_PORT",
        answer.status
    )))
}

fn text(d: &Value) -> String {
    let mut out = String::new();
    // Writing to a String never fails; the results are of no interest.
    let _ = writeln!(
        out,
        "smartnat {} on {}, started {}",
        string(&d["version"]),
        string(&d["instance"]),
        string(&d["started"])
    );
    let yes = |v: &Value, yes: &'static str, no: &'static str| if v == true { yes } else { no };
    let border = yes(&d["borderClosed"], "closed", "NOT CLOSED");
    let _ = writeln!(out, "border {border}, {}", yes(&d["ready"], "ready", "not ready: no full apply yet"));
    if let Some(pass) = d["lastPass"].as_object() {
        let ms = pass["seconds"].as_f64().unwrap_or_default() * 1000.0;
        let _ = writeln!(out, "last good pass {}, took {ms:.0} ms", string(&pass["time"]));
    }
    if let Some(f) = d["failure"].as_object() {
        let _ = writeln!(
            out,
            "FAILING since {}, {} attempts: {}: {}",
            string(&f["since"]),
            f["attempts"],
            string(&f["command"]),
            string(&f["message"]).trim_end()
        );
    }
    if let Some(c) = d["credential"].as_object() {
        let expires = if c["expires"].is_null() { "not told".to_owned() } else { string(&c["expires"]) };
        let _ = writeln!(
            out,
            "credential for the API server: {}, {} {expires}",
            string(&c["kind"]),
            yes(&c["expired"], "EXPIRED", "expires")
        );
    }
    let sources = rows(&d["sources"], |s| {
        vec![string(&s["name"]), string(&s["state"]), string(&s["since"]), string(&s["reason"])]
    });
    let interfaces = rows(&d["interfaces"], |i| {
        let up = i["up"] == true && i["carrier"] == true;
        vec![
            string(&i["name"]),
            string(&i["kind"]),
            if up { "up" } else { "down" }.to_owned(),
            joined(i["addresses"].as_array().into_iter().flatten().map(string)),
            dash(&i["gateway"]),
            dash(&i["gatewayNeighbour"]),
            string(&i["problem"]),
        ]
    });
    let mappings = rows(&d["mappings"], |m| {
        let (accepted, programmed) = (m["accepted"] == true, m["programmed"]["ok"] == true);
        let why = if accepted { &m["programmed"]["message"] } else { &m["message"] };
        let reason = if accepted { &m["programmed"]["reason"] } else { &m["reason"] };
        let addresses = m["status"]["configuredAddresses"].as_object();
        vec![
            format!("{}/{}", string(&m["namespace"]), string(&m["name"])),
            yes(&m["accepted"], "yes", "no").to_owned(),
            if programmed { "yes" } else { "no" }.to_owned(),
            string(reason),
            joined(addresses.into_iter().flat_map(|a| a.keys().cloned())),
            string(&m["endpoints"]),
            string(why),
        ]
    });
    let notes: String = d["interfaces"].as_array().into_iter().flatten().flat_map(notes).collect();
    for (header, rows, below) in [
        (&["SOURCE", "STATE", "SINCE", "REASON"][..], sources, ""),
        (&["INTERFACE", "KIND", "LINK", "ADDRESSES", "GATEWAY", "NEIGHBOUR", "PROBLEM"][..], interfaces, &notes),
        (&["MAPPING", "ACCEPTED", "PROGRAMMED", "REASON", "ADDRESSES", "ENDPOINTS", "MESSAGE"][..], mappings, ""),
    ] {
        if !rows.is_empty() {
            let _ = write!(out, "\n{}", table(header, &rows));
        }
        out += below;
    }
    out
}

/// What is to be known of an interface, a line each.
fn notes(interface: &Value) -> impl Iterator<Item = String> {
    let notes = interface["notes"].as_array().into_iter().flatten();
    notes.map(|note| format!("note on {}: {}\n", printable(&string(&interface["name"])), printable(&string(note))))
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

/// Strings without their quotes, nothing for null.
fn string(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn dash(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { string(value) }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn settings(address: SocketAddr) -> LocalSettings {
        LocalSettings {
            debug: false,
            monitor: MonitorAddress { ip: Some(address.ip()), port: address.port() },
            tool_timeout: PATIENCE,
            state_dir: "/nonexistent".into(),
        }
    }

    /// Answers one request and closes.
    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_an_error_with_the_remedy() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = run(settings(address), StatusArgs { json: false }).await.unwrap_err();
        assert_eq!(error.code(), 1);
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("systemctl start smartnat"), "{text}");
    }

    #[tokio::test]
    async fn another_program_at_the_port_is_recognised() {
        let address = answering("HTTP/1.1 404 Not Found\r\n\r\n").await;
        let error = run(settings(address), StatusArgs { json: true }).await.unwrap_err();
        assert!(error.to_string().contains("404 Not Found"), "{error}");
        let address = answering("HTTP/1.1 200 OK\r\n\r\n<html>").await;
        let error = run(settings(address), StatusArgs { json: true }).await.unwrap_err();
        assert!(error.to_string().contains("is no JSON"), "{error}");
    }

    #[tokio::test]
    async fn a_daemon_is_told_from_other_programs() {
        let monitor = |address: SocketAddr| settings(address).monitor;
        assert!(daemon_answers(monitor(answering("HTTP/1.1 200 OK\r\n\r\n{\"borderClosed\": true}").await)).await);
        assert!(!daemon_answers(monitor(answering("HTTP/1.1 200 OK\r\n\r\n{}").await)).await);
    }

    #[test]
    fn the_table_shows_failure_sources_interfaces_and_mappings() {
        let text = text(&json!({
            "version": "3", "instance": "b1", "started": "T0", "borderClosed": true, "ready": true,
            "lastPass": { "time": "T1", "seconds": 0.016 },
            "failure": { "since": "T2", "attempts": 2, "command": "ipset restore", "message": "boom\n" },
            "sources": [{ "name": "host", "state": "current", "since": "T0", "reason": null }],
            "interfaces": [{
                "name": "eth1", "kind": "external", "up": true, "carrier": true, "addresses": ["203.0.113.10/24"],
                "gateway": null, "gatewayNeighbour": null, "problem": null, "notes": ["two routers; choose one"],
            }],
            "mappings": [{
                "namespace": "shop", "name": "web", "accepted": false, "reason": "Conflict", "message": "held by a/b",
                "programmed": { "ok": false, "reason": "NotAccepted", "message": "" }, "endpoints": 0,
                "status": { "invalid": "held by a/b" },
            }],
        }));
        assert_eq!(
            text,
            "smartnat 3 on b1, started T0\n\
             border closed, ready\n\
             last good pass T1, took 16 ms\n\
             FAILING since T2, 2 attempts: ipset restore: boom\n\
             \n\
             SOURCE  STATE    SINCE  REASON\n\
             host    current  T0\n\
             \n\
             INTERFACE  KIND      LINK  ADDRESSES        GATEWAY  NEIGHBOUR  PROBLEM\n\
             eth1       external  up    203.0.113.10/24  -        -\n\
             note on eth1: two routers; choose one\n\
             \n\
             MAPPING   ACCEPTED  PROGRAMMED  REASON    ADDRESSES  ENDPOINTS  MESSAGE\n\
             shop/web  no        no          Conflict  -          0          held by a/b\n"
        );
    }
}
