//! The task that keeps looking.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant as Moment};

use netlink_packet_core::{NetlinkBuffer, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourHeader, NeighbourMessage};
use netlink_packet_route::route::{RouteHeader, RouteProtocol, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::HostError;
use super::look::{Names, gateways, neighbour, neighbour_address, steady_look};
use crate::model::{Host, InterfaceName, Neighbour};
use crate::netlink::{Multicast, Received, RouteSocket, messages};
use crate::ruleset::LOCAL_TABLE;
use crate::ruleset::ownership::ROUTE_PROTOCOL;
use crate::sources::debounce::Debounce;
use crate::sources::{SourceEvent, SourceName, SourceState};

const NAME: SourceName = "host";

/// A lone change is looked at this soon; its companions (an address and its routes) come within it.
const QUIET: Duration = Duration::from_millis(20);
/// Under a storm there is a look at least this often.
const BOUND: Duration = Duration::from_millis(300);

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

const GROUPS: [u32; 10] = [
    MulticastGroup::Link as u32,
    MulticastGroup::Ipv4Ifaddr as u32,
    MulticastGroup::Ipv6Ifaddr as u32,
    MulticastGroup::Ipv4Route as u32,
    MulticastGroup::Ipv6Route as u32,
    MulticastGroup::Ipv4Rule as u32,
    MulticastGroup::Ipv6Rule as u32,
    MulticastGroup::Neigh as u32,
    // Switches of interfaces (forwarding, rp_filter): no part of a look, see `SourceEvent::SwitchesChanged`.
    MulticastGroup::Ipv4Netconf as u32,
    MulticastGroup::Nexthop as u32,
];

// linux/rtnetlink.h
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWNETCONF: u16 = 80;

/// Delivers the host: at once, soon after every event that may mean a change, and every `refresh`. Also one that looks as before is
/// delivered: whoever wrote in between must hear that it is gone again. Returns when nobody listens any more.
pub async fn run(refresh: Duration, events: mpsc::Sender<SourceEvent>) {
    let mut outlet = Outlet { events, last: None, current: false };
    let mut retry = FIRST_RETRY;
    loop {
        let Err(error) = watch(refresh, &mut outlet, &mut retry).await else { return };
        let End::Failed(error) = error else { return };
        let reason = crate::error_chain(&error);
        tracing::warn!(reason, retry_ms = retry.as_millis() as u64, "cannot read the host's network state");
        if outlet.away(reason).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(retry) => {}
            () = outlet.events.closed() => return,
        }
        retry = (retry * 2).min(LAST_RETRY);
    }
}

enum End {
    /// Nobody listens any more.
    Closed,
    Failed(HostError),
}

impl From<HostError> for End {
    fn from(error: HostError) -> Self {
        End::Failed(error)
    }
}

async fn watch(refresh: Duration, outlet: &mut Outlet, retry: &mut Duration) -> Result<(), End> {
    // Listening begins before the first look, so that nothing falls between them.
    let mut listener = Multicast::join(NETLINK_ROUTE, &GROUPS).map_err(HostError::Listen)?;
    let mut socket = RouteSocket::connect().map_err(HostError::Connect)?;
    let mut changes = Debounce::new(QUIET, BOUND);
    let mut periodic = interval_at(Instant::now() + refresh, refresh);
    periodic.set_missed_tick_behavior(MissedTickBehavior::Delay);

    outlet.look(&mut socket).await?;
    *retry = FIRST_RETRY;
    let mut switched = false;
    loop {
        tokio::select! {
            received = listener.receive() => {
                let matters = match received.map_err(HostError::Listen)? {
                    Received::Datagram(datagram) => {
                        switched |= messages(datagram).any(is_switch);
                        messages(datagram).any(|message| outlet.matters(message))
                    }
                    Received::Overrun => {
                        switched = true;
                        true
                    }
                };
                if matters {
                    changes.mark(Instant::now());
                }
                continue;
            }
            () = changes.due() => {}
            _ = periodic.tick() => {}
            () = outlet.events.closed() => return Err(End::Closed),
        }
        changes.clear();
        outlet.look(&mut socket).await?;
        if std::mem::take(&mut switched) {
            outlet.send(SourceEvent::SwitchesChanged).await?;
        }
    }
}

struct Outlet {
    events: mpsc::Sender<SourceEvent>,
    last: Option<Seen>,
    current: bool,
}

/// What the last look saw, as far as events are judged by it. There may be many routes, and many events of neighbours.
struct Seen {
    names: Names,
    gateways: BTreeSet<(InterfaceName, IpAddr)>,
    neighbours: Vec<Neighbour>,
}

impl Seen {
    fn of(host: &Host) -> Self {
        let gateways = gateways(&host.main_routes, &host.own_routes);
        Seen {
            names: host.links.iter().map(|(name, link)| (link.index, name.clone())).collect(),
            gateways: gateways.into_iter().map(|(name, address)| (name.to_owned(), address)).collect(),
            neighbours: host.neighbours.clone(),
        }
    }
}

impl Outlet {
    async fn look(&mut self, socket: &mut RouteSocket) -> Result<(), End> {
        let begun = Moment::now();
        let host = steady_look(socket).await?;
        self.last = Some(Seen::of(&host));
        self.send(SourceEvent::Host { host, begun }).await?;
        if !self.current {
            self.send(SourceEvent::State { source: NAME, state: SourceState::Current }).await?;
            self.current = true;
        }
        Ok(())
    }

    async fn away(&mut self, reason: String) -> Result<(), End> {
        self.current = false;
        self.send(SourceEvent::State { source: NAME, state: SourceState::Away { reason } }).await
    }

    async fn send(&self, event: SourceEvent) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Closed)
    }

    /// Whether an event can have changed what a look shows. In doubt, yes.
    fn matters(&self, message: &[u8]) -> bool {
        let Some(last) = &self.last else { return true };
        let Ok(message) = NetlinkBuffer::new_checked(message) else { return true };
        match message.message_type() {
            RTM_NEWROUTE | RTM_DELROUTE => RouteHeader::parse(message.payload()).map_or(true, |route| {
                let local = u32::from(route.table) == LOCAL_TABLE && route.kind == RouteType::Local;
                // The kernel's own come with an address, which has an event of its own.
                (local && route.protocol != RouteProtocol::Kernel)
                    || route.table == RouteHeader::RT_TABLE_MAIN
                    || route.protocol == RouteProtocol::from(ROUTE_PROTOCOL)
            }),
            kind @ (RTM_NEWNEIGH | RTM_DELNEIGH) => neighbour_matters(message.payload(), kind == RTM_DELNEIGH, last),
            _ => true,
        }
    }
}

fn is_switch(message: &[u8]) -> bool {
    NetlinkBuffer::new_checked(message).is_ok_and(|message| message.message_type() == RTM_NEWNETCONF)
}

/// Only gateways are watched, and of them only the folded state: a network full of hosts coming and going causes no looks.
fn neighbour_matters(payload: &[u8], deleted: bool, last: &Seen) -> bool {
    match NeighbourHeader::parse(payload) {
        Ok(header) if header.family != AddressFamily::Inet => return false,
        _ => {}
    }
    let Ok(message) = NeighbourMessage::parse(payload) else { return true };
    let Some(address) = neighbour_address(&message) else { return false };
    // A link that the last look did not see has an event of its own.
    let Some(interface) = last.names.get(&message.header.ifindex) else { return false };
    if !last.gateways.contains(&(interface.clone(), address)) {
        return false;
    }
    let known = last.neighbours.iter().find(|n| n.interface == *interface && n.address == address);
    if deleted { known.is_some() } else { neighbour(&message, &last.names).as_ref() != known }
}
