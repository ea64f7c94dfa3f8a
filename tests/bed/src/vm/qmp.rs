use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// One command over QEMU's control socket (QEMU Machine Protocol).
///
/// # Errors
/// What QEMU, or the socket, said.
pub fn call(socket: &Path, command: &str, arguments: &Value) -> Result<(), String> {
    let stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|e| e.to_string())?;
    let mut answers = BufReader::new(stream.try_clone().map_err(|e| e.to_string())?);
    let mut ask = |message: Value| -> Result<(), String> {
        let mut stream = &stream;
        writeln!(stream, "{message}").map_err(|e| e.to_string())?;
        loop {
            let mut line = String::new();
            if answers.read_line(&mut line).map_err(|e| e.to_string())? == 0 {
                return Err("it hung up".to_owned());
            }
            let answer: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"))?;
            if let Some(error) = answer.get("error") {
                return Err(error["desc"].as_str().unwrap_or_default().to_owned());
            }
            // Greeting and events come in between.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    };
    ask(json!({"execute": "qmp_capabilities"}))?;
    ask(json!({"execute": command, "arguments": arguments}))
}
