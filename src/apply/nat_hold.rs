//! A table of our own that no flush by others takes away: translation goes on for established connections until our
//! rules are back.
//!
//! `nft flush ruleset` removes every rule of nat, and with the last one the kernel takes translation and connection
//! tracking out of the packets' way. What arrives then is delivered to the box untranslated, and the box's own TCP
//! resets it.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::netlink;
use crate::ruleset::ownership::NAT_HOLD;
use crate::sources::tables::Ledger;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(60);

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// Holds the table while it lives.
#[derive(Default)]
pub struct NatHold {
    state: State,
    told: Option<String>,
}

#[derive(Default)]
enum State {
    #[default]
    Untried,
    Held(#[allow(dead_code, reason = "the kernel removes the table when it is dropped")] netlink::NatHold),
    /// To be tried again then; `None`: this kernel cannot.
    Refused(Option<Instant>),
}

impl NatHold {
    /// Makes the table unless it is there. Not before our own rules translate: what came in meanwhile would be
    /// tracked as it is, and go on untranslated for as long as its client sends.
    pub async fn hold(&mut self, ledger: &Ledger) {
        match self.state {
            State::Held(_) | State::Refused(None) => return,
            State::Refused(Some(next)) if Instant::now() < next => return,
            _ => {}
        }
        let error = match make(ledger.clone()).await {
            Ok(table) => {
                tracing::debug!(table = NAT_HOLD, "established connections outlive a flush of the ruleset by others");
                self.state = State::Held(table);
                self.told = None;
                return;
            }
            Err(error) => error,
        };
        self.state = State::Refused(Some(Instant::now() + PAUSE));
        let told = error.to_string();
        let is_new = self.told.as_ref() != Some(&told);
        match error.raw_os_error() {
            Some(EINVAL | EOPNOTSUPP | ENOENT) => {
                self.state = State::Refused(None);
                tracing::info!(
                    %error,
                    "this kernel has no tables with an owner (Linux 5.12): `nft flush ruleset` by others resets \
                     established connections"
                );
            }
            Some(EPERM | EEXIST) if is_new => tracing::warn!(
                %error,
                "somebody else holds the table ip {NAT_HOLD}: `nft flush ruleset` by others may reset established \
                 connections; end a second smartnat-manager, or `nft delete table ip {NAT_HOLD}`"
            ),
            _ if is_new => tracing::warn!(
                %error,
                "the table ip {NAT_HOLD} could not be made: `nft flush ruleset` by others resets established \
                 connections"
            ),
            _ => {}
        }
        self.told = Some(told);
    }
}

/// In a thread of its own, by which whoever watches the tables knows the change as ours.
async fn make(ledger: Ledger) -> io::Result<netlink::NatHold> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name(ledger.name().unwrap_or(NAT_HOLD).to_owned());
    thread.spawn(move || {
        let _call = ledger.begin_in_this_thread();
        // Nobody waits any more: the table goes with its socket.
        let _ = sender.send(netlink::NatHold::make(NAT_HOLD));
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread that makes it ended")))
}
