use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::ConntrackError;
use crate::netlink::{DATAGRAM, messages};

const ENOENT: i32 = 2;

/// A netfilter netlink socket that reads a dump as it comes: the kernel builds the next part only when the last one was taken, so a table
/// of any size costs one datagram of memory and blocks nobody.
pub(super) struct Socket {
    socket: TokioSocket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Socket {
    pub(super) fn open() -> Result<Self, ConntrackError> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind_auto()?;
            socket.socket_mut().connect(&SocketAddr::new(0, 0))?;
            // Answers need not repeat what was asked.
            socket.socket_mut().set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(ConntrackError::Connect)?;
        Ok(Socket { socket, sequence: 0, datagram: Vec::with_capacity(DATAGRAM) })
    }

    /// Every message of a dump.
    pub(super) async fn dump(
        &mut self,
        what: &'static str,
        request: NetfilterMessage,
        each: impl FnMut(NetfilterMessage),
    ) -> Result<(), ConntrackError> {
        self.ask(what, request, NLM_F_DUMP, each).await
    }

    /// The one answer to a request.
    pub(super) async fn request(
        &mut self,
        what: &'static str,
        request: NetfilterMessage,
        each: impl FnMut(NetfilterMessage),
    ) -> Result<(), ConntrackError> {
        self.ask(what, request, NLM_F_ACK, each).await
    }

    async fn ask(
        &mut self,
        what: &'static str,
        request: NetfilterMessage,
        flags: u16,
        mut each: impl FnMut(NetfilterMessage),
    ) -> Result<(), ConntrackError> {
        let sequence = self.next_sequence();
        self.send(what, &frame(request, flags, sequence)).await?;
        loop {
            for answer in self.receive(what).await? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => each(message),
                    NetlinkPayload::Done(done) => return outcome(what, done.code),
                    NetlinkPayload::Error(error) => return outcome(what, error.raw_code()),
                    _ => {}
                }
            }
        }
    }

    /// Sends deletions together and waits for all their answers. What is not there is deleted already.
    pub(super) async fn delete(
        &mut self,
        what: &'static str,
        requests: impl Iterator<Item = NetfilterMessage>,
    ) -> Result<(), ConntrackError> {
        let mut batch = Vec::new();
        let mut open = BTreeSet::new();
        for request in requests {
            let sequence = self.next_sequence();
            batch.extend(frame(request, NLM_F_ACK, sequence));
            open.insert(sequence);
        }
        self.send(what, &batch).await?;
        let mut result = Ok(());
        while !open.is_empty() {
            for answer in self.receive(what).await? {
                if let NetlinkPayload::Error(error) = answer.payload
                    && open.remove(&answer.header.sequence_number)
                    && error.raw_code() != -ENOENT
                {
                    result = result.and(outcome(what, error.raw_code()));
                }
            }
        }
        result
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    async fn send(&self, what: &'static str, datagram: &[u8]) -> Result<(), ConntrackError> {
        self.socket.send(datagram).await.map_err(|source| ConntrackError::Socket { what, source })?;
        Ok(())
    }

    async fn receive(&mut self, what: &'static str) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, ConntrackError> {
        self.datagram.clear();
        self.socket.recv(&mut self.datagram).await.map_err(|source| ConntrackError::Socket { what, source })?;
        let understood = messages(&self.datagram).filter_map(|message| {
            NetlinkMessage::deserialize(message)
                // One strange entry must not keep all others from being judged.
                .inspect_err(|error| tracing::warn!(%error, what, "skipped a conntrack message that is not understood"))
                .ok()
        });
        Ok(understood.collect())
    }
}

/// A message ready to be sent, padded so that another one can follow.
fn frame(message: NetfilterMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

/// What NLMSG_DONE and NLMSG_ERROR say: 0, or an errno below it.
fn outcome(what: &'static str, code: i32) -> Result<(), ConntrackError> {
    if code < 0 {
        return Err(ConntrackError::Refused { what, source: io::Error::from_raw_os_error(-code) });
    }
    Ok(())
}
