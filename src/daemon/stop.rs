use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// A pass that is under way may end within this. Then it is left: a tool that hangs would keep the program for its whole time limit.
const GRACE: Duration = Duration::from_secs(2);

/// Whether, by what signal and when the daemon was asked to stop.
pub struct Stop(watch::Receiver<Option<(&'static str, Instant)>>);

impl Stop {
    /// By SIGTERM or SIGINT.
    pub fn by_signals() -> Result<Self, io::Error> {
        let mut terminate: Signal = signal(SignalKind::terminate())?;
        let mut interrupt: Signal = signal(SignalKind::interrupt())?;
        let (asked, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            asked.send_replace(Some((name, Instant::now())));
            asked.closed().await;
        });
        Ok(Stop(receiver))
    }

    /// The signal, once it has come.
    pub async fn asked(&mut self) -> &'static str {
        self.wait().await.0
    }

    /// Does some work, but leaves it when it does not end soon after the daemon was asked to stop. A restart reads the kernel back and
    /// goes on from there.
    pub async fn unless_late(&mut self, work: impl Future<Output = ()>) {
        let late = async {
            let (_, at) = self.wait().await;
            tokio::time::sleep_until(at + GRACE).await;
        };
        tokio::select! {
            () = work => {}
            () = late => tracing::warn!("a pass was left half way; the next start reads the kernel back and completes it"),
        }
    }

    async fn wait(&mut self) -> (&'static str, Instant) {
        match self.0.wait_for(Option::is_some).await.map(|asked| *asked) {
            Ok(Some(asked)) => asked,
            // The task that listens lives as long as this.
            _ => std::future::pending().await,
        }
    }
}
