//! Overruns of netlink sockets.

use crate::netns::sh;

/// Messages that the namespace's netlink sockets had no room for.
pub fn lost_messages() -> u64 {
    let table = sh("cat /proc/thread-self/net/netlink");
    let (head, sockets) = table.split_once('\n').unwrap();
    let column = head.split_whitespace().position(|name| name == "Drops").unwrap();
    sockets.lines().map(|socket| socket.split_whitespace().nth(column).unwrap().parse::<u64>().unwrap()).sum()
}
