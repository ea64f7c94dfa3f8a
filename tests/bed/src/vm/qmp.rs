use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// One command over QEMU's control socket (QEMU Machine Protocol); what it returned.
///
/// # Errors
/// What QEMU, or the socket, said.
pub fn call(socket: &Path, command: &str, arguments: &Value) -> Result<Value, String> {
    let stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).map_err(|e| e.to_string())?;
    let mut answers = BufReader::new(stream.try_clone().map_err(|e| e.to_string())?);
    let mut ask = |message: Value| -> Result<Value, String> {
        let mut stream = &stream;
        writeln!(stream, "{message}").map_err(|e| e.to_string())?;
        loop {
            let mut line = String::new();
            if answers.read_line(&mut line).map_err(|e| e.to_string())? == 0 {
                return Err("it hung up".to_owned());
            }
            let mut answer: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"))?;
            if let Some(error) = answer.get("error") {
                return Err(error["desc"].as_str().unwrap_or_default().to_owned());
            }
            // Greeting and events come in between.
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
        }
    };
    ask(json!({"execute": "qmp_capabilities"}))?;
    ask(json!({"execute": command, "arguments": arguments}))
}
