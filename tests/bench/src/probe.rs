use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::net::{CLIENT, Net};

/// Between two probes: what a figure can be too long by.
const EVERY: Duration = Duration::from_millis(1);

/// A pod's UDP socket in the cluster.
pub struct Pod {
    socket: UdpSocket,
}

impl Pod {
    pub fn bind(net: &Net, address: Ipv4Addr, port: u16) -> Pod {
        let socket =
            net.core.within(|| UdpSocket::bind((address, port))).expect("every pod's address is local in core");
        Pod { socket }
    }

    /// Does something, sends a new flow from the client every millisecond, and tells when the first one sent after the
    /// deed arrived here.
    pub fn reached(
        &self,
        net: &Net,
        to: SocketAddrV4,
        patience: Duration,
        deed: impl FnOnce(),
    ) -> Result<Duration, String> {
        self.drain().map_err(|e| e.to_string())?;
        deed();
        let begin = Instant::now();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                net.client.within(|| {
                    while !done.load(Ordering::Relaxed) {
                        // A socket each: a port of its own makes a new flow.
                        _ = UdpSocket::bind((CLIENT, 0)).and_then(|s| s.send_to(b"probe", to));
                        thread::sleep(EVERY);
                    }
                });
            });
            self.socket.set_read_timeout(Some(patience)).expect("it is no zero");
            let received = self.socket.recv(&mut [0; 64]);
            let took = begin.elapsed();
            done.store(true, Ordering::Relaxed);
            _ = sender.join();
            received.map_err(|_| format!("no packet came through within {} s", patience.as_secs()))?;
            Ok(took)
        })
    }

    fn drain(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [0; 64]).is_ok() {}
        self.socket.set_nonblocking(false)
    }
}
