use std::io;

use futures::{Stream, StreamExt};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr};
use rtnetlink::proto::{ConnectionHandle, new_connection};

use super::message::Message;

/// Changes on their way at once: the kernel puts an answer to each into the receive buffer before the first is read (200 KB by default).
const BATCH: usize = 64;

/// An rtnetlink connection. rtnetlink's own requests take the end of a connection for the end of an answer; here an answer counts only
/// when the kernel said that it was the last one.
pub(crate) struct RouteSocket {
    handle: ConnectionHandle<Message>,
}

#[derive(Debug, thiserror::Error)]
pub enum RouteSocketError {
    #[error("the rtnetlink socket ended before the kernel's answer was complete")]
    Lost,
    #[error("what was being read changed meanwhile")]
    Interrupted,
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
}

impl RouteSocketError {
    /// The errno of a refusal.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            RouteSocketError::Refused(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace, and spawns its task on the current runtime.
    pub(crate) fn connect() -> io::Result<Self> {
        // Strict checking: filters of a dump are then applied by the kernel, or refused, but never ignored.
        let (mut connection, handle, _unsolicited) = new_connection(NETLINK_ROUTE)?;
        connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true)?;
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        // Ends when the handle is dropped.
        tokio::spawn(connection);
        Ok(RouteSocket { handle })
    }

    /// All entries of a dump, in the kernel's order.
    pub(crate) async fn dump(
        &mut self,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, RouteSocketError> {
        let mut request = NetlinkMessage::from(Message(request));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = self.handle.request(request, kernel()).map_err(|_| RouteSocketError::Lost)?;
        let mut entries = Vec::new();
        let mut interrupted = false;
        while let Some(answer) = answers.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(Message(entry)) => entries.push(entry),
                // A dump that fails at its very start ends with the error in NLMSG_DONE.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(RouteSocketError::Refused(io::Error::from_raw_os_error(-done.code)));
                }
                NetlinkPayload::Done(_) if interrupted => return Err(RouteSocketError::Interrupted),
                NetlinkPayload::Done(_) => return Ok(entries),
                NetlinkPayload::Error(error) => return Err(RouteSocketError::Refused(error.to_io())),
                _ => return Err(RouteSocketError::Lost),
            }
        }
        Err(RouteSocketError::Lost)
    }

    /// One change, acknowledged. `flags` besides NLM_F_REQUEST and NLM_F_ACK.
    pub(crate) async fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<(), RouteSocketError> {
        self.send(request, flags)?.await
    }

    /// Many changes, in this order, each acknowledged: a batch is on its way at once, small enough for the answers to find room.
    pub(crate) async fn change_all(
        &mut self,
        requests: Vec<RouteNetlinkMessage>,
        flags: u16,
    ) -> Vec<Result<(), RouteSocketError>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let sent: Vec<_> = requests.by_ref().take(BATCH).map(|request| self.send(request, flags)).collect();
            for answer in sent {
                results.push(match answer {
                    Ok(answer) => answer.await,
                    Err(error) => Err(error),
                });
            }
        }
        results
    }

    /// Sends a change at once; the answer is for later.
    fn send(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl Future<Output = Result<(), RouteSocketError>> + use<>, RouteSocketError> {
        let mut request = NetlinkMessage::from(Message(request));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let answers = self.handle.request(request, kernel()).map_err(|_| RouteSocketError::Lost)?;
        Ok(acknowledged(answers))
    }
}

fn kernel() -> SocketAddr {
    SocketAddr::new(0, 0)
}

async fn acknowledged(
    mut answers: impl Stream<Item = NetlinkMessage<Message>> + Unpin,
) -> Result<(), RouteSocketError> {
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
            NetlinkPayload::Error(error) => return Err(RouteSocketError::Refused(error.to_io())),
            _ => {}
        }
    }
    Err(RouteSocketError::Lost)
}
