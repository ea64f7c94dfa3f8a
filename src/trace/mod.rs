//! Follows one packet that arrives by an interface through a planned [`Dataplane`] and a [`Host`], in the kernel's
//! order, and says what becomes of it and by which rules. Pure: nothing is sent, nothing is asked of the kernel.
//!
//! The order is mangle PREROUTING, nat PREROUTING (connections that begin), the routing decision, mangle, filter and
//! security of INPUT or FORWARD, and then, for what is forwarded, mangle and nat POSTROUTING. Where chance decides (a
//! random choice among pods, or whether a client is remembered by session affinity) every way is followed.
//!
//! What is assumed: rules of others, in the same built-in chains, let everything through; forwarding is enabled;
//! reverse path filters are off; links that are up have carrier; multicast is delivered whatever groups were joined;
//! packets are not fragments, fit, and have no IP options and no extension headers.

mod explain;
mod matching;
mod outcome;
mod packet;
mod reason;
mod route;
mod walk;

#[cfg(test)]
mod tests;

pub use outcome::{Alternative, DroppedBy, Effect, Lookup, Outcome, Place, SourceSeen, Step, Trace};
pub use packet::{Packet, PacketKind, PacketState};
pub use reason::{Reason, Why};

use crate::model::{Family, Host};
use crate::ruleset::Dataplane;

/// Follows `packet` on every way that it may take.
pub fn trace(dataplane: &Dataplane, host: &Host, packet: &Packet) -> Trace {
    if Family::of(packet.source) != Family::of(packet.destination) {
        let reason = format!("{} and {} are of different families", packet.source, packet.destination);
        return Trace::unknown(packet, reason);
    }
    walk::Walk::new(dataplane, host, packet).run()
}
