use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::{Namespace, eventually};

/// A command that runs on and tells line by line what happens (`nft monitor`, `ip monitor`), until it is dropped.
pub struct Monitor {
    command: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Monitor {
    #[track_caller]
    pub fn start(namespace: &Namespace, command: &str) -> Monitor {
        let words: Vec<&str> = command.split_whitespace().collect();
        let spawned = namespace
            .within(|| Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn());
        let mut child =
            spawned.unwrap_or_else(|e| panic!("cannot run `{command}`: {e}; install it with `{}`", crate::INSTALL));
        let stdout = child.stdout.take().expect("it is piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Monitor { command: command.to_owned(), child, lines }
    }

    /// What it has told so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does something that it must tell of, as often as needed until it does; the number of lines by then. That it listens at all is
    /// known only after this.
    #[track_caller]
    pub fn mark(&self, word: &str, mut act: impl FnMut()) -> usize {
        let before = self.lines().len();
        eventually(&format!("`{}` tells of {word}", self.command), || {
            act();
            thread::sleep(std::time::Duration::from_millis(20));
            let lines = self.lines();
            lines[before..].iter().any(|l| l.contains(word)).then_some(lines.len())
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
