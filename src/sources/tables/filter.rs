//! Keeps our own notices from overrunning our own listener: the kernel drops them before they count.
//!
//! The notices of a transaction come together, all with the port of the writer's socket; the generation comes behind
//! them in a message of its own, and always passes. So it is seen that something was dropped, and of whom.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

use crate::netlink::NEW_GENERATION;

// linux/bpf_common.h, linux/filter.h
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
// Offsets in struct nlmsghdr.
const TYPE: u32 = 4;
const PORT: u32 = 12;
/// A jump has one byte.
const MOST: usize = 64;

/// Drops what these ports tell, but for their generations.
pub(super) fn attach(socket: impl AsFd, ports: &[u32]) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    if ports.is_empty() || ports.len() > MOST {
        socket.detach_filter().or(Ok(()))
    } else {
        socket.attach_filter(&program(ports))
    }
}

fn program(ports: &[u32]) -> Vec<SockFilter> {
    let count = ports.len() as u8;
    // Numbers of the header are in the order of the machine, and are loaded as if they were in that of the network.
    let mut program = vec![
        SockFilter::new(LOAD_HALF, 0, 0, TYPE),
        SockFilter::new(JUMP_IF_EQUAL, count + 1, 0, NEW_GENERATION.to_be().into()),
        SockFilter::new(LOAD_WORD, 0, 0, PORT),
    ];
    program.extend((0..).zip(ports).map(|(i, port)| SockFilter::new(JUMP_IF_EQUAL, count - i, 0, port.to_be())));
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}
